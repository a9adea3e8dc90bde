"""One rank of two, for test_ranks: trains, then disagrees, fails and is sharded.

usage: rank.py RANK FOLDER. What came of it is in FOLDER/RANK.pt.
"""

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from momos import MoMos

NUM_RANKS, EPOCHS, STEPS, BATCH = 2, 2, 3, 8
SETTINGS = {"block_size": 2, "capacity": 0.2, "projection_every": 2}
BEST = {"recipe": "best", "block_size": 2, "capacity": 0.2, "epochs": EPOCHS}  # dense, trained


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()


def batch(number):
    """Inputs and targets of all ranks together."""
    generator = torch.Generator().manual_seed(number)
    return (
        torch.randn(BATCH, 6, generator=generator).double(),
        torch.randn(BATCH, 4, generator=generator).double(),
    )


def train(model, mosaic, part=slice(None)):
    """Train on a part of each batch; return the last projection."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    mosaic.follow(optimizer)
    for epoch in range(EPOCHS):
        for number in range(STEPS):
            inputs, targets = (one[part] for one in batch(STEPS * epoch + number))
            optimizer.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            optimizer.step()
            mosaic.step()
        last = mosaic.epoch()
    return last or mosaic.applied.parts[0].projection


def weights(model):
    return [weight.detach().clone() for weight in model.parameters()]


def trained(rank, wrap_first, settings=SETTINGS):
    """The seed is rank 0's: the other rank asks for another."""
    model = network()
    wrapped = DistributedDataParallel(model)
    mosaic = MoMos(wrapped if wrap_first else model, **settings, seed=rank)
    size = BATCH // NUM_RANKS
    last = train(wrapped, mosaic, slice(rank * size, (rank + 1) * size))
    found = {"motifs": last.motifs, "mosaic": last.mosaic, "weights": weights(model)}
    return found | {"state": mosaic.state_dict()["generators"]["motifs"]}


def error_of(action):
    try:
        action()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def spoiled(value):
    """What this rank's projection says once a weight of rank 1 is another, or (None) frozen."""
    model = network()
    mosaic = MoMos(model, 2, capacity=0.2)
    mosaic.step()
    if distributed.get_rank() == 1:
        model[2].weight.requires_grad_(value is not None)
        with torch.no_grad():
            model[2].weight[1, 2] += value or 0
    return error_of(mosaic.epoch)


def apart(rank):
    """Ranks that train models of their own, from seeds of their own."""
    model = network()
    mosaic = MoMos(model, 2, capacity=0.2, seed=rank, distributed=False)
    for _ in range(1 + rank):  # not even as often
        mosaic.step()
        mosaic.epoch()
    return weights(model)


def sharded():
    """What both of torch's FSDP say."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    second = fully_shard(network())
    late = network()
    mosaic = MoMos(late, 2, capacity=0.2)
    mosaic.step()
    fully_shard(late[2])
    part = network()
    part[0] = fully_shard(part[0])
    part[0].__class__ = nn.Linear  # its weights are sharded all the same
    first = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    return {
        "first": error_of(lambda: MoMos(first, 2, capacity=0.2)),
        "second": error_of(lambda: MoMos(second, 2, capacity=0.2)),
        "late": error_of(mosaic.epoch),
        "part": error_of(lambda: MoMos(part, 2, capacity=0.2)),
    }


def main(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=NUM_RANKS
    )
    found = {
        "trained": trained(rank, wrap_first=True),
        "before": trained(rank, wrap_first=False),
        "quantised": trained(rank, wrap_first=True, settings=SETTINGS | {"bits": 4}),
        "best": trained(rank, wrap_first=True, settings=BEST),
        "differing": spoiled(10.0),
        "failing": spoiled(float("nan")),
        "freezing": spoiled(None),
        "apart": apart(rank),
        "sharded": sharded(),
    }
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
