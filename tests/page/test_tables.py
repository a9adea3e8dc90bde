"""The order of what the page's tables show."""

from momos.page.report_folder import with_decisions
from momos.page.tables import num_seeds, packing_measures


def test_ordinary_files_come_first_and_lossy_levels_last_whatever_the_compressor():
    names = [
        "safetensors_bytes", "gzip_bytes", "quick_bytes", "fixed_bytes", "entropy_bytes",
        "bound_bytes", "rac_measured", "motifs8_bytes", "motifs8_accuracy", "pruned_bytes",
        "pruned_accuracy",
    ]  # fmt: skip
    cells = [{"table": "packing", "measure": name} for name in names]
    lossless, lossy = packing_measures({"cells": [*cells, {"table": "table1", "measure": "rac"}]})
    assert [*lossless, *lossy] == [
        "safetensors_bytes", "gzip_bytes", "quick_bytes", "bound_bytes", "fixed_bytes",
        "entropy_bytes", "motifs8_bytes", "motifs8_accuracy", "pruned_bytes", "pruned_accuracy",
    ]  # fmt: skip
    assert lossy[0] == "motifs8_bytes" and lossless[-1] == "entropy_bytes"


def test_a_report_that_was_written_before_verdicts_were_decided_is_shown_as_such():
    old = {"claims": [{"id": "M1", "verdict": "SUPPORTED"}], "counts": {"claims": {"SUPPORTED": 1}}}
    shown = with_decisions(old)
    assert shown["claims"] == [old["claims"][0] | {"decided": "", "interval": "", "also": ""}]
    assert shown["findings"][0].startswith("Verdicts: 1 SUPPORTED. This report does not say")
    assert (shown["counts"]["decided"], shown["counts"]["apart"]) == ({}, {})
    assert "decided" not in old["claims"][0] and with_decisions(shown) is shown


def test_the_numbers_of_seeds_are_those_of_the_cells_that_were_run():
    cells = [{"table": "table1", "num_seeds": number} for number in (0, 3, 5, 3)]
    assert num_seeds({"cells": [*cells, {"table": "packing", "num_seeds": 1}]}) == [3, 5]
    assert num_seeds({"cells": cells[:1]}) == [0, 0]
