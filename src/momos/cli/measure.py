"""`momos measure`: complexity of a file of weights, against the architecture before training."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momos.cli.architecture import build_for, require_fit
from momos.cli.arguments import Shape, add_shape, as_text, positive, shape_of
from momos.methods.method import FULL_PRECISION, Method, Stored, parse
from momos.weights.files import load_weights

if TYPE_CHECKING:
    from torch import Tensor

Columns = dict[str, Any]  # one row of a table: text, numbers, and None
DESCRIPTION = (
    "Complexity of a model's trainable weights, against the same architecture at its random "
    "initialisation. The weights may stand bare in the file or under a key of a training script, "
    "with the prefixes of its wrappers; an average (EMA) comes before plain weights."
)


def add_commands(commands: "argparse._SubParsersAction") -> None:
    """Add `measure` to the parser of the command."""
    parser = commands.add_parser(
        "measure", help="complexity of a file of weights", description=DESCRIPTION
    )
    parser.add_argument(
        "weights", type=Path, metavar="WEIGHTS", help=".safetensors, .pt, .pth or .bin file"
    )
    parser.add_argument(
        "--arch", required=True, help="mlp, resnet20, tiny_vit, mobilevit or a timm name"
    )
    add_shape(parser)
    _add_comparison(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_measure)


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    """What the weights are compared with, and in which form they are measured."""
    parser.add_argument(
        "--init-seeds",
        type=positive,
        default=1,
        metavar="N",
        help="initialisations to average (default 1)",
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
        type=int,
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
    quantize = {"quantize": {"exclude": arguments.exclude}}
    columns = measure_model(
        load_weights(arguments.weights),
        arguments.arch,
        arguments.num_classes,
        shape_of(arguments),
        num_init_seeds=arguments.init_seeds,
        block_size=arguments.block_size,
        initial=None if arguments.initial is None else load_weights(arguments.initial),
        method=parse({"bits": arguments.bits}, "--bits", quantize),
    )
    print(json.dumps(columns, indent=1) if arguments.json else as_text(columns))
    return 0


def measure_model(
    weights: Mapping[str, "Tensor"],
    arch: str,
    num_classes: int | None,
    shape: Shape,
    *,
    num_init_seeds: int,
    block_size: int | None,
    initial: Mapping[str, "Tensor"] | None,
    method: Method,
) -> Columns:
    """What stage `evaluate` measures but accuracy, for weights that belong to `arch`.

    weights: name -> tensor. num_classes: None takes the length of the architecture's last tensor,
    the classifier's bias. initial: the weights before training; None takes fresh models of seeds
    0 .. num_init_seeds - 1, and the mean of their BDM. method: the weights are measured as it
    deploys them. With a block size, the description length is that of a mosaic of as many motifs as
    there are distinct blocks (MoMos, Eq. 8 and 21).
    Raises ValueError where names or shapes of the weights do not fit the architecture.
    """
    from momos.complexity import compressors
    from momos.complexity.measure import measure_weights
    from momos.weights import blocks

    model, num_classes = build_for(weights, arch, num_classes, shape)
    fresh = {name: weight.detach().clone() for name, weight in blocks.trainable(model).items()}
    for given in (weights, initial or weights):
        require_fit(given, model)
    start = {name: (initial or fresh)[name] for name in fresh}
    model.load_state_dict(dict(weights), strict=False)  # buffers may be absent: none is measured
    trained = blocks.trainable(method.deployed(model, arch=arch))
    columns: Columns = measure_weights(
        trained, start, block_size=block_size, compressors=compressors.names(), seed=0
    )
    if initial is None:
        seeds = range(1, num_init_seeds)
        columns = _with_mean_initial(columns, _fresh_bdm(weights, arch, num_classes, shape, seeds))
    about: Columns = {
        "arch": arch,
        "num_classes": num_classes,
        "bits": method.bits,
        "num_init_seeds": None if initial else num_init_seeds,
    }
    return about | _description(trained, method, block_size, columns["distinct_blocks"]) | columns


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
) -> Columns:
    """Numbers of weights and blocks, and the description length."""
    from momos.complexity.code_length import describe_stored
    from momos.weights import blocks

    sizes = [tensor.numel() for tensor in trained.values()]
    num_weights = sum(sizes)
    num_blocks = None if block_size is None else blocks.num_blocks(sizes, block_size)
    if block_size is None or num_blocks is None or num_motifs is None:
        stored = method.stored({"num_weights": num_weights})
    else:
        stored = Stored(num_motifs * block_size, FULL_PRECISION, num_blocks, num_motifs)
    columns: Columns = {
        "num_weights": num_weights,
        "block_size": block_size,
        "num_blocks": num_blocks,
    }
    return columns | describe_stored(num_weights, stored)


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
