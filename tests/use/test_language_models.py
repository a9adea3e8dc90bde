"""Language models of other settings than ours: measured as ours are, or refused before training."""

from pathlib import Path

import pandas as pd
import pytest
from staged import Project

from momos import config

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

CHECKPOINTS = "slt/micro/checkpoints/neox/1"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Its text is short, its measures are the quickest."""
    Path(tmp_path, "data/raw").mkdir(parents=True)
    Path(tmp_path, "data/raw/words.txt").write_text("the quick brown fox and others " * 100)
    text = {"source": "files", "name": "data/raw/words.txt", "sha256": None, "context": 8}
    changes = {
        "text": text,
        "language_models": {"neox": {"steps": [1, 2]}},
        "slt": {"schemes": ["quantization_max", "pruning", "factorization"], "fit_steps": [1, 2]},
    }
    return Project(tmp_path, monkeypatch, changes)


def train(project: Project, kwargs: dict | None = None, **changes) -> None:
    more = {"kwargs": kwargs} if kwargs else {}
    project.write({"language_models": {"neox": more | changes}})
    project.stage("text", "text.safetensors", "text.json")
    project.stage("language", "neox", 1, "text.safetensors", "text.json", CHECKPOINTS)


@pytest.mark.parametrize("center", [False, True])
def test_a_model_without_attention_biases_is_measured(project, center):
    """Its norms' shifts need the biases: the measuring stages met None where one should be."""
    train(project, {"attention_bias": False}, center=center)
    for scheme in ("quantization_max", "pruning", "factorization"):
        out = Path("measures") / scheme
        project.stage("compressibility", "neox", 1, scheme, "text.safetensors", CHECKPOINTS, out)
        assert len(pd.read_csv(out / "critical.csv")) > 0
    project.stage("llc", "neox", 1, "text.safetensors", CHECKPOINTS, "measures/llc")
    assert pd.read_csv("measures/llc/llc.csv").llc_mean.notna().all()


def test_a_tied_model_is_measured_as_it_is(project):
    train(project, {"tie_word_embeddings": True}, fold=False, center=False)
    out = Path("measures/quantization_max")
    project.stage(
        "compressibility", "neox", 1, "quantization_max", "text.safetensors", CHECKPOINTS, out
    )
    assert len(pd.read_csv(out / "critical.csv")) > 0


TIED = {"tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("kwargs", "changes", "expected"),
    [
        (TIED, {"fold": True}, "language_models.fold must be false"),
        (TIED, {"fold": False, "center": True}, "language_models.center must be false"),
        ({"hidden_act": "gleu"}, {}, "hidden_act must be one of"),
        ({"hidden_act": "gleu"}, {}, "did you mean gelu?"),
        ({"rope_parameters": {"rope_type": "spiral"}}, {}, "KeyError: 'spiral'"),
        ({"num_attention_heads": 0}, {}, "ZeroDivisionError"),
        ({"vocab_size": 10}, {}, "IndexError"),
        ({"return_dict": False}, {}, "no GPT-NeoX has"),
        ({"num_hidden_layers": 2}, {}, "kwargs.num_hidden_layers must be 3 or more"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_what_cant_be_measured_is_not_trained(project, kwargs, changes, expected):
    with pytest.raises(ValueError) as error:
        train(project, kwargs, **changes)
    assert expected in str(error.value) and "language_models" in str(error.value)
    assert not Path(CHECKPOINTS).exists() and not Path("scratch").exists()


def test_settings_stay_as_they_were_written(project):
    """transformers writes into the mapping of rope_parameters that it is given."""
    given = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    train(project, given)
    recorded = config.load(config.LanguageModel, "neox").kwargs or {}
    from momos.files import atomic

    assert atomic.read_json(Path(CHECKPOINTS) / "run.json")["kwargs"] == recorded
    assert recorded["rope_parameters"] == given["rope_parameters"]


@pytest.mark.parametrize(
    ("words", "held_out", "expected"),
    [
        ("too short", 0.5, "5 are the training part; expected more than text.context (8)"),
        ("of it hardly anything is held out", 0.1, "3 are the held-out part"),
    ],
)
def test_a_text_shorter_than_a_sequence_is_refused_by_its_stage(project, words, held_out, expected):
    Path("data/raw/words.txt").write_text(words)
    project.write({"text": {"held_out_fraction": held_out}})
    with pytest.raises(ValueError) as error:
        project.stage("text", "text.safetensors", "text.json")
    assert expected in str(error.value)
    assert not Path("text.json").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"language": {"num_held_out": 150}}, "language.num_held_out must be at most 147"),
        ({"language": {"batch_size": 3000}}, "language.batch_size must be at most 2938"),
        ({"compressibility": {"num_sequences": 3000}}, "num_sequences must be at most 2938"),
        ({"compressibility": {"retraining_batch_size": 3000}}, "retraining_batch_size must be"),
        ({"llc": {"batch_size": 3000}}, "llc.batch_size must be at most 2938"),
        ({"text": {"context": 160}}, "of which 155 are the held-out part; expected more than"),
    ],
)
def test_more_sequences_than_the_text_has_are_refused_before_training(project, changes, expected):
    """Some were drawn twice, without a word: 3,101 tokens, of which 155 are held out."""
    project.write(changes)
    with pytest.raises(ValueError) as error:
        project.stage("text", "text.safetensors", "text.json")
    assert expected in str(error.value)


def test_as_many_sequences_as_the_text_has_are_enough(project):
    project.write({"language": {"num_held_out": 147, "batch_size": 2938}})
    project.stage("text", "text.safetensors", "text.json")
    assert Path("text.json").exists()


def test_an_experiments_copy_lacks_own_text_and_says_what_to_add(project, monkeypatch):
    """As `dvc exp run --temp` and `--queue` run it: in a copy without what git ignores."""
    copy = project.folder / ".dvc/tmp/exps/tmp1"
    copy.mkdir(parents=True)
    project.folder = copy
    project.write({"survey": {"source": "folder", "path": "data/zoo/mine", "untrained": []}})
    monkeypatch.chdir(copy)
    for stage, path in (("text", "data/raw/words.txt"), ("survey", "data/zoo/mine")):
        with pytest.raises(ValueError, match=f"add `-C {path}` to `dvc exp run`"):
            project.stage(stage, "one", "two", *(["three"] if stage == "survey" else []))
