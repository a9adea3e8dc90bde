"""Language models: folding against the model itself, training, checkpoints behind both doors."""

import json
import runpy
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from momos import config
from momos.files import atomic
from momos.language import neox, text
from momos.slt import compressibility

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def small(seed: int = 0, **kwargs) -> nn.Module:
    return neox.build(SMALL | kwargs, vocabulary=31, context=12, seed=seed)


def shaken(model: nn.Module) -> nn.Module:
    """Every parameter random, layer norms and biases too, which start at one and zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


TOKENS = torch.randint(0, 31, (4, 13), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(TOKENS[:, :-1], use_cache=False).logits


@pytest.mark.parametrize("parallel", [True, False])
def test_folding_changes_no_output(parallel):
    model = shaken(small(use_parallel_residual=parallel))
    before, num_weights = logits(model), sum(p.numel() for p in model.parameters())
    neox.fold_(model)
    assert before.std() > 0.5
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-4)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 7 and not any(list(norm.parameters()) for norm in norms)
    assert sum(p.numel() for p in model.parameters()) == num_weights - 7 * 32 + 31, (
        "a bias for the unembedding instead"
    )


def test_centring_changes_no_probability():
    model = shaken(small())
    before = logits(model).log_softmax(-1)
    neox.center_(model)
    torch.testing.assert_close(logits(model).log_softmax(-1), before, rtol=0, atol=1e-4)
    assert model.gpt_neox.embed_in.weight.mean(1).abs().max() < 1e-6
    assert model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.mean(0).abs().max() < 1e-6
    neox.fold_(model)
    torch.testing.assert_close(logits(model).log_softmax(-1), before, rtol=0, atol=1e-4)


def test_a_tied_unembedding_is_not_folded():
    with pytest.raises(ValueError, match="tied to the embedding"):
        neox.fold_(small(tie_word_embeddings=True))


def test_what_the_schemes_find_in_it():
    model = small()
    neox.fold_(model)
    heads = compressibility.attention_heads(model)
    assert len(heads) == 6 and heads[0].module == "gpt_neox.layers.0.attention"
    chosen = compressibility.chosen(compressibility.layers_of(model))
    assert {name.rsplit(".", 3)[0] for name in chosen} == {"gpt_neox.layers.1"} and len(chosen) == 4
    copied, _ = compressibility.pruned(model, heads[:1])
    assert not torch.equal(logits(copied), logits(model))


def test_initial_weights_follow_from_the_seed_alone():
    before = torch.get_rng_state()
    one, same, other = small(1), small(1), small(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits(one), logits(same)) and not torch.equal(logits(one), logits(other))


@pytest.mark.parametrize(
    "kwargs", [{"hiden_size": 16}, {"hidden_size": 15, "num_attention_heads": 4}]
)
def test_kwargs_that_no_model_has(kwargs):
    with pytest.raises(ValueError, match="language_models.kwargs: "):
        small(**kwargs)


def test_the_mean_loss_weighs_tokens():
    model = small()
    with torch.no_grad():
        whole = neox.loss(model, TOKENS).item()
    assert neox.mean_loss(model, TOKENS.split(3)) == pytest.approx(whole, abs=1e-6)


def settings(**changes) -> config.Language:
    base = config.profile_settings("digits", ROOT / "profiles")["language"]
    return config.Language.from_mapping(
        base | {"warmup_steps": 4, "batch_size": 4} | changes, "language"
    )


def counting() -> text.Text:
    return torch.arange(4000, dtype=torch.int32).remainder(31)


def trained(seed: int, lr: float = 1e-2, steps=(5, 20, 40)) -> tuple[list[dict], dict]:
    rows, states = [], {}

    def keep(model, row):
        assert not model.training
        rows.append(row)
        states[row["step"]] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    batches = text.stream(counting(), 12, 4, neox.generator_for("order", seed))
    held_out = text.sequences(counting(), 12, 8, neox.generator_for("held out", 0)).split(4)
    neox.train(
        small(seed),
        batches,
        settings=settings(),
        lr=lr,
        steps=steps,
        held_out=held_out,
        on_checkpoint=keep,
    )
    return rows, states


def test_training_learns_and_is_reproducible():
    before = torch.get_rng_state()
    rows, states = trained(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [row["step"] for row in rows] == [5, 20, 40] and set(rows[0]) == set(neox.COLUMNS)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.5
    again_rows, again = trained(3)
    assert rows == again_rows and all(
        torch.equal(again[40][name], tensor) for name, tensor in states[40].items()
    )
    other, _ = trained(4)
    assert other[0]["train_loss"] != rows[0]["train_loss"]


def test_divergence_names_step_and_lr():
    with pytest.raises(neox.Diverged, match=r"loss (nan|inf) at step \d+ .*lower lr than 1e\+30"):
        trained(0, lr=1e30)


def test_the_schedule():
    here = settings(warmup_steps=10, final_lr=0.2)
    rates = [neox.schedule(step, 110, here) for step in (1, 5, 10, 60, 110)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 0.6, 0.2])


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
    neox.save_step(tmp_path, 7, model)
    atomic.write_json(tmp_path / neox.ABOUT, ABOUT)
    found = neox.load(tmp_path, 7)
    torch.testing.assert_close(logits(found), logits(model), rtol=0, atol=1e-4)
    assert not found.training and found.lm_head.bias is not None
    atomic.write_json(tmp_path / neox.ABOUT, ABOUT | {"fold": False})
    assert torch.equal(logits(neox.load(tmp_path, 7)), logits(model))
    with pytest.raises(ValueError, match=r"expected step 9 among its steps \[3, 7\]"):
        neox.load(tmp_path, 9)
    with pytest.raises(ValueError, match="step3.safetensors is missing"):
        neox.load(tmp_path, 3)


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
    revisions = neox.find_revisions("some/pythia", [3])
    assert revisions == {"3": "a" * 40}
    about = {
        "source": "pythia",
        "name": "some/pythia",
        "revisions": revisions,
        "steps": [3],
        "fold": True,
        "center": True,
    }
    atomic.write_json(tmp_path / neox.ABOUT, about)
    found = neox.load(tmp_path, 3)
    torch.testing.assert_close(
        logits(found).log_softmax(-1), logits(hub).log_softmax(-1), rtol=0, atol=1e-4
    )


def test_a_missing_revision_and_no_hub(hub):
    with pytest.raises(
        neox.Unavailable,
        match="some/pythia at revision step9 is neither on the hub nor in its cache",
    ):
        neox.find_revisions("some/pythia", [3, 9])
    with pytest.raises(
        neox.Unavailable,
        match="other/pythia at revision step3 is neither on the hub nor in its cache",
    ):
        neox.find_revisions("other/pythia", [3])


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
    with pytest.raises(neox.Unavailable, match="step9"):
        main("neox", 0, Path("text.safetensors"), Path("text.json"), Path("out"))
    assert not Path("out").exists()
    params["language_models"]["neox"]["steps"] = [3]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    main("neox", 0, Path("text.safetensors"), Path("text.json"), Path("out"))
    assert json.loads(Path("out/run.json").read_text())["revisions"] == {"3": "a" * 40}
