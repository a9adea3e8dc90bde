"""`make docs`: pages of the public surface, made from its docstrings by pdoc.

usage: api.py OUT_DIR

A warning of pdoc, for instance of a name that does not resolve, is an error.
"""

import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pdoc

MODULES = (
    "momos",
    "momos.complexity.bdm",
    "momos.complexity.code_length",
    "momos.complexity.measure",
    "momos.complexity.planes",
    "momos.methods.mosaic",
    "momos.metrics",
    "momos.models",
    "momos.own.lightning",
    "momos.own.transformers",
    "momos.packing",
    "momos.slt.compressibility",
    "momos.slt.llc",
    "momos.theory",
    "momos.weights.files",
    "momos.weights.initial",
)


def main(out: Path) -> None:
    """Write a page a module, and index.html. Raises what a docstring makes pdoc warn of."""
    warnings.filterwarnings("error", module="pdoc")
    out.mkdir(parents=True, exist_ok=True)
    pages = {name: pdoc.doc.Module(_with_lazy_names(name)) for name in MODULES}
    for name, page in pages.items():
        path = out / f"{name.replace('.', '/')}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pdoc.render.html_module(page, all_modules=pages))
    (out / "index.html").write_text(pdoc.render.html_index(pages))
    print(f"{len(pages)} modules are in {out / 'index.html'}")


def _with_lazy_names(name: str) -> ModuleType:
    """The module, with what it imports when it is asked for."""
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        setattr(module, public, getattr(module, public))
    return module


if __name__ == "__main__":
    main(Path(sys.argv[1]))
