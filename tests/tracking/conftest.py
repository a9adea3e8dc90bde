"""An empty MLflow store for each test: making one takes two seconds, copying it none."""

import shutil
import subprocess

import pytest
from forks import Fork

from momos.tracking import store

# Tests of how a store is made, and of places that have none.
WITHOUT = (
    "test_live_run_is_recorded_whole_as_child_of_its_configuration",
    "test_a_process_killed_while_it_makes_the_store_breaks_nothing",
    "test_the_stores_set_up_may_take_longer_than_a_call",
    "test_a_database_that_others_make_is_waited_for",
    "test_an_empty_file_is_no_store_yet",
    "test_a_store_that_cant_be_opened_is_told_with_the_way_out",
    "test_the_store_lies_in_any_folder_and_nothing_outside",
    "test_a_long_temporary_folder_is_no_matter",
    "test_disabled_starts_nothing",
    "test_importing_the_module_does_not_import_mlflow",
    "test_processes_that_set_up_one_store_at_once_all_succeed",
    "test_output_hash_is_sha256_of_names_and_contents",
)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """The file of a store in which nothing is recorded."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name in {**store.QUIET, **store.LIVE_LIMITS}:
            patch.setenv(name, {**store.QUIET, **store.LIVE_LIMITS}[name])
        store.Store("of no test", store.LIVE_LIMITS)
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def made_already(request, tmp_path):
    """The store in a test's folder, before the test begins."""
    if request.node.originalname not in WITHOUT:
        shutil.copy(request.getfixturevalue("empty_store"), tmp_path / "mlflow.db")


@pytest.fixture
def forked(monkeypatch):
    """Loggers, and other Python processes of a test, are forks: what it tests is no cold start."""
    import mlflow  # noqa: F401 (in this process, once)

    monkeypatch.setattr(subprocess, "Popen", Fork)
