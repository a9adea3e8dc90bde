"""What becomes of the motifs while a network trains: phases of a training (method A13).

    motifs: [[redrawn, 0.5], [kmeans, 0.7], [trained, 1.0]]

Each phase is a kind, and the share of the training's epochs at which it ends:

    dense    no mosaic yet; at the end motifs are drawn and moved to the middle of their blocks
    redrawn  motifs are drawn anew at each projection (the paper)
    frozen   motifs stay, blocks find the nearest one anew
    kmeans   motifs move to the middle of their blocks before each projection (Lloyd's algorithm)
    latent   the optimiser moves weights behind the mosaic, whose means are its motifs
    trained  the mosaic stays; the optimiser trains the motifs, so that no projection is needed
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from momos.settings import require

KINDS = ("dense", "redrawn", "frozen", "kmeans", "latent", "trained")
MOVING = ("dense", "kmeans", "latent")  # whose motifs move to the middle of their blocks
REDRAWN = (("redrawn", 1.0),)  # the paper's: one phase
WORDS = {"kmeans": "k-means", "dense": "none at first"}

Schedule = tuple[tuple[Any, ...], ...]  # kind and share of each phase


def check(schedule: Schedule, where: str) -> None:
    """Raises ValueError unless phases are known kinds whose shares rise to 1, trained not first,
    dense not last.
    """
    expected = "a list of [kind, share] with at least one entry"
    is_list = schedule and all(len(phase) == 2 for phase in schedule)
    require(is_list, where, expected, _listed(schedule))
    for place, (kind, share) in enumerate(schedule):
        known = kind in KINDS
        require(known, f"{where}[{place}][0]", f"one of {', '.join(KINDS)}", kind)
        number = isinstance(share, float) and 0 < share <= 1
        require(number, f"{where}[{place}][1]", "a share of the training in (0, 1]", share)
    shares = [share for _, share in schedule]
    rising = all(one < other for one, other in pairwise(shares)) and shares[-1] == 1
    require(rising, where, "phases whose shares rise to 1", _listed(schedule))
    ended = schedule[-1][0] != "dense"
    require(ended, where, "ended by another kind than dense, which has no mosaic", schedule[-1])
    begun = schedule[0][0] != "trained"
    require(begun, where, "begun by another kind than trained, which needs a mosaic", schedule[0])


def kind_at(schedule: Schedule, epoch: int, epochs: int | None) -> str:
    """Return the kind of an epoch, counted from 1; after the last of `epochs`, the last kind.

    epochs: of the whole training; None is enough for a schedule of one phase.
    """
    if epochs is None or epoch > epochs:
        return schedule[-1][0]
    return next(kind for kind, share in schedule if round(share * epochs) >= epoch)


def check_epochs(schedule: Schedule, epochs: int | None) -> None:
    """Raises ValueError for phases that a training of so many epochs can't have."""
    if len(schedule) > 1:
        text = f"given: motifs are {_listed(schedule)}, shares of all epochs"
        require(epochs is not None, "epochs", text, epochs)
    begun = kind_at(schedule, 1, epochs) != "trained"
    text = f"so that an epoch comes before trained motifs, of {epochs} in all"
    require(begun, "motifs", text, _listed(schedule))


def words(schedule: Schedule) -> str:
    """Name the kinds to a reader, each once: motifs redrawn, k-means, trained."""
    kinds = dict.fromkeys(str(kind) for kind, _ in schedule)
    return f"motifs {', '.join(WORDS.get(kind, kind) for kind in kinds)}"


def _listed(schedule: Sequence[Any]) -> list[Any]:
    return [list(phase) for phase in schedule]
