"""How a training is done: everything but the network, the images and the seed."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from momos import config
from momos.images.inputs import Batches
from momos.methods.method import Method


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One configuration of the study (MoMos, Sec. 4; method A9)."""

    model: config.Model  # architecture and optimiser
    loop: config.Train  # epochs, batches, precision
    augmentation: config.Augment
    method: Method
    batches: Batches  # how images become the network's input

    def describe(self) -> dict[str, Any]:
        """What run.json says of how the training is done."""
        optimizer = ("optimizer", "lr", "momentum", "weight_decay")
        about: dict[str, Any] = {key: getattr(self.model, key) for key in optimizer}
        about |= {"mean": list(self.batches.mean), "std": list(self.batches.std)}
        about |= asdict(self.augmentation) | asdict(self.loop)
        del about["checkpoint_seconds"]  # no result depends on it
        if not about["keep"]:  # as before there was such a key
            del about["keep"]
        if self.model.random_labels:
            about["random_labels"] = True
        return about | {"device": self.batches.device.type, "torch": torch.__version__}
