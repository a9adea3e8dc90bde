"""The one reader of weight files from elsewhere: for the command line, the survey and packing.

A weight file is a .safetensors file, or a file of torch.save. The latter is read with
`weights_only=True`: nothing in it is executed. A file may keep its tensors in these ways, and in
any mixture of them:

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
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # torch takes a second to import, which `momos --help` need not wait for
    from torch import Tensor

EMA_WRAPPERS = ("state_dict_ema", "model_ema", "ema")
WRAPPERS = (*EMA_WRAPPERS, "state_dict", "model", "model_state_dict", "module", "params")
# In the order in which they usually stand: DataParallel, torch.compile, Lightning, a backbone.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
COUNTER = "n_averaged"  # how many weights torch.optim.swa_utils.AveragedModel has averaged
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
EXPECTED = "a .safetensors file, or one of torch.save (.pt, .pth, .bin) with tensors by name"
NUM_SHOWN = 5  # names in a message
Layout = dict[str, tuple[int, ...]]  # a tensor's name -> its shape


class WeightFile(Mapping[str, "Tensor"]):
    """Tensors of a file by name, without wrappers and prefixes. Each is read when it is asked for.

    name: of the file, in messages. layout: name -> shape.
    """

    def __init__(
        self,
        name: str,
        stored: Layout,
        read_tensor: Callable[[str], "Tensor"],
        is_float: Callable[[str], bool],
        wrappers: tuple[str, ...] = (),
        beside: tuple[str, ...] = (),
    ):
        stored = {key: shape for key, shape in stored.items() if (key, shape) != (COUNTER, ())}
        self.prefix = common_prefix(stored)
        self.name, self.wrappers, self.beside = name, wrappers, beside
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

    def require_floats(self, names: Mapping[str, Any]) -> None:
        """Raises ValueError if one of the named tensors is stored as integers.

        What integers stand for (a scale, a zero point) is not guessed.
        """
        for name in names:
            if name in self.layout and not self._is_float(self.prefix + name):
                found = f"tensor {name} is {self[name].dtype}, expected floating-point weights"
                raise ValueError(one_line(f"{self.name}: {found}"))


def open_weights(path: Path, *, name: str | None = None) -> WeightFile:
    """Open a weight file, and say on stderr which wrapper and prefix were removed.

    name: of the file in messages; None takes the path.
    Raises ValueError, in one line that names the file, for one that is missing, damaged, of another
    kind, or without tensors by name where the module's docstring says.
    """
    name = str(path) if name is None else name
    if not path.is_file():
        raise ValueError(one_line(f"{name} is missing: expected {EXPECTED}"))
    try:
        opened = _open_safetensors(path, name) if _is_safetensors(path) else _open_torch(path, name)
    except (OSError, MemoryError):
        raise
    except _NoWeights as error:
        raise ValueError(one_line(f"{name} holds {error}")) from error
    except Exception as error:  # safetensors, pickle and torch have types of their own
        reason = f"{name} can't be read as weights: {_reason(error)}; expected {EXPECTED}"
        raise ValueError(one_line(reason)) from error
    if opened.taken:
        print(f"{one_line(name)}: {opened.taken}", file=sys.stderr)
    return opened


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


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _open_safetensors(path: Path, name: str) -> WeightFile:
    from safetensors import safe_open

    file = safe_open(path, framework="pt")
    parts = {key: file.get_slice(key) for key in file.keys()}
    if not parts:
        raise _NoWeights(f"no tensors; expected {EXPECTED}")
    layout = {key: tuple(part.get_shape()) for key, part in parts.items()}

    def is_float(key: str) -> bool:
        return parts[key].get_dtype().startswith(("F", "BF"))

    return WeightFile(name, layout, file.get_tensor, is_float)


def _open_torch(path: Path, name: str) -> WeightFile:
    import torch

    mmap = zipfile.is_zipfile(path)  # the format before torch 1.6 can't be mapped
    # A Namespace only keeps values. Training scripts, timm's among them, save their options so.
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")  # of TorchScript archives, which are refused
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    state = _find_tensors(content, set())
    if state is None:
        expected = f"expected {EXPECTED}, bare or under {', '.join(WRAPPERS)}"
        raise _NoWeights(f"{_description(content)}; {expected}")
    tensors = state.tensors
    layout = {key: tuple(tensor.shape) for key, tensor in tensors.items()}

    def is_float(key: str) -> bool:
        return tensors[key].is_floating_point()

    return WeightFile(name, layout, tensors.__getitem__, is_float, state.wrappers, state.beside)


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
