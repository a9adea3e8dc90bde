"""Checkpoints: saved states from which an interrupted training goes on.

A checkpoint is one safetensors file. It holds the state of model, optimiser and generators, other
values as JSON, and a checksum over all of it. It appears whole or not at all, and is on the disk
before an older one goes. The last two are kept in `scratch/` until the training is done. Their
folder is named after the run and a hash of all that it depends on (`momos.resume.scratch.key`), so
that a checkpoint of other settings, code or libraries is never used.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from momos.files import atomic
from momos.resume import scratch, taken

KEPT = 2  # checkpoints: if the last is damaged, the one before it is used
CHECKSUM, VALUES = "checksum", "values"  # names of two uint8 tensors in a checkpoint


class Saved(NamedTuple):
    """The content of a checkpoint, with tensors on the CPU."""

    position: int  # epochs or steps that are done
    values: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors named `prefix/...`, without the prefix."""
        return {
            name.removeprefix(f"{prefix}/"): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(f"{prefix}/")
        }


class Checkpoints:
    """A training's checkpoints. They are removed at the end of a `with` block without an error.

    Use: `with Checkpoints("train/digits/mlp/qat8/0", settings, seconds=60) as checkpoints:`, then
    `load`, and `save` whenever one is `due`. depends, inputs: settings and files that the training
    depends on. seconds: at most so far apart.
    """

    def __init__(self, name: str, depends: Mapping[str, Any], *inputs: Path, seconds: float):
        self.root = scratch.ROOT / name
        self.folder = self.root / scratch.key(depends, *inputs)
        self.seconds = seconds
        # Cost of the attempts before this one, up to the checkpoint that it went on from
        self.earlier = {"seconds": 0.0, "cpu_seconds": 0.0}

    def __enter__(self) -> Self:
        self.start, self.cpu_start = time.perf_counter(), time.process_time()
        self.saved_at = self.asked_at = self.start
        return self

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        if kind is None:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def load(self) -> Saved | None:
        """The newest checkpoint that is whole, or None.

        Damaged checkpoints are reported on stderr and deleted.
        """
        # left by a training that was killed while it wrote
        for unfinished in self.folder.glob(".*.tmp"):
            unfinished.unlink()
        for path in reversed(self._paths()):
            try:
                saved = _read_checkpoint(path)
            except ValueError as error:
                print(
                    f"warning: {error} (training goes on from the checkpoint before it)",
                    file=sys.stderr,
                    flush=True,
                )
                path.unlink()
                continue
            self.earlier = saved.values["spent"]
            return saved
        return None

    def due(self) -> bool:
        """Say whether to save now: the next call, as far off as the last, would be too late."""
        now = time.perf_counter()
        is_due = (now - self.saved_at) + (now - self.asked_at) >= self.seconds
        self.asked_at = now
        return is_due

    def save(
        self,
        position: int,
        values: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        files: Iterable[Path] = (),
    ) -> None:
        """Write a checkpoint, and delete all but the last two.

        position: epochs or steps that are done; it rises from one checkpoint to the next. values:
        ready for JSON. files: finished ones in the same folder, which `load` must find unchanged.
        Raises OSError naming the file that can't be written, for instance on a full disk; earlier
        checkpoints stay.
        """
        spent = {
            "seconds": time.perf_counter() - self.start,
            "cpu_seconds": time.process_time() - self.cpu_start,
        }
        values = {
            **values,
            "spent": self.with_earlier(spent),
            "files": {path.name: _sha256(path) for path in files},
        }
        content = {
            **tensors,
            VALUES: torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8),
        }
        atomic.save_tensors(
            self.folder / f"{position:09d}.safetensors", content | {CHECKSUM: _checksum(content)}
        )
        _sync(self.folder)
        for path in self._paths()[:-KEPT]:
            path.unlink()
        self.saved_at = time.perf_counter()

    def with_earlier(self, cost: Mapping[str, Any]) -> dict[str, Any]:
        """The cost of this attempt plus that of earlier ones, up to where this one went on."""
        total = {name: round(cost[name] + seconds, 3) for name, seconds in self.earlier.items()}
        return {**cost, **total}

    def share(self, cost: Mapping[str, Any]) -> dict[str, Any]:
        """The part of the cost that is this stage's: here all of it."""
        return self.with_earlier(cost)

    def _paths(self) -> list[Path]:
        """Checkpoints, the oldest first."""
        return sorted(self.folder.glob("[0-9]*.safetensors"))


class Shared(Checkpoints):
    """Checkpoints of one training that serves several stages, the `members`.

    The stage `member` takes its own part of the result. One stage trains at a time. The next one
    waits, and finds what this one has finished. The checkpoints are removed when every member has
    taken its part. If a member runs again after that, it trains the group again; what the others do
    not take then is removed by `taken.drop_taken`.
    """

    def __init__(
        self,
        name: str,
        depends: Mapping[str, Any],
        *inputs: Path,
        seconds: float,
        member: str | int,
        members: Collection[str | int],
    ) -> None:
        super().__init__(name, depends, *inputs, seconds=seconds)
        self.member, self.members = member, members

    def __enter__(self) -> Self:
        while not self._locked():
            pass
        return super().__enter__()

    def _remove(self) -> None:
        """Under another name: a stage that begins now makes a new folder, which must stay."""
        for unfinished in self.root.parent.glob(f".{self.root.name}.*.done"):
            shutil.rmtree(unfinished, ignore_errors=True)
        done = self.root.with_name(f".{self.root.name}.{os.getpid()}.done")
        self.root.rename(done)
        shutil.rmtree(done, ignore_errors=True)

    def _locked(self) -> bool:
        """Wait for the lock. False where the stage before has removed it with all the rest.

        A lock that lies in no folder any more excludes nobody: the next stage would make another.
        """
        path = self.root / "lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = path.open("w")
        except FileNotFoundError:  # removed between the two lines
            return False
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"{self.root}: waiting for the stage that trains these together",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        if path.is_file() and os.path.samestat(path.stat(), os.fstat(self.lock.fileno())):
            self.folder.mkdir(parents=True, exist_ok=True)
            return True
        self.lock.close()
        return False

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        with self.lock:
            if kind is None:
                self._taken(self.member).touch()
                if all(self._taken(other).exists() for other in self.members):
                    super().__exit__(kind, *about)

    def share(self, cost: Mapping[str, Any]) -> dict[str, Any]:
        """This member's equal part of the seconds, as the stage that trained has counted them."""
        path = self.folder / "cost.json"
        if not path.is_file():
            atomic.write_json(path, self.with_earlier(cost))
        whole = atomic.read_json(path)
        return whole | {name: round(whole[name] / len(self.members), 3) for name in self.earlier}

    def _taken(self, member: str | int) -> Path:
        return self.folder / f"{member}{taken.ENDING}"


def _read_checkpoint(path: Path) -> Saved:
    """Raise ValueError naming the file if the checkpoint or a file that it needs is damaged."""
    tensors = {name: tensor.clone() for name, tensor in atomic.load_tensors(path).items()}
    checksum = tensors.pop(CHECKSUM, None)
    if checksum is None or not torch.equal(checksum, _checksum(tensors)):
        raise ValueError(f"{path} is damaged: its checksum is not that of its content")
    values = json.loads(tensors.pop(VALUES).numpy().tobytes())
    for name, expected in values["files"].items():
        if not (path.parent / name).is_file() or _sha256(path.parent / name) != expected:
            raise ValueError(f"{path} can't be used: {path.parent / name} is missing or changed")
    return Saved(int(path.stem), values, tensors)


def _checksum(tensors: Mapping[str, Tensor]) -> Tensor:
    """SHA-256 over names, dtypes, shapes and bytes: (32,) uint8."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(total.digest()), dtype=torch.uint8)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(folder: Path) -> None:
    """Sync the folder, so that what was renamed in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- the state of a training


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, generators: Mapping[str, torch.Generator]
) -> dict[str, Tensor]:
    """The tensors that a training needs to go on, on the CPU.

    These are weights and buffers, the optimiser's moments, and the states of the generators and of
    the global RNG.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in moments.items()}
    states = {name: generator.get_state() for name, generator in generators.items()}
    tensors |= {f"generator/{name}": state for name, state in states.items()}
    tensors |= {f"global/{device}": state for device, state in _global_states(model).items()}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def restore_training_(
    saved: Saved,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: Mapping[str, torch.Generator],
    *,
    lr: float,
) -> None:
    """Put a saved `training_state` back into model, optimiser, generators and the global RNG.

    lr: the learning rate that the optimiser had then.
    """
    model.load_state_dict(saved.part("model"))
    groups = optimizer.state_dict()["param_groups"]
    for group in groups:
        group["lr"] = torch.full_like(group["lr"], lr) if torch.is_tensor(group["lr"]) else lr
    optimizer.load_state_dict(
        {"state": _moments(saved.part("optimizer"), optimizer), "param_groups": groups}
    )
    for name, generator in generators.items():
        generator.set_state(saved.part("generator")[name])
    torch.set_rng_state(saved.part("global")["cpu"])
    if "cuda" in saved.part("global"):
        torch.cuda.set_rng_state(saved.part("global")["cuda"], next(model.parameters()).device)


def _moments(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Moments by the number of their weight and by name, from tensors named `number/name`.

    A moment lies in memory as its weight does, because fused kernels take that for granted.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        number, _, name = path.partition("/")
        weight = weights[int(number)]
        if tensor.shape == weight.shape:
            tensor = torch.empty_like(weight, dtype=tensor.dtype, device="cpu").copy_(tensor)
        moments.setdefault(int(number), {})[name] = tensor.detach()
    return moments


def _global_states(model: nn.Module) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})
