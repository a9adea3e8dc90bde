"""The same work as in `baselines`, by momos, set up as stages/train.py sets it up."""

from collections.abc import Callable
from dataclasses import replace

import numba  # noqa: F401 (loaded as in a training from its fourth projection on: a short process puts that off, and then pays for it once)
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inputs
from benchmarks.worker import threads
from momos import config, models
from momos.complexity import bdm as complexity
from momos.compute.device import prepare_device
from momos.images import augment as augmentation
from momos.images.dataset import Dataset
from momos.images.draws import draw
from momos.images.inputs import Batches
from momos.methods import mosaic
from momos.models.layout import arrange_, layout_of
from momos.training import loop as training
from momos.training import stacked
from momos.training.step import Step, make_optimizer

METHOD = config.Method(bits=32, block_size=None, capacity=None, num_motifs=None)


def augment(*, images: int, image_size: int, batch_size: int) -> Callable[[], None]:
    settings = inputs.settings(config.Augment)
    batches = _batches(image_size, _settings(batch_size=batch_size))
    source, generator = inputs.images(images, 32), torch.Generator().manual_seed(0)
    drawn = {
        "flip": settings.flip,
        "crop_padding": settings.crop_padding,
        "rand_augment_ops": settings.rand_augment_ops,
    }
    how = {
        "crop_padding": settings.crop_padding,
        "image_size": image_size,
        "magnitude": settings.rand_augment_magnitude,
    }
    chunk = (
        max(training.CHUNK_BYTES["cpu"] // (3 * image_size**2) // batch_size, 1) * batch_size
    )  # as training does

    def run() -> None:
        order = torch.randperm(images, generator=generator)
        draws = draw(images, generator=generator, **drawn)
        for part in (slice(start, start + chunk) for start in range(0, images, chunk)):
            for batch in augmentation.apply(
                source, draws.at(part), indices=order[part], **how
            ).split(batch_size):
                batches.to_input(batch)

    return run


def _batches(image_size: int, settings: config.Train) -> Batches:
    data, device = (
        inputs.settings(config.Data),
        prepare_device(settings.device, settings.num_threads, settings.precision),
    )
    return Batches(settings.batch_size, image_size, data.mean, data.std, device)


def _settings(**changes) -> config.Train:
    if "num_threads" not in changes:
        changes["num_threads"] = threads()
    return replace(inputs.settings(config.Train), **{"device": "cpu"} | changes)


def train(*, model: str, images: int, **changes) -> Callable[[], None]:
    """The steps of an epoch, without validation. changes: of the paper's settings of `train`."""
    run = _training(model, images, 0, _settings(**changes))
    step = Step(run.model, run.optimizer, settings=run.settings, bits=32, quantized=())
    return lambda: run.steps(step)


def stack(*, model: str, images: int, stacked_seeds: int, **changes) -> Callable[[], None]:
    """The steps of an epoch of several seeds together, without validation."""
    settings = _settings(**changes, stacked_seeds=stacked_seeds)
    runs = {seed: _training(model, images, seed, settings) for seed in range(stacked_seeds)}
    pattern = _network(inputs.settings(config.Model, model)).to(runs[0].batches.device).train()
    together = stacked._Stack(runs, pattern)
    return lambda: together.steps(lambda seed: runs[seed].after_step())


def _training(model: str, images: int, seed: int, settings: config.Train) -> training.Training:
    recipe = inputs.settings(config.Model, model)
    indices, nothing = torch.arange(images), torch.arange(0)
    return training.Training(
        model=_network(recipe),
        dataset=Dataset(
            inputs.images(images, 32),
            inputs.labels(images),
            indices,
            nothing,
            nothing,
            tuple("0123456789"),
            "synthetic",
        ),
        batches=_batches(recipe.image_size, settings),
        settings=settings,
        recipe=recipe,
        augmentation=inputs.settings(config.Augment),
        method=METHOD,
        mosaic=inputs.settings(config.Mosaic),
        quantized=(),
        seed=seed,
    )


def _network(recipe: config.Model) -> nn.Module:
    return models.build(recipe.arch, 10, image_size=recipe.image_size, kwargs=recipe.kwargs)


def step(*, model: str, images: int, batch_size: int, precision: str) -> Callable[[], None]:
    recipe, device = (
        inputs.settings(config.Model, model),
        prepare_device("cpu", threads(), precision),
    )
    network = arrange_(_network(recipe), device, precision).train()
    layout = layout_of(network)
    batches = [
        (batch.contiguous(memory_format=layout), some)
        for batch, some in inputs.batches(images, recipe.image_size, batch_size)
    ]
    settings = _settings(batch_size=batch_size, precision=precision)
    update = Step(
        network, make_optimizer(network, recipe), settings=settings, bits=32, quantized=()
    )

    def run() -> None:
        for batch, some in batches:
            update(batch, some)

    return run


def flops(*, model: str) -> Callable[[], int]:
    """Floating-point operations of matrix products and convolutions in a training step, per image.

    Three times the forward pass's, less the gradient with respect to the images. (torch miscounts
    the backward pass of grouped convolutions, so that one is not counted directly.)
    """
    recipe = inputs.settings(config.Model, model)
    network = _network(recipe)
    ((image, _),) = inputs.batches(1, recipe.image_size, 1)
    first, of_first = (
        next(
            module
            for module in network.modules()
            if getattr(module, "weight", torch.empty(0)).ndim > 1
        ),
        [],
    )
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


def project(*, model: str, block_size: int, capacity: float) -> Callable[[], None]:
    network = inputs.trained_(models.build(model, 10)).to(prepare_device("cpu", threads()))
    trained, generator = training.state_of(network), torch.Generator().manual_seed(0)

    def run() -> None:
        network.load_state_dict(trained)
        mosaic.project_(network, block_size, capacity=capacity, generator=generator)

    return run


def bdm(*, count: int) -> Callable[[], float]:
    bits = inputs.bits(count)
    return lambda: complexity.bdm(bits)
