"""Remotes, a folder and S3: what one clone ran, another restores; published results make the report
without training.
"""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from slurm_cluster import free_ports
from spread import Repository

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def folder(tmp_path):
    """Settings of a remote in a folder."""
    return {"url": str(tmp_path / "remote")}


@pytest.fixture(scope="module")
def server():
    """An S3 server on the loopback, in memory."""
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    command = [
        str(Path(sys.executable).parent / "moto_server"),
        "--host",
        "127.0.0.1",
        "--port",
        address.rpartition(":")[2],
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(address, process)
            yield address
        finally:
            process.terminate()


def wait_for(address, process):
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)


@pytest.fixture
def s3(server, monkeypatch):
    import boto3

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket="momos")
    return {"url": "s3://momos/store", "endpointurl": server}


@pytest.fixture(params=["folder", "s3"])
def first(request, tmp_path, warm):
    """A clone whose workers push to a remote."""
    small = Repository(tmp_path / "first", models="m", remote="store")
    settings = dict(request.getfixturevalue(request.param))
    small.env |= KEYS
    small.run("dvc", "remote", "add", "--default", "store", settings.pop("url"))
    for name, value in settings.items():
        small.run("dvc", "remote", "modify", "store", name, value)
    small.commit()
    return small


def clone_of(first, name):
    """A fresh clone: the same commit, no cache, no data."""
    second = Repository.__new__(Repository)
    second.path, second.trace, second.env = (
        first.path.parent / name,
        first.path.parent / f"{name}.trace",
        dict(first.env),
    )
    first.run("git", "clone", "-q", str(first.path), str(second.path))
    second.env |= {"TRACE": str(second.trace), "PYTHONPATH": str(second.path / "src")}
    (second.path / "data" / "raw" / "folder").mkdir(parents=True)
    (second.path / "data" / "raw" / "folder" / "file").write_text("raw")
    return second


@pytest.mark.stress  # three clones, fifteen commands
def test_what_one_clone_ran_another_restores_and_the_published_report_needs_no_training(first):
    second = clone_of(first, "second")
    assert first.start("worker", str(first.path), "train@m-0").wait(timeout=200) == 0
    with second.start("worker", str(second.path), "measure@m") as process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert second.ran() == {"m1": 1, "measure-m": 1}, (
        "no data are prepared and no model is trained twice"
    )

    out = first.run("dvc", "repro", "--pull")
    assert first.ran() == {"prepare": 1, "m0": 1, "report": 1}, out
    first.commit()
    (first.path / "report.md").rename(first.path.parent / "expected.md")
    first.run("git", "rm", "-q", "--cached", "report.md")
    first.commit()
    third = clone_of(first, "third")
    third.run("dvc", "pull", "--quiet", "prepare", "train@m-0", "train@m-1", "measure@m")
    out = third.run("dvc", "repro")
    assert third.ran() == {"report": 1}, out
    assert third.report() == (first.path.parent / "expected.md").read_text()


@pytest.mark.stress
def test_a_remote_that_is_not_there_fails_the_stage_and_its_result_is_kept(tmp_path, warm):
    small = Repository(tmp_path / "small", models="m", remote="store")
    with small.start("worker", str(small.path), "prepare") as process:
        out, _ = process.communicate(timeout=100)
    assert process.returncode != 0 and "store" in out
    params = yaml.safe_load((small.path / "params.yaml").read_text())
    params["sweep"]["remote"] = None
    (small.path / "params.yaml").write_text(yaml.safe_dump(params))
    assert "is cached" in small.run("dvc", "repro", "prepare") and small.ran() == {"prepare": 1}
