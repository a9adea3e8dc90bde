"""Measures of a language model at each of its steps, from its folder."""

from pathlib import Path

import pytest
import torch
from small_neox import SMALL, shaken, small

from momos import config
from momos.files import atomic
from momos.language import neox, steps
from momos.resume.scratch import Scratch
from momos.slt.compressibility import language_models as critical_points
from momos.slt.compressibility import schemes
from momos.slt.llc import estimate_llc, hessian_trace, language_models

pytest.importorskip("transformers")
PROFILES = Path(__file__).parents[2] / "profiles"
STEPS = (3, 7)
RECIPE = config.LanguageModel(
    source="local", name=None, kwargs=SMALL, lr=1e-3, steps=STEPS, fold=True, center=False
)


def settings(kind: type, **changes):
    base = config.profile_settings("digits", PROFILES)[kind.section]
    return kind.from_mapping(base | changes, kind.section)


CORPUS = settings(config.Text, context=12)
LLC = settings(
    config.Llc,
    lr={"small": 1e-5},
    num_draws={"small": 4},
    num_chains=2,
    num_burnin_steps=2,
    batch_size=2,
    num_batches=3,
    num_probes=2,
    num_probe_batches=2,
    num_lanczos_steps=2,
    sweep=[
        {
            "nbeta": 300.0,
            "localization": 1e4,
            "lr": 1e-6,
            "num_burnin_steps": 1,
            "num_draws": 5,
        }
    ],
    sweep_steps=[7],
    sweep_chains=3,
)
SEARCH = settings(
    config.Compressibility,
    num_sequences=4,
    batch_size=2,
    max_n_q=9,
    retraining_steps=2,
    retraining_batch_size=2,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two steps of a small model."""
    monkeypatch.chdir(tmp_path)
    about = {"source": "local", "fold": True, "center": False, "context": 12, "vocabulary": 31}
    atomic.write_json(tmp_path / steps.ABOUT, about | {"kwargs": SMALL, "steps": list(STEPS)})
    for step in STEPS:
        steps.save_step(tmp_path, step, shaken(small(step)))
    return tmp_path


def tokens() -> torch.Tensor:
    return torch.arange(400, dtype=torch.int32).remainder(31)


def test_llc_at_steps_is_each_steps_estimate(folder):
    batches = language_models.llc_batches(tokens(), CORPUS, LLC, torch.device("cpu"))
    assert [batch.shape for batch in batches] == [(2, 13)] * 3
    with Scratch("llc", {}, *steps.described_by(folder)) as finished:
        rows, traces, sweep, slopes = language_models.llc_at_steps(
            folder, RECIPE, batches, LLC, finished, name="small", seed=1
        )
    assert [row["step"] for row in rows] == list(STEPS)
    assert [(row["chain"], row["draw"]) for row in traces if row["step"] == 3] == [
        (chain, draw) for chain in (0, 1) for draw in range(-2, 4)
    ]
    for step, row in zip(STEPS, rows, strict=True):
        model = steps.load(folder, step)
        fixed = {"nbeta": LLC.nbeta, "sampler": LLC.sampler, "baseline": LLC.baseline, "seed": 1}
        expected = estimate_llc(
            model,
            neox.loss,
            batches,
            lr=1e-5,
            num_draws=4,
            num_chains=2,
            num_burnin_steps=2,
            localization=LLC.localization,
            max_loss_rise=LLC.max_loss_rise,
            **fixed,
        )
        trace = hessian_trace(model, neox.loss, batches[:2], num_probes=2, seed=1)
        assert row["llc_mean"] == expected.mean and row["hessian_trace"] == trace.mean
        losses = [trace["loss"] for trace in traces if trace["step"] == step]
        assert losses == [*expected.burnin_trace[0], *expected.loss_trace[0]] + [
            *expected.burnin_trace[1],
            *expected.loss_trace[1],
        ]
    other = estimate_llc(
        model,
        neox.loss,
        batches,
        lr=1e-6,
        num_draws=5,
        num_chains=3,
        num_burnin_steps=1,
        localization=1e4,
        **fixed,
    )
    assert [(row["step"], row["localization"]) for row in sweep] == [(7, 3000.0), (7, 1e4)]
    assert [row["llc_mean"] for row in sweep] == [rows[-1]["llc_mean"], other.mean]
    assert [slope["step"] for slope in slopes] == [7]


@pytest.mark.parametrize("scheme", ["quantization_max", "pruning"])
def test_critical_points_at_steps_are_each_steps_search(folder, scheme):
    cpu = torch.device("cpu")
    evaluation = critical_points.evaluation_batches(tokens(), CORPUS, SEARCH, cpu)
    assert [batch.shape for batch in evaluation] == [(2, 13)] * 2
    training = critical_points.retraining(tokens(), CORPUS, RECIPE, SEARCH, cpu, seed=1)
    assert len(training.batches) == 2 and training.train_lr == RECIPE.lr
    search = schemes.search(scheme, SEARCH, seed=1, training=training)
    with Scratch("compressibility", {}, *steps.described_by(folder)) as finished:
        curve, critical = critical_points.critical_points_at_steps(
            folder, STEPS, search, evaluation, [0.1, 1.0], finished, title="test"
        )
    for step in STEPS:
        points = search(
            steps.load(folder, step), lambda model: neox.mean_loss(model, evaluation), [0.1, 1.0]
        )
        expected = schemes.rows(points)
        assert [row for row in curve if row["step"] == step] == [
            {"step": step} | row for row in expected["curve"]
        ]
        assert [row for row in critical if row["step"] == step] == [
            {"step": step} | row for row in expected["critical"]
        ]
