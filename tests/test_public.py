"""The public surface: what scripts import, by its present and by its old paths, and how cheaply."""

import importlib
import inspect
import resource
import subprocess
import sys

import pytest

import momos

PUBLIC = {
    "momos.mosaic": ["num_motifs", "draw_motifs", "assign", "project_"],
    "momos.methods.mosaic": ["draw_motifs", "assign", "project_"],
    "momos.weights.blocks": ["num_motifs"],
    "momos.complexity.code_length": ["rac"],
    "momos.complexity.bdm": ["bdm", "bdm_ratio"],
    "momos.complexity.planes": ["complexity", "by_tensor", "quantize"],
    "momos.weights.initial": ["fresh", "stream", "buffers"],
    "momos.complexity.compressibility": ["critical_n_q", "CriticalPoint"],
    "momos.slt.compressibility": ["critical_n_q", "CriticalPoint"],
    "momos.complexity.llc": ["estimate_llc", "LLC"],
    "momos.slt.llc": ["estimate_llc", "LLC"],
    "momos.slt.llc.estimator": ["estimate_llc", "LLC"],
    "momos.packing": ["pack", "unpack"],
    "momos.models": ["build"],
    "momos.metrics": ["names", "columns"],
    "momos.cli": ["main"],
    "momos": momos.__all__,
}
PARAMETERS = {
    ("momos.mosaic", "num_motifs"): ["num_blocks", "capacity"],
    ("momos.mosaic", "draw_motifs"): ["blocks", "num_motifs", "force_zero", "generator"],
    ("momos.mosaic", "assign"): ["blocks", "motifs"],
    ("momos", "assign"): ["blocks", "motifs"],
    ("momos", "project_"): ["model", "block_size", "capacity", "num_motifs", "force_zero"],
    ("momos.complexity.planes", "complexity"): ["tensors", "bit_depth", "percentile"],
    ("momos.weights.initial", "fresh"): ["tensors", "seed", "init", "kinds"],
    ("momos", "rac"): ["num_weights", "num_blocks", "block_size", "num_motifs", "bits"],
    ("momos", "bdm"): ["bits", "ndim"],
    ("momos", "bdm_ratio"): ["trained_weights", "init_weights"],
    ("momos", "pack"): ["model", "path", "block_size"],
    ("momos", "unpack"): ["path", "model"],
    ("momos", "MoMos"): [
        "model", "block_size", "capacity", "num_motifs", "bits", "recipe", "seed",
    ],
    ("momos", "QAT"): ["model", "bits", "exclude"],
    ("momos.models", "build"): ["name", "num_classes", "seed"],
    ("momos.complexity.compressibility", "critical_n_q"): ["model", "loss_fn", "eps"],
    ("momos.complexity.llc", "estimate_llc"): [
        "model", "loss_fn", "batches", "lr", "nbeta", "localization", "num_chains", "num_draws",
        "num_burnin_steps", "sampler", "seed",
    ],
}  # fmt: skip


@pytest.mark.parametrize("path", PUBLIC)
def test_every_public_path_works_and_is_documented(path):
    module = importlib.import_module(path)
    for name in PUBLIC[path]:
        assert inspect.getdoc(getattr(module, name)), f"{path}.{name} has no docstring"


@pytest.mark.parametrize(("path", "name"), PARAMETERS)
def test_public_functions_keep_their_parameters(path, name):
    function = getattr(importlib.import_module(path), name)
    parameters = list(inspect.signature(function).parameters)
    expected = PARAMETERS[path, name]
    assert [one for one in parameters if one in expected] == expected


def test_old_paths_give_the_same_objects():
    from momos.complexity import compressibility, llc
    from momos.slt.compressibility import critical_n_q
    from momos.slt.llc import estimate_llc

    assert compressibility.critical_n_q is critical_n_q and llc.estimate_llc is estimate_llc
    for module in (compressibility, llc, momos):
        with pytest.raises(AttributeError, match="nothing"):
            getattr(module, "nothing")  # noqa: B009 - the plain attribute is a useless expression


def imported_by(code: str) -> set[str]:
    """Top-level names of the modules that some code imports in a new interpreter."""
    code = f"import sys; before = set(sys.modules)\n{code}\n"
    code += "print('\\n', *({name.split('.')[0] for name in set(sys.modules) - before}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_library_imports_neither_torch_nor_numpy():
    found = imported_by("import momos; dir(momos)")
    assert not {"torch", "numpy", "timm"} & found
    assert found - set(sys.stdlib_module_names) == {"momos"}, "nothing of anybody else"


@pytest.mark.parametrize("arguments", [["--help"], ["measure", "--help"], ["pack", "--help"], []])
def test_help_and_bad_usage_import_nothing_of_anybody_else(arguments):
    code = f"from momos.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
    assert imported_by(code) - set(sys.stdlib_module_names) == {"momos"}


def test_a_loop_of_ones_own_imports_nothing_of_the_study():
    """Torch and what it brings, and nothing that other people's libraries and reports need."""
    found = imported_by("from momos import QAT, MoMos")
    assert "torch" in found
    others = {
        "accelerate", "altair", "dvc", "lightning", "matplotlib", "mlflow", "numba", "pandas",
        "scipy", "seaborn", "sklearn", "timm", "torchvision", "transformers",
    }  # fmt: skip
    assert not found & others


def test_what_people_import_is_listed_and_found():
    assert set(momos.__all__) <= set(dir(momos))
    names = ", ".join(momos.__all__)
    code = f"from momos import {names}; from momos import config, cli; print(bdm([0, 1] * 12))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) > 0, done.stderr


@pytest.mark.parametrize(
    ("most", "command"),
    [(0.2, ["-c", "import momos"]), (0.5, ["-m", "momos.cli", "--help"])],
)
def test_importing_and_help_are_quick(most, command):
    """Seconds of CPU, of the best of three: others may use the machine."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < most, seconds
