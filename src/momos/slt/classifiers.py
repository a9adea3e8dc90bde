"""Critical n_q and LLC of image classifiers, beside the first paper's measures (method B4)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momos import config, models
from momos.compute.seeds import generator_for
from momos.files import run_folder
from momos.images.dataset import Dataset
from momos.images.inputs import Batches, with_random_labels
from momos.methods.method import Method
from momos.slt.compressibility import own_n_q, schemes
from momos.slt.llc.rows import Keep, Target, llc_rows, spectrum_of

Batch = tuple[Tensor, Tensor]  # network inputs (n, C, H, W) float32, labels (n,) int64


def classifier_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross entropy in nats."""
    return F.cross_entropy(model(batch[0]), batch[1])


def measure_classifier(
    folder: Path,
    method: Method,
    dataset: Dataset,
    settings: config.Complexity,
    search: config.Compressibility,
    eps: list[float],
    device: torch.device,
    keep: Keep,
    which: str = "last",
) -> dict[str, Any]:
    """Measure a run's weights as deployed, on training images as validation has them.

    folder: the run's. eps: tolerances in nats. keep: as `estimate_llc` takes it. which: of the
    run's weights, see `momos.files.run_folder`. Returns columns of the LLC's row,
    critical_n_q_eps<eps> and critical_status_eps<eps>. own_n_q is the grid on which quantised
    weights lie already, which the scan's grid may pass over: critical_n_q_own_eps<eps> is it where
    it is smaller.
    """
    model = deployed(folder, method, which, device)
    batches = _batches_of_run(folder, dataset, settings, device)
    critical = _critical_columns(model, batches, settings, search, eps)
    seed = run_folder.load_run(folder)["seed"]
    target = Target(model, classifier_loss, batches[: settings.num_batches], seed)
    estimate = llc_rows(
        target,
        settings,
        lr=settings.lr,
        num_draws=settings.num_draws,
        spectrum=spectrum_of(target, settings, keep),
        keep=keep,
    )
    row = {name: value for name, value in estimate["row"].items() if name != "num_weights"}
    return row | critical


def measure_quantisability(
    folder: Path,
    method: Method,
    dataset: Dataset,
    settings: config.Complexity,
    search: config.Compressibility,
    eps: list[float],
    device: torch.device,
) -> dict[str, Any]:
    """Measure how far a run's last weights can be quantised: `measure_classifier` without the LLC.

    It takes seconds, so that many runs can be asked.
    """
    model = deployed(folder, method, "last", device)
    batches = _batches_of_run(folder, dataset, settings, device)
    return _critical_columns(model, batches, settings, search, eps)


def _batches_of_run(
    folder: Path, dataset: Dataset, settings: config.Complexity, device: torch.device
) -> list[Batch]:
    """Training images with the labels that the run was trained on."""
    about = run_folder.load_run(folder)
    labelled = with_random_labels(dataset) if about.get("random_labels") else dataset
    return training_batches(labelled, Batches.of_run(about, settings.batch_size, device), settings)


def _critical_columns(
    model: nn.Module,
    batches: list[Batch],
    settings: config.Complexity,
    search: config.Compressibility,
    eps: list[float],
) -> dict[str, Any]:
    """The columns of `measure_classifier` on quantisation."""
    chosen = batches[: -(-settings.num_images // settings.batch_size)]

    def mean_loss(compressed: nn.Module) -> float:
        return sum(classifier_loss(compressed, batch).item() for batch in chosen) / len(chosen)

    points = schemes.search("quantization", search, seed=0)(model, mean_loss, eps)
    critical: dict[str, Any] = {f"critical_n_q_eps{p.eps:g}": p.value for p in points}
    critical |= {f"critical_status_eps{p.eps:g}": p.status for p in points}
    own = own_n_q(model, search.max_n_q)
    critical["own_n_q"] = own
    for p in points:
        both = [n_q for n_q in (p.value, own) if n_q is not None]
        critical[f"critical_n_q_own_eps{p.eps:g}"] = min(both, default=None)
    return critical


def deployed(folder: Path, method: Method, which: str, device: torch.device) -> nn.Module:
    """Return the run's network with the weights `which` as they are used, in eval mode."""
    about = run_folder.load_run(folder)
    model = models.restore(about, run_folder.load_weights(folder, which))
    return method.deployed(model, arch=about["arch"]).to(device).eval()


def training_batches(dataset: Dataset, inputs: Batches, settings: config.Complexity) -> list[Batch]:
    """Return whole batches of training images in a fixed random order, not augmented.

    Where there are fewer images than complexity.batch_size, all of them are one batch.
    """
    generator = generator_for("complexity", 0)
    order = dataset.train[torch.randperm(len(dataset.train), generator=generator)]
    size = min(inputs.size, len(order))
    wanted = max(settings.num_images, inputs.size * settings.num_batches)
    return [
        (inputs.to_input(dataset.images[part]), dataset.labels[part].to(inputs.device))
        for part in order[:wanted].split(size)
        if len(part) == size
    ]
