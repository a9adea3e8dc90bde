"""Structured pruning of attention heads, with retraining (App. C.5)."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from momos.slt.compressibility.inputs import (
    LossFn,
    at_least_one,
    eval_copy,
    generator_for,
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
    Grid,
    Point,
    Trial,
    every,
    scan,
)


class Slice(NamedTuple):
    """parameter.narrow(dim, start, length): rows (dim 0) or columns (dim 1) of a weight matrix."""

    parameter: str
    dim: int
    start: int
    length: int


class Head(NamedTuple):
    """One attention head: number `index` of the module, and where its query, key, value and output
    weights stand.
    """

    module: str
    index: int
    slices: tuple[Slice, ...]


class Retrained(NamedTuple):
    model: nn.Module  # after the last step, in eval mode
    losses: tuple[
        float, ...
    ]  # training loss before each step; ends at the first that is not finite

    @property
    def lowest(self) -> float:
        """NaN where training diverged."""
        return min(self.losses) if all(map(math.isfinite, self.losses)) else math.nan


def attention_heads(model: nn.Module) -> list[Head]:
    """All heads in model order. Three shapes of attention are known (write other modules' heads
    down as `Head` yourself):

    torch.nn.MultiheadAttention  rows of query, key, value one after another, each by head; `out_proj`
    `query_key_value` + `dense`  GPT-NeoX: rows by head, in each query, key, value
    `qkv` + `proj`, `num_heads`  timm: rows of query, key, value one after another, each by head; by head where the module has `key_dim` and
                                 `val_dim` (TinyViT) or `head_first` (MaxViT)
    Output columns are by head in all of them. Raises ValueError for a model without heads and for
    shapes that do not fit.
    """
    heads = [head for prefix, module in model.named_modules() for head in _heads_of(prefix, module)]
    if not heads:
        expected = "nn.MultiheadAttention, `query_key_value` + `dense` (GPT-NeoX) or `qkv` + `proj` with `num_heads` (timm)"
        raise ValueError(
            f"model must have attention heads to prune ({expected}), got {type(model).__name__} without any"
        )
    return heads


def choose_heads(heads: Sequence[Head], num_pruned: int, *, seed: int = 0) -> list[Head]:
    """num_pruned heads at random; with one seed a larger choice contains every smaller one. Raises
    ValueError outside 0..len(heads).
    """
    if (
        isinstance(num_pruned, bool)
        or not isinstance(num_pruned, int)
        or not 0 <= num_pruned <= len(heads)
    ):
        raise ValueError(
            f"num_pruned must be an integer in 0..{len(heads)} (the number of heads), got {num_pruned!r}"
        )
    order = torch.randperm(len(heads), generator=generator_for("heads", seed, 0)).tolist()
    return [heads[index] for index in order[:num_pruned]]


@torch.no_grad()
def pruned(model: nn.Module, heads: Sequence[Head]) -> Compressed:
    """The weight matrices of these heads zeroed, their biases kept; cost: parameters that are left
    / all parameters.
    """
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
    """How a pruned model is trained on; a tenth of train_lr, that of the original training, is the
    learning rate.

    train_loss_fn(model, batch) -> scalar Tensor; batches are cycled; optimizer(parameters, lr=..);
    seed: of layers such as dropout. Raises ValueError for settings out of range.
    """

    train_loss_fn: Callable[[nn.Module, Any], Tensor]
    batches: Sequence[Any]
    train_lr: float
    num_steps: int = 1000
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one("batches", self.batches)
        positive("num_steps", self.num_steps)
        if not (is_number(self.train_lr) and math.isfinite(self.train_lr) and self.train_lr > 0):
            raise ValueError(f"train_lr must be a finite number above 0, got {self.train_lr!r}")

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Raises ValueError for a loss that is no scalar tensor."""
        loss = self.train_loss_fn(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(f"train_loss_fn must return a scalar tensor, got {shown(loss)}")
        return loss


def retrained(model: nn.Module, heads: Sequence[Head], training: Retraining) -> Retrained:
    """A copy trained on with the gradients of the pruned `heads` held at zero, in train mode."""
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
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest fraction of heads kept whose lowest training loss in retraining is within eps of
    loss_fn(model).

    That loss is the paper's; the minimum over batches favours it, so each point also has eval_loss
    = loss_fn after the last step. Its trials are the training losses by step. heads: those to
    choose from, with training.seed, `attention_heads(model)` by default; from one head pruned to
    all of them, the coarse grid some num_coarse of these. Raises ValueError for a model without
    heads, and for eps, losses and settings out of range; retraining that diverges is outside eps.
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
        return Point(
            kept, cost, result.lowest, eval_loss=loss_of(loss_fn, result.model), trials=trials
        )

    kept = tuple((total - num_pruned) / total for num_pruned in range(1, total + 1))
    return one_or_all(
        scan(
            evaluate, Grid(kept, every(total, max(total // num_coarse, 1))), init_loss, tolerances
        ),
        eps,
    )


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
    """Query, key and value from one linear layer; by_head: rows (heads, query + key + value), else
    (3, heads, size).
    """
    rows, columns, num_heads = (
        getattr(module, qkv).out_features,
        getattr(module, out).in_features,
        _num_heads(prefix, module),
    )
    same_size = rows == 3 * columns
    if (
        rows % num_heads
        or columns % num_heads
        or not (same_size or by_head and hasattr(module, "val_dim"))
    ):
        shapes = f"{rows} rows of {qkv}, {columns} columns of {out}, {num_heads} heads"
        raise ValueError(
            f"attention {prefix or type(module).__name__} must have query, key and value of one size by head, got {shapes}"
        )
    dot, each, size = f"{prefix}." if prefix else "", rows // num_heads, columns // num_heads
    heads = []
    for head in range(num_heads):
        inputs = (
            [(head * each, each)]
            if by_head
            else [(part * columns + head * size, size) for part in range(3)]
        )
        pieces = [Slice(f"{dot}{qkv}.weight", 0, start, length) for start, length in inputs]
        heads.append(
            Head(prefix, head, (*pieces, Slice(f"{dot}{out}.weight", 1, head * size, size)))
        )
    return heads


def _num_heads(prefix: str, module: nn.Module) -> int:
    """From the module, its config, or the size of a head (GPT-NeoX in transformers keeps one or
    another, by version).
    """
    for owner in (module, getattr(module, "config", None)):
        for name in ("num_attention_heads", "num_heads"):
            if isinstance(getattr(owner, name, None), int):
                return getattr(owner, name)
    if isinstance(getattr(module, "head_size", None), int):
        return module.dense.in_features // module.head_size
    raise ValueError(
        f"attention {prefix or type(module).__name__} must say num_attention_heads, num_heads or head_size, got none of them"
    )


def _zero(tensor: Tensor, piece: Slice) -> int:
    """In place; returns how many values."""
    return tensor.narrow(piece.dim, piece.start, piece.length).zero_().numel()


def _hold_at_zero(model: nn.Module, heads: Sequence[Head]) -> None:
    for head in heads:
        for piece in head.slices:
            gradient = model.get_parameter(piece.parameter).grad
            if gradient is not None:
                _zero(gradient, piece)


@contextlib.contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """The global generators of the CPU and of the model's GPUs from `seed` within, and as they were
    afterwards.
    """
    gpus = sorted(
        {
            parameter.device.index
            for parameter in model.parameters()
            if parameter.device.type == "cuda"
        }
    )
    with torch.random.fork_rng(devices=gpus):
        for generator in (
            torch.default_generator,
            *(torch.cuda.default_generators[gpu] for gpu in gpus),
        ):
            generator.manual_seed(generator_for("layers", seed, 0).initial_seed())
        yield
