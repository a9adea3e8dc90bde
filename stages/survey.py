"""Stage `survey`: complexity of models from elsewhere, trained against initial (Figure 2).

usage: survey.py OUT.csv COST.json SCRATCH_DIR
"""

import shutil
import sys
from pathlib import Path

import pandas as pd
import torch

from momos import config
from momos.files import atomic
from momos.survey import candidates as models
from momos.survey.run import (
    FinishedRows,
    require_enough,
    rows_version,
    run_survey,
    table_columns,
)


def main(out: Path, cost: Path, scratch_dir: Path) -> None:
    settings = config.load(config.Survey)
    torch.set_num_threads(1)
    downloads = scratch_dir / "weights"
    shutil.rmtree(downloads, ignore_errors=True)  # of a survey that was killed
    candidates = models.chosen(settings)
    needed = models.need(
        candidates, keep_weights=settings.keep_weights, num_workers=settings.num_workers
    )
    print(f"survey: {len(candidates)} models, {needed}", file=sys.stderr, flush=True)
    models.require_disk(needed, downloads)

    row_settings = models.RowSettings(
        settings.init_seeds, settings.compressors, settings.seed, settings.keep_weights, downloads
    )
    finished = FinishedRows(scratch_dir / "survey.jsonl", rows_version(row_settings))
    measured = run_survey(candidates, row_settings, finished, num_workers=settings.num_workers)
    rows = [model.row for model in measured]
    require_enough(rows, settings.min_models)
    table = pd.DataFrame(rows, columns=table_columns(settings.compressors), dtype=object)
    atomic.write_text(out, table.to_csv(index=False))
    atomic.write_json(cost, {"models": [model.cost for model in measured]})
    finished.remove()
    shutil.rmtree(downloads, ignore_errors=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
