"""The house: which rooms there are, that imports go one way, and how long functions are."""

import ast
import statistics
from collections.abc import Iterator

import pytest
import yaml
from source_files import PACKAGE, ROOT, SHIMS, imports, room_of, sources

# From the ground floor up: a room imports from those before it.
ROOMS = (
    "settings", "files", "compute", "weights", "images", "raw", "models", "methods", "config",
    "resume", "measured", "language", "training", "metrics", "complexity", "packing", "slt",
    "survey", "theory", "own", "report", "page", "provenance", "tracking", "cli", "stages",
    "benchmarks", "scripts",
)  # fmt: skip
MOST_ROOMS = 28
# Files that can be read, tested and taken elsewhere by themselves, with what they may import.
LEAVES = {
    "compute/device": (), "compute/seeds": (), "files/atomic": (), "images/dataset": (),
    "images/draws": (), "images/pixels": (), "images/resize": (), "methods/kdtree": (),
    "methods/nearest": ("methods/kdtree",), "methods/quantize": (), "methods/tied_blocks": (),
    "models/classifiers": (), "models/linear": (), "provenance/rounding": (),
    "report/shared/plots": (), "report/shared/statistics": (), "report/shared/tables": (),
    "settings": (), "theory": ("weights/blocks",), "weights/blocks": (),
    "images/augment": ("images/draws", "images/pixels", "images/resize"),
}  # fmt: skip


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Ways from a node back to itself, one for each node that has one."""
    found = []
    for start in graph:
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop()
            for following in sorted(graph.get(way[-1], ())):
                if following == start:
                    found.append([*way, start])
                    ways = []
                    break
                if following not in seen:
                    seen.add(following)
                    ways.append([*way, following])
    return found


def test_there_are_few_rooms_and_all_are_known():
    rooms = {room_of(path) for path in sources()}
    assert rooms == set(ROOMS)
    assert len(rooms) <= MOST_ROOMS


def test_imports_go_downward_only():
    upward = [
        f"{path.relative_to(ROOT)} -> {file.relative_to(ROOT)}"
        for path in sources()
        for file in imports(path)
        if ROOMS.index(room_of(file)) > ROOMS.index(room_of(path))
    ]
    assert not upward, upward


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_nothing_else_of_the_project(leaf):
    allowed = {PACKAGE / f"{name}.py" for name in LEAVES[leaf]}
    assert set(imports(PACKAGE / f"{leaf}.py")) == allowed


def test_settings_are_read_without_what_uses_them():
    """Config imports its own files, `settings`, and what a method's settings are."""
    for file in (PACKAGE / "config").glob("*.py"):
        for imported in imports(file):
            known = (PACKAGE / "settings.py", PACKAGE / "methods" / "method.py")
            assert imported in known or imported.parent == PACKAGE / "config", (file, imported)


def test_no_file_imports_itself_over_others():
    graph = {str(path.relative_to(ROOT)): set() for path in sources()}
    for path in sources():
        graph[str(path.relative_to(ROOT))] = {str(file.relative_to(ROOT)) for file in imports(path)}
    assert not circles(graph), circles(graph)[:3]


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_both_papers_reports_stand_on_what_they_share():
    for path in (PACKAGE / "report").rglob("*.py"):
        part = path.relative_to(PACKAGE / "report").parts[0]
        for file in imports(path):
            if PACKAGE / "report" in file.parents:
                other = file.relative_to(PACKAGE / "report").parts[0]
                assert other in (part, "shared"), (path, file)


def test_stages_are_wiring():
    """None imports another, and none is longer than a screen and a half."""
    for path in (ROOT / "stages").glob("*.py"):
        assert not [file for file in imports(path) if file.parent == path.parent], path
        code = path.read_text().splitlines()
        lines = [
            line for line in code if line.strip() and not line.startswith(("import ", "from "))
        ]
        assert len(lines) <= 80, (path, len(lines))


def test_only_the_tracker_imports_mlflow():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "mlflow" for name in names):
                assert room_of(path) == "tracking", path


def functions() -> Iterator[tuple[int, str]]:
    """Lines of every function of library, stages and scripts, and where it is."""
    for path in sources():
        if room_of(path) == "benchmarks":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                yield (node.end_lineno or node.lineno) - node.lineno + 1, place


def test_functions_are_short():
    found = list(functions())
    too_long = [place for lines, place in found if lines > 60]
    assert not too_long, too_long
    assert statistics.median(lines for lines, _ in found) < 8


def test_the_pipeline_lists_few_source_files():
    """Folders where all of a folder concerns a stage. Anchored lists count where they stand."""
    lines = (ROOT / "dvc.yaml").read_text().splitlines()
    listed = [line for line in lines if line.strip().startswith(("- src/", "- stages/"))]
    assert len(listed) <= 110, len(listed)
    assert yaml.safe_load("\n".join(lines))["stages"]


@pytest.mark.parametrize("shim", sorted(SHIMS))
def test_shims_hold_nothing_of_their_own(shim):
    """Names are handed on when they are asked for; nothing of the project is imported before."""
    tree = ast.parse(shim.read_text())
    for node in tree.body:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.startswith("momos") for name in names), shim
    assert any(
        isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body
    )
