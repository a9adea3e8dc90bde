"""DVC's commands as forks of the warm interpreter: its imports take most of a short one's time."""

import shlex
import sys
from pathlib import Path

from warm import Warm

# What the warm interpreter imports first: all that `status`, `dag`, `checkout`, `exp` .. do.
FIRST = """
import pathlib, sys
sys.path.remove(str(pathlib.Path(__file__).parent))
import dvc.cli.parser, dvc.repo.graph, dvc_data.index.checkout, networkx
import dvc.repo.experiments.queue.celery, dvc.repo.experiments.show, dvc.repo.experiments.save
"""
# Commands that run stages are processes of their own: what ends them has to reach the stages, too.
# TRACE is for stages; the others differ from test to test, and no fork could take them over.
COMMAND = """#!/bin/sh
case " $* " in
*" --dry "*) ;;
*" repro "* | *" run "*) exec {dvc} "$@" ;;
esac
unset TRACE KMP_DUPLICATE_LIB_OK KMP_INIT_AT_FORK
exec {python} {script} "$@"
"""
SCRIPT = "import sys\nfrom dvc.cli import main\nsys.exit(main())\n"


class WarmDvc(Warm):
    """A warm interpreter that has imported DVC, too."""

    def server_environment(self) -> dict[str, str]:
        first = self.folder / "first" / "sitecustomize.py"
        first.parent.mkdir()
        first.write_text(FIRST)
        return super().server_environment() | {"PYTHONPATH": str(first.parent)}


def environment_of(warm: Warm) -> Path:
    """Programs of this environment, in which `dvc` is such a fork -> their folder.

    As in any virtual environment, a Python from there finds them beside itself.
    """
    here, there = Path(sys.prefix), warm.folder / "environment"
    there.mkdir()
    for name in ("pyvenv.cfg", "lib"):
        (there / name).symlink_to(here / name)
    (there / "bin").mkdir()
    for program in (here / "bin").iterdir():
        if program.name != "dvc":
            (there / "bin" / program.name).symlink_to(program)
    (there / "command.py").write_text(SCRIPT)
    names = {"python": warm.folder / "python", "script": there / "command.py"}
    names["dvc"] = here / "bin" / "dvc"
    text = COMMAND.format(**{name: shlex.quote(str(path)) for name, path in names.items()})
    for dvc in (there / "bin" / "dvc", warm.folder / "dvc"):
        dvc.write_text(text)
        dvc.chmod(0o700)
    return there / "bin"
