"""Copies of the working tree, in which other scripts try things out or run stages."""

import shutil
import subprocess
from pathlib import Path


def files_of(root: Path, left_out: tuple[str, ...] = ()) -> list[str]:
    """Files under version control or about to be, uncommitted changes included, relative to root.

    left_out: beginnings of paths that are not wanted. Raises RuntimeError outside a repository.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        raise RuntimeError(f"{root} must be a git repository: {listed.stderr.strip()}")
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith(left_out)]
    return [name for name in names if (root / name).is_file()]


def copy_files(root: Path, folder: Path, left_out: tuple[str, ...] = ()) -> None:
    """Copy what `files_of` lists to the same places below `folder`."""
    for name in files_of(root, left_out):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)


def merged(base: dict, changes: dict) -> dict:
    """Settings with changes: mappings key by key, all other values replaced."""
    return base | {
        key: merged(base.get(key, {}), value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
