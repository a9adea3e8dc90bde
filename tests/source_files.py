"""The project's source files, which of them a file imports, and who only hands names on."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "momos"
# What only hands on, lazily, names that now live elsewhere: the old paths of the public surface.
SHIMS = {
    PACKAGE / "__init__.py",
    PACKAGE / "mosaic.py",
    PACKAGE / "complexity" / "llc.py",
    PACKAGE / "complexity" / "compressibility.py",
}


def sources() -> list[Path]:
    """All code but tests and the shims."""
    folders = [PACKAGE, *(ROOT / name for name in ("stages", "scripts", "benchmarks"))]
    return sorted({path for folder in folders for path in folder.rglob("*.py")} - SHIMS)


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE if PACKAGE in path.parents else ROOT)
    return inside.parts[0].removesuffix(".py")


def module_file(name: str) -> Path | None:
    """The file of a module by its dotted name: of the library, or of scripts by its plain name."""
    parts = name.split(".")
    starts = [PACKAGE.joinpath(*parts[1:])] if parts[0] == "momos" else []
    starts += [ROOT / "scripts" / name, ROOT.joinpath(*parts)] if parts[0] != "momos" else []
    for start in starts:
        for path in (start.with_suffix(".py"), start / "__init__.py"):
            if path.is_file():
                return path
    return None


def imports(path: Path) -> Iterator[Path]:
    """Files that a file imports, anywhere in it, without the shims."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in below if module_file(name)]
            names = modules if len(modules) == len(below) else [node.module, *modules]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            file = module_file(name)
            if file is not None and file not in SHIMS and file != path:
                yield file
