"""What an interrupted measurement keeps in its output folder, so that the same command goes on."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

FILE = "unfinished.json"
SAVE_EVERY = 5.0  # seconds
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


def key_of(model: "nn.Module", about: Mapping[str, Any]) -> str:
    """A hash of a model's weights and of all else that its measurement depends on."""
    from momos.cli.stored import raw_bytes

    total = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        total.update(name.encode())
        total.update(raw_bytes(tensor))
    return total.hexdigest()[:24]


class Kept:
    """Parts of a measurement by name, in the order in which they were computed.

    Inside a `with` block, parts are written every few seconds and when it is left by an error or
    Ctrl-C. Parts of another key, from an earlier command, are dropped.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path, self.key = folder / FILE, key
        self.parts: dict[str, Any] = {}
        self._saved = time.monotonic()
        if self.path.is_file():
            from momos.files import atomic

            content = atomic.read_json(self.path)
            self.parts = content["parts"] if content.get("of") == key else {}
        self.num_old = len(self.parts)

    def __call__(self, name: str, compute: Callable[[], Any]) -> Any:
        """The part of that name, kept from before, or computed now. It must fit into JSON."""
        if name not in self.parts:
            self.parts[name] = compute()
            if time.monotonic() - self._saved > SAVE_EVERY:
                self.save()
        return self.parts[name]

    def save(self) -> None:
        """Write all parts."""
        from momos.files import atomic  # imports torch, which `momos --help` need not wait for

        atomic.write_json(self.path, {"of": self.key, "parts": self.parts})
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def until_done(self) -> Iterator[None]:
        """Keep the parts if the block is left by an error or Ctrl-C; else remove them."""
        try:
            yield
        except BaseException:
            if self.parts:
                self.save()
            raise
        self.path.unlink(missing_ok=True)
