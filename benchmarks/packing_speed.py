"""How fast a .momos file is written and read, and a forward pass by lookup.

usage: python -m benchmarks.packing_speed OUT.csv

One thread, CPU seconds (the smallest of three). The 25 million weights are a mosaic of blocks of 4
with 1 % capacity in ten tensors, or noise. MB/s are of the float32 weights. Safetensors writes and
reads the same tensors. Lookup: a batch of 64 images, the model's own weights against weights
gathered from motifs and mosaic at every call.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.runs import paths
from momos import models, packing
from momos.methods import mosaic
from momos.packing import lossy

NUM_WEIGHTS, BLOCK_SIZE, CAPACITY = 25_000_000, 4, 0.01


class Weights(nn.Module):
    def __init__(self, tensors: list[torch.Tensor]):
        super().__init__()
        self.parts = nn.ParameterList(tensors)


def fastest(action: Callable[[], object], times: int = 3) -> float:
    """CPU seconds of the fastest run."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return min(seconds)


def copied(path: Path) -> dict:
    """The file's tensors in memory of their own, as `unpack` leaves them.

    load_file alone maps the file and reads nothing yet.
    """
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def large(kind: str) -> Weights:
    generator, num_blocks = torch.Generator().manual_seed(0), NUM_WEIGHTS // BLOCK_SIZE
    if kind == "noise":
        return Weights([torch.randn(NUM_WEIGHTS // 10, generator=generator) for _ in range(10)])
    motifs = torch.randn(int(CAPACITY * num_blocks), BLOCK_SIZE, generator=generator)
    # Some motifs are used far more often than others.
    chosen = (len(motifs) * torch.rand(num_blocks, generator=generator) ** 3).long()
    return Weights([part.reshape(-1).clone() for part in motifs[chosen].chunk(10)])


def files(folder: Path) -> Iterator[dict]:
    for kind in ("mosaic", "noise"):
        model = large(kind)
        state, size = model.state_dict(), 4 * NUM_WEIGHTS / 1e6
        plain, path = folder / "a.safetensors", folder / "a.momos"
        actions = {"safetensors": (partial(save_file, state, plain), partial(copied, plain), plain)}
        for level in packing.LEVELS:
            write = partial(packing.pack, model, path, BLOCK_SIZE, level=level)
            actions[f"momos, {level}"] = (write, partial(packing.unpack, path, model), path)
        for name, (write, read, file) in actions.items():
            seconds = fastest(write), fastest(read)
            rates = {
                "write_mb_s": size / seconds[0],
                "read_mb_s": size / seconds[1],
                "mb": file.stat().st_size / 1e6,
            }
            yield {"what": kind, "how": name, "write_s": seconds[0], "read_s": seconds[1]} | rates


def forward() -> Iterator[dict]:
    for name, size, kwargs in (("mlp", 32, {}), ("resnet20", 32, {}), ("tiny_vit", 224, {})):
        model = models.build(name, 10, image_size=size, kwargs=kwargs).eval()
        mosaic.project_(
            model, BLOCK_SIZE, capacity=CAPACITY, generator=torch.Generator().manual_seed(0)
        )
        lookup = lossy.Lookup(model, lossy.mosaic_of(model, BLOCK_SIZE, "tensor"), "tensor")
        images = torch.randn(64, 3, size, size)
        with torch.no_grad():
            own, looked_up = fastest(partial(model, images)), fastest(partial(lookup, images))
            gather = fastest(lookup.weights)
        yield {"what": f"forward {name}", "how": "own weights", "read_s": own}
        yield {"what": f"forward {name}", "how": "lookup", "read_s": looked_up}
        yield {"what": f"forward {name}", "how": "of which gathering", "read_s": gather}


if __name__ == "__main__":
    torch.set_num_threads(1)
    (out,) = paths(__doc__, 1)
    with tempfile.TemporaryDirectory() as temporary:
        frame = pd.DataFrame([*files(Path(temporary)), *forward()]).round(4)
    frame.to_csv(out, index=False)
    print(frame.to_markdown(index=False))
