"""The processes that train one model together: rank 0's draws are everybody's, and all agree."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, distributed, nn

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes: a weight's bits as a number
CHUNK = 2**20  # weights that are digested at a time


class Ranks:
    """The ranks of torch.distributed; a single one where nothing is distributed.

    model: where it is wrapped in DistributedDataParallel, its process group is taken, else all
    ranks. together: False for ranks that train models of their own.
    """

    def __init__(self, model: nn.Module, *, together: bool) -> None:
        self.group = getattr(model, "process_group", None)
        self.together = together

    @property
    def are_several(self) -> bool:
        started = distributed.is_available() and distributed.is_initialized()
        return self.together and started and distributed.get_world_size(self.group) > 1

    @property
    def is_first(self) -> bool:
        return not self.are_several or distributed.get_rank(self.group) == 0

    def follow_first(self, generators: Mapping[str, torch.Generator], at: torch.device) -> None:
        """Set every rank's generators to rank 0's states. at: the device of the weights."""
        for name in sorted(generators) if self.are_several else ():
            state = generators[name].get_state().to(at)
            distributed.broadcast(state, group=self.group, group_src=0)
            generators[name].set_state(state.cpu())

    def require_agreement(
        self, weights: Sequence[Tensor] | None, *, at: torch.device, when: str
    ) -> None:
        """Raises RuntimeError on every rank if weights differ in a bit, or if some rank failed.

        weights: None of the rank that failed. It has an error of its own to raise: for it nothing
        is raised here. at: the device of the weights.
        """
        if not self.are_several:
            return
        failed = weights is None
        own = digest(weights or ()).to(at)
        halves = torch.stack([own & 0xFFFFFFFF, own >> 32])  # whose negatives are numbers, too
        ends = torch.cat([halves, -halves, torch.full_like(halves, failed)])
        distributed.all_reduce(ends, distributed.ReduceOp.MAX, group=self.group)
        largest, smallest, (any_failed, _) = ends.view(3, 2).cpu()
        if not failed and (any_failed or not torch.equal(largest, -smallest)):
            what = "another rank failed" if any_failed else "ranks hold different weights"
            ask = "is the model in DistributedDataParallel, and do all ranks call step and epoch?"
            raise RuntimeError(f"{what} {when} ({ask})")


@torch.no_grad()
def digest(weights: Iterable[Tensor]) -> Tensor:
    """Return a number of 64 bits, (), int64, that a change of a weight's bits changes.

    It sums the weights as whole numbers, each times an odd number of its place, modulo 2^64.
    """
    total = torch.zeros((), dtype=torch.int64)
    for weight in weights:
        flat = weight.detach().contiguous().view(-1)
        for part in flat.view(INTEGERS[weight.element_size()]).split(CHUNK):
            places = 2 * torch.arange(len(part), device=part.device) + 1
            total = total.to(part.device) * 31 + (part.long() * places).sum()
    return total
