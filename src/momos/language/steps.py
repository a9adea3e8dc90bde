"""Language models saved at steps of their training: a Pythia's revisions, or files of our own.

A folder describes one model's training in run.json. For a model trained here it also holds
history.csv and the weights at each listed step. `load` gives the model at a step as it is measured.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from momos.files import atomic, run_folder
from momos.language.neox import build, center_, fold_

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM

ABOUT = run_folder.RUN


class ModelUnavailable(RuntimeError):
    """A model or a revision of it is neither on the hub nor in its cache."""


def step_file(folder: Path, step: int) -> Path:
    """The weight file of a step."""
    return folder / f"step{step}.safetensors"


def save_step(folder: Path, step: int, model: nn.Module) -> None:
    """Save the weights of a step. Raises OSError naming a file that can't be written."""
    atomic.save_tensors(step_file(folder, step), model.state_dict())


def described_by(folder: Path) -> list[Path]:
    """The small files of the folder that change whenever its models change.

    A Pythia has run.json alone, which holds the commit of each step.
    """
    files = (folder / ABOUT, folder / run_folder.HISTORY)
    return [file for file in files if file.is_file()]


def find_revisions(name: str, steps: Iterable[int]) -> dict[str, str]:
    """The commit of each step's revision; a model that is not in the hub's cache is downloaded.

    Raises ModelUnavailable naming the revision.
    """
    return {str(step): snapshot(name, f"step{step}").name for step in steps}


def snapshot(name: str, revision: str) -> Path:
    """The folder of a revision or commit in the hub's cache, downloaded if it is not there.

    Raises ModelUnavailable naming the revision.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = ["config.json", "*.safetensors*", "pytorch_model*.bin*"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelUnavailable(
            f"{name} at revision {revision} is neither on the hub nor in its cache: {reason}"
        ) from error


def load(folder: Path, step: int, *, device: torch.device | str = "cpu") -> nn.Module:
    """The model at a step as it is measured: in float32 and eval mode, centred and folded.

    run.json says whether it is centred (`center`) and its layer norms are folded (`fold`).
    Raises ValueError for a folder without that step, ModelUnavailable for a Pythia that is gone.
    """
    about = _about(folder, step)
    if about["source"] == "pythia":
        model = _load_pretrained(about["name"], about["revisions"][str(step)])
    else:
        model = _built(about, seed=0)
        model.load_state_dict(atomic.load_tensors(step_file(folder, step)))
    return _as_measured(model, about).to(device)


def untrained(folder: Path, step: int, *, seed: int) -> nn.Module:
    """An untrained model of the shape that `load` gives for a step, as it is measured, on the CPU.

    A Pythia's is drawn as transformers does. Raises what `load` raises.
    """
    about = _about(folder, step)
    if about["source"] == "pythia":
        return _as_measured(_drawn(about["name"], about["revisions"][str(step)], seed), about)
    return _as_measured(_built(about, seed=seed), about)


def _about(folder: Path, step: int) -> dict[str, Any]:
    about: dict[str, Any] = atomic.read_json(folder / ABOUT)
    if step not in about["steps"]:
        raise ValueError(
            f"{folder / ABOUT}: expected step {step} among its steps {about['steps']} "
            "(run `dvc repro`)"
        )
    return about


def _built(about: Mapping[str, Any], *, seed: int) -> "GPTNeoXForCausalLM":
    shape = {"vocabulary": about["vocabulary"], "context": about["context"]}
    return build(about["kwargs"], **shape, seed=seed)


def _as_measured(model: "GPTNeoXForCausalLM", about: Mapping[str, Any]) -> nn.Module:
    if about["center"]:
        center_(model)
    if about["fold"]:
        fold_(model)
    module: nn.Module = model
    return module.eval()


def _drawn(name: str, commit: str, seed: int) -> "GPTNeoXForCausalLM":
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return GPTNeoXForCausalLM(GPTNeoXConfig.from_pretrained(snapshot(name, commit)))


def _load_pretrained(name: str, commit: str) -> "GPTNeoXForCausalLM":
    from transformers import GPTNeoXForCausalLM

    return GPTNeoXForCausalLM.from_pretrained(snapshot(name, commit), dtype=torch.float32)
