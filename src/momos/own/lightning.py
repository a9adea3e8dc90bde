"""MoMos as a callback of Lightning (the package `lightning`)."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from momos.own.loop import MoMos


class MoMosCallback(Callback):
    """Projects weights after each epoch, before Lightning validates; checkpoints keep its state.
    settings: of `momos.MoMos`, which `mosaic` then is; epochs and optimizer are the trainer's."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.mosaic: MoMos

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not (hasattr(self, "mosaic") and self.mosaic.model is pl_module):
            limit = {"epochs": None if trainer.max_epochs == -1 else trainer.max_epochs}
            self.mosaic = MoMos(pl_module, **limit | self.settings)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mosaic.follow(*trainer.optimizers)
        self.seen = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *about: Any, **more: Any) -> None:
        while self.seen < trainer.global_step:  # not each batch is a step
            self.mosaic.step()
            self.seen += 1
        if trainer.is_last_batch:
            self.mosaic.epoch()

    def state_dict(self) -> dict[str, Any]:
        return self.mosaic.state_dict() if hasattr(self, "mosaic") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if hasattr(self, "mosaic"):  # else it is loaded to be tested
            self.mosaic.load_state_dict(state_dict)
