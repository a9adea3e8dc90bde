"""Compression by pruning attention heads, with retraining (singular MDL, App. C.5)."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from momos.compute.seeds import generator_for, seed_for
from momos.slt.compressibility.inputs import (
    LossFn,
    at_least_one,
    initial_loss,
    is_number,
    loss_of,
    one_or_all,
    positive,
    shown,
    tolerances_of,
)
from momos.slt.compressibility.scan import (
    Compressed,
    CriticalPoint,
    Point,
    StrengthGrid,
    Trial,
    every,
    scan,
)
from momos.slt.copies import eval_copy


class Slice(NamedTuple):
    """Rows (dim 0) or columns (dim 1) of a weight matrix: parameter.narrow(dim, start, length)."""

    parameter: str
    dim: int
    start: int
    length: int


class Head(NamedTuple):
    """One attention head of a module."""

    module: str  # name
    number: int  # among the heads of the module, from 0
    slices: tuple[Slice, ...]  # where its query, key, value and output weights stand


class Retrained(NamedTuple):
    """A model after retraining."""

    model: nn.Module  # after the last step, in eval mode
    losses: tuple[float, ...]  # training loss before each step, up to the first that is not finite

    @property
    def lowest(self) -> float:
        """The lowest training loss; NaN where training diverged."""
        return min(self.losses) if all(map(math.isfinite, self.losses)) else math.nan


def attention_heads(model: nn.Module) -> list[Head]:
    """All heads in model order.

    Three shapes of attention are known; write the heads of other modules down as `Head` yourself.

    torch.nn.MultiheadAttention  rows of query, key, value one after another, each by head
    `query_key_value` + `dense`  GPT-NeoX: rows by head, and in each query, key, value
    `qkv` + `proj`, `num_heads`  timm: rows of query, key, value one after another, each by head;
                                 but by head where the module has `key_dim` and `val_dim` (TinyViT)
                                 or `head_first` (MaxViT)

    Output columns are by head in all of them. Raises ValueError for a model without heads, and for
    shapes that do not fit.
    """
    heads = [head for prefix, module in model.named_modules() for head in _heads_of(prefix, module)]
    if not heads:
        raise ValueError(
            "model must have attention heads to prune (nn.MultiheadAttention, "
            "`query_key_value` + `dense` (GPT-NeoX) or `qkv` + `proj` with `num_heads` (timm)), "
            f"got {type(model).__name__} without any"
        )
    return heads


def choose_heads(heads: Sequence[Head], num_pruned: int, *, seed: int = 0) -> list[Head]:
    """num_pruned random heads; with the same seed, a larger choice contains every smaller one.

    Raises ValueError for a num_pruned outside 0..len(heads).
    """
    is_integer = isinstance(num_pruned, int) and not isinstance(num_pruned, bool)
    if not (is_integer and 0 <= num_pruned <= len(heads)):
        raise ValueError(
            f"num_pruned must be an integer in 0..{len(heads)} (the number of heads), "
            f"got {num_pruned!r}"
        )
    order = torch.randperm(len(heads), generator=generator_for("heads", seed, 0)).tolist()
    return [heads[index] for index in order[:num_pruned]]


@torch.no_grad()
def pruned(model: nn.Module, heads: Sequence[Head]) -> Compressed:
    """Zero the weights of these heads; their biases stay. The cost is parameters left / all."""
    model = eval_copy(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    zeroed = sum(
        _zero(model.get_parameter(piece.parameter), piece)
        for head in heads
        for piece in head.slices
    )
    return Compressed(model, (total - zeroed) / total)


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Settings for training a pruned model on. Raises ValueError for settings out of range."""

    train_loss_fn: Callable[[nn.Module, Any], Tensor]  # (model, batch) -> scalar
    batches: Sequence[Any]  # cycled
    train_lr: float  # of the original training; the learning rate is a tenth of it
    num_steps: int = 1000
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam  # (parameters, lr=..)
    seed: int = 0  # of layers such as dropout, and of the choice of heads

    def __post_init__(self) -> None:
        at_least_one("batches", self.batches)
        positive("num_steps", self.num_steps)
        if not (is_number(self.train_lr) and math.isfinite(self.train_lr) and self.train_lr > 0):
            raise ValueError(f"train_lr must be a finite number above 0, got {self.train_lr!r}")

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The training loss. Raises ValueError unless it is a scalar tensor."""
        loss = self.train_loss_fn(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(f"train_loss_fn must return a scalar tensor, got {shown(loss)}")
        return loss


def retrained(model: nn.Module, heads: Sequence[Head], training: Retraining) -> Retrained:
    """Train a copy on, in train mode, with the gradients of the pruned `heads` held at zero."""
    model = eval_copy(model)
    model.train()
    stepper = training.optimizer(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=training.train_lr / 10,
    )
    losses: list[float] = []
    with _seeded(model, training.seed), torch.enable_grad():
        for batch in itertools.islice(itertools.cycle(training.batches), training.num_steps):
            stepper.zero_grad()
            loss = training.loss(model, batch)
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
    training: Retraining,
    *,
    heads: Sequence[Head] | None = None,
    num_coarse: int = 8,
    num_beyond: int | None = None,
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest fraction of heads kept whose lowest retraining loss is within eps.

    The loss of a point is the paper's: the lowest training loss in retraining. It is favoured by
    the minimum over batches, so each point also has eval_loss, loss_fn after the last step. Trials
    are the training losses by step. Retraining that diverges is outside eps. heads: those to choose
    from, with training.seed; `attention_heads(model)` by default. The grid goes from one pruned
    head to all of them, its coarse part has about num_coarse points. num_beyond: see `scan`. Raises
    ValueError for a model without heads, and for eps, losses and settings out of range.
    """
    tolerances, num_coarse = tolerances_of(eps), positive("num_coarse", num_coarse)
    heads = attention_heads(model) if heads is None else list(heads)
    total = len(at_least_one("heads", heads))
    init_loss = initial_loss(loss_fn, model)

    def evaluate(kept: float) -> Point:
        removed = choose_heads(heads, total - round(kept * total), seed=training.seed)
        copied, cost = pruned(model, removed)
        result = retrained(copied, removed, training)
        trials = tuple(Trial(step, loss) for step, loss in enumerate(result.losses))
        eval_loss = loss_of(loss_fn, result.model)
        return Point(kept, cost, result.lowest, eval_loss=eval_loss, trials=trials)

    kept = tuple((total - num_pruned) / total for num_pruned in range(1, total + 1))
    grid = StrengthGrid(kept, every(total, max(total // num_coarse, 1)))
    points = scan(evaluate, grid, init_loss, tolerances, num_beyond=num_beyond)
    return one_or_all(points, eps)


def _heads_of(prefix: str, module: nn.Module) -> list[Head]:
    if isinstance(module, nn.MultiheadAttention):
        return _multihead(prefix, module)
    if _has_linears(module, "query_key_value", "dense"):
        return _fused(prefix, module, "query_key_value", "dense", by_head=True)
    if _has_linears(module, "qkv", "proj") and isinstance(getattr(module, "num_heads", None), int):
        by_head = (
            hasattr(module, "key_dim")
            and hasattr(module, "val_dim")
            or getattr(module, "head_first", False)
        )
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
        heads.append(
            Head(prefix, head, (*rows, Slice(f"{dot}out_proj.weight", 1, head * size, size)))
        )
    return heads


def _fused(prefix: str, module: nn.Module, qkv: str, out: str, *, by_head: bool) -> list[Head]:
    """Heads whose query, key and value come from one linear layer.

    by_head: its rows are (heads, query + key + value), else (3, heads, size).
    """
    rows, columns = getattr(module, qkv).out_features, getattr(module, out).in_features
    num_heads = _num_heads(prefix, module)
    fits = rows == 3 * columns or (by_head and hasattr(module, "val_dim"))
    if rows % num_heads or columns % num_heads or not fits:
        raise ValueError(
            f"attention {prefix or type(module).__name__} must have query, key and value "
            f"of one size by head, got {rows} rows of {qkv}, {columns} columns of {out}, "
            f"{num_heads} heads"
        )
    dot = f"{prefix}." if prefix else ""
    rows_per_head, size = rows // num_heads, columns // num_heads
    heads = []
    for head in range(num_heads):
        if by_head:
            inputs = [(head * rows_per_head, rows_per_head)]
        else:
            inputs = [(part * columns + head * size, size) for part in range(3)]
        pieces = [Slice(f"{dot}{qkv}.weight", 0, start, length) for start, length in inputs]
        outputs = Slice(f"{dot}{out}.weight", 1, head * size, size)
        heads.append(Head(prefix, head, (*pieces, outputs)))
    return heads


def _num_heads(prefix: str, module: nn.Module) -> int:
    """Number of heads, from the module, its config, or the size of a head.

    GPT-NeoX in transformers keeps one or another of these, depending on its version.
    """
    for owner in (module, getattr(module, "config", None)):
        for name in ("num_attention_heads", "num_heads"):
            num_heads = getattr(owner, name, None)
            if isinstance(num_heads, int):
                return num_heads
    size, dense = getattr(module, "head_size", None), getattr(module, "dense", None)
    if isinstance(size, int) and isinstance(dense, nn.Linear):
        return dense.in_features // size
    raise ValueError(
        f"attention {prefix or type(module).__name__} must say num_attention_heads, num_heads "
        "or head_size, got none of them"
    )


def _zero(tensor: Tensor, piece: Slice) -> int:
    """Zero a slice in place, and return its number of values."""
    return tensor.narrow(piece.dim, piece.start, piece.length).zero_().numel()


def _hold_at_zero(model: nn.Module, heads: Sequence[Head]) -> None:
    for head in heads:
        for piece in head.slices:
            gradient = model.get_parameter(piece.parameter).grad
            if gradient is not None:
                _zero(gradient, piece)


@contextlib.contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed the global RNG of the CPU and of the model's GPUs inside; restore it on exit."""
    devices = {parameter.device for parameter in model.parameters()}
    gpus = sorted(device.index for device in devices if device.type == "cuda")
    generators = [torch.default_generator, *(torch.cuda.default_generators[gpu] for gpu in gpus)]
    with torch.random.fork_rng(devices=gpus):
        for generator in generators:
            generator.manual_seed(seed_for("layers", seed, 0))
        yield
