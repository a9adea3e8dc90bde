"""`momos measure`: complexity of a file of weights, against the architecture before training."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momos.cli import foreign
from momos.cli.architecture import build_for, require_fit
from momos.cli.arguments import NUM_FRESH, Shape, add_shape, as_text, naming, positive, shape_of
from momos.cli.stored import mosaic_description, plain_description, ratios_as_stored, stored_form
from momos.methods.method import FULL_PRECISION, Method, parse
from momos.weights.files import open_weights

if TYPE_CHECKING:
    from torch import Tensor

    from momos.weights.files import WeightFile

Columns = dict[str, Any]  # one row of a table: text, numbers, and None
DESCRIPTION = (
    "Complexity of a model's trainable weights, against its random initialisation: of the same "
    "architecture, or without --arch as names and shapes of the tensors tell. The weights may "
    "stand bare in the file or under a key of a training script, with the prefixes of its "
    "wrappers; an average (EMA) comes before plain weights."
)
WEIGHTS_HELP = ".safetensors, .pt, .pth, .bin, .npz or .onnx file, or a Hugging Face folder"
DEFAULT_SEEDS = {True: 1, False: NUM_FRESH}  # initialisations with and without an architecture


def add_commands(commands: "argparse._SubParsersAction") -> None:
    """Add `measure` to the parser of the command."""
    parser = commands.add_parser(
        "measure", help="complexity of a file of weights", description=DESCRIPTION
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help=WEIGHTS_HELP)
    parser.add_argument(
        "--arch",
        help="mlp, resnet20, tiny_vit, mobilevit or a timm name (default: none is needed)",
    )
    add_shape(parser)
    foreign.add_arguments(parser)
    _add_comparison(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_measure)


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    """What the weights are compared with, and in which form they are measured."""
    parser.add_argument(
        "--init-seeds",
        type=positive,
        metavar="N",
        help=f"initialisations to average (default 1 with --arch, {NUM_FRESH} without)",
    )
    parser.add_argument(
        "--block-size",
        type=positive,
        metavar="S",
        help="count the distinct blocks of S weights, RAC as a mosaic of them",
    )
    parser.add_argument(
        "--initial",
        type=Path,
        metavar="WEIGHTS",
        help="the weights before training (default: fresh ones)",
    )
    parser.add_argument(
        "--bits",
        type=positive,
        default=FULL_PRECISION,
        metavar="Q",
        choices=[*range(2, 17), FULL_PRECISION],
        help="quantise first (default 32: no)",
    )
    parser.add_argument(
        "--exclude",
        default="type",
        choices=["type", "names", "none"],
        help="what quantisation leaves out beside biases",
    )


def _run_measure(arguments: argparse.Namespace) -> int:
    num_init_seeds = arguments.init_seeds or DEFAULT_SEEDS[arguments.arch is not None]
    if arguments.arch is None:
        return foreign.run(arguments, num_init_seeds)
    foreign.require_unused(arguments)
    quantize = {"quantize": {"exclude": arguments.exclude}}
    weights = open_weights(arguments.weights)
    initial = None if arguments.initial is None else open_weights(arguments.initial)
    with naming(arguments.weights):
        columns = measure_model(
            weights,
            arguments.arch,
            arguments.num_classes,
            shape_of(arguments),
            num_init_seeds=num_init_seeds,
            block_size=arguments.block_size,
            initial=initial,
            method=parse({"bits": arguments.bits}, "--bits", quantize),
        )
    print(json.dumps(columns, indent=1) if arguments.json else as_text(columns))
    return 0


def measure_model(
    weights: "WeightFile",
    arch: str,
    num_classes: int | None,
    shape: Shape,
    *,
    num_init_seeds: int,
    block_size: int | None,
    initial: "WeightFile | None",
    method: Method,
) -> Columns:
    """What stage `evaluate` measures but accuracy, for weights that belong to `arch`.

    weights: of a file. num_classes: None takes the length of the architecture's last tensor, the
    classifier's bias. initial: the weights before training; None takes fresh models of seeds
    0 .. num_init_seeds - 1, and the mean of their BDM. method: the weights are measured as it
    deploys them. With a block size, the description length is that of a mosaic of as many motifs as
    there are distinct blocks (MoMos, Eq. 8 and 21), against the bits of a weight as stored.
    Compressors see the bytes as stored, and where these are no float32 also as float32.
    Raises ValueError where names or shapes of the weights do not fit the architecture, and for
    integers, NaN and infinity.
    """
    from momos.complexity import compressors
    from momos.complexity.measure import measure_weights
    from momos.weights import blocks

    model, num_classes = build_for(weights, arch, num_classes, shape)
    fresh = {name: weight.detach().clone() for name, weight in blocks.trainable(model).items()}
    for given in (weights, initial or weights):
        require_fit(given, model)
        given.require_floats(fresh)
        _require_finite(given, fresh)
    start = {name: (initial or fresh)[name] for name in fresh}
    model.load_state_dict(dict(weights), strict=False)  # buffers may be absent: none is measured
    trained = blocks.trainable(method.deployed(model, arch=arch))
    columns: Columns = measure_weights(
        trained, start, block_size=block_size, compressors=compressors.names(), seed=0
    )
    stored = stored_form([weights[name] for name in fresh])
    if method.bits == FULL_PRECISION:
        columns |= ratios_as_stored([weights[name] for name in fresh], columns)
    if initial is None:
        seeds = range(1, num_init_seeds)
        columns = _with_mean_initial(columns, _fresh_bdm(weights, arch, num_classes, shape, seeds))
    bits = stored.bits if method.bits == FULL_PRECISION else method.bits
    about: Columns = {
        "arch": arch,
        "num_classes": num_classes,
        "bits": bits,
        "stored_dtype": stored.dtype,
        "num_init_seeds": None if initial else num_init_seeds,
    }
    described = _description(trained, method, block_size, columns["distinct_blocks"], stored.bits)
    return about | described | columns


def _require_finite(weights: "WeightFile", names: Iterable[str]) -> None:
    """Raises ValueError naming the file and the tensor that holds other numbers."""
    for name in names:
        if not weights[name].isfinite().all():
            found = f"tensor {name} holds NaN or infinite weights, expected finite ones"
            raise ValueError(f"{weights.name}: {found}")


def _fresh_bdm(
    weights: Mapping[str, "Tensor"], arch: str, num_classes: int, shape: Shape, seeds: Sequence[int]
) -> list[tuple[float, float]]:
    """(1-D, 2-D) BDM of fresh models of the architecture, one a seed."""
    from momos.complexity.measure import model_bdm
    from momos.weights import blocks

    fresh = (build_for(weights, arch, num_classes, shape, seed=seed)[0] for seed in seeds)
    return [model_bdm(blocks.trainable(model)) for model in fresh]


def _description(
    trained: Mapping[str, "Tensor"],
    method: Method,
    block_size: int | None,
    num_motifs: int | None,
    stored_bits: float,
) -> Columns:
    """Numbers of weights and blocks, and the description length.

    stored_bits: of a weight in the file. A method that quantises is compared with float32.
    """
    from momos.complexity.code_length import describe_stored

    sizes = [tensor.numel() for tensor in trained.values()]
    num_weights = sum(sizes)
    if block_size is None or num_motifs is None:
        columns: Columns = {"num_weights": num_weights, "block_size": None, "num_blocks": None}
        described = describe_stored(num_weights, method.stored({"num_weights": num_weights}))
        is_plain = method.bits == FULL_PRECISION
        return columns | (plain_description(num_weights, stored_bits) if is_plain else described)
    return mosaic_description(sizes, block_size, num_motifs, stored_bits)


def _with_mean_initial(columns: Columns, others: Sequence[tuple[float, float]]) -> Columns:
    """The columns with the initial BDM averaged over their own seed and the others' values.

    others: (1-D, 2-D) BDM, one a seed. The ratios are then to the mean.
    """
    columns = dict(columns)
    for axis, name in enumerate(("bdm_1d", "bdm_2d")):
        starts = [columns[f"{name}_initial"], *(values[axis] for values in others)]
        mean = sum(starts) / len(starts)
        columns[f"{name}_initial"] = mean
        columns[f"{name}_ratio"] = columns[name] / mean
    return columns
