"""Droppings: files that operating systems and file servers leave in folders.

They hold nothing of the user's. Every reader of a folder or an archive skips the same ones.
"""

from pathlib import Path, PurePosixPath

FILES = (".DS_Store", ".localized", "Thumbs.db", "ehthumbs.db", "desktop.ini", ".directory")
# macOS puts `._name` beside a file, and applications `.~lock.name#` while it is open.
PREFIXES = ("._", ".~lock.")
# With all that is in them
FOLDERS = (
    "__MACOSX", ".AppleDouble", ".Spotlight-V100", ".Trashes", ".fseventsd", ".TemporaryItems",
    "$RECYCLE.BIN", "System Volume Information", "@eaDir", "lost+found", ".ipynb_checkpoints",
)  # fmt: skip
_FILES, _FOLDERS = ({name.casefold() for name in names} for names in (FILES, FOLDERS))


def is_dropping(name: str) -> bool:
    """Whether a file is one of the droppings. name: its path inside the folder or archive."""
    *folders, file = PurePosixPath(name).parts or ("",)
    inside = any(folder.casefold() in _FOLDERS for folder in folders)
    return inside or file.casefold() in _FILES or file.startswith(PREFIXES)


def files_below(folder: Path) -> list[Path]:
    """List all files below a folder, ordered by path, without droppings."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not is_dropping(path.relative_to(folder).as_posix())
    )
