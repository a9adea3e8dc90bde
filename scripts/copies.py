"""Copies of the working tree, in which other scripts try things out or run stages."""

import filecmp
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from locks import write_at_once
from pathspec import GitIgnoreSpec

LIST = ".copied.json"  # in a copy that is kept: its files that are copies


def files_of(root: Path, left_out: tuple[str, ...] = ()) -> list[str]:
    """Files under version control or about to be, uncommitted changes included, relative to root.

    Where there is no git, as in an unpacked archive: all that no .gitignore names.
    left_out: beginnings of paths that are not wanted.
    """
    names = _known_to_git(root)
    if names is None:
        names = sorted(_not_ignored(root, "", []))
    wanted = [name for name in names if name and not name.startswith(left_out)]
    return [name for name in wanted if (root / name).is_file()]


def _known_to_git(root: Path) -> list[str] | None:
    """Paths that git tracks or would add; None where root is not the top of a repository."""
    try:
        inside = _git(root, "rev-parse", "--show-prefix").strip()
        listed = _git(root, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
        return None if inside else listed
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def _not_ignored(root: Path, folder: str, rules: list[tuple[str, GitIgnoreSpec]]) -> Iterator[str]:
    """Files below a folder that no .gitignore names. rules: those of the folders above, and where.

    As in git, the last .gitignore that says anything of a path decides.
    """
    rules = [*rules, *_rules_in(root, folder)]
    for entry in os.scandir(root / folder):
        is_folder = entry.is_dir(follow_symlinks=False)
        path = f"{folder}{entry.name}{'/' * is_folder}"
        if entry.name == ".git" or _is_ignored(path, rules):
            continue
        if is_folder:
            yield from _not_ignored(root, path, rules)
        else:
            yield path


def _rules_in(root: Path, folder: str) -> Iterator[tuple[str, GitIgnoreSpec]]:
    """The rules of the folder's own .gitignore, if it has one."""
    path = root / folder / ".gitignore"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        yield folder, GitIgnoreSpec.from_lines(lines)


def _is_ignored(path: str, rules: list[tuple[str, GitIgnoreSpec]]) -> bool:
    """Whether the last rule that says anything of a path ignores it."""
    said = [spec.check_file(path.removeprefix(folder)).include for folder, spec in rules]
    return bool(next((ignored for ignored in reversed(said) if ignored is not None), False))


def copy_files(root: Path, folder: Path, left_out: tuple[str, ...] = ()) -> None:
    """Copy what `files_of` lists to the same places below `folder`."""
    for name in files_of(root, left_out):
        _copy_file(root, folder, name)


def _copy_file(root: Path, folder: Path, name: str) -> None:
    """Copy one file, with its times and permissions."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(root / name, folder / name)


def _same(left: Path, right: Path) -> bool:
    """Whether both are files with the same bytes."""
    return right.is_file() and filecmp.cmp(left, right, shallow=False)


def update_files(root: Path, folder: Path, left_out: tuple[str, ...] = ()) -> None:
    """Make an earlier copy the same as what `files_of` lists now, or make the first one.

    Files that are the same stay untouched. Those that are no longer listed are removed. What else
    is in the folder stays.
    """
    names = files_of(root, left_out)
    path = folder / LIST
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    write_at_once(path, json.dumps(sorted({*before, *names})))  # it may be stopped from here on
    for name in set(before) - set(names):
        (folder / name).unlink(missing_ok=True)
    for name in names:
        if not _same(root / name, folder / name):
            _copy_file(root, folder, name)
    write_at_once(path, json.dumps(names))


def merged(base: dict, changes: dict) -> dict:
    """Settings with changes: mappings key by key, all other values replaced."""
    return base | {
        key: merged(base.get(key, {}), value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
