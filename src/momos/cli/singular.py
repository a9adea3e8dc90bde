"""`momos compressibility` and `momos llc`: the second paper's measures of a model of one's own."""

import argparse
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momos.cli.arguments import naming, non_negative, positive, positive_number, require_folder
from momos.cli.kept import INTERRUPTED, Kept, key_of
from momos.weights.files import some_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from momos.own.subject import Subject

MODEL_HELP = "a Hugging Face folder, or a name in the local cache (nothing is downloaded)"
MODULE_HELP = (
    "in place of MODEL and --text: a function that returns model, batches and loss(model, batch); "
    "the file is run"
)
COMPRESSIBILITY = (
    "How far a model can be compressed before its loss rises by eps (singular MDL, Sec. 4.1)."
)
LLC = "The local learning coefficient at the model's weights (singular MDL, Eq. 10)."
# Scheme -> what its cost is, for readers
COSTS = {
    "quantization": "Bits a weight (log2 n_q)",
    "quantization_max": "Bits a weight (log2 n_q)",
    "factorization": "Parameters after / before",
    "noise_absolute": "||noise|| / ||w||",
    "noise_relative": "||noise|| / ||w||",
    "pruning": "Parameters left / all",
}
SCHEME_HELP = "default quantization; pruning: the smallest weights are zero, without training on"
NUM_BEYOND = 2  # coarse points of a curve beyond the first one outside eps
GIGABYTE = 1e9
QUICK = 1.0  # seconds
Losses = dict[str, list]  # chain -> its losses, burn-in included, in their order


def add_commands(commands: "argparse._SubParsersAction") -> None:
    """Add `compressibility` and `llc` to the parser of the command."""
    add = commands.add_parser
    _add_compressibility(
        add("compressibility", help="how far a model compresses", description=COMPRESSIBILITY)
    )
    _add_llc(add("llc", help="the local learning coefficient", description=LLC))


def _add_compressibility(parser: argparse.ArgumentParser) -> None:
    _add_subject(parser, out="compressibility", num_batches=4)
    parser.add_argument("--scheme", default="quantization", choices=list(COSTS), help=SCHEME_HELP)
    parser.add_argument(
        "--eps",
        type=positive_number,
        nargs="+",
        default=[0.1],
        metavar="E",
        help="tolerances, in nats (default 0.1)",
    )
    parser.set_defaults(run=_run_compressibility)


def _add_llc(parser: argparse.ArgumentParser) -> None:
    _add_subject(parser, out="llc", num_batches=32)
    add = parser.add_argument
    add("--nbeta", type=positive_number, default=300.0, metavar="B", help="default 300")
    add("--localization", type=positive_number, default=3000.0, metavar="G", help="default 3000")
    add(
        "--lr", type=positive_number, metavar="LR", help="default: where chains forget in ten steps"
    )
    add("--chains", type=positive, default=4, metavar="N", help="default 4")
    add("--draws", type=positive, default=100, metavar="N", help="of a chain (default 100)")
    add("--burnin", type=non_negative, default=20, metavar="N", help="steps before (default 20)")
    add("--sampler", default="psgld", choices=["psgld", "sgld"], help="default psgld")
    add("--seed", type=non_negative, default=0, metavar="N", help="of the noise (default 0)")
    parser.set_defaults(run=_run_llc)


def _add_subject(parser: argparse.ArgumentParser, *, out: str, num_batches: int) -> None:
    """What both commands measure, on what, and where results go."""
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    add("--text", type=Path, metavar="FILE", help="that the loss is measured on")
    add("--module", metavar="FILE.py:FUNCTION", help=MODULE_HELP)
    add("--tokenizer", metavar="NAME", help="a folder or name, or bytes (default: the model's)")
    add("--context", type=positive, default=256, metavar="N", help="tokens a sequence (256)")
    add("--batch-size", type=positive, default=8, metavar="N", help="sequences together (8)")
    add(
        "--batches",
        type=positive,
        default=num_batches,
        metavar="N",
        help=f"of them ({num_batches})",
    )
    add("--no-fold", action="store_true", help="leave the layer norms' scales and shifts")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    add("--threads", type=positive, metavar="N", help="of the CPU (default: as torch takes)")
    add("--out", type=Path, default=Path(out), metavar="FOLDER", help=f"default {out}")


def _subject(arguments: argparse.Namespace) -> "tuple[Subject, torch.device]":
    """The model with its batches. Raises ValueError naming what is missing, or one too many."""
    if (arguments.module is None) == (arguments.model is None):
        raise ValueError("expected MODEL with --text FILE, or --module FILE.py:FUNCTION")
    if arguments.model is not None and arguments.text is None:
        raise ValueError(f"{arguments.model}: expected a text to measure the loss on (--text FILE)")
    for name in ("text", "tokenizer"):
        if arguments.module is not None and getattr(arguments, name) is not None:
            raise ValueError(f"--{name} {getattr(arguments, name)}: expected MODEL, not --module")
    require_folder(arguments.out)
    from momos.own import subject

    device = _device(arguments)
    if arguments.module is not None:
        return subject.own_module(arguments.module, device), device
    found = subject.language_model(
        arguments.model,
        arguments.text,
        tokenizer=arguments.tokenizer,
        context=arguments.context,
        batch_size=arguments.batch_size,
        num_batches=arguments.batches,
        fold=not arguments.no_fold,
        device=device,
    )
    return found, device


def _device(arguments: argparse.Namespace) -> "torch.device":
    import torch

    from momos.compute.device import prepare_device

    try:
        return prepare_device(arguments.device, arguments.threads or torch.get_num_threads())
    except (ValueError, RuntimeError, KeyError) as error:
        message = f"--device {arguments.device}: expected auto, or a device of this machine"
        raise ValueError(f"{message} ({error})") from error


# --- compressibility


def _run_compressibility(arguments: argparse.Namespace) -> int:
    from momos.config.language import CRITICAL
    from momos.slt.compressibility import schemes

    names = CRITICAL | {"pruning": "critical_kept"}  # where the study prunes heads
    subject, device = _subject(arguments)
    search = _search(arguments.scheme)
    about = {"scheme": arguments.scheme, "eps": arguments.eps, "notes": subject.notes}
    copies = 4 if arguments.scheme == "pruning" else 2  # all magnitudes are there twice
    loss = _loss(subject)
    seconds = _seconds_of_loss(subject)
    _say_before(subject, device, _expected_losses(search), seconds, copies=copies)
    kept = Kept(arguments.out, key_of(subject.model, about | {"loss": loss}))
    try:
        with naming(subject.name), kept.until_done():
            points = _searched(search, subject, arguments.eps, kept)
            tables = schemes.rows(points)
            _write_curve(arguments, subject, tables)
    except KeyboardInterrupt:
        tables = _so_far(search, subject, arguments.eps, kept)
        _write_curve(arguments, subject, tables)
        (arguments.out / "critical.csv").unlink(missing_ok=True)  # of an earlier curve
        return _interrupted(kept, "losses", f"{len(tables['curve'])} points in curve.csv")
    for row in tables["critical"]:
        print(_critical_text(row, names[arguments.scheme], COSTS[arguments.scheme]))
    print(f"curve.csv, critical.csv and curve.png are in {arguments.out}")
    return 0


def _write_curve(
    arguments: argparse.Namespace, subject: "Subject", tables: dict[str, list[dict[str, Any]]]
) -> None:
    """Write the tables, and the picture of the curve."""
    from momos.page.curves import loss_by_cost
    from momos.page.drawing import write_png

    _write_tables(arguments.out, tables)
    title, cost = f"{Path(subject.name).name}: {arguments.scheme}", COSTS[arguments.scheme]
    write_png(
        lambda: loss_by_cost(tables["curve"], tables["critical"], title=title, cost=cost),
        arguments.out / "curve.png",
    )


def _so_far(
    search: Callable[..., Any], subject: "Subject", eps: list[float], kept: Kept
) -> dict[str, list[dict[str, Any]]]:
    """Tables of the points whose losses were all measured before an interruption.

    The search is done again with the losses that are kept; one that is not there is NaN, which is
    outside every eps and soon ends the search. What was measured as NaN is infinite here.
    """
    from momos.slt.compressibility import schemes

    tables: dict[str, list[dict[str, Any]]] = {"curve": []}
    if kept.parts:
        names = itertools.count(1)

        def known(model: "nn.Module") -> float:
            name = str(next(names))
            if name not in kept.parts:
                return math.nan
            return kept.parts[name] if math.isfinite(kept.parts[name]) else math.inf

        points = [
            point._replace(curve=tuple(filter(_is_measured, point.curve)))
            for point in search(subject.model, known, eps)
        ]
        tables["curve"] = schemes.rows(points)["curve"]
    tables["critical"] = [{"eps": tolerance, "cost": None} for tolerance in eps]  # not known yet
    return tables


def _is_measured(point: Any) -> bool:
    """Whether none of the losses behind a point is missing."""
    losses = [trial.loss for trial in point.trials] or [point.loss]
    return not any(map(math.isnan, losses))


def _search(scheme: str) -> Callable[..., Any]:
    """(model, loss_fn, eps) -> the critical points of a scheme."""
    from functools import partial

    from momos.own.magnitude import critical_kept
    from momos.slt import compressibility as slt

    searches: dict[str, Callable[..., Any]] = {
        "quantization": partial(slt.critical_n_q, theta="loss", follow=True),
        "quantization_max": partial(slt.critical_n_q, theta="max"),
        "factorization": slt.critical_fraction,
        "noise_absolute": partial(slt.critical_sigma, kind="absolute"),
        "noise_relative": partial(slt.critical_sigma, kind="relative"),
        "pruning": critical_kept,
    }
    return partial(searches[scheme], num_beyond=NUM_BEYOND)


def _searched(
    search: Callable[..., Any], subject: "Subject", eps: list[float], kept: Kept
) -> list[Any]:
    """Search, with a progress bar; losses that are kept from before are not measured again."""
    from tqdm import tqdm

    bar = tqdm(total=_expected_losses(search), disable=None, desc="losses")
    calls = itertools.count(1)

    def loss_of(model: "nn.Module") -> float:
        number = next(calls)
        loss = kept(
            str(number), lambda: float(_measured(subject, lambda: subject.mean_loss(model)))
        )
        bar.total = max(bar.total or 0, number)
        bar.update()
        return loss

    with bar:
        return search(subject.model, loss_of, eps)


def _expected_losses(search: Callable[..., Any]) -> int:
    """How many losses such a search measures, counted on a small network.

    Its loss is the relative change of its outputs. A model's own number is another, of that order.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(4)))
    inputs = torch.eye(16)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(16, 16, generator=generator))
        before = network(inputs)
    losses = []

    def loss_of(model: nn.Module) -> float:
        losses.append(float((model(inputs) - before).norm() / before.norm()))
        return losses[-1]

    search(network, loss_of, [0.1])
    return len(losses)


def _critical_text(row: dict[str, Any], name: str, cost: str) -> str:
    """One line a tolerance."""
    start = f"eps {row['eps']:g}: "
    if row["status"] == "none":
        return f"{start}even the weakest compression raises the loss by more"
    loss = f"loss {row['init_loss']:.4f} -> {row['loss']:.4f}"
    text = f"{name} {row['value']:.6g}, {cost} {row['cost']:.4g}, {loss}"
    return f"{start}{text}" + (" (a bound: all is within)" if row["status"] == "all" else "")


# --- llc


def _run_llc(arguments: argparse.Namespace) -> int:
    from momos.complexity.llc import suggested_lr

    subject, device = _subject(arguments)
    _require_wide(subject)
    lr = arguments.lr or suggested_lr(arguments.localization, sampler=arguments.sampler)
    settings = {
        "lr": lr,
        "nbeta": arguments.nbeta,
        "localization": arguments.localization,
        "num_chains": arguments.chains,
        "num_draws": arguments.draws,
        "num_burnin_steps": arguments.burnin,
        "sampler": arguments.sampler,
        "seed": arguments.seed,
    }
    num_steps = arguments.chains * (arguments.draws + arguments.burnin)
    loss = _loss(subject)
    _say_before(subject, device, num_steps, _seconds_of_step(subject), copies=6)
    about = settings | {"notes": subject.notes, "loss": loss}
    kept = Kept(arguments.out, key_of(subject.model, about))
    measured: Losses = {}
    try:
        with kept.until_done():
            llc = _estimated(subject, settings, num_steps, kept, measured)
            _write_traces(arguments, subject, measured, llc.init_loss, f"llc {llc.mean:.4g}")
            _write_tables(arguments.out, {"llc": [_llc_row(llc)]})
    except KeyboardInterrupt:
        num_losses = _write_traces(arguments, subject, measured, loss, "interrupted")
        (arguments.out / "llc.csv").unlink(missing_ok=True)  # of an earlier estimate
        return _interrupted(kept, "whole chains", f"{num_losses} losses in traces.csv")
    each = ", ".join(f"{value:.4g}" for value in llc.per_chain)
    print(f"llc {llc.mean:.4g}, deviation over chains {llc.std:.2g} ({each})")
    print(f"flags: {', '.join(llc.flags) or 'none'}")
    print(f"llc.csv, traces.csv and traces.png are in {arguments.out}")
    return 0


def _require_wide(subject: "Subject") -> None:
    """Raises ValueError naming a weight whose type is too narrow for a sampler's steps."""
    for name, weight in subject.model.named_parameters():
        if weight.is_floating_point() and weight.itemsize < 4:
            expected = "expected float32 or float64 (model.float(), and its batches)"
            raise ValueError(f"{subject.name}: {name} is {weight.dtype}, {expected}")


def _estimated(
    subject: "Subject", settings: dict[str, Any], num_steps: int, kept: Kept, measured: Losses
) -> Any:
    """Estimate, with a progress bar of steps. measured: gets the losses, also where it is stopped.

    Raises ValueError where a chain diverges.
    """
    from tqdm import tqdm

    from momos.complexity.llc import LlcDiverged, estimate_llc

    bar = tqdm(total=num_steps, disable=None, desc="steps")

    def loss_of(model: "nn.Module", batch: Any) -> "torch.Tensor":
        loss = _measured(subject, lambda: subject.loss(model, batch))
        if loss.requires_grad and measured:
            bar.update()
            measured[list(measured)[-1]].append(loss.detach())
        return loss

    def keep(chain: str, compute: Callable[[], Any]) -> Any:
        measured[chain] = []
        found = kept(chain, compute)
        measured[chain] = found["losses"]
        return found

    with bar:
        try:
            return estimate_llc(subject.model, loss_of, subject.batches, keep=keep, **settings)
        except LlcDiverged as error:
            raise ValueError(f"{subject.name}: {error} (--lr, --localization)") from error


def _llc_row(llc: Any) -> dict[str, Any]:
    """The estimate, and the settings without which it means nothing."""
    return {
        "llc_mean": llc.mean,
        "llc_std": llc.std,
        "init_loss": llc.init_loss,
        "loss_rise": llc.loss_rise,
        "flags": " ".join(llc.flags),
        "num_weights": llc.num_weights,
        **llc.settings,
    }


def _write_traces(
    arguments: argparse.Namespace, subject: "Subject", measured: Losses, init_loss: float, end: str
) -> int:
    """Write the losses of each chain as a table and a picture. Returns how many there are.

    A row a chain and draw; those of the burn-in have numbers below zero. end: of the title.
    """
    from momos.page.curves import losses_along_chains
    from momos.page.drawing import write_png

    rows = [
        {"chain": chain, "draw": draw, "loss": float(loss)}
        for chain, losses in enumerate(measured.values())
        for draw, loss in enumerate(losses, -arguments.burnin)
    ]
    _write_tables(arguments.out, {"traces": rows})
    title = f"{Path(subject.name).name}: {end}"
    write_png(
        lambda: losses_along_chains(rows, init_loss=init_loss, title=title),
        arguments.out / "traces.png",
    )
    return len(rows)


# --- both


def _say_before(
    subject: "Subject", device: "torch.device", times: int, seconds: float, *, copies: int
) -> None:
    """Tell what is measured, and what it will cost. copies: of the weights, at the same time."""
    sizes = [tensor.numel() for tensor in subject.model.parameters()]
    notes = "; ".join(subject.notes)
    print(f"{subject.name}: {sum(sizes):,} weights on {device}; {notes}")
    weights = sum(tensor.nbytes for tensor in subject.model.parameters())
    # one tensor at a time is widened to float64, twice
    memory = copies * weights + 16 * max(sizes, default=0) + subject.batch_bytes
    expected = f"about {times} evaluations of {seconds:.2g} s, {_duration(times * seconds)} in all"
    print(f"{expected}; about {memory / GIGABYTE:.1f} GB of memory beside activations", flush=True)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "less than 1 s"


def _seconds_of_loss(subject: "Subject") -> float:
    """Of a copy and its loss on all batches."""
    from momos.slt.copies import eval_copy

    return _seconds(subject, lambda: subject.mean_loss(eval_copy(subject.model)))


def _seconds_of_step(subject: "Subject") -> float:
    """Of a loss on one batch and its gradient."""
    import torch

    def step() -> float:
        loss = subject.loss(subject.model, subject.batches[0])
        parameters = [weight for weight in subject.model.parameters() if weight.requires_grad]
        if not parameters:
            raise ValueError("no parameter requires a gradient, expected some that are sampled")
        torch.autograd.grad(loss, parameters, allow_unused=True)
        return loss.item()

    return _seconds(subject, step)


def _loss(subject: "Subject") -> float:
    """The loss at the model's own weights. Raises ValueError naming what is not finite."""
    from momos.own.weights import not_finite

    if names := not_finite(dict(subject.model.named_parameters())):
        found = f"NaN or infinite weights in {some_of(names)}"
        raise ValueError(f"{subject.name}: {found}, expected finite ones")
    loss = float(_measured(subject, lambda: subject.mean_loss(subject.model)))
    if not math.isfinite(loss):
        raise ValueError(f"{subject.name}: its loss is {loss}, expected a finite one")
    return loss


def _measured(subject: "Subject", measure: Callable[[], Any]) -> Any:
    """What is measured. Raises ValueError naming the model whose loss can't be."""
    from momos.own.subject import told

    try:
        return measure()
    except MemoryError:
        raise
    except Exception as error:  # a loss is other people's code
        message = f"its loss can't be measured: {told(error)}; expected a scalar tensor"
        raise ValueError(f"{subject.name}: {message}") from error


def _seconds(subject: "Subject", measure: Callable[[], float]) -> float:
    """How long it takes; of what is quick, the second time, for the first one warms up."""
    seconds = QUICK
    for _ in range(2):
        start = time.perf_counter()
        _measured(subject, measure)
        seconds = time.perf_counter() - start
        if seconds > QUICK:
            break
    return seconds


def _interrupted(kept: Kept, parts: str, written: str) -> int:
    print(
        f"\ninterrupted: {written} of {kept.path.parent}; {parts} kept: {len(kept.parts)}, ", end=""
    )
    print("the same command goes on there")
    return INTERRUPTED


def _write_tables(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    import pandas as pd

    from momos.files import atomic

    for name, rows in tables.items():
        atomic.write_text(folder / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False))
