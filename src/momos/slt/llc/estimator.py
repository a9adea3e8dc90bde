"""Local learning coefficient by stochastic gradient Langevin sampling (singular MDL, Eq. 10 and
Appendix D; method B2).

    lambda_hat(w*) = nbeta * ( E[L(w)] - L(w*) ),     w ~ exp( -nbeta * L(w) - (localization / 2) ||w - w*||^2 )

The sampler's step, with its scale G, stands in `langevin`. On a quadratic loss of curvature h, with
a = nbeta h + localization, the estimate is too high by a factor 1 / (1 - lr G a / 4), diverges at
lr G a > 4 and relaxes within 1 / (lr G a) steps; see `suggested_lr`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from momos.slt.llc.langevin import ALPHA, EPS, SAMPLERS, Langevin
from momos.slt.llc.sampling import (
    LossFn,
    check_batches,
    check_loss,
    integer,
    is_number,
    one_of,
    own_rng,
    positive,
    sampled_parameters,
    sampling_copy,
    seed_global,
    seed_of,
    to_numpy,
)

BASELINES = ("paired", "first_batches")
CHECK_EVERY = {
    "cpu": 1,
    "gpu": 32,
}  # steps between looks at the losses: each look makes the host wait for a GPU
# times d / 2, the largest coefficient that there is, and a single draw counts as diverged
IMPOSSIBLE = 100.0


class LLC(NamedTuple):
    """An estimate and all that tells whether to trust it. Losses in the unit of loss_fn, usually
    nats.

    mean is never clipped: below zero it says that the weights are no minimum or that the baseline
    is off (see `flags`). std understates the error where chains share batches, or where they are
    shorter than the sampler's relaxation.
    """

    mean: float  # over chains
    std: float  # sample standard deviation over chains; NaN for a single chain
    per_chain: np.ndarray  # (num_chains,) float64
    loss_trace: (
        np.ndarray
    )  # (num_chains, num_draws) float64, after burn-in: the batch's loss at w_t, before the step
    burnin_trace: np.ndarray  # (num_chains, num_burnin_steps)
    quarters: (
        np.ndarray
    )  # (num_chains, 4): the estimate from each quarter of the draws; NaN where a quarter is empty
    # L(w*): mean over draws of the same batches (paired), or over the first num_init_batches
    init_loss: float
    loss_rise: float  # E[L(w)] - L(w*) = mean / nbeta
    mean_paired: (
        float  # against L(w*) on the very batch of each draw; NaN where baseline="first_batches"
    )
    mean_first_batches: float  # the paper's mode: against L(w*) on the first num_init_batches
    flags: tuple[
        str, ...
    ]  # of "negative", "negative_chain", "falling_below_start", "above_half_the_weights"
    num_weights: int  # d, of the sampled parameters
    settings: dict[
        str, float | int | str | bool
    ]  # lr, nbeta, localization ..: a coefficient means nothing without them


class Diverged(ArithmeticError):
    """A chain's loss became NaN, infinite or absurdly high. `loss_trace`: that chain's losses so
    far, burn-in included.
    """

    def __init__(self, message: str, loss_trace: np.ndarray):
        super().__init__(message)
        self.loss_trace = loss_trace


def estimate_llc(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence,
    *,
    lr: float,
    nbeta: float,
    localization: float,
    num_chains: int,
    num_draws: int,
    num_burnin_steps: int = 0,
    sampler: str = "psgld",
    seed: int = 0,
    baseline: str = "paired",
    num_init_batches: int = 8,
    alpha: float = ALPHA,
    eps: float = EPS,
    freeze_after_burnin: bool = False,
    max_loss_rise: float | None = None,
    keep: Callable[[str, Callable[[], dict]], dict] = lambda name, compute: compute(),
) -> LLC:
    """Estimate of the local learning coefficient at the model's weights, on the device where they
    lie.

    loss_fn(model, batch) -> scalar Tensor, the mean loss; batches: a sequence of anything that
    loss_fn takes, cycled, each chain starting at its own place. Burn-in comes on top of num_draws;
    as is usual, a chain's first step stands at w* itself. Sampled are the parameters that require a
    gradient, in float32 or better, on a copy in eval mode: the model stays as it is, and so does
    the global RNG state.

    baseline: what L(w*) is measured on. Its noise is multiplied by nbeta, so "paired" takes the
    very batches of the draws, each evaluated once; "first_batches" is the paper's mode.
    freeze_after_burnin keeps V as burn-in leaves it, which removes most of the bias of the omitted
    Gamma term. max_loss_rise (same unit as the loss): a draw further above L(w*) counts as
    diverged; by default only what no coefficient can explain, so give one where the loss has a
    scale. Chains run one after another: faster than vmap on a CPU. keep(name, compute), a
    momos.resume.scratch.Scratch for instance, may know the losses of a chain from before an
    interruption.

    Raises ValueError for arguments out of range, Diverged (naming chain, draw, lr), and
    ArithmeticError where the loss at w* is not finite.
    """
    settings = _Settings(
        lr=lr, nbeta=nbeta, localization=localization, num_chains=num_chains, num_draws=num_draws, num_burnin_steps=num_burnin_steps,
        sampler=sampler, seed=seed, baseline=baseline, num_init_batches=num_init_batches, alpha=alpha, eps=eps,
        freeze_after_burnin=freeze_after_burnin, max_loss_rise=max_loss_rise,
    )  # fmt: skip
    check_batches(batches)
    with own_rng(sampled_parameters(model)[0].device), torch.enable_grad():
        run = _Run(sampling_copy(model), loss_fn, batches, settings)
        parts = [
            keep(f"chain{chain}", lambda chain=chain: {"losses": run.chain(chain).tolist()})
            for chain in range(num_chains)
        ]
        traces = np.array([part["losses"] for part in parts])
    return run.result(traces)


def suggested_lr(
    localization: float, *, sampler: str = "psgld", eps: float = EPS, target: float = 0.2
) -> float:
    """The lr at which lr * G * localization = target, where gradients are small and G is thus about
    1 / eps.

    Between 0.1 and 0.3 a chain forgets its start within ten steps along flat directions, and is
    stable along curved ones until nbeta * h exceeds localization more than tenfold. A start for a
    search on a held-out model, whose outcome is then fixed for all checkpoints.
    """
    positive("localization", localization), positive("eps", eps), positive("target", target)
    one_of("sampler", sampler, SAMPLERS)
    return target / localization * (eps if sampler == "psgld" else 1.0)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Arguments of estimate_llc, checked."""

    lr: float
    nbeta: float
    localization: float
    num_chains: int
    num_draws: int
    num_burnin_steps: int
    sampler: str
    seed: int
    baseline: str
    num_init_batches: int
    alpha: float
    eps: float
    freeze_after_burnin: bool
    max_loss_rise: float | None

    def __post_init__(self) -> None:
        for name in ("lr", "nbeta", "eps"):
            positive(name, getattr(self, name))
        if not (is_number(self.localization) and self.localization >= 0):
            raise ValueError(
                f"localization must be a finite number >= 0, got {self.localization!r}"
            )
        if not (is_number(self.alpha) and 0 <= self.alpha < 1):
            raise ValueError(f"alpha must be in [0, 1), got {self.alpha!r}")
        for name, least in (
            ("num_chains", 1),
            ("num_draws", 1),
            ("num_burnin_steps", 0),
            ("num_init_batches", 1),
            ("seed", 0),
        ):
            integer(name, getattr(self, name), least)
        one_of("sampler", self.sampler, SAMPLERS)
        one_of("baseline", self.baseline, BASELINES)
        if self.max_loss_rise is not None:
            positive("max_loss_rise", self.max_loss_rise)
        if self.freeze_after_burnin and (self.num_burnin_steps == 0 or self.sampler != "psgld"):
            raise ValueError(
                "freeze_after_burnin needs sampler='psgld' and num_burnin_steps >= 1: there is no V to keep otherwise"
            )

    @property
    def num_steps(self) -> int:
        return self.num_burnin_steps + self.num_draws


class _Run:
    """The chains of one estimate: `model` is a copy to work on."""

    def __init__(
        self, model: nn.Module, loss_fn: LossFn, batches: Sequence, settings: _Settings
    ) -> None:
        self.model, self.loss_fn, self.batches, self.settings = model, loss_fn, batches, settings
        self.parameters = sampled_parameters(model)
        self.device = self.parameters[0].device
        check_loss(model, loss_fn, batches[0])
        self.buffers = [
            (m, name, b.clone())
            for m in model.modules()
            for name, b in m.named_buffers(recurse=False)
        ]
        how = {
            name: getattr(settings, name)
            for name in ("lr", "nbeta", "localization", "sampler", "alpha", "eps")
        }
        self.langevin = Langevin(self.parameters, **how)
        self.num_weights = self.langevin.weights.numel()
        self.cap = (
            settings.max_loss_rise or IMPOSSIBLE * max(self.num_weights, 10) / 2 / settings.nbeta
        )
        self.init, self.start = self._baseline()

    def _baseline(self) -> tuple[np.ndarray, float]:
        """L(w*) by batch, (num_batches,) float64, NaN for those which are not needed; and its mean
        over the first num_init_batches.
        """
        s, num_batches = self.settings, len(self.batches)
        first = range(min(s.num_init_batches, num_batches))
        orders = (
            [self._order(chain)[s.num_burnin_steps :] for chain in range(s.num_chains)]
            if s.baseline == "paired"
            else []
        )
        needed = np.unique(np.concatenate([first, *orders])).astype(int).tolist()
        with torch.no_grad():
            losses = to_numpy([self.loss_fn(self.model, self.batches[i]) for i in needed])
        if not np.isfinite(losses).all():
            at = int((~np.isfinite(losses)).argmax())
            raise ArithmeticError(
                f"the loss at the given weights is {losses[at]} on batch {needed[at]}: there is nothing to sample around"
            )
        init = np.full(num_batches, np.nan)
        init[needed] = losses
        return init, init[first].mean()

    def chain(self, chain: int) -> np.ndarray:
        """Losses (num_steps,) float64, burn-in included, each before its step."""
        s, order, trace, pending = (
            self.settings,
            self._order(chain),
            np.full(self.settings.num_steps, np.nan),
            [],
        )
        generator = self._restart(chain)
        every = CHECK_EVERY["cpu" if self.device.type == "cpu" else "gpu"]
        for t, batch in enumerate(order.tolist()):
            loss = self.loss_fn(self.model, self.batches[batch])
            loss.backward(inputs=self.parameters)
            pending.append(loss.detach())
            if len(pending) == every or t + 1 == s.num_steps:
                trace[t + 1 - len(pending) : t + 1] = to_numpy(pending)
                self._check(chain, trace[: t + 1], order, len(pending))
                pending.clear()
            self.langevin.frozen = s.freeze_after_burnin and t >= s.num_burnin_steps
            self.langevin.step(generator)
        return trace

    def _restart(self, chain: int) -> torch.Generator:
        """Weights, buffers and global state as every chain finds them, and the chain's own
        generator.
        """
        self.langevin.restart()
        for module, name, buffer in self.buffers:
            setattr(module, name, buffer.clone())
        seed = seed_of(f"chain {chain}", self.settings.seed)
        seed_global(self.device, seed)
        return torch.Generator(self.device).manual_seed(seed)

    def _order(self, chain: int) -> np.ndarray:
        """The batch of each step (num_steps,): cycled, from a place of the chain's own so that
        chains share as few as they can.
        """
        num_batches = len(self.batches)
        return (
            np.arange(self.settings.num_steps) + chain * num_batches // self.settings.num_chains
        ) % num_batches

    def _check(self, chain: int, trace: np.ndarray, order: np.ndarray, num_new: int) -> None:
        """Raises Diverged at the first of the newest losses that is not finite or too high."""
        s, old = self.settings, len(trace) - num_new
        init = self.init[order[old : len(trace)]]
        high = trace[old:] - np.where(np.isnan(init), self.start, init) > self.cap
        bad = high | ~np.isfinite(trace[old:])
        if not bad.any():
            return
        at = old + int(bad.argmax())
        where = (
            f"draw {at - s.num_burnin_steps}" if at >= s.num_burnin_steps else f"burn-in step {at}"
        )
        what = (
            f"{trace[at]:.6g}, more than {self.cap:.6g} above the start"
            if math.isfinite(trace[at])
            else f"{trace[at]}"
        )
        raise Diverged(
            f"the loss is {what} at chain {chain}, {where} (lr {s.lr}, nbeta {s.nbeta}, localization {s.localization}, {s.sampler}): "
            "lower lr, or raise localization",
            trace[: at + 1],
        )

    def result(self, traces: np.ndarray) -> LLC:
        """From losses (num_chains, num_steps) to the estimate."""
        s = self.settings
        draws = traces[:, s.num_burnin_steps :]
        order = np.stack([self._order(chain) for chain in range(s.num_chains)])[
            :, s.num_burnin_steps :
        ]
        paired, first = s.nbeta * (draws - self.init[order]), s.nbeta * (draws - self.start)
        if s.baseline == "first_batches":
            paired = np.full_like(paired, np.nan)
        rises = first if s.baseline == "first_batches" else paired
        per_chain = rises.mean(1)
        quarters = np.stack(
            [
                part.mean(1) if part.size else np.full(s.num_chains, np.nan)
                for part in np.array_split(rises, 4, axis=1)
            ],
            1,
        )
        mean = float(per_chain.mean())
        return LLC(
            mean=mean,
            std=float(per_chain.std(ddof=1)) if s.num_chains > 1 else math.nan,
            per_chain=per_chain,
            loss_trace=draws,
            burnin_trace=traces[:, : s.num_burnin_steps],
            quarters=quarters,
            init_loss=float(draws.mean() - mean / s.nbeta),
            loss_rise=mean / s.nbeta,
            mean_paired=float(paired.mean()),
            mean_first_batches=float(first.mean()),
            flags=_flags(per_chain, quarters, self.num_weights),
            num_weights=self.num_weights,
            settings={name: value for name, value in vars(s).items() if name != "max_loss_rise"}
            | {"max_loss_rise": self.cap},
        )


def _flags(per_chain: np.ndarray, quarters: np.ndarray, num_weights: int) -> tuple[str, ...]:
    """What speaks against an estimate: no proof either way.

    Around a minimum draws do not lie below it on average, and no coefficient exceeds d / 2 (which
    noise may, by a tenth).
    """
    raised = {
        "negative": per_chain.mean() < 0,
        "negative_chain": (per_chain < 0).any(),
        "falling_below_start": quarters[:, -1].mean() < 0,
        "above_half_the_weights": per_chain.min() > 1.1 * num_weights / 2,
    }
    return tuple(name for name, is_raised in raised.items() if is_raised)
