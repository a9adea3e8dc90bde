"""`make exp SET='KEY=VALUE ..' NAME=..`: run the pipeline with other settings, as a DVC experiment.

usage: exp.py SET [SET ...] [--name NAME] [--jobs N] [--force]

A SET has one or several KEY=VALUE, as `dvc exp run -S` takes them, with spaces between them.
Several SETs, or one with `;` between its parts, run one after the other, as NAME-1, NAME-2 ..

Each runs in scratch/exp: a clone of the repository, with what is not committed yet, that shares
DVC's cache. So stages run side by side, and the working tree stays as it is. At the end
`dvc exp save` keeps settings and results there, and git fetches them: `dvc exp show` lists them
beside those of `dvc exp run`, `dvc exp apply NAME` brings them into the working tree.
"""

import argparse
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import repro
import scm
import worker
import yaml
from copies import copy_files, files_of
from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides
from jobs import add_jobs
from warm import Warm

from momos import config

WORKSPACE = Path("scratch/exp")
PARAMS = Path("params.yaml")
EXAMPLE = "SET='methods.momos_s2_c10.capacity=0.2', or several with spaces between them"
OPENING, CLOSING, QUOTES = "([{", ")]}", "'\""


def split(text: str, separators: str) -> list[str]:
    """The parts of a text between separators, those inside brackets and quotes apart.

    Raises ValueError for a bracket or quote that is not closed.
    """
    parts, open_brackets, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        open_brackets += (not quote) * ((character in OPENING) - (character in CLOSING))
        if character in separators and not quote and open_brackets == 0:
            parts.append("")
        else:
            parts[-1] += character
    if quote or open_brackets:
        raise ValueError(f"SET must close each bracket and quote, got {text!r}")
    return [part.strip() for part in parts if part.strip()]


def settings_of(texts: Sequence[str]) -> list[list[str]]:
    """The command line's SETs -> KEY=VALUE texts of each experiment. Raises ValueError."""
    sets = [split(part, " \t\n") for text in texts for part in split(text, ";")]
    for setting in itertools.chain(*(sets or [[""]])):
        if "=" not in setting[1:] and not setting.startswith("~"):  # which removes an entry
            raise ValueError(f"SET must be KEY=VALUE, got {setting!r}: expected {EXAMPLE}")
    return sets


def names_of(name: str | None, count: int) -> list[str | None]:
    """A name for each experiment; None: DVC makes one up. Raises ValueError for a bad name."""
    if not name:
        return [None] * count
    require_name(name)
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def require_name(name: str) -> None:
    """Raises ValueError for what git takes for no name of a branch, or for several parts of one."""
    reference = ["git", "check-ref-format", f"refs/exps/{name}"]
    if "/" in name or name.startswith("-") or subprocess.run(reference).returncode:
        raise ValueError(f"NAME must be a name as a git branch may have, without /, got {name!r}")


def changed_text(params: Path, settings: Sequence[str]) -> str:
    """The text of params.yaml with other settings, as DVC writes it, every section valid.

    Raises ValueError naming the setting that is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="momos-") as folder:
        copy = Path(folder, PARAMS)
        shutil.copy(params, copy)
        for setting in settings:  # one by one: then an error is about this one
            change(copy, setting)
        config.profile(copy)
        return copy.read_text(encoding="utf-8")


def change(params: Path, setting: str) -> None:
    """Have DVC change one setting of a file. Raises ValueError with its reason if it refuses."""
    try:
        apply_overrides(params, [setting])
    except DvcException as error:
        raise ValueError(f"SET {setting}: {reason_of(error, setting)}") from error


def reason_of(error: BaseException, setting: str) -> str:
    """Why DVC refuses a setting: the first line of what caused its error."""
    if len(split(setting, ",")) > 1:
        return "several values are several experiments, with ; between them"
    while error.__cause__ is not None:
        error = error.__cause__
    unknown = "is not in struct" in str(error)  # the words of DVC's reader of settings
    return "params.yaml has no such key (+KEY=VALUE adds one)" if unknown else first_line(error)


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind if it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def git(folder: Path, *arguments: str) -> str:
    """What git prints. Raises ValueError with its error."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def baseline_of(root: Path) -> str:
    """The commit that experiments are filed under. Raises ValueError without a commit."""
    try:
        if git(root, "rev-parse", "--show-prefix").strip():
            raise ValueError(f"{root} is a folder of a git repository")
        return git(root, "rev-parse", "--verify", "HEAD").strip()
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"an experiment is kept in git, and needs a git repository with a commit here: {error}"
        ) from error


def references(folder: Path, baseline: str) -> dict[str, str]:
    """The experiments of a commit by name, each with its git reference."""
    start = f"refs/exps/{baseline[:2]}/{baseline[2:]}/"
    listed = git(folder, "for-each-ref", "--format=%(refname)", start).split()
    return {reference.removeprefix(start): reference for reference in listed}


def require_new(names: Sequence[str | None], known: dict[str, str]) -> None:
    """Raises ValueError for a name that an experiment of this commit has already."""
    if taken := [name for name in names if name in known]:
        raise ValueError(
            f"NAME: there is an experiment {', '.join(map(str, taken))} already: take another name,"
            " or FORCE=1 to replace it"
        )


@contextlib.contextmanager
def workspace(root: Path, baseline: str) -> Iterator[Path]:
    """A clone of the repository with all that the working tree has, removed at the end."""
    folder = root / WORKSPACE
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    try:
        git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(folder))
        git(folder, "checkout", "--quiet", "--detach", baseline)
        fill(root, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(root: Path, folder: Path) -> None:
    """Give a clone what it has not: changes, own inputs, checkpoints, settings of git and DVC."""
    for name in set(files_of(folder)) - set(files_of(root)):
        (folder / name).unlink()
    copy_files(root, folder)
    for name in worker.INPUTS:
        link_files(root / name, folder / name)
    for name in worker.SHARED:
        share_folder(root, folder, name)
    set_author(root, folder)
    worker.write_config(root, folder, worker.cache_of(root), {})


def share_folder(root: Path, folder: Path, name: str) -> None:
    """Link a folder of root, which git is told to ignore: its own rules are of folders alone."""
    (root / name).mkdir(exist_ok=True)
    (folder / name).symlink_to(root / name)
    ignore(folder, name)


def ignore(folder: Path, name: str) -> None:
    """Tell git to ignore a file at the top of a clone."""
    exclude = folder / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    with exclude.open("a", encoding="utf-8") as file:
        file.write(f"/{name}\n")


def set_author(root: Path, folder: Path) -> None:
    """Give a clone the author that commits in root have, or one where git knows none."""
    for key in ("user.name", "user.email"):
        known = subprocess.run(["git", "config", key], cwd=root, capture_output=True, text=True)
        git(folder, "config", key, known.stdout.strip() or "momos")


def link_files(source: Path, target: Path) -> None:
    """Link all files below source to the same places below target, if nothing is there."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*"):  # none where there is no such folder
        if path.is_dir() and not path.is_symlink():
            link_files(path, target / path.name)
        elif not (target / path.name).exists():
            link(path.resolve(), target / path.name)


def link(path: Path, new: Path) -> None:
    """Make a hard link where it can be, else a symbolic one."""
    try:
        os.link(path, new)
    except OSError:  # to another disk, or to a folder
        new.symlink_to(path)


@contextlib.contextmanager
def inside(root: Path, folder: Path) -> Iterator[None]:
    """Work in a folder, whose code the stages import; MLflow's store stays that of root."""
    before = dict(os.environ)
    os.environ |= worker.stage_environment(root, folder)
    os.environ["DVC_SITE_CACHE_DIR"] = str(folder / ".dvc" / "site")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(root)
        os.environ.clear()
        os.environ.update(before)


def run(root: Path, baseline: str, params: str, name: str | None, jobs: int, force: bool) -> str:
    """Run one experiment and save it under its name, which is returned.

    params: the text of params.yaml. Raises ValueError if a stage fails, or if DVC can't save it.
    """
    there = workspace(root, baseline)
    with there as folder, inside(root, folder), repro.processes_of_dvc(jobs) as processes:
        PARAMS.write_text(params, encoding="utf-8")
        with repro.shared_logger(), Warm():  # which import meanwhile
            reproduce(processes)
        saved = save(folder, baseline, name, processes[0])
        options = ("--quiet", "--no-write-fetch-head", "--no-auto-gc")
        git(root, "fetch", *options, str(folder), f"{'+' * force}{saved}:{saved}")
    return saved.rpartition("/")[2]


def reproduce(processes: Sequence[repro.Dvc]) -> None:
    """Run what these settings change, and fetch all else. Raises ValueError if a stage fails."""
    said = processes[0].ask("checkout", "--quiet", "--allow-missing")
    print("".join(said), end="", flush=True)  # what it could not fetch
    repro.check_params()
    if repro.reproduce_by(processes, lambda board, progress: contextlib.nullcontext()):
        kept = "finished stages are kept, and the same command goes on from there"
        raise ValueError(f"nothing is saved; {kept}")


def save(folder: Path, baseline: str, name: str | None, asked: repro.Dvc) -> str:
    """Have DVC save the workspace as an experiment -> its git reference. Raises ValueError.

    Every stage's outputs are in the cache already. Without a target DVC would put all of them there
    again, so it gets one: the last stage of dvc.yaml.
    """
    report = Path("reports", config.profile())
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    options = ["--include-untracked", str(report)] if report.is_dir() else []
    options += ["--name", name] if name else []
    said = asked.ask("exp", "save", list(stages)[-1], *options)
    saved = references(folder, baseline)
    if asked.code or len(saved) != 1:
        raise ValueError(f"dvc exp save failed:\n{''.join(said)}".rstrip())
    return next(iter(saved.values()))


def run_all(root: Path, texts: Sequence[str], name: str | None, jobs: int, force: bool) -> None:
    """Run and save all experiments. Raises ValueError before any work for a wrong SET or NAME."""
    sets, baseline = settings_of(texts), baseline_of(root)
    names = names_of(name, len(sets))
    if not force:
        require_new(names, references(root, baseline))
    params = [changed_text(root / PARAMS, settings) for settings in sets]
    for settings, text, wanted in zip(sets, params, names, strict=True):
        start = time.monotonic()
        print(f"Experiment {wanted or ''}: {' '.join(settings)}", flush=True)
        saved = run(root, baseline, text, wanted, jobs, force)
        took = repro.clock(time.monotonic() - start)
        print(f"Saved as {saved} in {took}: `dvc exp show --only-changed`, `dvc exp apply {saved}`")


def command_line() -> argparse.Namespace:
    """The arguments of this script."""
    parser = argparse.ArgumentParser(description="Run the pipeline as a DVC experiment.")
    parser.add_argument("sets", nargs="+", metavar="SET", help="KEY=VALUE [KEY=VALUE ...]")
    parser.add_argument("--name", help="what DVC knows it by (default: DVC makes one up)")
    add_jobs(parser)
    parser.add_argument("--force", action="store_true", help="replace one of the same name")
    return parser.parse_args()


def main() -> int:
    asked = command_line()
    scm.prepare(Path.cwd())

    def work() -> int:
        run_all(Path.cwd(), asked.sets, asked.name, asked.jobs, asked.force)
        return 0

    try:
        return repro.alone("exp", Path(f"{WORKSPACE}.lock"), work)
    except ValueError as error:
        raise SystemExit(f"make exp: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
