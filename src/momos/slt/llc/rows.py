"""The local learning coefficient beside its quadratic prediction, as rows of tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from momos import config
from momos.slt.llc.estimator import LLC, estimate_llc
from momos.slt.llc.quadratic import predict
from momos.slt.llc.sampling import LossFn
from momos.slt.llc.spectrum import Spectrum, hessian_spectrum

# Settings of a section that go to `estimate_llc`, and to `hessian_spectrum`, as they are
SAMPLING = (
    "nbeta",
    "localization",
    "num_chains",
    "num_burnin_steps",
    "sampler",
    "baseline",
    "num_init_batches",
    "max_loss_rise",
    "second_batch",
    "max_rhat",
)
SPECTRUM = (
    "num_probes",
    "num_probe_batches",
    "num_lanczos_probes",
    "num_lanczos_steps",
    "num_gradient_batches",
)
# Settings that stand beside an estimate, because a coefficient means nothing without them
BESIDE = ("lr", "nbeta", "localization", "num_chains", "num_draws", "num_burnin_steps")
Keep = Callable[[str, Callable[[], dict]], dict]


class Target(NamedTuple):
    """What the LLC is estimated of."""

    model: nn.Module
    loss_fn: LossFn
    batches: Sequence[Any]
    seed: int


def llc_rows(
    target: Target,
    settings: config.Sampling,
    *,
    lr: float,
    num_draws: int,
    spectrum: Spectrum,
    keep: Keep,
) -> dict[str, Any]:
    """Estimate the LLC, and predict the estimate from the spectrum.

    Returns {"row": numbers and settings of the estimate, "traces": a row per chain and draw}.
    keep is that of `estimate_llc`. Raises what `estimate_llc` raises.
    """
    llc = estimate_llc(
        target.model,
        target.loss_fn,
        target.batches,
        lr=lr,
        num_draws=num_draws,
        seed=target.seed,
        keep=keep,
        **{name: getattr(settings, name) for name in SAMPLING},
    )
    row = _estimate_row(llc) | _prediction(llc, spectrum)
    return {"row": {name: _finite(value) for name, value in row.items()}, "traces": _traces(llc)}


def spectrum_of(target: Target, settings: config.Sampling, keep: Keep, **changes: int) -> Spectrum:
    """The Hessian's spectrum at these settings, and changes of them."""
    counts = {name: getattr(settings, name) for name in SPECTRUM} | changes

    def compute() -> dict[str, Any]:
        model, loss_fn, batches, seed = target
        return vars(hessian_spectrum(model, loss_fn, batches, seed=seed, **counts))

    return Spectrum(**keep("spectrum", compute))


def _estimate_row(llc: LLC) -> dict[str, Any]:
    quarters = enumerate(llc.quarters.mean(0).tolist(), 1)
    return {
        "llc_mean": llc.mean,
        "llc_std": llc.std,
        "loss_rise": llc.loss_rise,
        "init_loss": llc.init_loss,
        **{f"quarter_{number}": value for number, value in quarters},
        "flags": " ".join(llc.flags),
        "num_weights": llc.num_weights,
        **{name: llc.settings[name] for name in BESIDE},
        "rhat": llc.diagnostics.rhat,
        "ess": llc.diagnostics.ess,
        "loss_se": llc.diagnostics.init_loss_se,
        "llc_variance": llc.variance,
    }


def _prediction(llc: LLC, spectrum: Spectrum) -> dict[str, Any]:
    nbeta, localization = float(llc.settings["nbeta"]), float(llc.settings["localization"])
    step = float(llc.settings["lr"]) * llc.diagnostics.scale
    quadratic = predict(spectrum, nbeta=nbeta, localization=localization, step=step)
    raised = {"indefinite": quadratic.indefinite, "no_minimum": quadratic.no_minimum}
    flags = [*llc.flags, *(name for name, is_raised in raised.items() if is_raised)]
    return {
        "hessian_trace": spectrum.trace.mean,
        "hessian_trace_std": spectrum.trace.std,
        "hessian_max": spectrum.largest,
        "hessian_min": spectrum.smallest,
        "gradient_norm": spectrum.gradient_norm,
        "llc_quadratic": quadratic.mean,
        "llc_quadratic_std": quadratic.std,
        "llc_gradient": quadratic.gradient_term,
        "llc_variance_quadratic": quadratic.variance,
        "step_bias": quadratic.step_bias,
        "llc_corrected": llc.mean / quadratic.step_bias,
        "flags": " ".join(flags),
    }


def _traces(llc: LLC) -> list[dict[str, Any]]:
    """A row per chain and draw; draws of the burn-in have numbers below zero."""
    losses = np.hstack([llc.burnin_trace, llc.loss_trace]).tolist()
    return [
        {"chain": chain, "draw": draw, "loss": loss}
        for chain, chain_losses in enumerate(losses)
        for draw, loss in enumerate(chain_losses, -llc.burnin_trace.shape[1])
    ]


def _finite(value: Any) -> Any:
    """The value, None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
