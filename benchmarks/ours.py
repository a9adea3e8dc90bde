"""The same work as in `baselines`, by momos, set up as stages/train.py sets it up."""

from collections.abc import Callable, Sequence
from dataclasses import replace

# A training loads numba from its fourth projection on. A short process would put that off.
import numba  # noqa: F401
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inputs
from benchmarks.worker import threads
from momos import config, models
from momos.complexity import planes as bit_planes
from momos.complexity.bdm import bdm as our_bdm
from momos.compute.device import prepare_device
from momos.images.augment import apply
from momos.images.dataset import Dataset
from momos.images.draws import draw
from momos.images.inputs import Batches
from momos.methods import mosaic
from momos.methods.codebook import renewed
from momos.methods.method import parse
from momos.models.layout import arrange_, layout_of
from momos.training import stacked
from momos.training.loop import CHUNK_BYTES, Training, cpu_state
from momos.training.recipe import Recipe
from momos.training.step import Step, make_optimizer


def augment(*, images: int, image_size: int, batch_size: int) -> Callable[[], None]:
    settings = inputs.settings(config.Augment)
    batches = _batches(image_size, _settings(batch_size=batch_size))
    source, generator = inputs.images(images, 32), torch.Generator().manual_seed(0)
    drawn = {
        "flip": settings.flip,
        "crop_padding": settings.crop_padding,
        "rand_augment_ops": settings.rand_augment_ops,
    }
    applied = {
        "crop_padding": settings.crop_padding,
        "image_size": image_size,
        "magnitude": settings.rand_augment_magnitude,
    }
    # as training does
    chunk = max(CHUNK_BYTES["cpu"] // (3 * image_size**2) // batch_size, 1) * batch_size

    def run() -> None:
        order = torch.randperm(images, generator=generator)
        draws = draw(images, generator=generator, **drawn)
        for part in (slice(start, start + chunk) for start in range(0, images, chunk)):
            augmented = apply(source, draws.at(part), indices=order[part], **applied)
            for batch in augmented.split(batch_size):
                batches.to_input(batch)

    return run


def _batches(image_size: int, settings: config.Train) -> Batches:
    data = inputs.settings(config.Data)
    device = prepare_device(settings.device, settings.num_threads, settings.precision)
    return Batches(settings.batch_size, image_size, data.mean, data.std, device)


def _settings(**changes) -> config.Train:
    if "num_threads" not in changes:
        changes["num_threads"] = threads()
    return replace(inputs.settings(config.Train), **{"device": "cpu"} | changes)


def train(*, model: str, images: int, **changes) -> Callable[[], None]:
    """The steps of an epoch, without validation. changes: of the paper's settings of `train`."""
    run = _training(model, images, 0, _settings(**changes))
    step = Step(run.model, run.optimizer, run.method.forward, settings=run.recipe.loop)
    return lambda: run.steps(step)


def stack(*, model: str, images: int, stacked_seeds: int, **changes) -> Callable[[], None]:
    """The steps of an epoch of several seeds together, without validation."""
    settings = _settings(**changes, stacked_seeds=stacked_seeds)
    runs = {seed: _training(model, images, seed, settings) for seed in range(stacked_seeds)}
    device = runs[0].recipe.batches.device
    pattern = _network(inputs.settings(config.Model, model)).to(device).train()
    together = stacked._Stack(runs, pattern)
    return lambda: together.steps(lambda seed: runs[seed].after_step())


def _training(model: str, images: int, seed: int, settings: config.Train) -> Training:
    about = inputs.settings(config.Model, model)
    recipe = Recipe(
        model=about,
        loop=settings,
        augmentation=inputs.settings(config.Augment),
        method=config.load_method("baseline", path=inputs.PROFILE),
        batches=_batches(about.image_size, settings),
    )
    return Training(_network(about), _dataset(images), recipe, seed)


def _dataset(count: int) -> Dataset:
    """All of the images for training."""
    nothing, classes = torch.arange(0), tuple("0123456789")
    images, labels = inputs.images(count, 32), inputs.labels(count)
    return Dataset(images, labels, torch.arange(count), nothing, nothing, classes, "synthetic")


def _network(about: config.Model) -> nn.Module:
    return models.build(about.arch, 10, image_size=about.image_size, kwargs=about.kwargs)


def _plain_forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images)


def step(*, model: str, images: int, batch_size: int, precision: str) -> Callable[[], None]:
    return _steps(model, images, batch_size, precision, {"bits": 32})


def trained_motifs(*, model: str, images: int, batch_size: int) -> Callable[[], None]:
    """Steps while motifs are trained, s=4, C=1 %."""
    entry = {"bits": 32, "block_size": 4, "capacity": 0.01}
    entry |= {"motifs": [["redrawn", 0.5], ["trained", 1.0]]}
    return _steps(model, images, batch_size, "float32", entry)


def _steps(
    model: str, images: int, batch_size: int, precision: str, entry: dict
) -> Callable[[], None]:
    about = inputs.settings(config.Model, model)
    device = prepare_device("cpu", threads(), precision)
    network = arrange_(_network(about), device, precision).train()
    layout = layout_of(network)
    batches = [
        (batch.contiguous(memory_format=layout), some)
        for batch, some in inputs.batches(images, about.image_size, batch_size)
    ]
    shared = {"projection_every": "epoch", "force_zero": True, "slicing": "tensor"}
    method = parse(entry, "benchmark", {"mosaic": shared}).apply(network, arch=model, seed=0)
    method.begin(2)
    method.after_epoch(1)  # now motifs are trained, if the method ever does that
    settings = _settings(batch_size=batch_size, precision=precision)
    optimizer = make_optimizer(network, about)
    update = Step(network, optimizer, _plain_forward, settings=settings, method=method)

    def run() -> None:
        for number, (batch, some) in enumerate(batches):
            update(batch, some)
            method.after_step(number)

    return run


def flops(*, model: str) -> Callable[[], int]:
    """Floating-point operations of matrix products and convolutions in a training step, per image.

    Three times the forward pass's, less the gradient with respect to the images. (torch miscounts
    the backward pass of grouped convolutions, so that one is not counted directly.)
    """
    about = inputs.settings(config.Model, model)
    network = _network(about)
    ((image, _),) = inputs.batches(1, about.image_size, 1)
    with_weights = (module for module in network.modules() if hasattr(module, "weight"))
    first = next(module for module in with_weights if module.weight.ndim > 1)
    of_first: list[int] = []
    first.register_forward_hook(
        lambda module, _, output: of_first.append(2 * output.numel() * module.weight[0].numel())
    )

    @torch.no_grad()
    def run() -> int:
        with FlopCounterMode(display=False) as counter:
            network.eval()(image)
        return 3 * counter.get_total_flops() - of_first[-1]

    return run


def assign(*, count: int, block_size: int, capacity: float) -> Callable[[], None]:
    prepare_device("cpu", threads())
    blocks = inputs.blocks(count, block_size)
    motifs = inputs.motifs(blocks, capacity)
    return lambda: mosaic.assign(blocks, motifs)


def project(
    *, model: str, block_size: int, capacity: float, kmeans: bool = False
) -> Callable[[], None]:
    """kmeans: of motifs that are drawn, and moved to the means of their blocks first."""
    network = inputs.trained_(models.build(model, 10)).to(prepare_device("cpu", threads()))
    trained, generator = cpu_state(network), torch.Generator().manual_seed(0)

    def moved(parts: Sequence[torch.Tensor], counts: Sequence[int]) -> list[torch.Tensor]:
        draws: dict = {"force_zero": True, "generator": generator}
        pairs = zip(parts, counts, strict=True)
        return [renewed("kmeans", "uniform", *pair, None, **draws) for pair in pairs]

    def run() -> None:
        network.load_state_dict(trained)
        motifs = moved if kmeans else None
        mosaic.project_(network, block_size, capacity=capacity, generator=generator, motifs=motifs)

    return run


def bdm(*, count: int) -> Callable[[], float]:
    bits = inputs.bits(count)
    return lambda: our_bdm(bits)


def planes(*, count: int) -> Callable[[], float]:
    weights = {"weight": inputs.matrix(count)}
    return lambda: float(bit_planes.complexity(weights).sum())
