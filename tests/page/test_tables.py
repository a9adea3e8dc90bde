"""The order of what the page's tables show."""

from momos.page.tables import packing_measures


def test_ordinary_files_come_first_and_lossy_levels_last_whatever_the_compressor():
    names = [
        "safetensors_bytes", "gzip_bytes", "quick_bytes", "fixed_bytes", "entropy_bytes",
        "bound_bytes", "rac_measured", "motifs8_bytes", "motifs8_accuracy", "pruned_bytes",
        "pruned_accuracy",
    ]  # fmt: skip
    cells = [{"table": "packing", "measure": name} for name in names]
    assert packing_measures({"cells": [*cells, {"table": "table1", "measure": "rac"}]}) == [
        "safetensors_bytes", "gzip_bytes", "quick_bytes", "bound_bytes", "fixed_bytes",
        "entropy_bytes", "motifs8_bytes", "motifs8_accuracy", "pruned_bytes", "pruned_accuracy",
    ]  # fmt: skip
