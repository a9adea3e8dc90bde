"""What the weights of a language model's checkpoints say by themselves (method B4)."""

from collections.abc import Sequence
from pathlib import Path

import torch

from momos.complexity.checkpoints import measure, of_untrained, untrained_seeds
from momos.config import Rivals
from momos.language import steps


def measure_steps(
    folder: Path, chosen_steps: Sequence[int], settings: Rivals, *, device: torch.device
) -> list[dict[str, float]]:
    """Measure the model at each step: a row per step with the columns of `checkpoints`.

    folder: of the model's training, see `momos.language.steps`. device: where singular values are
    computed. Raises ValueError for weights that are not finite or have no complete block.
    """
    fresh = (
        steps.untrained(folder, chosen_steps[0], seed=seed) for seed in untrained_seeds(settings)
    )
    untrained = of_untrained(fresh, settings.bit_depth)
    return [
        {"step": step} | measure(steps.load(folder, step, device=device), untrained, settings)
        for step in chosen_steps
    ]
