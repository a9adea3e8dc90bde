"""Weight files of timm architectures: fetched, fitted to the architecture, and dropped again.

A file is read as `momos.weights.files` says. Its head may be missing, or have another number of
classes: the initial weights then get the same. A file with another layout goes through timm's own
converter. A file that fits in none of these ways is refused with what does not fit.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momos.weights import blocks
from momos.weights.files import Layout, WeightFile, entries, open_weights

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in timm's order
NUM_SHOWN = 3  # names in a message

# --- architectures


def build(arch: str, seed: int, num_classes: int | None = None) -> nn.Module:
    """A freshly initialised timm model, whose weights depend on the seed alone.

    The global random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _created(arch, num_classes)


def skeleton(arch: str, num_classes: int | None = None) -> nn.Module:
    """The architecture on the meta device, so without weights; on the CPU where that fails."""
    try:
        with torch.device("meta"):
            return _created(arch, num_classes)
    except (RuntimeError, NotImplementedError):  # building it asks for a tensor's value
        return build(arch, 0, num_classes)


def num_parameters(arch: str) -> int:
    """Number of trainable weights, those of the head included."""
    return sum(tensor.numel() for tensor in blocks.trainable(skeleton(arch)).values())


def _created(arch: str, num_classes: int | None) -> nn.Module:
    import timm  # seconds to import: only where it is needed

    if num_classes is None:
        return timm.create_model(arch, pretrained=False)
    return timm.create_model(arch, pretrained=False, num_classes=num_classes)


class FittedWeights(NamedTuple):
    """Trained weights of an architecture, in model order at each call, and their head's size."""

    weights: Callable[[], Iterator[tuple[str, Tensor]]]
    num_classes: int | None  # 0: without a head; None: the architecture's own number


def fit(arch: str, path: Path) -> FittedWeights:
    """The file's weights under the architecture's names.

    Raises ValueError saying what does not fit, and as `open_weights` does.
    """
    stored = open_weights(path, name=path.name)
    model = skeleton(arch)
    stored.require_floats(blocks.trainable(model))
    num_classes = None
    if _layout(model) != stored.layout:
        num_classes = _num_classes(model, stored.layout)
        model = skeleton(arch, num_classes)
    names = list(blocks.trainable(model))
    if _layout(model) == stored.layout:
        return FittedWeights(lambda: ((name, stored[name]) for name in names), num_classes)
    converted = _converted(arch, stored)
    return FittedWeights(lambda: iter(blocks.trainable(converted).items()), None)


def _layout(model: nn.Module) -> Layout:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _num_classes(model: nn.Module, layout: Layout) -> int:
    """Rows of the stored head, by the name that timm gives it; 0 where there is none."""
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = [classifier] if isinstance(classifier, str) else classifier
    return next((layout[f"{head}.weight"][0] for head in heads if f"{head}.weight" in layout), 0)


def _converted(arch: str, stored: WeightFile) -> nn.Module:
    """The model as timm's own loading fills it, which renames and reshapes what it knows.

    Raises ValueError, saying what does not fit, where timm does not know the layout either.
    """
    import timm

    # timm is given the tensors, not the file, from which it would unwrap others than this reader.
    overlay = {"state_dict": dict(stored)}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            model = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=overlay)
        except MemoryError:
            raise
        # timm's converters meet an unknown layout with whatever error comes first
        except Exception as error:
            misfit = _misfit(_layout(skeleton(arch)), stored.layout)
            raise ValueError(f"{stored.name} does not fit {arch}: {misfit}") from error
    getattr(model, "pretrained_cfg", {}).pop("state_dict", None)  # timm keeps a copy there
    left = _left_as_built(model, build(arch, 0))
    if left:
        raise ValueError(f"{stored.name} does not fit {arch}: it has no {_first_of(left)}")
    return model


def _left_as_built(model: nn.Module, fresh: nn.Module) -> list[str]:
    """Names of random tensors that loading did not touch: some loaders skip what the file lacks."""
    before = blocks.trainable(fresh)
    equal = {
        name: tensor
        for name, tensor in blocks.trainable(model).items()
        if torch.equal(tensor, before[name])
    }
    return [name for name, tensor in equal.items() if not (tensor == tensor.reshape(-1)[0]).all()]


def _misfit(expected: Layout, stored: Layout) -> str:
    """How a file's layout differs from the architecture's, for readers."""
    parts = {
        "lacks": [name for name in expected if name not in stored],
        "has unexpected": [name for name in stored if name not in expected],
        "has other shapes of": [
            f"{name} {stored[name]}, expected {shape}"
            for name, shape in expected.items()
            if stored.get(name, shape) != shape
        ],
    }
    return "; ".join(f"it {what} {_first_of(names)}" for what, names in parts.items() if names)


def _first_of(names: list[str]) -> str:
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + more


# --- files


def sha256(path: Path) -> str:
    """The file's hash, in hexadecimal; of a folder, that of its files' names and hashes.

    What systems leave in a folder does not count.
    """
    if path.is_dir():
        files = [one for one in entries(path) if one.is_file()]
        listed = "\n".join(f"{sha256(one)}  {one.name}" for one in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def fetched(arch: str, folder: Path, *, keep: bool) -> Iterator[Path]:
    """The file of timm's pretrained weights, from a cache if it is there, else downloaded.

    keep: download into the ordinary cache of the hub (or of torch). Otherwise the file goes into
    `folder`, which is removed afterwards.
    Raises ValueError for an architecture without pretrained weights, and what a download raises.
    """
    import timm

    about = timm.models.get_pretrained_cfg(arch)
    if about is None or not (about.hf_hub_id or about.url):
        raise ValueError(f"timm has no pretrained weights of {arch}")
    try:
        if about.hf_hub_id:
            yield _from_hub(about.hf_hub_id, folder, keep)
        else:
            yield _from_url(str(about.url), folder, keep)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_hub(repository: str, folder: Path, keep: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = [huggingface_hub.try_to_load_from_cache(repository, name) for name in HUB_FILES]
    for path in cached:
        if isinstance(path, str):
            return Path(path)
    cache = None if keep else folder
    for name in HUB_FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name, cache_dir=cache))
        except LocalEntryNotFoundError:  # there is no connection: another name would not help
            raise
        except EntryNotFoundError:
            continue
    raise ValueError(f"the hub's {repository} has none of {', '.join(HUB_FILES)}")


def _from_url(url: str, folder: Path, keep: bool) -> Path:
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    name = url.rpartition("/")[2]
    if (cache / name).is_file():
        return cache / name
    target = (cache if keep else folder) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(target), progress=False)
    return target
