"""Training of language models: it learns, follows from the seed, and names where it diverged."""

from pathlib import Path

import pytest
import torch
from small_neox import small

from momos import config
from momos.compute.seeds import generator_for
from momos.language import text, training

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]


def settings(**changes) -> config.Language:
    base = config.profile_settings("digits", ROOT / "profiles")["language"]
    return config.Language.from_mapping(
        base | {"warmup_steps": 4, "batch_size": 4} | changes, "language"
    )


def counting() -> torch.Tensor:
    return torch.arange(4000, dtype=torch.int32).remainder(31)


def trained(seed: int, lr: float = 1e-2, steps=(5, 20, 40)) -> tuple[list[dict], dict]:
    rows, states = [], {}

    def keep(model, row):
        assert not model.training
        rows.append(row)
        states[row["step"]] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    order = generator_for("language:order", seed)
    batches = text.stream_batches(counting(), 12, 4, order)
    held_out = text.draw_sequences(counting(), 12, 8, generator_for("language:held out", 0))
    training.train(
        small(seed),
        batches,
        settings=settings(),
        lr=lr,
        steps=steps,
        held_out=held_out.split(4),
        on_step=keep,
        order=order,
    )
    return rows, states


def test_training_learns_and_is_reproducible():
    before = torch.get_rng_state()
    rows, states = trained(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [row["step"] for row in rows] == [5, 20, 40] and set(rows[0]) == set(training.COLUMNS)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.5
    again_rows, again = trained(3)
    assert rows == again_rows and all(
        torch.equal(again[40][name], tensor) for name, tensor in states[40].items()
    )
    other, _ = trained(4)
    assert other[0]["train_loss"] != rows[0]["train_loss"]


def test_divergence_names_step_and_lr():
    with pytest.raises(
        training.LanguageDiverged, match=r"loss (nan|inf) at step \d+ .*lower lr than 1e\+30"
    ):
        trained(0, lr=1e30)


def test_the_schedule():
    here = settings(warmup_steps=10, final_lr=0.2)
    rates = [training.schedule(step, 110, here) for step in (1, 5, 10, 60, 110)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 0.6, 0.2])
