"""What one would write without momos: torchvision per image, a plain loop, brute force, pybdm.

Each function prepares one piece of work and returns it as a function without arguments, whose calls
`worker` times.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks import inputs
from benchmarks.worker import threads
from momos import config, models
from momos.methods.mosaic import assign

# Differences that brute force holds at once: what the cache takes. With four times as many it is
# half as fast.
PAIRS = 2**18


class Images(Dataset):
    """As torchvision's CIFAR10: a PIL image per item, transformed."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable):
        self.images = images.permute(0, 2, 3, 1).numpy()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loader(
    images: int, *, image_size: int, batch_size: int, settings: config.Augment, data: config.Data
) -> DataLoader:
    from torchvision import transforms  # two seconds that the other baselines need not take

    steps = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, settings.crop_padding)]
    if image_size != 32:
        steps.append(transforms.Resize((image_size, image_size)))
    steps += [
        transforms.RandAugment(settings.rand_augment_ops, settings.rand_augment_magnitude),
        transforms.ToTensor(),
        transforms.Normalize(data.mean, data.std),
    ]
    dataset = Images(inputs.images(images, 32), inputs.labels(images), transforms.Compose(steps))
    workers = threads() if threads() > 1 else 0
    return DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def augment(*, images: int, image_size: int, batch_size: int) -> Callable[[], None]:
    settings, data = inputs.settings(config.Augment), inputs.settings(config.Data)
    batches = loader(
        images, image_size=image_size, batch_size=batch_size, settings=settings, data=data
    )

    def run() -> None:
        for _ in batches:
            pass

    return run


def optimizer_of(model: nn.Module, about: config.Model) -> torch.optim.Optimizer:
    if about.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=about.lr,
            momentum=about.momentum,
            weight_decay=about.weight_decay,
        )
    return torch.optim.AdamW(model.parameters(), lr=about.lr, weight_decay=about.weight_decay)


def train(*, model: str, images: int, batch_size: int) -> Callable[[], None]:
    """An epoch over `images` images, images loaded and augmented one by one."""
    about = inputs.settings(config.Model, model)
    settings, data = inputs.settings(config.Augment), inputs.settings(config.Data)
    batches = loader(
        images, image_size=about.image_size, batch_size=batch_size, settings=settings, data=data
    )
    return _epoch(about, batches)


def step(*, model: str, images: int, batch_size: int) -> Callable[[], None]:
    """The same without the loader: batches that lie ready."""
    about = inputs.settings(config.Model, model)
    return _epoch(about, inputs.batches(images, about.image_size, batch_size))


def _epoch(about: config.Model, batches) -> Callable[[], None]:
    model = models.build(about.arch, 10, image_size=about.image_size, kwargs=about.kwargs)
    optimizer = optimizer_of(model, about)

    def run() -> None:
        model.train()
        total, hits = 0.0, 0
        for images, labels in batches:
            optimizer.zero_grad()
            output = model(images)
            loss = F.cross_entropy(output, labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            hits += (output.argmax(1) == labels).sum().item()

    return run


def brute_force(blocks: Tensor, motifs: Tensor) -> Tensor:
    """(n, s), (k, s) -> (n,): exact up to float32, every distance by direct differences."""
    mosaic = torch.empty(len(blocks), dtype=torch.int64)
    chunk = max(PAIRS // motifs.numel(), 1)
    for some, out in zip(blocks.split(chunk), mosaic.split(chunk), strict=True):
        out[:] = ((some[:, None] - motifs[None]) ** 2).sum(-1).argmin(1)
    return mosaic


def expanded(blocks: Tensor, motifs: Tensor) -> Tensor:
    """(n, s), (k, s) -> (n,): the authors' way, |c|^2 - 2 x.c; not exact, since it cancels."""
    mosaic, norms = torch.empty(len(blocks), dtype=torch.int64), motifs.square().sum(1)
    for some, out in zip(blocks.split(1024), mosaic.split(1024), strict=True):
        out[:] = (norms - 2 * some @ motifs.T).argmin(1)
    return mosaic


def scipy_tree(blocks: Tensor, motifs: Tensor) -> Tensor:
    """(n, s), (k, s) -> (n,): exact, in float64, building included."""
    return torch.from_numpy(cKDTree(motifs.double().numpy()).query(blocks.double().numpy())[1])


METHODS = {"brute_force": brute_force, "expanded": expanded, "scipy_tree": scipy_tree}


def nearest(*, method: str, count: int, block_size: int, capacity: float) -> Callable[[], None]:
    blocks = inputs.blocks(count, block_size)
    motifs = inputs.motifs(blocks, capacity)
    return lambda: METHODS[method](blocks, motifs)


def project(*, method: str, model: str, block_size: int, capacity: float) -> Callable[[], None]:
    """Cut all weights into blocks, draw motifs, put the nearest in each block's place."""
    network = inputs.trained_(models.build(model, 10))
    weights = [weight.detach() for weight in network.parameters()]
    trained = [weight.clone() for weight in weights]

    def run() -> None:
        for weight, value in zip(weights, trained, strict=True):
            weight.copy_(value)
        cut = [
            F.pad(weight.reshape(-1), (0, -weight.numel() % block_size)).view(-1, block_size)
            for weight in weights
        ]
        blocks = torch.cat(cut)
        order = torch.randperm(len(blocks))
        motifs = torch.cat(
            [torch.zeros(1, block_size), blocks[order[: int(capacity * len(blocks)) - 1]]]
        )
        chosen = motifs[METHODS[method](blocks, motifs)]
        for weight, piece in zip(weights, chosen.split([len(piece) for piece in cut]), strict=True):
            weight.copy_(piece.reshape(-1)[: weight.numel()].view_as(weight))

    return run


def wrong_blocks(*, method: str, model: str, block_size: int, capacity: float) -> Callable[[], int]:
    """How many blocks of the model get a motif that is farther away than the nearest one."""
    network = inputs.trained_(models.build(model, 10))
    weights = [weight.detach().reshape(-1) for weight in network.parameters()]
    blocks = torch.cat([F.pad(weight, (0, -len(weight) % block_size)) for weight in weights]).view(
        -1, block_size
    )
    motifs = inputs.motifs(blocks, capacity)

    def distance(mosaic: Tensor) -> Tensor:
        return (blocks.double() - motifs[mosaic].double()).square().sum(1)

    return lambda: int(
        (distance(METHODS[method](blocks, motifs)) > distance(assign(blocks, motifs))).sum()
    )


def bdm(*, count: int) -> Callable[[], float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pybdm imports pkg_resources
        from pybdm import BDM
    bits, counter = inputs.bits(count).astype(np.int64), BDM(ndim=1)
    return lambda: counter.bdm(bits)


def planes(*, count: int) -> Callable[[], float]:
    """Bit planes as one writes them down: codes of all weights, pybdm on each plane."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pybdm imports pkg_resources
        from pybdm import BDM
    weights, counter = inputs.matrix(count).double().numpy(), BDM(ndim=2)

    def run() -> float:
        low, high = weights.min(), weights.max()
        codes = np.round((weights - low) / ((high - low) / 255)).astype(np.int64)
        return sum(counter.bdm(codes >> plane & 1) for plane in range(8))

    return run
