"""DVC's commands as forks of the warm interpreter: its imports take most of a short one's time."""

import shlex
import sys
from pathlib import Path

from source_files import ROOT
from warm import Warm

# What the warm interpreter imports first: all that `status`, `dag`, `checkout`, `exp` .. do.
FIRST = """
import pathlib, sys
sys.path.remove(str(pathlib.Path(__file__).parent))
import dvc.cli.parser, dvc.repo.graph, dvc_data.index.checkout, networkx
import dvc.repo.experiments.queue.celery, dvc.repo.experiments.show, dvc.repo.experiments.save
"""
# Commands that run stages are processes of their own: what ends them has to reach the stages, too.
# For a Clone they are those of `make repro`, in which DVC does not read all of dvc.lock anew for
# each stage. TRACE is for stages; the others differ from test to test: no fork can take them.
COMMAND = """#!/bin/sh
case " $* " in
*" --dry "*) ;;
*" repro "* | *" run "*) exec {running} "$@" ;;
esac
unset TRACE KMP_DUPLICATE_LIB_OK KMP_INIT_AT_FORK
exec {python} {script} "$@"
"""
SCRIPT = "import sys\nfrom dvc.cli import main\nsys.exit(main())\n"


def quoted(*words: object) -> str:
    """Words of a command, for a shell."""
    return shlex.join(map(str, words))


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
    fork = {"python": quoted(warm.folder / "python"), "script": quoted(there / "command.py")}
    for folder, running in (
        (there / "bin", quoted(here / "bin" / "dvc")),
        (warm.folder, quoted(sys.executable, ROOT / "scripts" / "quick_dvc.py")),
    ):
        (folder / "dvc").write_text(COMMAND.format(running=running, **fork))
        (folder / "dvc").chmod(0o700)
    return there / "bin"
