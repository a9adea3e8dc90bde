"""Is a .momos file smaller than what others make of the same model?

usage: python -m benchmarks.packing PROFILE_ROOT OUT.csv [--other PYTHON] [--seed 0] [--methods ..]

PROFILE_ROOT: a folder where the `digits` profile was run (data/prepared, runs). PYTHON: an
interpreter that has the other codecs (other_codecs.py); without it their rows stay as OUT.csv has
them. OUT has a row per model, method, codec and setting: bytes of the whole model, and accuracy
after decoding, on validation and on test images. Both lossy codecs get a ladder of settings:
nncodec its quantisation parameter; ours motifs at 2 to 8 bits, as they were trained and refitted on
the training images, as stage `pack` does it. Printed is, for each model, the smallest file of each
codec whose accuracy on validation images is at most half a point below that of the model as it was,
and what it reaches on test images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from momos import config, models, packing
from momos.files import atomic, run_folder
from momos.images.dataset import Dataset, load_dataset
from momos.images.inputs import Batches
from momos.packing import levels, lossy
from momos.packing.runs import accuracies
from momos.report.momos.packing import SLACK

METHODS = (
    "baseline",
    "qat8",
    "qat4",
    "momos_s2_c10",
    "momos_s2_c1",
    "momos_s4_c10",
    "momos_s4_c1",
    "momos_s4_c0_5",
)
QPS = tuple(range(-32, -7, 4))
BITS = (8, 7, 6, 5, 4, 3, 2)
ACCURACIES = ("val_accuracy", "test_accuracy")
COMPRESSORS = ("gzip", "lzma", "zstd")
OTHERS = ("nncodec", "zipnn")
OTHER = Path(__file__).with_name("other_codecs.py")


def main(root: Path, out: Path, python: str | None, seed: int, methods: list[str]) -> None:
    dataset, rows = load_dataset(root / "data" / "prepared" / "digits.safetensors"), []
    known = (
        None
        if python
        else pd.read_csv(out)
        .query("codec in @OTHERS and seed == @seed")
        .set_index(["model", "method"])
    )
    for name in ("mlp", "resnet20", "tiny_vit"):
        for method in methods:
            about = run_folder.load_run(root / "runs" / "digits" / name / method / str(seed))
            theirs = None if known is None else known.loc[[(name, method)]].to_dict("records")
            rows += [
                {"model": name, "method": method, "seed": seed} | row
                for row in measured(root, about, dataset, python, theirs)
            ]
            atomic.write_text(out, pd.DataFrame(rows).to_csv(index=False))
            print(name, method, file=sys.stderr)
    print(summary(pd.DataFrame(rows)).to_markdown(index=False))


def measured(
    root: Path, about: dict, dataset: Dataset, python: str | None, theirs: list[dict] | None
) -> Iterator[dict]:
    """A run's rows, one per codec and setting. theirs: the other codecs', where they are known."""
    folder = root / "runs" / "digits" / about["model"] / about["method"] / str(about["seed"])
    model = models.restore(about, run_folder.load_weights(folder, "last"))
    model = config.load_method(about["method"]).deployed(model, arch=about["arch"])
    batches = Batches.of_run(about, 64, torch.device("cpu"))

    def reached(module: nn.Module) -> dict[str, float]:
        return accuracies(module, dataset, batches)

    for row in levels.ordinary(model, reached, COMPRESSORS):
        yield described(row["coding"], "", row)
    yield from others(model, about, reached, python) if theirs is None else theirs
    block_size, slicing = about["block_size"] or 2, "tensor"
    for row in levels.lossless(model, reached, block_size=block_size, slicing=slicing):
        yield described("momos", row["coding"], row)
    if about["block_size"]:
        yield from ladder(
            model, about, dataset, batches, reached, block_size=block_size, slicing=slicing
        )


def described(codec: str, setting: str, row: dict) -> dict:
    """A row of OUT from one of `levels`."""
    reached = {name: row[name] for name in ACCURACIES}
    return {"codec": codec, "setting": setting, "bytes": row["file_bytes"]} | reached


def others(model, about: dict, reached, python: str | None) -> Iterator[dict]:
    if python is None:
        raise ValueError("the other codecs need an interpreter that has them: --other PYTHON")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        atomic.save_tensors(path, model.state_dict())
        done = subprocess.run(
            [python, str(OTHER), str(path), folder, *map(str, QPS)],
            capture_output=True,
            text=True,
            cwd=folder,
        )
        if done.returncode:
            raise RuntimeError(f"{python} {OTHER.name}: {done.stderr.strip().splitlines()[-1]}")
        for row in map(
            json.loads, filter(lambda line: line.startswith("{"), done.stdout.splitlines())
        ):
            decoded = Path(folder) / f"{row['codec']}_{row['setting']}.safetensors"
            module = (
                models.restore(about, atomic.load_tensors(decoded)) if decoded.exists() else model
            )
            yield row | reached(module)


def ladder(
    model, about: dict, dataset, batches, reached, *, block_size: int, slicing: str
) -> Iterator[dict]:
    settings, augmentation = config.load(config.Pack), config.load(config.Augment)
    start = lossy.mosaic_of(model, block_size, slicing)
    again = lossy.training_batches(
        dataset, batches, augmentation, epochs=settings.refit_epochs, seed=about["seed"]
    )
    refitted = lossy.refitted(model, start, slicing, again, lr=settings.refit_lr)
    for name, mosaic in (("motifs", start), ("refitted", refitted)):
        for bits in BITS:
            lossy.put_(model, lossy.quantised(mosaic, bits), slicing)
            row = levels.measure_file(
                f"{name}{bits}",
                model,
                reached,
                level="entropy",
                block_size=block_size,
                slicing=slicing,
            )
            yield described("momos", row["coding"], row)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per model: file sizes in kB, test accuracies in percent, and ours over nncodec's.

    Of a lossy codec it is the smallest file that is within SLACK of the model's own accuracy on
    validation images.
    """
    rows = []
    for (model, method), part in frame.groupby(["model", "method"], sort=False):
        own = part[part.codec == "safetensors"].iloc[0]
        row = {"model": model, "method": method, "accuracy": 100 * own.test_accuracy}
        for codec in ("lzma", "zipnn"):
            row[codec] = part[part.codec == codec].bytes.iloc[0] / 1000
        row["momos, lossless"] = part[part.setting == packing.LEVELS[1]].bytes.iloc[0] / 1000
        good = part[part.val_accuracy >= own.val_accuracy - SLACK]
        for codec in ("nncodec", "momos"):
            mine = good[good.codec == codec].sort_values("bytes")
            best = (None, "", None)
            if len(mine):
                chosen = mine.iloc[0]
                best = (chosen.bytes / 1000, chosen.setting, 100 * chosen.test_accuracy)
            row |= dict(zip((codec, f"{codec} at", f"{codec} accuracy"), best, strict=True))
        rows.append(
            row | {"ratio": None if row["nncodec"] is None else row["momos"] / row["nncodec"]}
        )
    return pd.DataFrame(rows).round(2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--other", help="an interpreter that has the other codecs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    main(arguments.root, arguments.out, arguments.other, arguments.seed, arguments.methods)
