"""The one reader of weight files from elsewhere: for the command line, the survey and packing.

What is read: a .safetensors file, a file of torch.save, an .npz file, the initialisers of an .onnx
file (`momos.weights.onnx`), a .tgz or .tar.gz archive with one of these in it, and a folder as
the Hugging Face hub has them, in one file or in shards. Files of torch.save are read with
`weights_only=True`, arrays without pickles: nothing in a file is executed. A file may keep its
tensors in these ways, and in any mixture of them:

bare      The file holds tensors by name, and nothing else.
wrapped   The tensors are found under one of the keys WRAPPERS, nested in any depth. The outermost
          wrapper is chosen first. At each level an exponential moving average (EMA) comes before
          plain weights: the order is that of WRAPPERS. A key that leads to no tensors is passed
          over. Whatever stands beside a wrapper, such as an epoch or an optimizer, is left out.
prefixed  All names begin with the same one of PREFIXES. It is removed, and so on with the rest of
          the names. A prefix that some names lack belongs to the architecture, and stays. The
          counter COUNTER of torch's AveragedModel is no weight, and is left out.

One line on stderr says which wrapper and which prefix were removed.
"""

import argparse
import errno
import functools
import json
import math
import re
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from momos.files.droppings import is_dropping

if TYPE_CHECKING:  # torch takes a second to import, which `momos --help` need not wait for
    from torch import Tensor

EMA_WRAPPERS = ("state_dict_ema", "model_ema", "ema")
WRAPPERS = (
    *EMA_WRAPPERS, "state_dict", "model", "model_state_dict", "model_state", "module", "params",
)  # fmt: skip
# In the order in which they usually stand: DataParallel, torch.compile, Lightning, a backbone.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
COUNTER = "n_averaged"  # how many weights torch.optim.swa_utils.AveragedModel has averaged
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
ARCHIVES = (".tgz", ".tar.gz")
ALL_SUFFIXES = (*SUFFIXES, ".npz", ".onnx", *ARCHIVES)
EXPECTED = (
    "a .safetensors file, or one of torch.save (.pt, .pth, .bin) with tensors by name, an .npz or "
    ".onnx file, or a Hugging Face folder"
)
# Of a Hugging Face folder, in this order; NAME.index.json lists the shards.
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")
SNAPSHOTS = "snapshots"  # of the hub's cache, a folder each
GZIP = b"\x1f\x8b"
BEGINNINGS = {  # of files that are of another kind, in small letters
    b"<!doctype": "it is an HTML page", b"<html": "it is an HTML page",
    b"version https://git-lfs": "it is a pointer of Git LFS, without the file that it stands for",
    b"gguf": "it is a GGUF file", b"\x89hdf": "it is an HDF5 file",
    b"7z\xbc\xaf": "it is a 7z archive", GZIP: "it is packed by gzip",
    b"bzh": "it is packed by bzip2", b"\xfd7zxz": "it is packed by xz",
    b"\x28\xb5\x2f\xfd": "it is packed by zstd", b"%pdf": "it is a PDF",
    b"\x89momos": "it is a .momos file (see `momos unpack`)",
}  # fmt: skip
WEIGHT_LEAF = re.compile(r"(\w+_)?(weight|bias)(_\w+)?|kernel")  # last part of a name
NUM_SHOWN = 5  # names in a message
Layout = dict[str, tuple[int, ...]]  # a tensor's name -> its shape


class WeightFile(Mapping[str, "Tensor"]):
    """Tensors of a file by name, without wrappers and prefixes. Each is read when it is asked for.

    name: of the file, in messages. layout: name -> shape. num_beside: tensors of the file that are
    not among these, such as an optimizer's.
    """

    def __init__(
        self,
        name: str,
        stored: Layout,
        read_tensor: Callable[[str], "Tensor"],
        is_float: Callable[[str], bool],
        wrappers: tuple[str, ...] = (),
        beside: tuple[str, ...] = (),
        num_beside: int = 0,
    ):
        stored = {key: shape for key, shape in stored.items() if (key, shape) != (COUNTER, ())}
        self.prefix = common_prefix(stored)
        self.name, self.wrappers, self.beside = name, wrappers, beside
        self.num_beside = num_beside
        self.layout = {key.removeprefix(self.prefix): shape for key, shape in stored.items()}
        self._read_tensor, self._is_float = read_tensor, is_float

    def __getitem__(self, name: str) -> "Tensor":
        if name not in self.layout:
            raise KeyError(name)
        return self._read_tensor(self.prefix + name)

    def __contains__(self, name: object) -> bool:
        return name in self.layout  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)

    @property
    def taken(self) -> str:
        """Which wrapper and prefix were removed, for readers; empty if none was."""
        parts = []
        if self.wrappers:
            beside = f" (beside it, not taken: {', '.join(self.beside)})" if self.beside else ""
            parts.append(f"weights under {' > '.join(self.wrappers)}{beside}")
        if self.prefix:
            parts.append(f"names without the prefix {self.prefix}")
        return one_line(", ".join(parts))

    def keep_tensors(self, most: int) -> None:
        """Keep each tensor that is read, where all have at most so many numbers together."""
        if sum(map(math.prod, self.layout.values())) <= most:
            self._read_tensor = functools.cache(self._read_tensor)

    def is_float(self, name: str) -> bool:
        """Whether the named tensor is stored as floating-point numbers. It is not read."""
        return self._is_float(self.prefix + name)

    def require_floats(self, names: Mapping[str, Any]) -> None:
        """Raises ValueError if one of the named tensors is stored as integers.

        What integers stand for (a scale, a zero point) is not guessed.
        """
        for name in names:
            if name in self.layout and not self.is_float(name):
                found = f"tensor {name} is {self[name].dtype}, expected floating-point weights"
                raise ValueError(one_line(f"{self.name}: {found}"))

    def require_float_weights(self) -> None:
        """Raises ValueError unless tensors that are called weights or biases, and some, are floats.

        Counters and places are integers, and none.
        """
        called = (name for name in self.layout if WEIGHT_LEAF.fullmatch(name.rpartition(".")[2]))
        self.require_floats(dict.fromkeys(called))
        if not any(self.is_float(name) for name in self.layout):
            name = next(iter(self.layout))
            found = f"tensor {name} is {self[name].dtype}, expected floating-point weights"
            raise ValueError(one_line(f"{self.name}: {found}"))


def open_weights(path: Path, *, name: str | None = None) -> WeightFile:
    """Open a weight file, and say on stderr which wrapper and prefix were removed.

    name: of the file in messages; None takes the path.
    Raises ValueError, in one line that names the file, for one that is missing, damaged, of another
    kind, or without tensors by name where the module's docstring says.
    """
    name = str(path) if name is None else name
    if not path.is_file() and not (path.is_dir() and entries(path)):
        others = "is an empty folder" if path.is_dir() else "is a pipe or a device"
        found = others if path.exists() else "is missing"
        raise ValueError(one_line(f"{name} {found}: expected {EXPECTED}"))
    try:
        opened = _opener_of(path)(path, name)
    except (OSError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.errno not in (None, errno.EINVAL):
            raise
        raise ValueError(one_line(_unreadable(name, path, error))) from error
    except _NoWeights as error:
        raise ValueError(one_line(f"{name} holds {error}")) from error
    except Exception as error:  # safetensors, pickle and torch have types of their own
        raise ValueError(one_line(_unreadable(name, path, error))) from error
    if opened.taken:
        print(f"{one_line(name)}: {opened.taken}", file=sys.stderr)
    return opened


def _unreadable(name: str, path: Path, error: Exception) -> str:
    """The message of a file that can't be read, or of one that says itself what it is."""
    beginning = b""
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(512).lstrip().lower()
    archive = path.name.lower().endswith(ARCHIVES)  # which gzip packs, damaged or not
    starts = [start for start in BEGINNINGS if not (archive and start == GZIP)]
    known = (BEGINNINGS[start] for start in starts if beginning.startswith(start))
    reason = next(known, _reason(error))
    if getattr(error, "errno", None) == errno.EINVAL:  # read from a place before its beginning
        reason = "it is cut short"
    if not reason.startswith("it is") and path.is_file() and _is_text(beginning):
        reason = "it is text" if beginning else "it is empty"
    return f"{name} can't be read as weights: {reason}; expected {EXPECTED}"


def _is_text(beginning: bytes) -> bool:
    """Whether bytes are UTF-8 that can be shown; they may end within a letter."""
    shown = beginning.decode(errors="replace")[:-1]
    return all(c.isprintable() or c.isspace() for c in shown) and "\ufffd" not in shown


def is_weight_file(path: Path) -> bool:
    """Whether the ending is one of ALL_SUFFIXES, in capital or small letters."""
    return path.name.lower().endswith(ALL_SUFFIXES)


def is_hub_folder(path: Path) -> bool:
    """Whether a folder holds a model as the Hugging Face hub has it, in one file or in shards."""
    names = [name for file in FOLDER_FILES for name in (file, f"{file}.index.json")]
    return any((path / name).is_file() for name in names)


def holds_weights(path: Path) -> bool:
    """Whether `open_weights` finds one model's weights in a folder, without opening them.

    That is a folder of the hub, or of its cache with snapshots, or one with a single weight file.
    """
    if is_hub_folder(path) or (path / SNAPSHOTS).is_dir():
        return True
    return len(_weight_files_in(path)) == 1


def entries(folder: Path) -> list[Path]:
    """List what lies in a folder itself, ordered by path, without droppings.

    Droppings are files and folders that systems leave behind (`momos.files.droppings`).
    """
    inside = {one: f"{one.name}/file" if one.is_dir() else one.name for one in folder.iterdir()}
    return sorted(one for one, name in inside.items() if not is_dropping(name))


def _weight_files_in(folder: Path) -> list[Path]:
    """The weight files of a folder, in order, without what systems leave there."""
    return [one for one in entries(folder) if one.is_file() and is_weight_file(one)]


def stem_of(path: Path) -> str:
    """The file's name without that ending: resnet18.pth.tar -> resnet18."""
    endings = [suffix for suffix in ALL_SUFFIXES if path.name.lower().endswith(suffix)]
    return path.name[: -max(map(len, endings))] if endings else path.stem


def load_weights(path: Path) -> dict[str, "Tensor"]:
    """All tensors of a weight file by name, on the CPU. Output and errors as in `open_weights`."""
    return dict(open_weights(path))


def common_prefix(names: Mapping[str, Any]) -> str:
    """The prefixes, joined, with which all names begin and which leave something of every name."""
    prefix = ""
    while added := next((p for p in PREFIXES if _is_prefix_of_all(prefix + p, names)), None):
        prefix += added
    return prefix


def one_line(text: str) -> str:
    """The text on one line, without escape sequences of terminals and unprintable characters."""
    plain = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def some_of(names: list[str]) -> str:
    """The first five of the names, and how many more there are."""
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return (", ".join(names[:NUM_SHOWN]) or "none") + more


class _NoWeights(Exception):
    """A file that was read, but has no weights. The message says what it holds instead."""


def _is_prefix_of_all(prefix: str, names: Mapping[str, Any]) -> bool:
    return bool(names) and all(len(n) > len(prefix) and n.startswith(prefix) for n in names)


def _opener_of(path: Path) -> Callable[[Path, str], WeightFile]:
    """What opens the file, by its ending."""
    if path.is_dir():
        return _open_folder
    ending = path.name.lower()
    if ending.endswith(ARCHIVES):
        return _open_archive
    openers = {".safetensors": _open_safetensors, ".npz": _open_npz, ".onnx": _open_onnx}
    return openers.get(path.suffix.lower(), _open_torch)


def _open_folder(path: Path, name: str) -> WeightFile:
    """A folder of the hub: one file, its shards, or the cache's with one snapshot in it."""
    snapshots = path / SNAPSHOTS
    if snapshots.is_dir():
        found = [one for one in entries(snapshots) if one.is_dir()]
        main = path / "refs" / "main"
        if len(found) > 1 and main.is_file():
            found = [one for one in found if one.name == main.read_text().strip()] or found
        if len(found) != 1:
            listed = some_of([one.name for one in found])
            raise _NoWeights(f"{len(found)} snapshots ({listed}); expected one, or {EXPECTED}")
        return _open_folder(found[0], name)
    for file in FOLDER_FILES:
        if (path / f"{file}.index.json").is_file():
            return _open_shards(path, f"{file}.index.json", name)
        if (path / file).is_file():
            return _opener_of(path / file)(path / file, name)
    files = _weight_files_in(path)
    if len(files) != 1:
        listed = some_of([one.name for one in files])
        raise _NoWeights(
            f"{len(files)} weight files ({listed}) and none of {', '.join(FOLDER_FILES)}; "
            f"expected {EXPECTED}"
        )
    return _opener_of(files[0])(files[0], name)


def _open_shards(path: Path, index: str, name: str) -> WeightFile:
    """The files that an index names, as one. They must lie in the folder itself."""
    weight_map = json.loads((path / index).read_text())["weight_map"]
    shards = sorted(set(weight_map.values()))
    outside = [shard for shard in shards if Path(shard).name != shard]
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if outside or missing:
        raise _NoWeights(
            f"{index}, whose shard {(outside + missing)[0]} is not in the folder; "
            f"expected {EXPECTED}"
        )
    opened = {shard: _opener_of(path / shard)(path / shard, name) for shard in shards}
    owners = {
        shard_file.prefix + key: shard_file for shard_file in opened.values() for key in shard_file
    }
    lost = [key for key in weight_map if key not in owners]
    if lost:
        raise _NoWeights(f"{index}, whose tensor {lost[0]} is in no shard; expected {EXPECTED}")

    def own(key: str) -> str:
        return key.removeprefix(owners[key].prefix)

    layout = {key: owners[key].layout[own(key)] for key in owners}
    return WeightFile(
        name,
        layout,
        lambda key: owners[key][own(key)],
        lambda key: owners[key].is_float(own(key)),
    )


def _open_archive(path: Path, name: str) -> WeightFile:
    """The one weight file in a tar archive. Its tensors are read at once."""
    with tarfile.open(path) as archive, tempfile.TemporaryDirectory() as folder:
        files = (one for one in archive if one.isfile() and not is_dropping(one.name))
        members = [one for one in files if is_weight_file(Path(one.name))]
        if len(members) != 1:
            listed = some_of([one.name for one in members])
            raise _NoWeights(f"{len(members)} weight files ({listed}), expected one")
        content = archive.extractfile(members[0])
        assert content is not None  # it is a file
        target = Path(folder) / Path(members[0].name).name
        target.write_bytes(content.read())
        inside = _opener_of(target)(target, name)
        tensors = {inside.prefix + key: inside[key].clone() for key in inside}
    return _in_memory(name, tensors)


def _open_npz(path: Path, name: str) -> WeightFile:
    import numpy as np
    import torch

    with np.load(path, allow_pickle=False) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return _in_memory(name, tensors)


def _open_onnx(path: Path, name: str) -> WeightFile:
    import torch

    from momos.weights import onnx

    try:
        arrays = onnx.read_initialisers(path)
    except onnx.Unreadable as error:
        raise _NoWeights(f"{error}; expected {EXPECTED}") from error
    return _in_memory(name, {key: torch.from_numpy(array.copy()) for key, array in arrays.items()})


def _in_memory(name: str, tensors: Mapping[str, "Tensor"]) -> WeightFile:
    """Raises _NoWeights without tensors."""
    if not tensors:
        raise _NoWeights(f"no tensors; expected {EXPECTED}")
    layout = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return WeightFile(
        name, layout, tensors.__getitem__, lambda key: tensors[key].is_floating_point()
    )


def _open_safetensors(path: Path, name: str) -> WeightFile:
    from safetensors import safe_open

    file = safe_open(path, framework="pt")
    parts = {key: file.get_slice(key) for key in file.keys()}
    if not parts:
        raise _NoWeights(f"no tensors; expected {EXPECTED}")
    layout = {key: tuple(part.get_shape()) for key, part in parts.items()}

    def is_float(key: str) -> bool:
        return parts[key].get_dtype().startswith(("F", "BF"))

    # Opened anew for each tensor: the pages of one mapping would count as memory until the end.
    return WeightFile(
        name, layout, lambda key: safe_open(path, framework="pt").get_tensor(key), is_float
    )


def _open_torch(path: Path, name: str) -> WeightFile:
    import torch

    mmap = zipfile.is_zipfile(path)  # the format before torch 1.6 can't be mapped
    with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
        warnings.simplefilter("ignore")  # of TorchScript archives, which are refused
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    state = _find_tensors(content, set())
    if state is None:
        expected = f"expected {EXPECTED}, bare or under {', '.join(WRAPPERS)}"
        raise _NoWeights(f"{_description(content)}; {expected}")
    tensors = state.tensors
    for key, tensor in tensors.items():
        if tensor.is_meta or tensor.layout is not torch.strided:
            kind = "without numbers (meta)" if tensor.is_meta else f"as {tensor.layout}"
            raise _NoWeights(f"tensor {key} {kind}; expected dense tensors")
    layout = {key: tuple(tensor.shape) for key, tensor in tensors.items()}

    def is_float(key: str) -> bool:
        return tensors[key].is_floating_point()

    own = {id(tensor) for tensor in tensors.values()}
    num_beside = len(_all_tensors(content, set()) - own)
    return WeightFile(
        name, layout, tensors.__getitem__, is_float, state.wrappers, state.beside, num_beside
    )


def _harmless() -> list[Any]:
    """Classes and functions that only keep values, beside those that torch allows.

    Training scripts, timm's among them, save their options as a Namespace, and numbers of numpy.
    """
    import numpy as np
    from numpy._core import multiarray

    scalar, rebuilt = multiarray.scalar, multiarray._reconstruct
    old = [
        (scalar, "numpy.core.multiarray.scalar"),
        (rebuilt, "numpy.core.multiarray._reconstruct"),
    ]
    dtypes = [type(np.dtype(kind)) for kind in "?bhilqBHILQefdUS"]
    return [argparse.Namespace, scalar, rebuilt, *old, np.dtype, np.ndarray, *dtypes]


def _all_tensors(content: Any, visited: set[int]) -> set[int]:
    """Ids of the tensors anywhere in mappings and lists."""
    from torch import Tensor

    if id(content) in visited:
        return set()
    visited.add(id(content))
    if isinstance(content, Mapping):
        content = list(content.values())
    if isinstance(content, list | tuple):
        return set().union(*(_all_tensors(part, visited) for part in content))
    return {id(content)} if isinstance(content, Tensor) else set()


class _StateDict(NamedTuple):
    """Tensors by name, and where in the file they were."""

    tensors: Mapping[str, "Tensor"]
    wrappers: tuple[str, ...]  # keys that led there, from the outside
    beside: tuple[str, ...]  # other wrappers of those levels, which were not taken


def _find_tensors(content: Any, visited: set[int]) -> _StateDict | None:
    """The tensors in what a file held, by the precedence of WRAPPERS; None if there are none.

    visited: mappings that were looked at (their ids), as a file can hold one within itself.
    """
    if not isinstance(content, Mapping) or id(content) in visited:
        return None
    visited.add(id(content))
    if _are_tensors(content):
        return _StateDict(content, (), ())
    for key in WRAPPERS:
        inner = _find_tensors(content.get(key), visited)
        if inner is not None:
            others = tuple(k for k in WRAPPERS if k != key and isinstance(content.get(k), Mapping))
            return _StateDict(inner.tensors, (key, *inner.wrappers), (*others, *inner.beside))
    return None


def _are_tensors(content: Mapping) -> bool:
    from torch import Tensor

    return bool(content) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _description(content: Any) -> str:
    """What a file holds in the place of tensors by name: the innermost that a wrapper leads to."""
    from torch import Tensor

    where = ""
    visited: set[int] = set()
    while inner := _first_wrapped(content, visited):
        where, content = f"{where}{inner} > ", content[inner]
    where = f" under {where.removesuffix(' > ')}" if where else ""
    if not isinstance(content, Mapping):
        return f"no state dict, but {type(content).__name__}{where}"
    if not content:
        return f"no state dict, but an empty dict{where}"
    others = [
        f"{str(name)[:80]} ({type(value).__name__})"
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    num_tensors = len(content) - len(others)
    beside = f"{num_tensors} tensors and " if num_tensors else ""
    return f"{beside}{some_of(others)}{where}"


def _first_wrapped(content: Any, visited: set[int]) -> str | None:
    """The first wrapper of a level that holds a mapping, or None. visited as in `_find_tensors`."""
    if not isinstance(content, Mapping) or id(content) in visited:
        return None
    visited.add(id(content))
    return next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)


def _reason(error: Exception) -> str:
    """What went wrong in one sentence, without torch's advice to read the file as code."""
    text = str(error)
    if "TorchScript" in text:
        return "it is a TorchScript archive"
    text = text.partition("WeightsUnpickler error:")[2] or text
    lines = [line.strip().partition(" Please use")[0] for line in text.splitlines()]
    told = next((line for line in lines if line and "weights_only" not in line), "")
    sentence = told.partition(". ")[0].rstrip(".")
    return sentence if " " in sentence else f"{type(error).__name__} {sentence}".strip()
