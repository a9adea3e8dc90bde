"""The local learning coefficient and its control at the pipeline's settings, as rows of tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from momos import config
from momos.slt.llc.estimator import LLC, estimate_llc
from momos.slt.llc.hessian import hessian_trace
from momos.slt.llc.sampling import LossFn

# Settings of a section that go to `estimate_llc` as they are
SAMPLING = (
    "nbeta",
    "localization",
    "num_chains",
    "num_burnin_steps",
    "sampler",
    "baseline",
    "num_init_batches",
    "max_loss_rise",
)
# Settings that stand beside an estimate, because a coefficient means nothing without them
BESIDE = ("lr", "nbeta", "localization", "num_chains", "num_draws", "num_burnin_steps")


def llc_rows(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    settings: config.Sampling,
    *,
    lr: float,
    num_draws: int,
    seed: int,
    keep: Callable[[str, Callable[[], dict]], dict],
) -> dict[str, Any]:
    """Estimate the LLC and the Hessian's trace of a model.

    Returns {"row": numbers and settings of the estimate, "traces": a row per chain and draw}.
    batches and keep are those of `estimate_llc`. Raises what `estimate_llc` raises.
    """
    llc = estimate_llc(
        model,
        loss_fn,
        batches,
        lr=lr,
        num_draws=num_draws,
        seed=seed,
        keep=keep,
        **{name: getattr(settings, name) for name in SAMPLING},
    )
    trace = hessian_trace(
        model,
        loss_fn,
        batches[: settings.num_probe_batches],
        num_probes=settings.num_probes,
        seed=seed,
    )
    control = {"hessian_trace": trace.mean, "hessian_trace_std": _none_unless_finite(trace.std)}
    return {"row": _estimate_row(llc) | control, "traces": _trace_rows(llc)}


def _estimate_row(llc: LLC) -> dict[str, Any]:
    quarters = enumerate(llc.quarters.mean(0).tolist(), 1)
    return {
        "llc_mean": llc.mean,
        "llc_std": _none_unless_finite(llc.std),
        "loss_rise": llc.loss_rise,
        "init_loss": llc.init_loss,
        **{f"quarter_{number}": _none_unless_finite(value) for number, value in quarters},
        "flags": " ".join(llc.flags),
        "num_weights": llc.num_weights,
        **{name: llc.settings[name] for name in BESIDE},
    }


def _trace_rows(llc: LLC) -> list[dict[str, Any]]:
    """A row per chain and draw; draws of the burn-in have numbers below zero."""
    losses = np.hstack([llc.burnin_trace, llc.loss_trace]).tolist()
    return [
        {"chain": chain, "draw": draw, "loss": loss}
        for chain, chain_losses in enumerate(losses)
        for draw, loss in enumerate(chain_losses, -llc.burnin_trace.shape[1])
    ]


def _none_unless_finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
