"""Local learning coefficient by stochastic gradient Langevin sampling (singular MDL, Eq. 10 and Appendix D; method B2).

    lambda_hat(w*) = nbeta * ( E[L(w)] - L(w*) ),     w ~ exp( -nbeta * L(w) - (localization / 2) ||w - w*||^2 )

One step of the sampler, elementwise, with g the gradient of a batch's loss and xi standard normal:

    V <- alpha V + (1 - alpha) g^2          G = 1 / (eps + sqrt V)          (psgld; V starts at 0; sgld is G = 1)
    w <- w - (lr / 2) G (nbeta g + localization (w - w*)) + sqrt(lr G) xi

(pSGLD: Li et al. 2015, without its Gamma term, as in practice; localisation: Lau et al. 2024.) On a quadratic loss of curvature h, with
a = nbeta h + localization, the estimate is too high by a factor 1 / (1 - lr G a / 4), diverges at lr G a > 4 and relaxes within
1 / (lr G a) steps; see `suggested_lr`.
"""

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

ALPHA, EPS = 0.99, 0.1  # of the running mean of squared gradients, and what is added to its root
SAMPLERS = ("psgld", "sgld")
BASELINES = ("paired", "first_batches")
CHUNK = {"cpu": 2**17, "gpu": 2**26}  # elements updated together: measured fastest on a core; as few calls as memory allows on a GPU
NOISE_BLOCK = 16  # elements that PyTorch's generator on a CPU fills at a time
CHECK_EVERY = {"cpu": 1, "gpu": 32}  # steps between looks at the losses: each look makes the host wait for a GPU
IMPOSSIBLE = 100.0  # times d / 2, the largest coefficient that there is, and a single draw counts as diverged
LossFn = Callable[[nn.Module, Any], Tensor]


class LLC(NamedTuple):
    """An estimate and all that tells whether to trust it. Losses in the unit of loss_fn, usually nats.

    mean is never clipped: below zero it says that the weights are no minimum or that the baseline is off (see `flags`).
    std understates the error where chains share batches, or where they are shorter than the sampler's relaxation.
    """

    mean: float  # over chains
    std: float  # sample standard deviation over chains; NaN for a single chain
    per_chain: np.ndarray  # (num_chains,) float64
    loss_trace: np.ndarray  # (num_chains, num_draws) float64, after burn-in: the batch's loss at w_t, before the step
    burnin_trace: np.ndarray  # (num_chains, num_burnin_steps)
    quarters: np.ndarray  # (num_chains, 4): the estimate from each quarter of the draws; NaN where a quarter is empty
    init_loss: float  # L(w*): mean over draws of the same batches (paired), or over the first num_init_batches
    loss_rise: float  # E[L(w)] - L(w*) = mean / nbeta
    mean_paired: float  # against L(w*) on the very batch of each draw; NaN where baseline="first_batches"
    mean_first_batches: float  # the paper's mode: against L(w*) on the first num_init_batches
    flags: tuple[str, ...]  # of "negative", "negative_chain", "falling_below_start", "above_half_the_weights"
    num_weights: int  # d, of the sampled parameters
    settings: dict[str, float | int | str | bool]  # lr, nbeta, localization ..: a coefficient means nothing without them


class Diverged(ArithmeticError):
    """A chain's loss became NaN, infinite or absurdly high. `loss_trace`: that chain's losses so far, burn-in included."""

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
) -> LLC:
    """Estimate of the local learning coefficient at the model's weights, on the device where they lie.

    loss_fn(model, batch) -> scalar Tensor, the mean loss; batches: a sequence of anything that loss_fn takes, cycled, each chain starting
    at its own place. Burn-in comes on top of num_draws; as is usual, a chain's first step stands at w* itself. Sampled are the parameters
    that require a gradient, in float32 or better, on a copy in eval mode: the model stays as it is, and so does the global RNG state.

    baseline: what L(w*) is measured on. Its noise is multiplied by nbeta, so "paired" takes the very batches of the draws, each evaluated
    once; "first_batches" is the paper's mode. freeze_after_burnin keeps V as burn-in leaves it, which removes most of the bias of the
    omitted Gamma term. max_loss_rise (same unit as the loss): a draw further above L(w*) counts as diverged; by default only what no
    coefficient can explain, so give one where the loss has a scale. Chains run one after another: faster than vmap on a CPU.

    Raises ValueError for arguments out of range, Diverged (naming chain, draw, lr), and ArithmeticError where the loss at w* is not finite.
    """
    settings = _Settings(
        lr=lr, nbeta=nbeta, localization=localization, num_chains=num_chains, num_draws=num_draws, num_burnin_steps=num_burnin_steps,
        sampler=sampler, seed=seed, baseline=baseline, num_init_batches=num_init_batches, alpha=alpha, eps=eps,
        freeze_after_burnin=freeze_after_burnin, max_loss_rise=max_loss_rise,
    )  # fmt: skip
    _check_batches(batches)
    with _own_rng(_sampled(model)[0].device), torch.enable_grad():
        run = _Run(_sampling_copy(model), loss_fn, batches, settings)
        traces = np.stack([run.chain(chain) for chain in range(num_chains)])
    return run.result(traces)


def suggested_lr(localization: float, *, sampler: str = "psgld", eps: float = EPS, target: float = 0.2) -> float:
    """The lr at which lr * G * localization = target, where gradients are small and G is thus about 1 / eps.

    Between 0.1 and 0.3 a chain forgets its start within ten steps along flat directions, and is stable along curved ones until nbeta * h
    exceeds localization more than tenfold. A start for a search on a held-out model, whose outcome is then fixed for all checkpoints.
    """
    _positive("localization", localization), _positive("eps", eps), _positive("target", target)
    _one_of("sampler", sampler, SAMPLERS)
    return target / localization * (eps if sampler == "psgld" else 1.0)


class HessianTrace(NamedTuple):
    """tr(H) of the mean loss: what a regular model's complexity would be read from (a control for the coefficient)."""

    mean: float  # over probes
    std: float  # sample standard deviation over probes; NaN for a single one
    per_probe: np.ndarray  # (num_probes,) float64


def hessian_trace(model: nn.Module, loss_fn: LossFn, batches: Sequence, *, num_probes: int, seed: int = 0) -> HessianTrace:
    """Trace of the Hessian of the mean loss over all batches, by Hutchinson's estimator: the mean of v' H v over signs v.

    Exact where H is diagonal. Costs num_probes * len(batches) double backward passes. Model, loss_fn and batches as in `estimate_llc`;
    attention runs as plain matrix products, since its fused kernels have no second derivative.
    """
    _integer("num_probes", num_probes, 1), _integer("seed", seed, 0)
    _check_batches(batches)
    device = _sampled(model)[0].device
    with _own_rng(device), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        twin = _sampling_copy(model)
        parameters = _sampled(twin)
        _check_loss(twin, loss_fn, batches[0])
        generator = torch.Generator(device).manual_seed(_seed_of("hessian", seed))
        per_probe = np.zeros(num_probes)
        for probe in range(num_probes):
            signs = [torch.empty_like(p).bernoulli_(0.5, generator=generator).mul_(2).sub_(1) for p in parameters]
            per_probe[probe] = np.mean([_curvature(loss_fn(twin, batch), parameters, signs) for batch in _each(batches)])
    if not np.isfinite(per_probe).all():
        raise ArithmeticError(f"the Hessian's trace is not finite: {per_probe}")
    return HessianTrace(float(per_probe.mean()), float(per_probe.std(ddof=1)) if num_probes > 1 else math.nan, per_probe)


def _curvature(loss: Tensor, parameters: Sequence[Tensor], direction: Sequence[Tensor]) -> float:
    """v' H v of the loss along a direction v (a tensor per parameter)."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    slope = sum((g * v).sum() for g, v in zip(gradients, direction, strict=True) if g is not None)
    if not slope.requires_grad:
        return 0.0  # a loss linear in the weights
    rows = torch.autograd.grad(slope, parameters, allow_unused=True)
    return sum((row * v).sum(dtype=torch.float64) for row, v in zip(rows, direction, strict=True) if row is not None).item()


# ---------------------------------------------------------------------------------------------------------------------------- the sampler


class Langevin:
    """The Markov chain's step over a list of parameters, in place; their gradients are read from `.grad` and are zero after it.

    The parameters move into one flat buffer (in their order, each in its own memory layout), so that the step is a few passes over pieces
    which stay in cache, whatever the number of tensors. A parameter without influence on the loss has gradient zero. Noise is drawn tensor
    by tensor from the generator.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        lr: float,
        nbeta: float,
        localization: float,
        sampler: str = "psgld",
        alpha: float = ALPHA,
        eps: float = EPS,
    ) -> None:
        self.lr, self.nbeta, self.localization, self.alpha, self.eps = lr, nbeta, localization, alpha, eps
        self.frozen = False  # V, once burn-in is over
        self.weights = _flatten_(parameters)
        self.center = self.weights.clone()
        self.gradient = torch.zeros_like(self.weights)
        self.square = torch.zeros_like(self.weights) if sampler == "psgld" else None
        self.gradients = list(zip(parameters, _views(self.gradient, parameters), strict=True))
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.pieces = self._pieces([parameter.numel() for parameter in parameters])

    def restart(self) -> None:
        """Back to the centre, without memory of a chain before."""
        self.weights.copy_(self.center)
        self.gradient.zero_()
        if self.square is not None:
            self.square.zero_()
        self.frozen = False

    @torch.no_grad()
    def step(self, generator: torch.Generator) -> None:
        for parameter, gradient in self.gradients:
            if parameter.grad is not gradient:  # somebody called zero_grad
                gradient.zero_() if parameter.grad is None else gradient.copy_(parameter.grad)
                parameter.grad = gradient
        for parts, piece in self.pieces:
            for part in parts:
                part.normal_(generator=generator)
            self._update(*piece)

    def _update(
        self, weights: Tensor, center: Tensor, gradient: Tensor, square: Tensor | None, noise: Tensor, scratch: list[Tensor]
    ) -> None:
        """One piece of every buffer, each (n,). The order of operations is devinterp's, so that rounding is, too."""
        drift, pull, scale = scratch
        torch.mul(gradient, self.nbeta, out=drift)
        torch.sub(weights, center, out=pull).mul_(self.localization)
        if square is not None:
            if not self.frozen:
                square.mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
            torch.sqrt(square, out=scale).add_(self.eps).reciprocal_()
            drift.mul_(scale)
            pull.mul_(scale)
            noise.mul_(scale.sqrt_())
        weights.add_(drift.add_(pull), alpha=-0.5 * self.lr)
        weights.add_(noise, alpha=self.lr**0.5)
        gradient.zero_()

    def _pieces(self, sizes: list[int]) -> list[tuple[list[Tensor], tuple]]:
        """Neighbouring tensors, or parts of a large one, that are updated together: the noise of each, and what `_update` takes."""
        on_cpu = self.weights.device.type == "cpu"
        spans = _spans(sizes, CHUNK["cpu"] * torch.get_num_threads() if on_cpu else CHUNK["gpu"])
        lengths = [sum(span) for span in spans]
        noise, *scratch = (self.weights.new_empty(max(lengths)) for _ in range(4))
        buffers = [
            [None] * len(spans) if buffer is None else buffer.split(lengths)
            for buffer in (self.weights, self.center, self.gradient, self.square)
        ]
        pieces = []
        for span, length, *here in zip(spans, lengths, *buffers, strict=True):
            pieces.append((noise[:length].split(span), (*here, noise[:length], [buffer[:length] for buffer in scratch])))
        return pieces


def _spans(sizes: list[int], chunk: int) -> list[list[int]]:
    """Tensors' sizes, cut to parts of at most about a chunk, neighbours gathered up to a chunk.

    No part of a larger tensor is below NOISE_BLOCK elements, and a chunk is a multiple of them: noise on a CPU is made in such blocks, and
    that of the parts is thus that of the whole.
    """
    spans: list[list[int]] = []
    for size in sizes:
        while size >= chunk + NOISE_BLOCK:
            spans.append([chunk])
            size -= chunk
        if spans and sum(spans[-1]) + size <= chunk:
            spans[-1].append(size)
        else:
            spans.append([size])
    return spans


@torch.no_grad()
def _flatten_(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The parameters' values as one buffer (num_weights,), which they then look into."""
    flat = torch.empty(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, view in zip(parameters, _views(flat, parameters), strict=True):
        view.copy_(parameter)
        parameter.data = view
    return flat


def _views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The buffer (num_weights,) as tensors of the parameters' shapes and memory layouts."""
    ends = np.cumsum([parameter.numel() for parameter in parameters]).tolist()
    strides = [torch.empty_like(parameter, device="meta").stride() for parameter in parameters]
    return [flat.as_strided(p.shape, stride, end - p.numel()) for p, stride, end in zip(parameters, strides, ends, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------------- an estimate


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
            _positive(name, getattr(self, name))
        if not (_is_number(self.localization) and self.localization >= 0):
            raise ValueError(f"localization must be a finite number >= 0, got {self.localization!r}")
        if not (_is_number(self.alpha) and 0 <= self.alpha < 1):
            raise ValueError(f"alpha must be in [0, 1), got {self.alpha!r}")
        for name, least in (("num_chains", 1), ("num_draws", 1), ("num_burnin_steps", 0), ("num_init_batches", 1), ("seed", 0)):
            _integer(name, getattr(self, name), least)
        _one_of("sampler", self.sampler, SAMPLERS)
        _one_of("baseline", self.baseline, BASELINES)
        if self.max_loss_rise is not None:
            _positive("max_loss_rise", self.max_loss_rise)
        if self.freeze_after_burnin and (self.num_burnin_steps == 0 or self.sampler != "psgld"):
            raise ValueError("freeze_after_burnin needs sampler='psgld' and num_burnin_steps >= 1: there is no V to keep otherwise")

    @property
    def num_steps(self) -> int:
        return self.num_burnin_steps + self.num_draws


class _Run:
    """The chains of one estimate: `model` is a copy to work on."""

    def __init__(self, model: nn.Module, loss_fn: LossFn, batches: Sequence, settings: _Settings) -> None:
        self.model, self.loss_fn, self.batches, self.settings = model, loss_fn, batches, settings
        self.parameters = _sampled(model)
        self.device = self.parameters[0].device
        _check_loss(model, loss_fn, batches[0])
        self.buffers = [(m, name, b.clone()) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
        how = {name: getattr(settings, name) for name in ("lr", "nbeta", "localization", "sampler", "alpha", "eps")}
        self.langevin = Langevin(self.parameters, **how)
        self.num_weights = self.langevin.weights.numel()
        self.cap = settings.max_loss_rise or IMPOSSIBLE * max(self.num_weights, 10) / 2 / settings.nbeta
        self.init, self.start = self._baseline()

    def _baseline(self) -> tuple[np.ndarray, float]:
        """L(w*) by batch, (num_batches,) float64, NaN for those which are not needed; and its mean over the first num_init_batches."""
        s, num_batches = self.settings, len(self.batches)
        first = range(min(s.num_init_batches, num_batches))
        orders = [self._order(chain)[s.num_burnin_steps :] for chain in range(s.num_chains)] if s.baseline == "paired" else []
        needed = np.unique(np.concatenate([first, *orders])).astype(int).tolist()
        with torch.no_grad():
            losses = _to_numpy([self.loss_fn(self.model, self.batches[i]) for i in needed])
        if not np.isfinite(losses).all():
            at = int((~np.isfinite(losses)).argmax())
            raise ArithmeticError(f"the loss at the given weights is {losses[at]} on batch {needed[at]}: there is nothing to sample around")
        init = np.full(num_batches, np.nan)
        init[needed] = losses
        return init, init[first].mean()

    def chain(self, chain: int) -> np.ndarray:
        """Losses (num_steps,) float64, burn-in included, each before its step."""
        s, order, trace, pending = self.settings, self._order(chain), np.full(self.settings.num_steps, np.nan), []
        generator = self._restart(chain)
        every = CHECK_EVERY["cpu" if self.device.type == "cpu" else "gpu"]
        for t, batch in enumerate(order.tolist()):
            loss = self.loss_fn(self.model, self.batches[batch])
            loss.backward(inputs=self.parameters)
            pending.append(loss.detach())
            if len(pending) == every or t + 1 == s.num_steps:
                trace[t + 1 - len(pending) : t + 1] = _to_numpy(pending)
                self._check(chain, trace[: t + 1], order, len(pending))
                pending.clear()
            self.langevin.frozen = s.freeze_after_burnin and t >= s.num_burnin_steps
            self.langevin.step(generator)
        return trace

    def _restart(self, chain: int) -> torch.Generator:
        """Weights, buffers and global state as every chain finds them, and the chain's own generator."""
        self.langevin.restart()
        for module, name, buffer in self.buffers:
            setattr(module, name, buffer.clone())
        seed = _seed_of(f"chain {chain}", self.settings.seed)
        _seed(self.device, seed)
        return torch.Generator(self.device).manual_seed(seed)

    def _order(self, chain: int) -> np.ndarray:
        """The batch of each step (num_steps,): cycled, from a place of the chain's own so that chains share as few as they can."""
        num_batches = len(self.batches)
        return (np.arange(self.settings.num_steps) + chain * num_batches // self.settings.num_chains) % num_batches

    def _check(self, chain: int, trace: np.ndarray, order: np.ndarray, num_new: int) -> None:
        """Raises Diverged at the first of the newest losses that is not finite or too high."""
        s, old = self.settings, len(trace) - num_new
        init = self.init[order[old : len(trace)]]
        high = trace[old:] - np.where(np.isnan(init), self.start, init) > self.cap
        bad = high | ~np.isfinite(trace[old:])
        if not bad.any():
            return
        at = old + int(bad.argmax())
        where = f"draw {at - s.num_burnin_steps}" if at >= s.num_burnin_steps else f"burn-in step {at}"
        what = f"{trace[at]:.6g}, more than {self.cap:.6g} above the start" if math.isfinite(trace[at]) else f"{trace[at]}"
        raise Diverged(
            f"the loss is {what} at chain {chain}, {where} (lr {s.lr}, nbeta {s.nbeta}, localization {s.localization}, {s.sampler}): "
            "lower lr, or raise localization",
            trace[: at + 1],
        )

    def result(self, traces: np.ndarray) -> LLC:
        """From losses (num_chains, num_steps) to the estimate."""
        s = self.settings
        draws = traces[:, s.num_burnin_steps :]
        order = np.stack([self._order(chain) for chain in range(s.num_chains)])[:, s.num_burnin_steps :]
        paired, first = s.nbeta * (draws - self.init[order]), s.nbeta * (draws - self.start)
        if s.baseline == "first_batches":
            paired = np.full_like(paired, np.nan)
        rises = first if s.baseline == "first_batches" else paired
        per_chain = rises.mean(1)
        quarters = np.stack([part.mean(1) if part.size else np.full(s.num_chains, np.nan) for part in np.array_split(rises, 4, axis=1)], 1)
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
            settings={name: value for name, value in vars(s).items() if name != "max_loss_rise"} | {"max_loss_rise": self.cap},
        )


def _flags(per_chain: np.ndarray, quarters: np.ndarray, num_weights: int) -> tuple[str, ...]:
    """What speaks against an estimate: no proof either way.

    Around a minimum draws do not lie below it on average, and no coefficient exceeds d / 2 (which noise may, by a tenth).
    """
    raised = {
        "negative": per_chain.mean() < 0,
        "negative_chain": (per_chain < 0).any(),
        "falling_below_start": quarters[:, -1].mean() < 0,
        "above_half_the_weights": per_chain.min() > 1.1 * num_weights / 2,
    }
    return tuple(name for name, is_raised in raised.items() if is_raised)


# ------------------------------------------------------------------------------------------------------------ models, devices, arguments


def _sampled(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient, each once. Raises ValueError where there is none or where they cannot lie in one buffer."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters or not sum(parameter.numel() for parameter in parameters):
        raise ValueError("the model has no parameter that requires a gradient: there is nothing to sample")
    kinds = {(p.device, p.dtype if p.dtype == torch.float64 else torch.float32 if p.is_floating_point() else p.dtype) for p in parameters}
    if len(kinds) > 1 or not parameters[0].is_floating_point():
        raise ValueError(f"the sampled parameters must be real, on one device and of one precision, got {sorted(map(str, kinds))}")
    return parameters


def _sampling_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, without gradients, and in float32 where it was in less: noise would drown in the rounding."""
    twin = copy.deepcopy(model).eval()
    for tensor in [*twin.parameters(), *twin.buffers()]:
        tensor.grad = None
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor.data = tensor.data.float()
    return twin


def _seed_of(purpose: str, seed: int) -> int:
    """A seed that depends on both, so that one stream never shifts another."""
    return int.from_bytes(hashlib.sha256(f"llc:{purpose}:{seed}".encode()).digest()[:7], "big")


def _to_numpy(losses: Sequence[Tensor]) -> np.ndarray:
    """(n,) float64; waits for the device once."""
    return torch.stack([loss.reshape(()) for loss in losses]).cpu().double().numpy()


def _each(batches: Sequence) -> Iterator:
    """By index: what has a length need not know how to end an iteration (data sets)."""
    return (batches[i] for i in range(len(batches)))


@contextlib.contextmanager
def _own_rng(device: torch.device) -> Iterator[None]:
    """Layers and losses may draw from the global state within; after it, that state is as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _seed(device, 0)
        yield


def _seed(device: torch.device, seed: int) -> None:
    """Of the CPU's and this device's global state; torch.manual_seed would reach devices that nobody restores."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _check_batches(batches: Sequence) -> None:
    if not (hasattr(batches, "__len__") and hasattr(batches, "__getitem__")):
        raise ValueError(f"batches must be a sequence (list, tuple ..) of what loss_fn takes, got {type(batches).__name__}")
    if len(batches) == 0:
        raise ValueError("batches must hold at least one batch, got 0")


def _check_loss(model: nn.Module, loss_fn: LossFn, batch: Any) -> None:
    """Raises ValueError unless loss_fn returns a scalar that depends on the parameters of the model it was given."""
    loss = loss_fn(model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        got = f"shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn(model, batch) must return a scalar floating-point Tensor, got {got}")
    gradients = torch.autograd.grad(loss, _sampled(model), allow_unused=True) if loss.requires_grad else ()
    if all(gradient is None for gradient in gradients):
        raise ValueError("loss_fn(model, batch) must depend on the parameters of the model that it is given, and keep its graph")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _positive(name: str, value: object) -> None:
    if not (_is_number(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


def _integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def _one_of(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
