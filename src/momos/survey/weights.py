"""Weights of timm architectures from elsewhere: read, fitted to the architecture or refused with
the reason, fetched and dropped.

A checkpoint may be a state dict or hold one under state_dict_ema, model_ema, state_dict or model
(the first of these, as timm does); its names may begin with `module.` or `_orig_mod.`; its weights
may be of lower precision; its head may be missing or of another number of classes. What is laid out
otherwise goes through timm's own converter. Anything else is a ValueError that says what does not
fit.
"""

import contextlib
import hashlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from momos.weights import blocks

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in timm's order
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
Layout = dict[str, tuple[int, ...]]  # a tensor's name -> its shape


class Checkpoint:
    """The tensors of a weight file by name, without wrappers' prefixes; each is read when it is
    asked for.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        get: Callable[[str], Tensor],
        is_float: Callable[[str], bool],
    ):
        stored = dict(zip(_unwrapped(layout), layout, strict=True))
        self.path, self.layout = path, {name: tuple(layout[key]) for name, key in stored.items()}
        self._stored, self._get, self._is_float = stored, get, is_float

    def __getitem__(self, name: str) -> Tensor:
        return self._get(self._stored[name])

    def require_floats(self, names: Mapping[str, Any]) -> None:
        """Raises ValueError for a weight of the model that is stored as integers: no guess at what
        they stand for.
        """
        for name in names:
            if name in self.layout and not self._is_float(self._stored[name]):
                raise ValueError(
                    f"{self.path.name}: tensor {name} is {self[name].dtype}, expected floating-point weights"
                )


def read(path: Path) -> Checkpoint:
    """A safetensors file, or one of torch.save's, read with weights_only=True. Raises ValueError
    for anything else.
    """
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except (OSError, ValueError, MemoryError):
        raise
    except (
        Exception
    ) as error:  # safetensors, pickle and torch raise types of their own for a damaged file
        raise ValueError(f"{path.name} can't be read as weights: {_reason(error)}") from error


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import safe_open

    file = safe_open(path, framework="pt")
    parts = {name: file.get_slice(name) for name in file.keys()}
    layout = {name: tuple(part.get_shape()) for name, part in parts.items()}
    return Checkpoint(
        path, layout, file.get_tensor, lambda name: parts[name].get_dtype().startswith(("F", "BF"))
    )


def _read_torch(path: Path) -> Checkpoint:
    lazily = (
        {"mmap": True} if zipfile.is_zipfile(path) else {}
    )  # the format before torch 1.6 can't be mapped
    state = torch.load(path, map_location="cpu", weights_only=True, **lazily)
    while isinstance(state, Mapping) and (
        key := next((k for k in NESTED if isinstance(state.get(k), Mapping)), None)
    ):
        state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path.name} holds no state dict, but {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path.name}: expected tensors by name, or a state dict under {', '.join(NESTED)}; "
                             f"entry {name} is {type(value).__name__}")  # fmt: skip
    layout = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Checkpoint(path, layout, state.__getitem__, lambda name: state[name].is_floating_point())


def _unwrapped(names: Mapping[str, Any]) -> list[str]:
    """Names without the prefixes that wrappers give to all of them."""
    found = list(names)
    while prefix := next(
        (p for p in WRAPPERS if found and all(name.startswith(p) for name in found)), None
    ):
        found = [name.removeprefix(prefix) for name in found]
    return found


# --- architectures


def build(arch: str, seed: int, num_classes: int | None = None) -> nn.Module:
    """A freshly initialised timm model, weights from the seed alone; the global RNG state stays as
    it was.
    """
    import timm  # seconds to import: only where it is needed

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return timm.create_model(arch, pretrained=False, **_head(num_classes))


def skeleton(arch: str, num_classes: int | None = None) -> nn.Module:
    """The architecture without weights, on the meta device; as it is where it can't be built there."""
    import timm

    try:
        with torch.device("meta"):
            return timm.create_model(arch, pretrained=False, **_head(num_classes))
    except (RuntimeError, NotImplementedError):  # a value is asked for while building
        return build(arch, 0, num_classes)


def num_parameters(arch: str) -> int:
    """Trainable weights, head included."""
    return sum(tensor.numel() for tensor in blocks.trainable(skeleton(arch)).values())


def _head(num_classes: int | None) -> dict[str, int]:
    return {} if num_classes is None else {"num_classes": num_classes}


class Fitted(NamedTuple):
    """Trained weights of an architecture, in model order at each call, and the head that they come
    with.
    """

    weights: Callable[[], Iterator[tuple[str, Tensor]]]
    num_classes: int | None  # 0: without a head; None: the architecture's own number


def fit(arch: str, path: Path) -> Fitted:
    """The file's weights as `arch` has them. Raises ValueError saying what does not fit."""
    checkpoint = read(path)
    model = skeleton(arch)
    checkpoint.require_floats(blocks.trainable(model))
    num_classes = None
    if _layout(model) != checkpoint.layout:
        num_classes = _num_classes(model, checkpoint.layout)
        model = skeleton(arch, num_classes)
    names = list(blocks.trainable(model))
    if _layout(model) == checkpoint.layout:
        return Fitted(lambda: ((name, checkpoint[name]) for name in names), num_classes)
    converted = _converted(arch, path, _misfit(_layout(skeleton(arch)), checkpoint.layout))
    return Fitted(lambda: iter(blocks.trainable(converted).items()), None)


def _layout(model: nn.Module) -> Layout:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _num_classes(model: nn.Module, layout: Layout) -> int:
    """Rows of the stored head, by the name that timm gives it; 0 where there is none."""
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = [classifier] if isinstance(classifier, str) else classifier
    return next((layout[f"{head}.weight"][0] for head in heads if f"{head}.weight" in layout), 0)


def _converted(arch: str, path: Path, misfit: str) -> nn.Module:
    """Through timm's own loading, which renames and reshapes what it knows. Raises ValueError with
    `misfit` where it does not.
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            model = timm.create_model(
                arch, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
            )
        except MemoryError:
            raise
        except (
            Exception
        ) as error:  # its converters meet unknown layouts with whatever error comes first
            raise ValueError(f"{path.name} does not fit {arch}: {misfit}") from error
    left = _left_as_built(model, build(arch, 0))
    if left:
        raise ValueError(f"{path.name} does not fit {arch}: it has no {_few(left)}")
    return model


def _left_as_built(model: nn.Module, fresh: nn.Module) -> list[str]:
    """Random tensors that loading did not touch: some of timm's loaders leave out what the file
    lacks.
    """
    before = blocks.trainable(fresh)
    equal = {
        name: tensor
        for name, tensor in blocks.trainable(model).items()
        if torch.equal(tensor, before[name])
    }
    return [name for name, tensor in equal.items() if not (tensor == tensor.reshape(-1)[0]).all()]


def _misfit(expected: Layout, found: Layout) -> str:
    parts = {
        "lacks": [name for name in expected if name not in found],
        "has unexpected": [name for name in found if name not in expected],
        "has other shapes of": [
            f"{name} {found[name]}, expected {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
    }
    return "; ".join(f"it {what} {_few(names)}" for what, names in parts.items() if names)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _reason(error: BaseException) -> str:
    """In one line; of torch's refusal what was found, and not the advice to read the file without
    weights_only.
    """
    text = str(error)
    found = text.partition("WeightsUnpickler error:")[2] or text
    return (found.strip() or type(error).__name__).splitlines()[0].partition(" Please use")[0]


# --- files


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def fetched(arch: str, folder: Path, *, keep: bool) -> Iterator[Path]:
    """The file of timm's pretrained weights: from the caches where it is there, downloaded
    otherwise.

    keep: into the ordinary cache of the hub (or of torch). Otherwise into `folder`, which is
    removed afterwards.
    """
    import timm

    about = timm.models.get_pretrained_cfg(arch)
    if about is None or not (about.hf_hub_id or about.url):
        raise ValueError(f"timm has no pretrained weights of {arch}")
    try:
        yield (
            _from_hub(about.hf_hub_id, folder, keep)
            if about.hf_hub_id
            else _from_url(about.url, folder, keep)
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_hub(repository: str, folder: Path, keep: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = [huggingface_hub.try_to_load_from_cache(repository, name) for name in HUB_FILES]
    for path in cached:
        if isinstance(path, str):
            return Path(path)
    for name in HUB_FILES:
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    repository, name, cache_dir=None if keep else folder
                )
            )
        except LocalEntryNotFoundError:  # no connection: another name would not help
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
