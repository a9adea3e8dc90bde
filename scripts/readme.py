"""Write the numbers into README.md and docs/performance.md: what stands between `<!-- numbers: NAME
-->` and `<!-- end -->`.

usage: readme.py [--check]

They come from reports/expected/<profile>.json (the blessed copy of results.json) and from
benchmarks/. --check: exit status 1, and nothing written, if a page says something else.
"""

import math
import re
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks
from benchmarks.__main__ import cost
from momos.files import atomic
from momos.report.shared import claims, results, tables

PAGES = (Path("README.md"), Path("docs/performance.md"))
BLOCK = re.compile(r"(?P<start><!-- numbers: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.S)
PROFILE = "digits"  # what the README shows
SHOWN = ("baseline", "qat8", "qat4", "momos_s2_c10", "momos_s2_c1", "momos_s4_c10", "momos_s4_c1")
MEASURES = ("test_accuracy_last", "rac", "bdm_1d_ratio", "bdm_1d_ratio_latent")
COLOURS = {
    claims.SUPPORTED: "2e7d32",
    claims.NOT_SUPPORTED: "b71c1c",
    claims.NOT_RUN: "757575",
    claims.NOT_COMPARABLE: "757575",
}
SPEED = {  # a job of benchmarks/results.json -> what it is
    "augmentation_32px": "the training augmentation, images of 32 pixels",
    "augmentation_224px": "the same, 224 pixels",
    "train_mlp_float32": "training epoch, MLP, float32",
    "train_mlp_bf16": "training epoch, MLP, bf16",
    "train_resnet20_float32": "training epoch, ResNet20, float32",
    "train_resnet20_bf16": "training epoch, ResNet20, bf16",
    "projection_resnet20_s2_c10": "projection of ResNet20, blocks of 2, 10 % capacity",
    "projection_resnet20_s4_c10": "the same, blocks of 4",
    "assign_large_s2": "nearest of 270 k motifs for 2.7 M blocks, against scipy's k-d tree",
    "bdm_1M": "BDM of 1 M bits, against pybdm",
    "bdm_10M": "the same, 10 M bits",
    "bdm_100M": "the same, 100 M bits",
}


def expected(profile: str) -> dict:
    return atomic.read_json(Path("reports") / "expected" / f"{profile}.json")


def badges() -> str:
    """Pictures that say the same in their alt texts."""
    counts = pd.Series(expected(PROFILE)["claims"]).value_counts()
    shown = [
        ("claims on embedded data", f"{counts.get(name, 0)} {name.lower()}", COLOURS[name])
        for name in claims.VERDICTS[:2]
    ]
    shown += [("python", "3.11+", "1565c0"), ("licence", "MIT", "1565c0")]
    escaped = [
        tuple(part.replace("-", "--").replace(" ", "_").replace("+", "%2B") for part in badge)
        for badge in shown
    ]
    pairs = zip(shown, escaped, strict=True)
    return " ".join(
        f"![{name}: {text}](https://img.shields.io/badge/{'-'.join(badge)})"
        for (name, text, _), badge in pairs
    )


def verdicts() -> str:
    """How many claims have which verdict, profile by profile."""
    rows = []
    for path in sorted(Path("reports/expected").glob("*.json")):
        found = pd.Series(expected(path.stem)["claims"])
        counts = {name: str((found == name).sum()) for name in claims.VERDICTS}
        rows.append({"Profile": f"[{path.stem}](reports/{path.stem}/claims.md)"} | counts)
    return tables.markdown(pd.DataFrame(rows))


def accuracies() -> str:
    """Accuracy and RAC of a few methods, as `results.json` has them."""
    cells = expected(PROFILE)["cells"]
    models = dict.fromkeys(name.split("/")[1] for name in cells if name.startswith("table1/"))
    rows = []
    for method in SHOWN:
        row = {"Method": method}
        for model in models:
            accuracy, rac = (
                cells[f"table1/{model}/{method}/{measure}"]
                for measure in ("test_accuracy_last", "rac")
            )
            row[results.TITLES[model]] = (
                f"{tables.spread(accuracy['value'], accuracy['std'])} % at {rac['value']:.1f}"
            )
        rows.append(row)
    return tables.markdown(pd.DataFrame(rows))


def column(profile: str, model: str) -> str:
    """A column of Table 1 that ran on CIFAR-10, beside the published one."""
    document = atomic.read_json(Path("reports") / profile / "results.json")
    cells = {cell["id"]: cell for cell in document["cells"]}
    rows = []
    for method, about in document["names"]["methods"].items():
        mine = {measure: cells.get(f"table1/{model}/{method}/{measure}") for measure in MEASURES}
        accuracy, rac, bdm = (
            mine["test_accuracy_last"],
            mine["rac"],
            mine["bdm_1d_ratio_latent"] or mine["bdm_1d_ratio"],
        )  # as published
        row = {
            results.TITLES[model]: about["label"],
            "Seeds": tables.EMPTY,
            "Accuracy (%)": claims.NOT_RUN,
        }
        row |= {
            "Published": tables.spread(accuracy["published"], accuracy["published_std"]),
            "BDM ratio": tables.EMPTY,
        }
        row |= {
            "Published BDM": tables.number(bdm["published"], 2),
            "RAC (Eq. 21)": tables.EMPTY,
            "RAC (bytes)": tables.EMPTY,
        }
        if accuracy["value"] is not None:
            std = math.nan if accuracy["std"] is None else accuracy["std"]
            row |= {
                "Seeds": str(accuracy["num_seeds"]),
                "Accuracy (%)": tables.spread(accuracy["value"], std),
            }
            row |= {
                "BDM ratio": tables.number(bdm["value"], 2),
                "RAC (Eq. 21)": tables.number(rac["value"], 1),
            }
            row |= {
                "RAC (bytes)": tables.number(
                    cells[f"packing/{model}/{method}/rac_measured"]["value"], 1
                )
            }
        rows.append(row)
    return tables.markdown(pd.DataFrame(rows))


def rac() -> str:
    cells = [
        cell for name, cell in expected(PROFILE)["cells"].items() if name.startswith("rac_check/")
    ]
    agree = sum(cell["status"] == "PASS" for cell in cells)
    return f"{agree} of the {len(cells)} published RAC values follow from the paper's Eq. 21."


def speed() -> str:
    """Every job that SPEED names."""
    jobs = benchmark()["jobs"]
    return _jobs({words: jobs[name] for name, words in SPEED.items()})


def jobs() -> str:
    """Every job."""
    return _jobs({name.replace("_", " "): job for name, job in benchmark()["jobs"].items()})


def machine() -> str:
    """Where the benchmark ran, and what one of its cores does at most."""
    found, peaks = benchmark()["machine"], benchmark()["peaks"]
    return (
        f"Measured on {found['cpu']} ({found['cores']} cores), one thread: at most {peaks['float32_gflops']:.0f} GFLOP/s in float32, "
        f"{peaks['bf16_gflops']:.0f} in bf16, {peaks['memory_gb_per_second']:.1f} GB/s of copying."
    )


def survey() -> str:
    """What the survey of profile cifar10 costs."""
    found = atomic.read_json(Path("benchmarks") / "survey.json")
    whole = found["cifar10"]
    return (
        f"Measured on one core of {found['machine']['cpu']}: {found['seconds_per_million']:.1f} CPU seconds a million weights. The "
        f"{whole['num_models']} models of `cifar10` have {whole['num_weights'] / 1e6:,.0f} million: {whole['download'] / 1e9:.0f} GB to "
        f"download, at most {whole['disk'] / 1e9:.1f} GB of disk at a time, and {whole['hours']:.1f} hours of one core or "
        f"{whole['hours'] / 2:.1f} of two."
    )


def benchmark() -> dict:
    return atomic.read_json(Path("benchmarks") / "results.json")


def _jobs(chosen: dict[str, dict]) -> str:
    rows = []
    for words, job in chosen.items():
        plain, ratio = (
            (cost(job["baseline"], job["per"]), f"{job['ratio']:.1f}")
            if "ratio" in job
            else (tables.EMPTY, tables.EMPTY)
        )
        rows.append(
            {"What": words, "ours": cost(job["ours"], job["per"]), "plain": plain, "ratio": ratio}
        )
    return tables.markdown(pd.DataFrame(rows))


BLOCKS = {
    "badges": badges, "verdicts": verdicts, "accuracies": accuracies, "rac": rac, "speed": speed, "jobs": jobs,
    "machine": machine, "survey": survey, "column_mlp": lambda: column("cifar10", "mlp"),
    "column_resnet20": lambda: column("cifar10_resnet20", "resnet20"),
}  # fmt: skip


def rendered(text: str) -> str:
    """The text with every block made anew. Raises ValueError for a block that nothing makes."""

    def block(match: re.Match) -> str:
        if match["name"] not in BLOCKS:
            raise ValueError(
                f"nothing makes the block {match['name']!r}; expected one of {', '.join(BLOCKS)}"
            )
        return f"{match['start']}{BLOCKS[match['name']]().strip()}\n{match['end']}"

    return BLOCK.sub(block, text)


def main(arguments: list[str]) -> int:
    texts = {path: path.read_text() for path in PAGES}
    made = {path: rendered(text) for path, text in texts.items()}
    if "--check" in arguments:
        return int(made != texts)
    for path, text in made.items():
        atomic.write_text(path, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
