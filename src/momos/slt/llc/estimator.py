"""Local learning coefficient by Langevin sampling (singular MDL, Eq. 10 and App. D; method B2).

    lambda_hat(w*) = nbeta * ( E[L(w)] - L(w*) )
    w ~ exp( -nbeta * L(w) - (localization / 2) ||w - w*||^2 )

`momos.slt.llc.langevin` has the sampler's step and its scale G. On a quadratic loss of curvature h,
with a = nbeta h + localization, the estimate is too high by a factor 1 / (1 - lr G a / 4). It
diverges at lr G a > 4, and relaxes within 1 / (lr G a) steps; see `suggested_lr`. What the estimate
would be on the quadratic part of the loss, that factor included, is in `momos.slt.llc.quadratic`.

The variance-based estimate (SIVE, arXiv 2606.22389) needs no L(w*). With the density's free energy
F = lambda log nbeta + nbeta L(w*) + .., E[L] = dF / d nbeta and Var[L] = -d E[L] / d nbeta, hence
lambda = nbeta^2 Var[L]. At a finite localisation the two differ: it is then the mean's estimate
minus nbeta times that one's derivative.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from momos.compute.seeds import seed_for
from momos.slt.llc.diagnostics import MIN_DRAWS, Diagnostics, mixing, standard_error
from momos.slt.llc.langevin import ALPHA, EPS, SAMPLERS, Langevin
from momos.slt.llc.sampling import (
    LossFn,
    check_batches,
    check_integer,
    check_loss,
    check_one_of,
    check_positive,
    is_number,
    own_rng,
    sampled_parameters,
    sampling_copy,
    seed_global,
    to_numpy,
)

BASELINES = ("paired", "first_batches")
# Steps between looks at the losses: each look makes the host wait for a GPU.
CHECK_EVERY = {"cpu": 1, "gpu": 32}
MAX_RHAT = 1.1  # above it, chains are said not to have mixed
# A draw counts as diverged at so many times d / 2, the largest coefficient that there is.
IMPOSSIBLE = 100.0
Keep = Callable[[str, Callable[[], dict]], dict]  # (name of a part, what computes it) -> the part


class LLC(NamedTuple):
    """An estimate, and what tells whether to trust it. Losses are in loss_fn's unit, usually nats.

    mean is never clipped: below zero it says that the weights are no minimum or that the baseline
    is off (see `flags`). std understates the error where chains share batches, or where they are
    shorter than the sampler's relaxation. A coefficient means nothing without its settings.
    """

    mean: float  # over chains
    std: float  # sample standard deviation over chains; NaN for a single chain
    per_chain: np.ndarray  # (num_chains,) float64
    # (num_chains, num_draws) float64, after burn-in: the batch's loss at w_t, before the step
    loss_trace: np.ndarray
    burnin_trace: np.ndarray  # (num_chains, num_burnin_steps) float64
    # (num_chains, 4): the estimate from each quarter of the draws; NaN where a quarter is empty
    quarters: np.ndarray
    # L(w*): mean over draws of the same batches (paired), or over the first num_init_batches
    init_loss: float
    loss_rise: float  # E[L(w)] - L(w*) = mean / nbeta
    # with L(w*) on the very batch of each draw; NaN for baseline "first_batches"
    mean_paired: float
    # with L(w*) on the first num_init_batches, as in the paper
    mean_first_batches: float
    # The variance-based estimate (SIVE). With several batches it is NaN but with second_batch:
    # each draw is measured on the next batch too, and the covariance of the two losses is free of
    # the batches' noise.
    variance: float
    diagnostics: Diagnostics  # R-hat, effective sample size ..
    # of "negative", "negative_chain", "falling_below_start", "above_half_the_weights",
    # "too_few_draws" for diagnostics, "rhat_above_limit"
    flags: tuple[str, ...]
    num_weights: int  # d, of the sampled parameters
    settings: dict[str, float | int | str | bool]  # lr, nbeta, localization ..


class LlcDiverged(ArithmeticError):
    """A chain's loss became NaN, infinite or absurdly high.

    `loss_trace` holds that chain's losses so far, those of the burn-in included.
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
    second_batch: bool = False,
    max_rhat: float = MAX_RHAT,
    keep: Keep = lambda name, compute: compute(),
) -> LLC:
    """Estimate the local learning coefficient at the model's weights, on their device.

    loss_fn(model, batch) -> scalar Tensor, the mean loss. batches: a sequence of what loss_fn
    takes; it is cycled, and each chain starts at its own place. num_burnin_steps come on top of
    num_draws. baseline: batches on which L(w*) is measured, see `_Run.measure_baseline`.
    freeze_after_burnin: keep V as burn-in leaves it: most of the omitted Gamma term's bias goes.
    max_loss_rise: a draw further above L(w*) counts as diverged; by default what no coefficient can
    explain. second_batch: see LLC.variance. max_rhat: R-hat above it is flagged. keep: may know a
    chain from before an interruption, as momos.resume.scratch.Scratch does.

    Sampled are the parameters that require a gradient, in float32 or better, on a copy in eval
    mode. The model and the global RNG state stay as they are. Raises ValueError for arguments out
    of range, LlcDiverged, and ArithmeticError where the loss at w* is not finite.
    """
    settings = _Settings(
        lr=lr,
        nbeta=nbeta,
        localization=localization,
        num_chains=num_chains,
        num_draws=num_draws,
        num_burnin_steps=num_burnin_steps,
        sampler=sampler,
        seed=seed,
        baseline=baseline,
        num_init_batches=num_init_batches,
        alpha=alpha,
        eps=eps,
        freeze_after_burnin=freeze_after_burnin,
        max_loss_rise=max_loss_rise,
        second_batch=second_batch,
        max_rhat=max_rhat,
    )
    check_batches(batches)
    with own_rng(sampled_parameters(model)[0].device), torch.enable_grad():
        run = _Run(sampling_copy(model), loss_fn, batches, settings)
        return run.result(run.traces(keep))


def suggested_lr(
    localization: float, *, sampler: str = "psgld", eps: float = EPS, target: float = 0.2
) -> float:
    """The lr at which lr * G * localization = target where gradients are small.

    G is then about 1 / eps. With a target between 0.1 and 0.3, a chain forgets its start within ten
    steps along flat directions. Along curved ones it is stable until nbeta * h exceeds localization
    more than tenfold. Start a search there, on a held-out model, and fix its outcome for all other
    models. Raises ValueError for arguments out of range.
    """
    check_positive("localization", localization)
    check_positive("eps", eps)
    check_positive("target", target)
    check_one_of("sampler", sampler, SAMPLERS)
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
    second_batch: bool
    max_rhat: float

    def __post_init__(self) -> None:
        for name in ("lr", "nbeta", "localization", "eps", "max_rhat"):
            check_positive(name, getattr(self, name))
        if not (is_number(self.alpha) and 0 <= self.alpha < 1):
            raise ValueError(f"alpha must be in [0, 1), got {self.alpha!r}")
        for name, least in (
            ("num_chains", 1),
            ("num_draws", 1),
            ("num_burnin_steps", 0),
            ("num_init_batches", 1),
            ("seed", 0),
        ):
            check_integer(name, getattr(self, name), least)
        check_one_of("sampler", self.sampler, SAMPLERS)
        check_one_of("baseline", self.baseline, BASELINES)
        if self.max_loss_rise is not None:
            check_positive("max_loss_rise", self.max_loss_rise)
        if self.freeze_after_burnin and (self.num_burnin_steps == 0 or self.sampler != "psgld"):
            raise ValueError(
                "freeze_after_burnin needs sampler='psgld' and num_burnin_steps >= 1: "
                "there is no V to keep otherwise"
            )

    @property
    def num_steps(self) -> int:
        return self.num_burnin_steps + self.num_draws


class _Run:
    """The chains of one estimate. Chains run one after another, faster than vmap on a CPU.

    model: a copy, whose weights the chains change.
    """

    def __init__(
        self, model: nn.Module, loss_fn: LossFn, batches: Sequence, settings: _Settings
    ) -> None:
        self.model, self.loss_fn, self.batches, self.settings = model, loss_fn, batches, settings
        self.parameters = sampled_parameters(model)
        self.device = self.parameters[0].device
        check_loss(model, loss_fn, batches[0])
        self.buffers = [
            (module, name, buffer.clone())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self.langevin = Langevin(
            self.parameters,
            lr=settings.lr,
            nbeta=settings.nbeta,
            localization=settings.localization,
            sampler=settings.sampler,
            alpha=settings.alpha,
            eps=settings.eps,
        )
        self.num_weights = self.langevin.weights.numel()
        impossible_rise = IMPOSSIBLE * max(self.num_weights, 10) / 2 / settings.nbeta
        self.cap = settings.max_loss_rise or impossible_rise
        # With a single batch, the second one would be the same.
        self.on_second_batch = settings.second_batch and len(batches) > 1
        self.init, self.start = self.measure_baseline()

    def measure_baseline(self) -> tuple[np.ndarray, float]:
        """L(w*) by batch, and its mean over the first num_init_batches.

        The losses are (num_batches,) float64, NaN for batches that are not needed. The noise of
        L(w*) is multiplied by nbeta. So baseline "paired" takes the very batches of the draws, and
        evaluates each once; "first_batches" is the paper's mode. Raises ArithmeticError for a loss
        that is not finite.
        """
        s, num_batches = self.settings, len(self.batches)
        first = range(min(s.num_init_batches, num_batches))
        orders = []
        if s.baseline == "paired":
            orders = [self._order(chain)[s.num_burnin_steps :] for chain in range(s.num_chains)]
            if self.on_second_batch:
                orders += [(order + 1) % num_batches for order in orders]
        needed = np.unique(np.concatenate([first, *orders])).astype(int).tolist()
        with torch.no_grad():
            losses = to_numpy([self.loss_fn(self.model, self.batches[i]) for i in needed])
        if not np.isfinite(losses).all():
            at = int((~np.isfinite(losses)).argmax())
            raise ArithmeticError(
                f"the loss at the given weights is {losses[at]} on batch {needed[at]}: "
                "there is nothing to sample around"
            )
        init = np.full(num_batches, np.nan)
        init[needed] = losses
        return init, init[first].mean()

    def traces(self, keep: Keep) -> list[dict[str, Any]]:
        """Losses and scale of each chain, see `chain`."""
        chains = range(self.settings.num_chains)
        return [keep(f"chain{chain}", partial(self.chain, chain)) for chain in chains]

    def chain(self, chain: int) -> dict[str, Any]:
        """Run one chain.

        Returns its losses (num_steps,), burn-in included, each before its step; the draws' losses
        on the second batch (num_draws,), or none; and the mean G of its last step. As is usual, the
        first step stands at w* itself. Raises LlcDiverged.
        """
        s, order, generator = self.settings, self._order(chain), self._restart(chain)
        trace = np.full(s.num_steps, np.nan)
        pending: list[Tensor] = []  # losses on the device that nobody has looked at
        second: list[Tensor] = []
        every = CHECK_EVERY["cpu" if self.device.type == "cpu" else "gpu"]
        for t, batch in enumerate(order.tolist()):
            loss = self.loss_fn(self.model, self.batches[batch])
            loss.backward(inputs=self.parameters)
            pending.append(loss.detach())
            if self.on_second_batch and t >= s.num_burnin_steps:
                second.append(self._second(batch))
            if len(pending) == every or t + 1 == s.num_steps:
                trace[t + 1 - len(pending) : t + 1] = to_numpy(pending)
                self._check(chain, trace[: t + 1], order, len(pending))
                pending.clear()
            self.langevin.frozen = s.freeze_after_burnin and t >= s.num_burnin_steps
            self.langevin.step(generator)
        return {
            "losses": trace.tolist(),
            "second": to_numpy(second).tolist() if second else [],
            "scale": self.langevin.mean_scale(),
        }

    @torch.no_grad()
    def _second(self, batch: int) -> Tensor:
        """The loss on the batch after this one."""
        return self.loss_fn(self.model, self.batches[(batch + 1) % len(self.batches)])

    def _restart(self, chain: int) -> torch.Generator:
        """Reset weights, buffers and the global RNG, and return the chain's own generator."""
        self.langevin.restart()
        for module, name, buffer in self.buffers:
            setattr(module, name, buffer.clone())
        seed_global(self.device, seed := seed_for(f"llc:chain {chain}", self.settings.seed))
        return torch.Generator(self.device).manual_seed(seed)

    def _order(self, chain: int) -> np.ndarray:
        """The index of each step's batch (num_steps,): cycled, from a place of the chain's own."""
        num_batches = len(self.batches)
        start = chain * num_batches // self.settings.num_chains
        return (np.arange(self.settings.num_steps) + start) % num_batches

    def _check(self, chain: int, trace: np.ndarray, order: np.ndarray, num_new: int) -> None:
        """Raise LlcDiverged at the first of the newest losses that is not finite or too high."""
        s, old = self.settings, len(trace) - num_new
        init = self.init[order[old : len(trace)]]
        high = trace[old:] - np.where(np.isnan(init), self.start, init) > self.cap
        bad = high | ~np.isfinite(trace[old:])
        if not bad.any():
            return
        at = old + int(bad.argmax())
        draw = at - s.num_burnin_steps
        place = f"draw {draw}" if draw >= 0 else f"burn-in step {at}"
        loss = f"{trace[at]}"
        if math.isfinite(trace[at]):
            loss = f"{trace[at]:.6g}, more than {self.cap:.6g} above the start"
        raise LlcDiverged(
            f"the loss is {loss} at chain {chain}, {place} (lr {s.lr}, nbeta {s.nbeta}, "
            f"localization {s.localization}, {s.sampler}): lower lr, or raise localization",
            trace[: at + 1],
        )

    def result(self, chains: Sequence[dict[str, Any]]) -> LLC:
        """The estimate from what `chain` returned for each."""
        s = self.settings
        traces = np.array([chain["losses"] for chain in chains])
        draws, order = traces[:, s.num_burnin_steps :], self._draw_orders()
        paired, first = s.nbeta * (draws - self.init[order]), s.nbeta * (draws - self.start)
        if s.baseline == "first_batches":
            paired = np.full_like(paired, np.nan)
        rises = first if s.baseline == "first_batches" else paired
        per_chain = rises.mean(1)
        quarters = _quarter_means(rises)
        mean = float(per_chain.mean())
        rhat, ess = mixing(rises)
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
            variance=self._variance(rises, np.array([chain["second"] for chain in chains])),
            diagnostics=Diagnostics(
                rhat=rhat,
                ess=ess,
                scale=float(np.mean([chain["scale"] for chain in chains])),
                init_loss_se=standard_error(self.init),
            ),
            flags=_flags(per_chain, quarters, self.num_weights)
            + _mixing_flags(rhat, s.num_draws, s.max_rhat),
            num_weights=self.num_weights,
            settings=vars(s) | {"max_loss_rise": self.cap},
        )

    def _draw_orders(self) -> np.ndarray:
        """The index of each draw's batch, (num_chains, num_draws)."""
        s = self.settings
        orders = np.stack([self._order(chain) for chain in range(s.num_chains)])
        return orders[:, s.num_burnin_steps :]

    def _variance(self, rises: np.ndarray, second: np.ndarray) -> float:
        """nbeta^2 Var[L] over all draws.

        rises, and losses on the second batch: (num_chains, num_draws) each. Pairing takes out most
        of the batches' noise, and the covariance with another batch the rest (law of total
        variance): NaN without that one, and for a single draw.
        """
        if rises.size < 2 or (not self.on_second_batch and len(self.batches) > 1):
            return math.nan
        if not self.on_second_batch:
            return float(rises.var(ddof=1))
        paired = self.settings.baseline == "paired"
        init = self.init[(self._draw_orders() + 1) % len(self.batches)] if paired else self.start
        return float(np.cov(rises.ravel(), self.settings.nbeta * (second - init).ravel())[0, 1])


def _quarter_means(rises: np.ndarray) -> np.ndarray:
    """(num_chains, num_draws) -> (num_chains, 4): means of the quarters, NaN for an empty one."""
    parts = np.array_split(rises, 4, axis=1)
    means = [part.mean(1) if part.size else np.full(len(rises), np.nan) for part in parts]
    return np.stack(means, 1)


def _flags(per_chain: np.ndarray, quarters: np.ndarray, num_weights: int) -> tuple[str, ...]:
    """Names of what speaks against an estimate; none of it is a proof.

    Around a minimum, draws do not lie below it on average. No coefficient exceeds d / 2, except by
    noise, for which a tenth is allowed.
    """
    raised = {
        "negative": per_chain.mean() < 0,
        "negative_chain": (per_chain < 0).any(),
        "falling_below_start": quarters[:, -1].mean() < 0,
        "above_half_the_weights": per_chain.min() > 1.1 * num_weights / 2,
    }
    return tuple(name for name, is_raised in raised.items() if is_raised)


def _mixing_flags(rhat: float, num_draws: int, max_rhat: float) -> tuple[str, ...]:
    raised = {"too_few_draws": num_draws < MIN_DRAWS, "rhat_above_limit": rhat > max_rhat}
    return tuple(name for name, is_raised in raised.items() if is_raised)
