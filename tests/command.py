"""The `momos` command in tests: a small MLP's weights, and what the command says of them."""

import json

import torch
from foreign import saved

from momos import cli, models

KWARGS = {"hidden_layers": 1, "width": 20}
ARCH = [
    "--arch",
    "mlp",
    "--num-classes",
    "7",
    "--in-channels",
    "1",
    "--image-size",
    "4",
    "--arch-kwargs",
    json.dumps(KWARGS),
]
__all__ = ["ARCH", "KWARGS", "measured", "ran", "refused", "saved", "state"]


def state(seed: int) -> dict[str, torch.Tensor]:
    return models.build(
        "mlp", 7, seed=seed, in_channels=1, image_size=4, kwargs=KWARGS
    ).state_dict()


def ran(capsys, *arguments) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def measured(capsys, *arguments) -> dict:
    assert cli.main(["measure", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments) -> str:
    """The one line on stderr; nothing is printed on stdout."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("momos: ") and err.count("\n") == 1
    return err
