"""How far a model can be compressed before its loss rises by eps (singular MDL, Sec. 4.1 and App. C; method B1).

Four schemes, each a pure function from a model to a compressed copy and its cost, and for each the critical point of one scan:

    scheme          strength, weak to strong           cost                                 critical value
    quantized       n_q falls to 3                     log2(n_q), bits per weight           smallest n_q
    factorized      singular values kept, 1 to 1/64    parameters after / before            smallest parameters after / before
    noisy           sigma rises                        ||noise|| / ||w||                    largest sigma
    pruned          heads kept, from all but one to 0  parameters after / before            smallest fraction of heads kept

The critical strength is the strongest one such that it and every weaker one on the scanned grid stay within L(original) + eps. A scan
evaluates a coarse grid from weak to strong, then bisects between the first point outside eps and its weaker neighbour down to
the fine grid. Where the loss is monotone this is the answer of trying every strength; where it is not, points in between may have been
passed over, and the answer is the same or a stronger compression (`CriticalPoint.crosses_once` tells of returns that were seen).

`eps` is a tolerance or several: one gives a CriticalPoint, several a list of them from one scan, evaluated once where they meet. Each
search decides by its own points alone, so that asking for one more tolerance never changes the answer for another.

Losses are measured on copies in eval mode and without gradients; the given model and the global random state stay as they are.
"""

import contextlib
import copy
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LossFn = Callable[[nn.Module], float]
THETAS = ("loss", "max")
KINDS = ("absolute", "relative")
FRACTIONS = tuple(2 ** (-k / 16) for k in range(81))  # of max|w|, 1 to 1/32: where theta by loss minimisation is looked for


class Compressed(NamedTuple):
    model: nn.Module  # a copy in eval mode
    cost: float


class Trial(NamedTuple):
    """One evaluation behind a point. setting: theta as a fraction of max|w|, the number of the noise draw, or the retraining step."""

    setting: float
    loss: float


class Point(NamedTuple):
    """One strength of a curve. spread: sample standard deviation over noise draws, else 0.

    theta: of quantisation, the fraction of max|w| that was taken. eval_loss: of pruning, loss_fn after retraining, beside the lowest
    training loss.
    """

    strength: float
    cost: float
    loss: float
    spread: float = 0.0
    theta: float | None = None
    eval_loss: float | None = None
    trials: tuple[Trial, ...] = ()


class CriticalPoint(NamedTuple):
    """The strongest compression within init_loss + eps, and the points that say so.

    status: "found"; "none": the weakest strength of the grid is outside already, and value, loss, strength and cost are None; "all": even
    the strongest is within, and value is the grid's end, a bound and no critical value. curve: every point of this search, weak to strong.
    """

    value: float | None
    loss: float | None
    eps: float
    init_loss: float
    curve: tuple[Point, ...]
    status: str
    strength: float | None
    cost: float | None

    @property
    def found(self) -> bool:
        return self.status == "found"

    @property
    def crosses_once(self) -> bool:
        """False where the loss comes back within eps at a strength beyond the first one outside."""
        inside = [_is_within(point.loss, self.init_loss, self.eps) for point in self.curve]
        return inside == sorted(inside, reverse=True)


class Grid(NamedTuple):
    """strengths, weak to strong; coarse: rising indices into them, the first and the last among them."""

    strengths: tuple[float, ...]
    coarse: tuple[int, ...]


def scan(
    evaluate: Callable[[float], Point], grid: Grid, init_loss: float, eps: Sequence[float], *, value: str = "strength"
) -> list[CriticalPoint]:
    """A critical point for every eps; `evaluate` is called at most once for each strength. value: the Point's field that is critical.

    A loss that is not finite is outside every eps.
    """
    points: dict[int, Point] = {}

    def at(index: int) -> Point:
        if index not in points:
            points[index] = evaluate(grid.strengths[index])
        return points[index]

    return [_critical(at, grid, init_loss, tolerance, value) for tolerance in eps]


def _critical(at: Callable[[int], Point], grid: Grid, init_loss: float, eps: float, value: str) -> CriticalPoint:
    def within(index: int) -> bool:
        return _is_within(at(index).loss, init_loss, eps)

    visited = {index: within(index) for index in grid.coarse}  # all of them: the curve is wanted beyond the crossing too
    outside = next((index for index in grid.coarse if not visited[index]), None)
    if outside is None:
        inside, status = grid.coarse[-1], "all"
    elif outside == grid.coarse[0]:
        inside, status = None, "none"
    else:
        inside, status = grid.coarse[grid.coarse.index(outside) - 1], "found"
        while outside - inside > 1:
            middle = (inside + outside) // 2
            visited[middle] = within(middle)
            inside, outside = (middle, outside) if visited[middle] else (inside, middle)
    point = None if inside is None else at(inside)
    return CriticalPoint(
        value=point and getattr(point, value),
        loss=point and point.loss,
        eps=eps,
        init_loss=init_loss,
        curve=tuple(at(index) for index in sorted(visited)),
        status=status,
        strength=point and point.strength,
        cost=point and point.cost,
    )


def _is_within(loss: float, init_loss: float, eps: float) -> bool:
    return math.isfinite(loss) and loss <= init_loss + eps


def merged_curve(points: Sequence[CriticalPoint]) -> tuple[Point, ...]:
    """Every point that the searches of one scan evaluated, once each, in the order of their cost."""
    unique = {point.strength: point for critical in points for point in critical.curve}
    return tuple(sorted(unique.values(), key=lambda point: point.cost))


# Quantisation (Sec. 4.1, C.1 and C.3)


def to_levels(weight: Tensor, n_q: int, theta: float) -> Tensor:
    """Clamp to [-theta, theta], then the nearest of n_q = 2m + 1 values {0, +-theta/m, .., +-theta}; half-way, the even multiple.

    Same shape and dtype; theta is rounded to that dtype. At theta 0 everything is 0. Raises ValueError for an even n_q or one below 3,
    and for a theta that is negative or not finite.
    """
    num_intervals = _num_intervals("n_q", n_q)
    theta = float(torch.as_tensor(theta, dtype=weight.dtype))
    if not (math.isfinite(theta) and theta >= 0):
        raise ValueError(f"theta must be a finite number of at least 0, got {theta}")
    if theta == 0:
        return torch.zeros_like(weight)
    wide = weight.detach().double()  # a multiple of theta, and with it the end of the range, is exact before the division
    multiples = (wide.clamp(-theta, theta) / (theta / num_intervals)).round_()
    return multiples.mul_(theta).div_(num_intervals).clamp_(-theta, theta).to(weight.dtype)


@torch.no_grad()
def quantized(model: nn.Module, n_q: int, theta: float = 1.0) -> Compressed:
    """Every weight with two or more dimensions on n_q levels, embeddings included, a tied one once; cost log2(n_q) bits per weight.

    theta: the range as a fraction of each tensor's max|w|. Raises ValueError for an even n_q or one below 3, a theta outside (0, 1], and
    a model without such weights.
    """
    _num_intervals("n_q", n_q)
    _check_fraction("theta", theta)
    model = _copy(model)
    for name, weight in _matrices(model).items():
        largest = float(weight.abs().max())
        if not math.isfinite(largest):
            raise ValueError(f"weight {name} must be finite to be quantised, got NaN or infinity")
        weight.copy_(to_levels(weight, n_q, theta * largest))
    return Compressed(model, math.log2(n_q))


def critical_n_q(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    theta: str = "loss",
    max_n_q: int = 1025,
    per_octave: int = 2,
    fractions: Sequence[float] = FRACTIONS,
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest n_q within eps; its cost is log2(n_q) bits per weight.

    theta: "loss" takes for each n_q, and by itself, the fraction of max|w| of the lowest loss, looked for among `fractions` (see
    `_minimise`: at most 17 of the default ones); "max" takes max|w|. max_n_q: the weakest quantisation that is tried; from there down
    to n_q = 3 the coarse grid takes per_octave steps to halve the number of intervals. Raises ValueError for eps, losses and settings
    out of range, and for a model without weights to quantise.
    """
    tolerances = _tolerances(eps)
    grid = _n_q_grid(_num_intervals("max_n_q", max_n_q), _positive("per_octave", per_octave))
    if theta not in THETAS:
        raise ValueError(f"theta must be one of {', '.join(THETAS)}, got {theta!r}")
    tried = _checked_fractions(fractions) if theta == "loss" else (1.0,)

    def evaluate(n_q: int) -> Point:
        trials, best = _minimise(lambda fraction: _loss(loss_fn, quantized(model, n_q, fraction).model), tried)
        return Point(n_q, math.log2(n_q), best.loss, theta=best.setting, trials=trials)

    init_loss = _init_loss(loss_fn, model)
    return _one_or_all(scan(evaluate, grid, init_loss, tolerances), eps)


def _matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights with two or more dimensions; a table of biases (Swin, TinyViT) is no weight. Raises ValueError where there is none."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.ndim >= 2 and "bias" not in name.rpartition(".")[2]}
    found = {name: weight for name, weight in weights.items() if weight.numel() and weight.is_floating_point()}
    if not found:
        raise ValueError(f"model must have weights with two or more dimensions to quantise, got {type(model).__name__} without any")
    return found


def _n_q_grid(num_intervals: int, per_octave: int) -> Grid:
    """Every odd n_q from 2m + 1 down to 3; coarse: m divided by the powers of 2^(1/per_octave), down to 1."""
    strengths = tuple(2 * m + 1 for m in range(num_intervals, 0, -1))
    steps = math.ceil(math.log2(num_intervals) * per_octave)
    coarse = {1, *(max(round(num_intervals * 2 ** (-step / per_octave)), 1) for step in range(steps + 1))}
    return Grid(strengths, tuple(sorted(num_intervals - m for m in coarse)))


def _minimise(loss_at: Callable[[float], float], settings: Sequence[float]) -> tuple[tuple[Trial, ...], Trial]:
    """All trials in the order of `settings`, and the one of the lowest loss (equal ones: the first; not finite: the last resort).

    Eight or more settings spread evenly, then ever closer neighbours of the best: the minimum of all if there is but one valley.
    """
    trials: dict[int, Trial] = {}
    stride = 1 << max((len(settings) // 8).bit_length() - 1, 0)

    def visit(indices: Sequence[int]) -> int:
        for index in indices:
            if 0 <= index < len(settings) and index not in trials:
                trials[index] = Trial(settings[index], loss_at(settings[index]))
        return min(sorted(trials), key=lambda index: trials[index].loss if math.isfinite(trials[index].loss) else math.inf)

    best = visit(_every(len(settings), stride))
    while stride > 1:
        stride //= 2
        best = visit([best - stride, best + stride])
    return tuple(trials[index] for index in sorted(trials)), trials[best]


# Factorisation (App. C.2)


class Factors(NamedTuple):
    """A singular value decomposition in float64, W = left @ right: left (a, r) holds the singular values, right (r, b)."""

    left: Tensor
    right: Tensor


def layers_of(model: nn.Module) -> list[list[str]]:
    """The names of the weight matrices of each layer, in model order: what factorisation chooses from.

    A layer is a block with all its matrices: a child of a ModuleList or Sequential whose children are of one class and have children of
    their own (of nested ones the inner); what is outside of such stacks (unembedding, classifier) is no layer. In a model without
    stacks every matrix is a layer. Matrices are the weights of nn.Linear and nn.MultiheadAttention, never convolutions or embeddings.
    """
    blocks = [f"{prefix}.{index}" if prefix else str(index) for prefix, module in _stacks(model) for index in range(len(module))]
    blocks = [block for block in blocks if not any(other.startswith(f"{block}.") for other in blocks)]
    names = list(_linear_weights(model))
    if not blocks:
        return [[name] for name in names]
    grouped = [[name for name in names if name.startswith(f"{block}.")] for block in blocks]
    return [group for group in grouped if group]


def chosen(layers: Sequence[Sequence[str]]) -> list[str]:
    """The matrices that are factorised: of the second layer, the fourth .., never of the first, the last or two consecutive ones.

    Raises ValueError for fewer than three layers.
    """
    if len(layers) < 3:
        raise ValueError(f"layers must be at least three, as the first and the last one are not factorised, got {len(layers)}")
    return [name for layer in layers[1:-1:2] for name in layer]


@torch.no_grad()
def decompose(model: nn.Module, layers: Sequence[Sequence[str]] | None = None) -> dict[str, Factors]:
    """Of each matrix that is factorised. layers: names by layer in order, those of `layers_of(model)` by default.

    A weight that is tied to an embedding or to a skipped layer stays whole, one that is tied to another chosen one is taken once. Raises
    ValueError as `chosen`, and for weights that are not finite.
    """
    layers = layers_of(model) if layers is None else layers
    names = chosen(layers)
    seen = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    seen |= {id(model.get_parameter(name)) for layer in layers for name in layer if name not in names}
    factors = {}
    for name in names:
        weight = model.get_parameter(name)
        if id(weight) not in seen:
            seen.add(id(weight))
            factors[name] = _decompose(name, weight)
    if not factors:
        raise ValueError("layers must hold a weight that is not shared with an embedding or a skipped layer, got none")
    return factors


def factorized(model: nn.Module, keep: float, factors: dict[str, Factors] | None = None) -> Compressed:
    """The chosen matrices (a, b) at rank r = round(keep * min(a, b)), at least 1; cost: parameters after / before, with r(a + b) for each.

    The copy holds the products. Near full rank the cost exceeds 1, as two factors are larger than their product. factors: of
    `decompose(model)`, to use them again. Raises ValueError as `decompose`, and for keep outside (0, 1].
    """
    _check_fraction("keep", keep)
    factors = decompose(model) if factors is None else factors
    model = _copy(model)
    total = after = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        for name, (left, right) in factors.items():
            weight, rank = model.get_parameter(name), _rank(left, keep)
            weight.copy_(left[:, :rank] @ right[:rank])
            after += rank * sum(weight.shape) - weight.numel()
    return Compressed(model, after / total)


def critical_fraction(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    num_steps: int = 64,
    layers: Sequence[Sequence[str]] | None = None,
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest compression fraction (parameters after / before) within eps; strength is the fraction of singular values kept.

    num_steps: the fine grid keeps 1, 1 - 1/num_steps .. 1/num_steps, the coarse one an eighth of them; what gives the same ranks is one
    point. layers: names by layer in order, those of `layers_of(model)` by default. Raises ValueError as `decompose` and for eps, losses and
    num_steps out of range.
    """
    tolerances, steps = _tolerances(eps), _positive("num_steps", num_steps)
    factors = decompose(model, layers)
    init_loss = _init_loss(loss_fn, model)

    def evaluate(keep: float) -> Point:
        copied, cost = factorized(model, keep, factors)
        return Point(keep, cost, _loss(loss_fn, copied))

    by_ranks = {tuple(_rank(left, step / steps) for left, _ in factors.values()): step / steps for step in range(1, steps + 1)}
    keeps = tuple(sorted(by_ranks.values(), reverse=True))
    grid = Grid(keeps, _every(len(keeps), max(len(keeps) // 8, 1)))
    return _one_or_all(scan(evaluate, grid, init_loss, tolerances, value="cost"), eps)


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module):
            if len({type(child) for child in module}) == 1 and any(list(child.children()) for child in module):
                yield prefix, module


def _linear_weights(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, nn.Linear):
            yield f"{dot}weight"
        elif isinstance(module, nn.MultiheadAttention):
            names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            yield from (f"{dot}{name}" for name in names if getattr(module, name) is not None)


def _decompose(name: str, weight: Tensor) -> Factors:
    if not torch.isfinite(weight).all():
        raise ValueError(f"weight {name} must be finite to be factorised, got NaN or infinity")
    left, values, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return Factors(left * values, right)


def _rank(left: Tensor, keep: float) -> int:
    return max(round(keep * left.shape[1]), 1)


# Gaussian noise (App. C.4)


@torch.no_grad()
def noisy(model: nn.Module, sigma: float, *, kind: str, seed: int = 0, draw: int = 0) -> Compressed:
    """Every parameter, a tied one once: w + sigma * N(0, 1) ("absolute"), w + sigma * |w| * N(0, 1) ("relative").

    cost: ||noise|| / ||w||, which compares the two kinds. The N(0, 1) depend on seed and draw alone (drawn on the CPU), so that a larger
    sigma scales the same noise. Raises ValueError for another kind and for sigma below 0 or not finite.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not (_is_number(sigma) and math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be a finite number of at least 0, got {sigma!r}")
    model, generator = _copy(model), _generator("noise", seed, draw)
    squares = torch.zeros(2, dtype=torch.float64)
    for parameter in (p for p in model.parameters() if p.is_floating_point()):
        normal = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        before = parameter.float() if parameter.dtype.itemsize < 4 else parameter.clone()
        noise = sigma * normal * before.abs() if kind == "relative" else sigma * normal
        parameter.copy_(before + noise)
        squares += torch.stack([noise.double().square().sum(), before.double().square().sum()]).cpu()
    noise_norm, weight_norm = squares.sqrt().tolist()
    return Compressed(model, noise_norm / weight_norm if weight_norm > 0 else math.inf if noise_norm > 0 else 0.0)


def critical_sigma(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    kind: str,
    sigmas: tuple[float, float] = (1e-4, 10.0),
    per_decade: int = 64,
    num_draws: int = 4,
    seed: int = 0,
) -> CriticalPoint | list[CriticalPoint]:
    """The largest sigma whose mean loss over num_draws draws of noise is within eps; each point has the spread over draws.

    sigmas: the weakest and the strongest; per_decade: points of the fine, geometric grid, every sixteenth of which is the coarse one.
    The draws are the same for every sigma. Raises ValueError for eps, losses and settings out of range.
    """
    tolerances = _tolerances(eps)
    grid, num_draws = _sigma_grid(sigmas, _positive("per_decade", per_decade)), _positive("num_draws", num_draws)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    init_loss = _init_loss(loss_fn, model)

    def evaluate(sigma: float) -> Point:
        costs, losses = [], []
        for draw in range(num_draws):
            copied, cost = noisy(model, sigma, kind=kind, seed=seed, draw=draw)
            costs.append(cost)
            losses.append(_loss(loss_fn, copied))
        mean, spread = _mean_and_spread(losses)
        trials = tuple(Trial(draw, loss) for draw, loss in enumerate(losses))
        return Point(sigma, math.fsum(costs) / num_draws, mean, spread=spread, trials=trials)

    return _one_or_all(scan(evaluate, grid, init_loss, tolerances), eps)


def _sigma_grid(sigmas: tuple[float, float], per_decade: int) -> Grid:
    pair = tuple(sigmas)
    if not (len(pair) == 2 and all(_is_number(s) and math.isfinite(s) for s in pair) and 0 < pair[0] < pair[1]):
        raise ValueError(f"sigmas must be two finite numbers, 0 < weakest < strongest, got {sigmas!r}")
    low, high = map(float, pair)
    steps = max(round(per_decade * math.log10(high / low)), 1)
    return Grid((*(low * (high / low) ** (step / steps) for step in range(steps)), high), _every(steps + 1, 16))


def _mean_and_spread(losses: Sequence[float]) -> tuple[float, float]:
    """Sample standard deviation; one draw has none to speak of: 0. NaN where a loss is not finite."""
    if not all(map(math.isfinite, losses)):
        return math.nan, math.nan
    mean = math.fsum(losses) / len(losses)
    return mean, math.sqrt(math.fsum((loss - mean) ** 2 for loss in losses) / max(len(losses) - 1, 1))


# Structured pruning (App. C.5)


class Slice(NamedTuple):
    """parameter.narrow(dim, start, length): rows (dim 0) or columns (dim 1) of a weight matrix."""

    parameter: str
    dim: int
    start: int
    length: int


class Head(NamedTuple):
    """One attention head: number `index` of the module, and where its query, key, value and output weights stand."""

    module: str
    index: int
    slices: tuple[Slice, ...]


class Retrained(NamedTuple):
    model: nn.Module  # after the last step, in eval mode
    losses: tuple[float, ...]  # training loss before each step; ends at the first that is not finite

    @property
    def lowest(self) -> float:
        """NaN where training diverged."""
        return min(self.losses) if all(map(math.isfinite, self.losses)) else math.nan


def attention_heads(model: nn.Module) -> list[Head]:
    """All heads in model order. Three shapes of attention are known (write other modules' heads down as `Head` yourself):

    torch.nn.MultiheadAttention  rows of query, key, value one after another, each by head; `out_proj`
    `query_key_value` + `dense`  GPT-NeoX: rows by head, in each query, key, value
    `qkv` + `proj`, `num_heads`  timm: rows of query, key, value one after another, each by head; by head where the module has `key_dim` and
                                 `val_dim` (TinyViT) or `head_first` (MaxViT)
    Output columns are by head in all of them. Raises ValueError for a model without heads and for shapes that do not fit.
    """
    heads = [head for prefix, module in model.named_modules() for head in _heads_of(prefix, module)]
    if not heads:
        expected = "nn.MultiheadAttention, `query_key_value` + `dense` (GPT-NeoX) or `qkv` + `proj` with `num_heads` (timm)"
        raise ValueError(f"model must have attention heads to prune ({expected}), got {type(model).__name__} without any")
    return heads


def choose_heads(heads: Sequence[Head], num_pruned: int, *, seed: int = 0) -> list[Head]:
    """num_pruned heads at random; with one seed a larger choice contains every smaller one. Raises ValueError outside 0..len(heads)."""
    if isinstance(num_pruned, bool) or not isinstance(num_pruned, int) or not 0 <= num_pruned <= len(heads):
        raise ValueError(f"num_pruned must be an integer in 0..{len(heads)} (the number of heads), got {num_pruned!r}")
    order = torch.randperm(len(heads), generator=_generator("heads", seed, 0)).tolist()
    return [heads[index] for index in order[:num_pruned]]


@torch.no_grad()
def pruned(model: nn.Module, heads: Sequence[Head]) -> Compressed:
    """The weight matrices of these heads zeroed, their biases kept; cost: parameters that are left / all parameters."""
    model = _copy(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    zeroed = sum(_zero(model.get_parameter(piece.parameter), piece) for head in heads for piece in head.slices)
    return Compressed(model, (total - zeroed) / total)


def retrained(
    model: nn.Module,
    heads: Sequence[Head],
    train_loss_fn: Callable[[nn.Module, Any], Tensor],
    batches: Sequence[Any],
    *,
    train_lr: float,
    num_steps: int = 1000,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    seed: int = 0,
) -> Retrained:
    """A copy trained on with the gradients of the pruned `heads` held at zero, in train mode.

    train_loss_fn(model, batch) -> scalar Tensor; batches are cycled; optimizer(parameters, lr=train_lr / 10), where train_lr is that of the
    original training. seed: of layers such as dropout. Raises ValueError for settings out of range and for a loss that is no scalar tensor.
    """
    _check_retraining(batches, train_lr, num_steps)
    model = _copy(model)
    model.train()
    stepper = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad], lr=train_lr / 10)
    losses: list[float] = []
    with _seeded(model, seed), torch.enable_grad():
        for batch in itertools.islice(itertools.cycle(batches), num_steps):
            stepper.zero_grad()
            loss = train_loss_fn(model, batch)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise ValueError(f"train_loss_fn must return a scalar tensor, got {_shown(loss)}")
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            loss.backward()
            _hold_at_zero(model, heads)
            stepper.step()
    model.eval()
    return Retrained(model, tuple(losses))


def critical_heads(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    train_loss_fn: Callable[[nn.Module, Any], Tensor],
    batches: Sequence[Any],
    train_lr: float,
    num_steps: int = 1000,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    seed: int = 0,
    heads: Sequence[Head] | None = None,
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest fraction of heads kept whose lowest training loss in retraining is within eps of loss_fn(model).

    That loss is the paper's; the minimum over batches favours it, so each point also has eval_loss = loss_fn after the last step. Its
    trials are the training losses by step. heads: those to choose from, `attention_heads(model)` by default; from one head pruned to all
    of them, the coarse grid an eighth of these. Retraining as in `retrained`. Raises ValueError for a model without heads, and for eps,
    losses and settings out of range; retraining that diverges is outside eps.
    """
    tolerances = _tolerances(eps)
    _check_retraining(batches, train_lr, num_steps)
    heads = attention_heads(model) if heads is None else list(heads)
    total = len(_at_least_one("heads", heads))
    init_loss = _init_loss(loss_fn, model)

    def evaluate(kept: float) -> Point:
        removed = choose_heads(heads, total - round(kept * total), seed=seed)
        copied, cost = pruned(model, removed)
        settings = {"train_lr": train_lr, "num_steps": num_steps, "optimizer": optimizer, "seed": seed}
        result = retrained(copied, removed, train_loss_fn, batches, **settings)
        trials = tuple(Trial(step, loss) for step, loss in enumerate(result.losses))
        return Point(kept, cost, result.lowest, eval_loss=_loss(loss_fn, result.model), trials=trials)

    kept = tuple((total - num_pruned) / total for num_pruned in range(1, total + 1))
    return _one_or_all(scan(evaluate, Grid(kept, _every(total, max(total // 8, 1))), init_loss, tolerances), eps)


def _heads_of(prefix: str, module: nn.Module) -> list[Head]:
    if isinstance(module, nn.MultiheadAttention):
        return _multihead(prefix, module)
    if _has_linears(module, "query_key_value", "dense"):
        return _fused(prefix, module, "query_key_value", "dense", by_head=True)
    if _has_linears(module, "qkv", "proj") and isinstance(getattr(module, "num_heads", None), int):
        by_head = hasattr(module, "key_dim") and hasattr(module, "val_dim") or getattr(module, "head_first", False)
        return _fused(prefix, module, "qkv", "proj", by_head=by_head)
    return []


def _has_linears(module: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in names)


def _multihead(prefix: str, module: nn.MultiheadAttention) -> list[Head]:
    dot, width, size = f"{prefix}." if prefix else "", module.embed_dim, module.head_dim
    if module.in_proj_weight is not None:
        inputs = [("in_proj_weight", part * width) for part in range(3)]
    else:  # keys or values of another width
        inputs = [(f"{part}_proj_weight", 0) for part in "qkv"]
    heads = []
    for head in range(module.num_heads):
        rows = [Slice(dot + name, 0, start + head * size, size) for name, start in inputs]
        heads.append(Head(prefix, head, (*rows, Slice(f"{dot}out_proj.weight", 1, head * size, size))))
    return heads


def _fused(prefix: str, module: nn.Module, qkv: str, out: str, *, by_head: bool) -> list[Head]:
    """Query, key and value from one linear layer; by_head: rows (heads, query + key + value), else (3, heads, size)."""
    rows, columns, num_heads = getattr(module, qkv).out_features, getattr(module, out).in_features, _num_heads(prefix, module)
    same_size = rows == 3 * columns
    if rows % num_heads or columns % num_heads or not (same_size or by_head and hasattr(module, "val_dim")):
        shapes = f"{rows} rows of {qkv}, {columns} columns of {out}, {num_heads} heads"
        raise ValueError(f"attention {prefix or type(module).__name__} must have query, key and value of one size by head, got {shapes}")
    dot, each, size = f"{prefix}." if prefix else "", rows // num_heads, columns // num_heads
    heads = []
    for head in range(num_heads):
        inputs = [(head * each, each)] if by_head else [(part * columns + head * size, size) for part in range(3)]
        pieces = [Slice(f"{dot}{qkv}.weight", 0, start, length) for start, length in inputs]
        heads.append(Head(prefix, head, (*pieces, Slice(f"{dot}{out}.weight", 1, head * size, size))))
    return heads


def _num_heads(prefix: str, module: nn.Module) -> int:
    """From the module, its config, or the size of a head (GPT-NeoX in transformers keeps one or another, by version)."""
    for owner in (module, getattr(module, "config", None)):
        for name in ("num_attention_heads", "num_heads"):
            if isinstance(getattr(owner, name, None), int):
                return getattr(owner, name)
    if isinstance(getattr(module, "head_size", None), int):
        return module.dense.in_features // module.head_size
    raise ValueError(f"attention {prefix or type(module).__name__} must say num_attention_heads, num_heads or head_size, got none of them")


def _zero(tensor: Tensor, piece: Slice) -> int:
    """In place; returns how many values."""
    return tensor.narrow(piece.dim, piece.start, piece.length).zero_().numel()


def _hold_at_zero(model: nn.Module, heads: Sequence[Head]) -> None:
    for head in heads:
        for piece in head.slices:
            gradient = model.get_parameter(piece.parameter).grad
            if gradient is not None:
                _zero(gradient, piece)


def _check_retraining(batches: Sequence[Any], train_lr: float, num_steps: int) -> None:
    _at_least_one("batches", batches)
    _positive("num_steps", num_steps)
    if not (_is_number(train_lr) and math.isfinite(train_lr) and train_lr > 0):
        raise ValueError(f"train_lr must be a finite number above 0, got {train_lr!r}")


@contextlib.contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """The global generators of the CPU and of the model's GPUs from `seed` within, and as they were afterwards."""
    gpus = sorted({parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"})
    with torch.random.fork_rng(devices=gpus):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[gpu] for gpu in gpus)):
            generator.manual_seed(_generator("layers", seed, 0).initial_seed())
        yield


# What all schemes share


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode; not by what eval() returns, which is None for timm's TinyViT attention."""
    copied = copy.deepcopy(model)
    copied.eval()
    return copied


def _generator(purpose: str, seed: int, draw: int) -> torch.Generator:
    """A CPU generator of its own for every purpose, seed and draw."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{draw}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@torch.no_grad()
def _loss(loss_fn: LossFn, model: nn.Module) -> float:
    value = loss_fn(model)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool:
        value = value.item()
    if not _is_number(value):
        raise ValueError(f"loss_fn must return a number, got {_shown(value)}")
    return float(value)


def _init_loss(loss_fn: LossFn, model: nn.Module) -> float:
    """On a copy: buffers of the given model must not move either."""
    loss = _loss(loss_fn, _copy(model))
    if not math.isfinite(loss):
        raise ValueError(f"loss_fn must be finite on the original model, got {loss}")
    return loss


def _tolerances(eps: float | Sequence[float]) -> list[float]:
    values = [eps] if _is_number(eps) or isinstance(eps, str) or not hasattr(eps, "__iter__") else list(eps)
    for value in _at_least_one("eps", values):
        if not (_is_number(value) and math.isfinite(value) and value > 0):
            raise ValueError(f"eps must be a finite number above 0 (or several), got {value!r}")
    return [float(value) for value in values]


def _one_or_all(found: list[CriticalPoint], eps: float | Sequence[float]) -> CriticalPoint | list[CriticalPoint]:
    return found[0] if _is_number(eps) else found


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _num_intervals(name: str, n_q: int) -> int:
    """m of n_q = 2m + 1."""
    if isinstance(n_q, bool) or not isinstance(n_q, int) or n_q < 3 or n_q % 2 == 0:
        raise ValueError(f"{name} must be an odd integer of at least 3, got {n_q!r}")
    return n_q // 2


def _check_fraction(name: str, value: float) -> None:
    if not (_is_number(value) and 0 < value <= 1):
        raise ValueError(f"{name} must be a number in (0, 1], got {value!r}")


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    for value in _at_least_one("fractions", fractions):
        _check_fraction("fractions", value)
    return tuple(sorted(set(map(float, fractions)), reverse=True))


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def _at_least_one(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if len(values) == 0:
        raise ValueError(f"{name} must hold at least one value, got none")
    return values


def _every(num: int, stride: int) -> tuple[int, ...]:
    """0, stride, 2 stride .. and the last of `num` indices."""
    return tuple(sorted({*range(0, num, stride), num - 1}))
