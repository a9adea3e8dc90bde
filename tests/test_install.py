"""What `pip install .` brings: enough for the library and the command, and no more."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv

import pytest
from source_files import PACKAGE, ROOT, imports, module_file

import momos

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What a package's module is called where that is not the package's own name.
MODULES = {"pyyaml": "yaml"}
# Imported where asked for: networks of timm and of transformers, its hub; triton, torch's on a GPU.
WHERE_ASKED_FOR = {"huggingface_hub", "timm", "transformers", "triton"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def packages(requirements):
    return {re.match(r"[\w.-]+", one).group().lower() for one in requirements}


def third_party(path):
    """Top-level names of other people's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - {"momos"} - set(sys.stdlib_module_names)


def reached(starts):
    """The files that these import, over others; a package's compressors and metrics are listed."""
    seen, waiting = set(), list(starts)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imports(path)
            if path.parent.name in ("compressors", "metrics", "methods"):
                waiting += path.parent.glob("*.py")
    return seen


def test_the_library_and_the_command_need_what_is_installed_with_them():
    starts = [module_file(name) for name in set(momos._MODULES.values())]
    files = reached([PACKAGE / "cli" / "main.py", *starts])
    assert len(files) > 40
    needed = {name: path for path in files for name in third_party(path)}
    present = {MODULES.get(name, name) for name in packages(PROJECT["dependencies"])}
    missing = {name: path for name, path in needed.items() if name not in present}
    assert set(missing) <= WHERE_ASKED_FOR, missing
    extra = packages(EXTRAS["pipeline"] + EXTRAS["language"])
    assert WHERE_ASKED_FOR - {"triton"} <= extra


def test_extras_are_named_after_what_they_are_for():
    assert set(EXTRAS) >= {"pipeline", "language", "slurm", "s3", "test"}
    everything = packages(
        PROJECT["dependencies"] + [one for extra in EXTRAS.values() for one in extra]
    )
    pinned = packages(
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line
    )
    alone = {"momos"}
    assert {name.replace("_", "-") for name in everything} - alone <= {
        name.replace("_", "-") for name in pinned
    }


OWN_LOOP = """
import torch
from momos import MoMos, unpack
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
mosaic = MoMos(model, block_size=2, capacity=0.1, bits=8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(2):
    model(torch.randn(16, 64)).square().mean().backward()
    optimizer.step()
    mosaic.step()
    mosaic.epoch()
mosaic.save("model.momos", level="entropy")
unpack("model.momos", model)
torch.save(model.state_dict(), "model.pt")
print(mosaic.report().rac)
"""


OWN_MODULE = """
import torch

def network():
    model, inputs = torch.nn.Linear(8, 4), torch.ones(16, 8)
    return model, [inputs], lambda model, batch: (model(batch) - 1).square().mean()
"""


@pytest.fixture
def folder(tmp_path):
    """A folder that is not kept: torch with its CUDA libraries has 4 GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.stress
def test_a_wheel_works_in_an_empty_environment(folder):
    """Builds it from a copy, installs it with what it asks for, measures and trains."""

    def run(*command):
        done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    for name in ("src", "pyproject.toml", "LICENSE", "README.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", "dist", "./source")
    (wheel,) = (folder / "dist").glob("momos-*.whl")
    venv.create(folder / "empty", with_pip=True)
    python, command = (str(folder / "empty" / "bin" / name) for name in ("python", "momos"))
    run(python, "-m", "pip", "install", str(wheel))
    installed = packages(run(python, "-m", "pip", "list", "--format=freeze").split())
    assert not {"dvc", "mlflow", "timm", "transformers", "seaborn"} & installed
    assert "measure" in run(command, "--help")
    assert float(run(python, "-c", OWN_LOOP)) > 1
    run(command, "inspect", "model.momos")
    make = "import torch, momos.models as m; torch.save(m.build('mlp', 10).state_dict(), 'mlp.pt')"
    run(python, "-c", make)
    assert "bdm_1d_ratio" in run(command, "measure", "mlp.pt", "--arch", "mlp", "--block-size", "2")
    assert "against 2 initialisations" in run(command, "measure", "mlp.pt", "--init-seeds", "2")
    run(command, "compare", "mlp.pt", "model.pt", "--init-seeds", "2", "--page", "page.html")
    (folder / "own.py").write_text(OWN_MODULE)
    out = run(command, "compressibility", "--module", "own.py:network", "--device", "cpu")
    assert "critical_n_q" in out and (folder / "compressibility" / "curve.png").is_file()
