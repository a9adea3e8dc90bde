"""DVC with a quicker way to write dvc.lock: it replaces the lines of one stage.

usage: quick_dvc.py ARGUMENTS OF DVC

After each stage plain DVC reads all of dvc.lock in a way that keeps comments, and writes it anew.
With hundreds of stages this is most of its CPU time. The file is the same but for YAML's anchors.
Where DVC is not as expected, or did not write the file, its own way is used.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from dvc import dvcfile
from dvc.cli import main
from dvc.stage import serialize
from dvc.utils.serialize import dumps_yaml
from locks import LOCK_HEAD, join_lock, split_lock, write_at_once

# Arguments of `dump_stages` in the releases with which this was tried.
EXPECTED = ["self", "stages", "kwargs"]


def replace_writing() -> None:
    """Put `by_stage` into DVC, if its own function is as expected."""
    lockfile = getattr(dvcfile, "Lockfile", None)
    own_way = getattr(lockfile, "dump_stages", None)
    if own_way is not None and list(inspect.signature(own_way).parameters) == EXPECTED:
        dvcfile.Lockfile.dump_stages = by_stage(own_way)


def by_stage(own_way: Callable[..., None]) -> Callable[..., None]:
    """A `dump_stages` that replaces the lines of those stages, or else goes DVC's own way."""

    def dump_stages(self: "dvcfile.Lockfile", stages: list, **kwargs: object) -> None:
        path = Path(self.path)
        try:
            entries = split_lock(path.read_text(encoding="utf-8"))
            made = {
                name: entry
                for stage in stages
                for name, entry in entries_of(serialize.to_lockfile(stage, **kwargs)).items()
            }
        except (OSError, ValueError):
            own_way(self, stages, **kwargs)
            return
        if any(entries.get(name) != entry for name, entry in made.items()):
            dvcfile.logger.info("Updating lock file '%s'", self.relpath)
            write_at_once(path, join_lock((entries | made).values()))
            self.repo.scm_context.track_file(self.relpath)

    return dump_stages


def entries_of(data: dict) -> dict[str, str]:
    """What DVC keeps of a stage -> its lines, as DVC would write them in a file of their own."""
    return split_lock(LOCK_HEAD + dumps_yaml({"stages": data}).removeprefix("stages:\n"))


if __name__ == "__main__":
    replace_writing()
    sys.exit(main(sys.argv[1:]))
