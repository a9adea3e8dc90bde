"""DVC that writes dvc.lock stage by stage; the same file, but for YAML's anchors.   usage:
quick_dvc.py ARGUMENTS OF DVC

After each stage DVC reads all of dvc.lock in a way that keeps comments, and writes it anew: most of
its CPU time where there are hundreds of stages. Here the lines of that stage are replaced. Where
DVC is not as expected, or did not write the file, it does as ever.
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

EXPECTED = [
    "self",
    "stages",
    "kwargs",
]  # what `dump_stages` takes in the releases where this was tried


def replace_writing() -> None:
    lockfile = getattr(dvcfile, "Lockfile", None)
    as_ever = getattr(lockfile, "dump_stages", None)
    if as_ever is not None and list(inspect.signature(as_ever).parameters) == EXPECTED:
        lockfile.dump_stages = by_stage(as_ever)


def by_stage(as_ever: Callable) -> Callable:
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
            as_ever(self, stages, **kwargs)
            return
        if any(entries.get(name) != entry for name, entry in made.items()):
            dvcfile.logger.info("Updating lock file '%s'", self.relpath)
            write_at_once(path, join_lock((entries | made).values()))
            self.repo.scm_context.track_file(self.relpath)

    return dump_stages


def entries_of(data: dict) -> dict[str, str]:
    """What DVC keeps of a stage -> its lines, as DVC itself would write them in a file of their
    own.
    """
    return split_lock(LOCK_HEAD + dumps_yaml({"stages": data}).removeprefix("stages:\n"))


if __name__ == "__main__":
    replace_writing()
    sys.exit(main(sys.argv[1:]))
