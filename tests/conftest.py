"""Fixtures that several files use, and the order of files.

Hypothesis runs without its deadline of 200 ms: a first call may compile or import, and machines are
shared.
"""

import gc
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings
from source_files import PACKAGE

settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")


# Files that take minutes begin first: else one core idles at the end.
LONGEST_FIRST = [
    "test_pipeline",
    "test_claims",
    "test_exp",
    "test_benchmarks",
    "test_stacked",
    "test_warm",
    "test_tracking",
    "test_trainings",
    "test_sweep",
    "test_run",
    "test_places",
    "test_study",
    "test_recipes",
    "test_names",
    "test_estimator",
    "test_compressibility",
    "test_dvc",
    "test_stress",
    "test_render",
    "test_weights",
    "test_pictures",
    "test_nearest",
]


def pytest_configure():
    gc.disable()  # what is collected stays: looking for garbage among it takes seconds


def pytest_collection_finish():
    """Leave what is there by now, a million objects, out of each later search for garbage."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (LONGEST_FIRST + [item.path.stem]).index(item.path.stem))


@pytest.fixture(scope="module")
def one_thread():
    """Computation in one thread: with small tensors, more of them only wait for one another."""
    import torch  # two seconds that collecting tests need not take

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_import_stays():
    """A module of a test's own file is gone with the file: what hashes the loaded code would look
    for it.
    """
    yield
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) if name.startswith("momos.") else None
        if file and not Path(file).is_relative_to(PACKAGE):
            del sys.modules[name]


@pytest.fixture(scope="session")
def warm():
    """A warm interpreter: `python` in its path starts scripts as forks, without imports.

    So does `dvc`, there and for a `Repository`, with commands that run no stage.
    """
    import spread
    from clones import warmed
    from dvc_forks import WarmDvc, environment_of

    with warmed(hash_seed=1, kind=WarmDvc) as server, pytest.MonkeyPatch.context() as patch:
        if server.folder is not None and sys.prefix != sys.base_prefix:
            patch.setattr(spread, "programs", environment_of(server))
        yield server


@pytest.fixture(scope="session")
def micro_serial(tmp_path_factory):
    """A clone in which plain `dvc repro` has run the micro profile, and the seconds it took."""
    from spread import micro

    clone = micro(tmp_path_factory.mktemp("micro_serial"))
    start = time.monotonic()
    clone.run("dvc", "repro")
    return clone, time.monotonic() - start
