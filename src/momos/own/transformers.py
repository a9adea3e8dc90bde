"""MoMos as a callback of Hugging Face's Trainer (the packages `transformers` and `accelerate`)."""

from base64 import b64decode, b64encode
from io import BytesIO
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from momos.own.loop import MoMos


class MoMosCallback(TrainerCallback, ExportableState):
    """Projects weights after each epoch, before the Trainer evaluates; checkpoints keep its state.

    settings: of `momos.MoMos`, which `mosaic` then is; epochs and optimizer are the Trainer's."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def on_train_begin(self, args: Any, state: Any, control: Any, **about: Any) -> None:
        self.mosaic = MoMos(about["model"], **{"epochs": state.num_train_epochs, **self.settings})
        self.mosaic.follow(about["optimizer"])
        if state.global_step:  # goes on from a checkpoint
            saved = b64decode(state.stateful_callbacks["MoMosCallback"]["attributes"]["saved"])
            self.mosaic.load_state_dict(torch.load(BytesIO(saved), weights_only=True))
            if float(state.epoch).is_integer():  # that was saved after an epoch's last step
                self.mosaic.epoch()

    def on_step_end(self, *about: Any, **more: Any) -> None:
        self.mosaic.step()

    def on_epoch_end(self, *about: Any, **more: Any) -> None:
        self.mosaic.epoch()

    def state(self) -> dict[str, Any]:
        torch.save(self.mosaic.state_dict() if hasattr(self, "mosaic") else None, file := BytesIO())
        return {"args": self.settings, "attributes": {"saved": b64encode(file.getvalue()).decode()}}
