"""Bytes on disk as the report shows them, against rows written down by hand."""

import numpy as np
import pandas as pd
import pytest
from synthetic import described

from momos.methods.method import parse
from momos.report.momos import packing as packing_tables
from momos.report.shared import tables


def packing() -> pd.DataFrame:
    """Two seeds of two methods; compressors and lossy levels of seed 0 alone."""
    common = {
        "model": "mlp",
        "num_weights": 1000,
        "bits": 32,
        "bound_bytes": 2000.0,
        "stored_bytes": np.nan,
    }
    rows = []
    for method, size in (("baseline", np.nan), ("momos_s4_c10", 4)):
        for seed in (0, 1):
            run = common | {
                "method": method,
                "seed": seed,
                "block_size": size,
                "capacity": 0.1 if size == 4 else np.nan,
            }
            codings = {"safetensors": 4200, "fixed": 2100, "entropy": 1500 + 500 * seed} | (
                {"zstd": 3000} if seed == 0 else {}
            )
            codings |= {"motifs4": 900, "combined": 800} if seed == 0 and size == 4 else {}
            for name, num_bytes in codings.items():
                row = run | {"coding": name, "file_bytes": num_bytes}
                row["test_accuracy"] = 0.5 + 0.1 * seed - 0.2 * (name == "motifs4")
                row["val_accuracy"] = 0.6 - 0.004 * (name == "motifs4") - 0.1 * (name == "combined")
                rows.append(row)
                if name in ("fixed", "entropy"):
                    row["stored_bytes"] = num_bytes - 100
    return described(pd.DataFrame(rows))


def test_rac_on_disk_is_of_the_weights_alone():
    keys = (
        ("momos_s4_c10", 0, "deployed"),
        ("momos_s4_c10", 1, "deployed"),
        ("momos_s4_c10", 0, "latent"),
    )
    rows = [
        {"model": "mlp", "method": method, "seed": seed, "weights": view}
        for method, seed, view in keys
    ]
    found = packing_tables.with_measured_rac(pd.DataFrame(rows), packing()).rac_measured
    assert found[:2].tolist() == pytest.approx([4000 / 1400, 4000 / 1900]) and np.isnan(found[2])


def test_tables_have_means_over_the_seeds_that_were_packed_so():
    rows = packing_tables.lossless_table(packing())
    assert list(rows.columns) == [
        "Model",
        "Method",
        "safetensors",
        "zstd",
        "Bound (Eq. 8)",
        ".momos, fixed",
        ".momos, entropy",
    ]
    assert rows.iloc[1].tolist() == ["MLP", "MoMos s=4, C=10 %", "4.2", "3.0", "2.0", "2.1", "1.8"]
    shown = packing_tables.lossy_table(packing())
    assert shown.to_numpy().tolist() == [
        ["MLP", "MoMos s=4, C=10 %", "1.5 (50.00)", "0.9 (30.00)", "0.8 (50.00)"]
        + ["Motifs at 4 bits"]
    ]
    assert list(shown.columns)[2:] == [".momos, entropy", "Motifs at 4 bits", "All three"] + [
        packing_tables.CHOSEN
    ]
    assert "0.9 (30.00)" in tables.markdown(shown)
    assert packing_tables.lossy_table(packing()[packing().method == "baseline"]) is None


@pytest.mark.parametrize(
    ("validation", "chosen"),
    [
        ({"entropy": 0.6, "motifs4": 0.6, "combined": 0.6}, "All three"),
        ({"entropy": 0.6, "motifs4": 0.596, "combined": 0.594}, "Motifs at 4 bits"),
        ({"entropy": 0.6, "motifs4": 0.5, "combined": 0.59}, ".momos, entropy"),
        ({}, tables.EMPTY),
    ],
)
def test_a_lossy_level_is_chosen_on_validation_images(validation, chosen):
    """What levels reach on test images chooses none of them."""
    rows = packing()
    for test_accuracy in (rows.test_accuracy, 1 - rows.test_accuracy):
        by_validation = rows.assign(
            val_accuracy=rows.coding.map(validation), test_accuracy=test_accuracy
        )
        assert packing_tables.lossy_table(by_validation)[packing_tables.CHOSEN].tolist() == [chosen]
    shown = packing_tables.lossy_table(rows.drop(columns="val_accuracy"))
    assert shown[packing_tables.CHOSEN].tolist() == [tables.EMPTY]


def test_any_compressor_has_a_column_and_a_number():
    """One that no list of the report names, beside the safetensors file and never a lossy level."""
    rows = packing().replace({"coding": {"zstd": "quick"}})
    assert list(packing_tables.lossless_table(rows).columns)[2:4] == ["safetensors", "quick"]
    assert "quick" not in packing_tables.lossy_codings(rows)
    found = {measure for _, _, measure, *_ in packing_tables.measures(rows)}
    assert "quick_bytes" in found and "quick_accuracy" not in found


def test_the_figure_has_entropy_coded_files_and_the_last_lossy_level():
    methods = {
        "baseline": parse({"bits": 32}, "baseline"),
        "momos_s4_c10": parse({"bits": 32, "block_size": 4, "capacity": 0.1}, "momos_s4_c10"),
    }
    points = packing_tables.accuracy_points(packing(), methods)
    assert points.series.tolist() == ["Baseline", "MoMos s=4", packing_tables.LOSSY_SERIES]
    assert points.kilobytes.tolist() == [
        1.75,
        1.75,
        0.8,
    ] and points.accuracy.tolist() == pytest.approx([55, 55, 50])


def test_numbers_name_their_seeds():
    found = {
        (method, name): (values, seeds)
        for _, method, name, _, values, seeds in packing_tables.measures(packing())
    }
    assert found["momos_s4_c10", "motifs4_accuracy"] == ([pytest.approx(30)], [0])
    assert found["baseline", "zstd_bytes"] == ([3000], [0]) and found[
        "baseline", "entropy_bytes"
    ] == ([1500, 2000], [0, 1])
    assert found["momos_s4_c10", "rac_measured"][0] == pytest.approx([4000 / 1400, 4000 / 1900])
    assert ("baseline", "entropy_accuracy") not in found
