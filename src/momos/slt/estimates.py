"""The local learning coefficient and its control at the pipeline's settings, as rows of tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from momos import config
from momos.slt.llc.estimator import LLC, estimate_llc
from momos.slt.llc.hessian import hessian_trace
from momos.slt.llc.sampling import LossFn


def estimate(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    settings: config.Sampling,
    *,
    lr: float,
    num_draws: int,
    seed: int,
    keep: Callable[[str, Callable[[], dict]], dict],
) -> dict:
    """{"row": one estimate's numbers and settings, "traces": a row per chain and draw}. Batches and
    keep as `estimate_llc` takes them.

    Raises what `estimate_llc` raises.
    """
    names = (
        "nbeta",
        "localization",
        "num_chains",
        "num_burnin_steps",
        "sampler",
        "baseline",
        "num_init_batches",
        "max_loss_rise",
    )
    found = estimate_llc(
        model,
        loss_fn,
        batches,
        lr=lr,
        num_draws=num_draws,
        seed=seed,
        keep=keep,
        **{name: getattr(settings, name) for name in names},
    )
    trace = hessian_trace(
        model,
        loss_fn,
        batches[: settings.num_probe_batches],
        num_probes=settings.num_probes,
        seed=seed,
    )
    return {
        "row": _row(found) | {"hessian_trace": trace.mean, "hessian_trace_std": _number(trace.std)},
        "traces": _traces(found),
    }


def _row(found: LLC) -> dict:
    quarters = found.quarters.mean(0)
    return {
        "llc_mean": found.mean,
        "llc_std": _number(found.std),
        "loss_rise": found.loss_rise,
        "init_loss": found.init_loss,
        **{f"quarter_{place}": _number(value) for place, value in enumerate(quarters.tolist(), 1)},
        "flags": " ".join(found.flags),
        "num_weights": found.num_weights,
        **{
            name: found.settings[name]
            for name in (
                "lr",
                "nbeta",
                "localization",
                "num_chains",
                "num_draws",
                "num_burnin_steps",
            )
        },
    }


def _traces(found: LLC) -> list[dict]:
    """Burn-in has draws below zero."""
    start = found.burnin_trace.shape[1]
    rows = []
    for chain, (before, after) in enumerate(
        zip(found.burnin_trace.tolist(), found.loss_trace.tolist(), strict=True)
    ):
        rows += [
            {"chain": chain, "draw": place - start, "loss": value}
            for place, value in enumerate([*before, *after])
        ]
    return rows


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
