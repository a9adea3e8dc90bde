"""Stage `survey`: complexity of trained against initial weights of models from elsewhere, a row a
model (Figure 2).

usage: survey.py OUT.csv COST.json SCRATCH_DIR
"""

import shutil
import sys
from pathlib import Path

import pandas as pd
import torch

from momos import config
from momos.files import atomic
from momos.survey import candidates as zoo
from momos.survey import run as survey


def main(out: Path, cost: Path, scratch_dir: Path) -> None:
    settings = config.load(config.Survey)
    torch.set_num_threads(1)
    weights = scratch_dir / "weights"
    shutil.rmtree(weights, ignore_errors=True)  # of a survey that was killed
    candidates = chosen(settings)
    needed = zoo.need(
        candidates, keep_weights=settings.keep_weights, num_workers=settings.num_workers
    )
    print(f"survey: {len(candidates)} models, {needed}", file=sys.stderr, flush=True)
    zoo.require_disk(needed, weights)

    how = zoo.How(
        settings.init_seeds, settings.compressors, settings.seed, settings.keep_weights, weights
    )
    scratch = survey.Scratch(scratch_dir / "survey.jsonl", survey.version(how))
    records = survey.run(candidates, how, scratch, num_workers=settings.num_workers)
    rows = [record.row for record in records]
    require_enough(rows, settings.min_models)
    table = pd.DataFrame(rows, columns=survey.columns(settings.compressors), dtype=object)
    atomic.write_text(out, table.to_csv(index=False))
    atomic.write_json(cost, {"models": [record.cost for record in records]})
    scratch.remove()


def chosen(settings: config.Survey) -> list[zoo.Candidate]:
    """The control, then the draw."""
    lists = {
        "timm": lambda _: zoo.pretrained(),
        "folder": zoo.in_folder,
        "manifest": zoo.in_manifest,
        "none": lambda _: [],
    }
    found = lists[settings.source](Path(settings.path or "."))
    drawn = zoo.draw(
        found, settings.num_models, max_parameters=settings.max_parameters, seed=settings.seed
    )
    return [*zoo.untrained(settings.untrained), *drawn]


def require_enough(rows: list[dict], min_models: int) -> None:
    """Raises SystemExit otherwise; what was measured stays in the scratch file."""
    failed = [row for row in rows if row["error"]]
    reasons = "".join(f"\n  {row['name']}: {row['error']}" for row in failed)
    if any(row["source"] == zoo.CONTROL for row in failed):
        raise SystemExit(f"survey: the untrained control failed:{reasons}")
    measured = sum(not row["error"] and row["source"] != zoo.CONTROL for row in rows)
    if measured < min_models:
        raise SystemExit(f"survey: {measured} models were measured, survey.min_models asks for {min_models}. "
                         f"Run it again to try the rest once more.{reasons}")  # fmt: skip


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
