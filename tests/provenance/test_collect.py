"""What a report says of the machine, the commit and the versions."""

import re

import pytest
from synthetic import ROOT

from momos.provenance import collect
from momos.provenance.collect import collect_provenance, commit_state, pinned_packages


def test_provenance(tmp_path, monkeypatch):
    found = collect_provenance({"b": 1, "a": [2]}, ["numpy", "no-such-package"])
    assert found["params_sha256"] == collect_provenance({"a": [2], "b": 1}, [])["params_sha256"]
    assert found["packages"]["numpy"][0].isdigit() and found["packages"]["no-such-package"] is None
    assert (
        found["memory_bytes"] > 2**28
        and found["cpu"]
        and "torch" in pinned_packages(ROOT / "requirements.txt")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_state() is None
    for command in (
        ["init", "-q"],
        [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "t",
        ],
    ):
        collect._run_git(*command)
    assert (
        re.fullmatch("[0-9a-f]{40}", commit_state()["commit"]) and commit_state()["dirty"] is False
    )
    (tmp_path / "params.yaml").write_text("a: 1\n")
    assert commit_state()["dirty"] is True
    # A workspace in scratch/ is a copy of the tree around it.
    (tmp_path / ".gitignore").write_text("/scratch/\n")
    (tmp_path / "scratch" / "copy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "scratch" / "copy")
    assert commit_state()["dirty"] is True
    (tmp_path / "params.yaml").unlink()
    assert commit_state()["dirty"] is False
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="name==version"):
        pinned_packages(tmp_path / "requirements.txt")
