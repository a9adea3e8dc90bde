"""Language models at steps of their training: files of our own, and revisions on the hub."""

import json
import runpy
from pathlib import Path

import pytest
import torch
import yaml
from small_neox import SMALL, logits, shaken, small

from momos import config
from momos.files import atomic
from momos.language import steps

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]

ABOUT = {
    "source": "local",
    "fold": True,
    "center": False,
    "context": 12,
    "vocabulary": 31,
    "kwargs": SMALL,
    "steps": [3, 7],
}


def test_a_local_checkpoint_comes_back_folded(tmp_path):
    model = shaken(small())
    steps.save_step(tmp_path, 7, model)
    atomic.write_json(tmp_path / steps.ABOUT, ABOUT)
    found = steps.load(tmp_path, 7)
    torch.testing.assert_close(logits(found), logits(model), rtol=0, atol=1e-4)
    assert not found.training and found.lm_head.bias is not None
    atomic.write_json(tmp_path / steps.ABOUT, ABOUT | {"fold": False})
    assert torch.equal(logits(steps.load(tmp_path, 7)), logits(model))
    with pytest.raises(ValueError, match=r"expected step 9 among its steps \[3, 7\]"):
        steps.load(tmp_path, 9)
    with pytest.raises(ValueError, match="step3.safetensors is missing"):
        steps.load(tmp_path, 3)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache with one revision of one model, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, commit = shaken(small()), "a" * 40
    folder = tmp_path / "hub" / "models--some--pythia"
    model.save_pretrained(folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "step3").write_text(commit)
    return model


def test_a_pythia_from_the_cache(hub, tmp_path):
    revisions = steps.find_revisions("some/pythia", [3])
    assert revisions == {"3": "a" * 40}
    about = {
        "source": "pythia",
        "name": "some/pythia",
        "revisions": revisions,
        "steps": [3],
        "fold": True,
        "center": True,
    }
    atomic.write_json(tmp_path / steps.ABOUT, about)
    found = steps.load(tmp_path, 3)
    torch.testing.assert_close(
        logits(found).log_softmax(-1), logits(hub).log_softmax(-1), rtol=0, atol=1e-4
    )


def test_a_missing_revision_and_no_hub(hub):
    with pytest.raises(
        steps.ModelUnavailable,
        match="some/pythia at revision step9 is neither on the hub nor in its cache",
    ):
        steps.find_revisions("some/pythia", [3, 9])
    with pytest.raises(
        steps.ModelUnavailable,
        match="other/pythia at revision step3 is neither on the hub nor in its cache",
    ):
        steps.find_revisions("other/pythia", [3])


def test_the_stage_writes_nothing_without_the_hub(hub, tmp_path, monkeypatch):
    params = config.profile_settings("digits", ROOT / "profiles")
    params["language_models"] = {
        "neox": {
            "source": "pythia",
            "name": "some/pythia",
            "lr": 1e-3,
            "steps": [3, 9],
            "fold": True,
            "center": False,
        }
    }
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    main = runpy.run_path(str(ROOT / "stages" / "language.py"))["main"]
    with pytest.raises(steps.ModelUnavailable, match="step9"):
        main("neox", 0, Path("text.safetensors"), Path("text.json"), Path("out"))
    assert not Path("out").exists()
    params["language_models"]["neox"]["steps"] = [3]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    main("neox", 0, Path("text.safetensors"), Path("text.json"), Path("out"))
    assert json.loads(Path("out/run.json").read_text())["revisions"] == {"3": "a" * 40}


def test_what_describes_a_folder(tmp_path):
    """A Pythia's folder has no history: its commits say which models they are."""
    atomic.write_json(tmp_path / steps.ABOUT, ABOUT)
    assert steps.described_by(tmp_path) == [tmp_path / "run.json"]
    (tmp_path / "history.csv").write_text("step\n")
    assert steps.described_by(tmp_path) == [tmp_path / "run.json", tmp_path / "history.csv"]
