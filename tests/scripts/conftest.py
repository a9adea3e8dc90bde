"""A small repository of trivial stages, and what plain DVC makes of it."""

import pytest
from spread import Repository


@pytest.fixture
def small(tmp_path, warm):
    return Repository(tmp_path / "small", models="m")


@pytest.fixture(scope="session")
def serial(tmp_path_factory, warm):
    """The report that plain DVC makes."""
    repository = Repository(tmp_path_factory.mktemp("serial") / "small", models="m")
    repository.run("dvc", "repro")
    assert [start["warm"] for start in repository.starts()] == [False] * 5
    return repository.report()
