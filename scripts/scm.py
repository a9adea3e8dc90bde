"""Tell DVC whether this folder is under git: an unpacked archive is not, and works all the same.

usage: scm.py   (`make setup` calls it; scripts that run stages call `prepare`)

Without git, DVC needs the setting `core.no_scm`. It stands in .dvc/config.local, which git ignores,
and goes when there is a repository.
"""

import json
import os
import sys
import time
from pathlib import Path

from configobj import ConfigObj

MISSING = (
    "No git repository here: everything runs, but `make exp` and `dvc exp` need one, and the report"
    " names no commit (`git init` and a first commit are enough)."
)


def own_folders(root: Path) -> dict[str, str]:
    """Environment in which DVC keeps to the clone, where the home folder can't be read."""
    try:
        usable = os.access(Path.home(), os.R_OK | os.X_OK)
    except RuntimeError:  # the user has none
        usable = False
    own = {"DVC_GLOBAL_CONFIG_DIR": "user", "DVC_SITE_CACHE_DIR": "site"}
    return {} if usable else {name: str(root / ".dvc" / "tmp" / own[name]) for name in own}


def require_path(root: Path) -> None:
    """Ends the process, with the reason, in a folder in which DVC's progress bars fail."""
    if "{" in str(root) or "}" in str(root):
        sys.exit(f"{root}: DVC fails where a folder's name has {{ or }}; expected another name")


def is_under_git(root: Path) -> bool:
    """Whether a folder, or one that it lies in, is a git repository."""
    return any((folder / ".git").exists() for folder in (root, *root.parents))


def settle(root: Path) -> bool:
    """Write the setting, or remove it. Returns whether there is git."""
    path, has_git = root / ".dvc" / "config.local", is_under_git(root)
    settings = ConfigObj(str(path), encoding="utf-8", list_values=False)
    core = settings.setdefault("core", {})
    if has_git == ("no_scm" in core):
        if has_git:
            del core["no_scm"]
        else:
            core["no_scm"] = "true"
        if not core:
            del settings["core"]
        settings.write()
    return has_git


def drop_torn_lock(root: Path) -> None:
    """Remove DVC's list of running stages where a process was killed while it wrote it.

    DVC refuses to run beside such a file. One that is being written now is whole a moment later.
    """
    path, seen = root / ".dvc" / "tmp" / "rwlock", None
    while path.is_file():
        try:
            json.loads(text := path.read_text())
        except FileNotFoundError:
            return
        except ValueError:
            if text == seen:
                path.unlink(missing_ok=True)
            seen = text
            time.sleep(0.5)
        else:
            return


def prepare(root: Path) -> None:
    """Have DVC work in the clone, for this process and those that it starts.

    Says what is missing without git. Ends the process where DVC can't work.
    """
    require_path(root)
    os.environ |= own_folders(root)
    drop_torn_lock(root)
    if not settle(root):
        print(MISSING, flush=True)


if __name__ == "__main__":
    require_path(Path.cwd())
    settle(Path.cwd().resolve())
