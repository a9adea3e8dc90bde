"""Write the numbers that the pages show: what stands between `<!-- numbers: NAME -->` and
`<!-- end -->` in README.md and docs/, and docs/picture.svg.

usage: readme.py [--check]

The numbers come from reports/expected/<profile>.json (the blessed copy of results.json), from
reports/<profile>/results.json and from benchmarks/. With --check nothing is written, and the exit
status is 1 if a page says something else.
"""

import itertools
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import pandas as pd
import picture
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks
from benchmarks.__main__ import cost
from momos.complexity import code_length
from momos.files import atomic
from momos.report.shared import results, statistics, tables
from momos.report.shared.claims import NATURES, read_claims
from momos.report.shared.decisions import YES
from momos.report.shared.verdicts import JUDGED, NOT_RUN, VERDICTS

README, DOCS, PICTURE = Path("README.md"), Path("docs"), Path("docs/picture.svg")
BLOCK = re.compile(r"(?P<start><!-- numbers: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.S)
PROFILE = "digits"  # the embedded one
READINGS = Path("reports/readings/tables")  # of the MLP on the original CIFAR-10
WEIGHTS = {  # of a training, and those at which a patience of 20 would have ended it
    "last": "Last weights",
    "best": "Best weights",
    "marked_last": "Last, with patience",
    "marked_best": "Best, with patience",
}
COPIES = "cifar10"  # the MLP's column, on JPEG copies of CIFAR-10
MODELS = ("mlp", "resnet20", "tiny_vit")
ANSWERS = Path("reports") / PROFILE / "slt" / "tables" / "answers.csv"  # of the second paper
NETWORKS = Path("reports/networks/networks.csv")  # by scripts/ship.py
FIRST_RUN = "model == 'resnet20' and method == 'momos_s4_c1' and seed == 0"
SHOWN = ("baseline", "qat8", "qat4", "momos_s2_c10", "momos_s2_c1", "momos_s4_c10", "momos_s4_c1")
RECIPE, REPLACED = "momos_best", "momos_s4_c1"
WITH_BATCHNORM = (
    "baseline",
    "qat4",
    "qat4_in_place",
    "momos_s2_c1",
    "momos_s2_c0_5",
    "momos_s4_c1",
    "momos_s4_c0_5",
    RECIPE,
)
MEASURES = ("test_accuracy_last", "rac", "bdm_1d_ratio", "bdm_1d_ratio_latent")
# Of the claims, those that the README shows, in plain words.
CLAIMS = {
    "M1": "Training makes most networks simpler (200 models from elsewhere)",
    "M5": "Blocks of two at 10 % capacity keep the accuracy",
    "M6": "MoMos compresses more than quantisation, at similar accuracy",
    "M12": "All published compression ratios follow from the formula",
    "M15": "Ordinary compressors shrink MoMos weights more",
    "M17": "Quantisation to 4 bits collapses",
    "S1": "Quantisability follows the local learning coefficient",
    "S8": "That coefficient predicts better than curvature or noise",
}
# A job of benchmarks/results.json, and what it is.
SPEED = {
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
    "planes_1M": "eight bit planes of 1 M weights, against pybdm",
    "planes_25M": "the same, 25 M weights",
}
# A file of stage `pack`, and the column that shows it.
FILES = {
    "safetensors": "safetensors",
    "lzma": "lzma",
    "bound": "Bound (Eq. 8)",
    "fixed": ".momos, fixed",
    "entropy": ".momos, entropy",
}


class ExpectedCell(TypedDict):
    """One number of a report. `results.json` has `id`, `published` and `published_std` as well."""

    value: float | None
    std: float | None
    num_seeds: int
    status: NotRequired[str]
    id: NotRequired[str]
    published: NotRequired[float]
    published_std: NotRequired[float]


class Expected(TypedDict):
    """reports/expected/<profile>.json: cells by name, and a verdict for each claim."""

    cells: dict[str, ExpectedCell]
    claims: dict[str, str]
    decided: NotRequired[dict[str, str]]  # reports of before it was asked have none


class Job(TypedDict):
    """A line of benchmarks/results.json: seconds of one call, or of one `per`."""

    ours: float
    per: str
    baseline: NotRequired[float]
    ratio: NotRequired[float]


def expected(profile: str) -> Expected:
    return cast(Expected, atomic.read_json(Path("reports") / "expected" / f"{profile}.json"))


def profiles() -> list[str]:
    """The profiles that have a report."""
    return [path.stem for path in sorted(Path("reports/expected").glob("*.json"))]


def bold(verdict: str, decided: str | None) -> str:
    """The verdict; bold where it is decided."""
    return f"**{verdict}**" if decided == YES else verdict


def shown_verdicts(profile: str) -> dict[str, str]:
    """The profile's verdict of each claim; bold where it is decided."""
    numbers = expected(profile)
    decided = numbers.get("decided", {})
    return {claim: bold(given, decided.get(claim)) for claim, given in numbers["claims"].items()}


def verdicts_in_part(profile: str) -> dict[str, str]:
    """The verdict of each claim, or what those of its models that were run say alone."""
    rows = pd.read_csv(Path("reports") / profile / "tables" / "claims.csv", keep_default_na=False)
    return {
        row.id: bold(row.part, row.part_decided) if row.part else bold(row.verdict, row.decided)
        for row in rows.itertuples()
    }


def best_reading() -> str:
    """How many of the MLP's published numbers the reading that explains most gives."""
    best = pd.read_csv(READINGS / "readings.csv").iloc[0]
    cells = pd.read_csv(READINGS / "comparison.csv").query("model == 'mlp'")
    return (
        "On the original CIFAR-10 the best [reading](docs/published-table.md) of the paper gives"
        f" {best.accuracy_explained} of {best.accuracy_run} MLP accuracies tried, of {len(cells)},"
        f" and {best.bdm_explained} of {best.bdm_run} BDM ratios."
    )


def readings(measure: str) -> str:
    """Each published number of the MLP beside what each reading gives; bold where explained."""
    setting = ["method", "bits", "block_size", "capacity"]
    labels = pd.read_csv(READINGS / "comparison.csv").query("model == 'mlp'")[[*setting, "label"]]
    cells = pd.read_csv(READINGS / "readings_cells.csv")
    cells = cells[(cells.model == "mlp") & (cells.measure == measure)].merge(labels, on=setting)
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells.fillna({"variant": ""}).itertuples():
        shown = tables.spread(cell.value, cell.std)
        row = rows.setdefault((cell.label, cell.variant), {"": f"{cell.label}{cell.variant}"})
        row["Published"] = tables.spread(cell.published, cell.published_std)
        row[WEIGHTS[cell.weights]] = f"**{shown}**" if cell.verdict == "PASS" else shown
    return tables.markdown(pd.DataFrame([*rows.values()]))


def claims_of_one_network() -> str:
    """What the MLP's runs alone say of each claim about trainings, on copies and on CIFAR-10."""
    copies, originals = verdicts_in_part(COPIES), verdicts_in_part("readings")
    rows = [
        {
            "Claim": f"{claim.id}: {claim.texts['claim']}",
            "JPEG copies": copies[claim.id],
            "Original CIFAR-10": originals[claim.id],
        }
        for claim in read_claims(Path("data/paper"))
        if copies[claim.id].strip("*") in JUDGED and not claim.nature
    ]
    return tables.markdown(pd.DataFrame(rows))


def claims_table() -> str:
    """The README's table: a few claims, and how many hold of all of them."""
    embedded, originals = shown_verdicts(PROFILE), verdicts_in_part("readings")
    rows = [
        {
            "Claim": f"{claim}: {words}",
            "Small digits": embedded[claim] + (_against_loss() if claim == "S8" else ""),
            "CIFAR-10, MLP alone": originals[claim],
        }
        for claim, words in CLAIMS.items()
    ]
    return tables.markdown(pd.DataFrame(rows))


def _against_loss() -> str:
    """How the LLC compares with the loss out of sample; empty before the report says so."""
    if not ANSWERS.is_file():
        return ""
    rows = pd.read_csv(ANSWERS)
    row = rows.query("critical == 'critical n_q' and rival == 'loss'").iloc[0]
    values = f"{row.difference:.2f} ({row.difference_low:.2f} to {row.difference_high:.2f})"
    return f"; out of sample, R² less the loss's: {values}, {row.difference_verdict}"


def llc_answers() -> str:
    """Whether the LLC predicts compressibility better than its rivals, a row per rival."""
    if not ANSWERS.is_file():
        return NOT_RUN
    rows = [
        {
            "Model": row["model"],
            "Of": row["critical"],
            "Rival": row["rival"],
            "R² of the LLC": f"{row['r2']:.2f}",
            "of the rival": f"{row['r2_rival']:.2f}",
        }
        | {
            words: f"{row[key]:.2f} ({row[f'{key}_low']:.2f} to {row[f'{key}_high']:.2f}):"
            f" {row[f'{key}_verdict']}"
            for key, words in (
                ("difference", "Difference out of sample"),
                ("at_equal_loss", "at equal loss"),
            )
        }
        for row in pd.read_csv(ANSWERS).to_dict("records")
    ]
    return tables.markdown(pd.DataFrame(rows))


def totals() -> str:
    """How many claims have which verdict on the embedded data, in a sentence."""
    numbers = expected(PROFILE)
    decided = numbers.get("decided", {})
    tested = {c: v for c, v in numbers["claims"].items() if decided.get(c) not in NATURES}
    counts = []
    for name in VERDICTS:
        claims = [claim for claim, verdict in tested.items() if verdict == name]
        sure = sum(decided.get(claim) == YES for claim in claims)
        counts.append(f"{len(claims)} {name.lower()}" + f" ({sure} decided)" * (name in JUDGED))
    apart = len(numbers["claims"]) - len(tested)
    return (
        f"Bold: decided beyond chance. Small digits, {len(tested)} claims: {', '.join(counts)}."
        f" {apart} more need no run.\n{best_reading()}"
    )


def verdicts() -> str:
    """How many claims have which verdict, profile by profile."""
    rows = []
    for profile in profiles():
        given = list(expected(profile)["claims"].values())
        counts = {name: str(given.count(name)) for name in VERDICTS}
        rows.append({"Profile": f"[{profile}](../reports/{profile}/claims.md)"} | counts)
    return tables.markdown(pd.DataFrame(rows))


def claim_by_claim() -> str:
    """Every claim, and its verdict in every profile that has a report; bold where decided."""
    given = {profile: shown_verdicts(profile) for profile in profiles()}
    papers = yaml.safe_load(Path("data/paper/claims.yaml").read_text())
    rows = [
        {"Claim": claim["id"], "What it says": claim["claim"], "Where": claim["where"]}
        | {profile: given[profile][claim["id"]] for profile in given}
        for paper in papers.values()
        for claim in paper
    ]
    return tables.markdown(pd.DataFrame(rows))


def first_result() -> str:
    """Lines that `momos measure` prints of the run that the README measures.

    It takes as many motifs as there are distinct blocks, which the run's own number may exceed.
    """
    runs = pd.read_csv(Path("reports") / PROFILE / "tables" / "runs.csv")
    (run,) = runs.query(FIRST_RUN).to_dict("records")
    blocks, distinct = int(run["num_blocks"]), int(run["distinct_blocks"])
    lines = {
        "num_weights": run["num_weights"],
        "num_blocks": blocks,
        "rac": f"{code_length.rac(run['num_weights'], blocks, 4, distinct):.6g}",
        "bdm_1d_ratio": f"{run['bdm_1d_ratio_own']:.6g}",  # by its own initialisation
        "lzma": f"{run['lzma']:.6g}",
        "distinct_blocks": distinct,
    }
    return "\n".join(["```text", *(f"{name:<18} {value}" for name, value in lines.items()), "```"])


def accuracies() -> str:
    """Accuracy and RAC of a few methods, as `results.json` has them."""
    cells = expected(PROFILE)["cells"]
    rows = []
    for method in SHOWN:
        row = {"Method": method}
        for model in MODELS:
            accuracy = cells[f"table1/{model}/{method}/test_accuracy_last"]
            rac = cells[f"table1/{model}/{method}/rac"]
            row[results.TITLES[model]] = f"{_spread(accuracy)} % at {_number(rac, 1)}"
        rows.append(row)
    return tables.markdown(pd.DataFrame(rows))


def recipe() -> str:
    """Accuracy with the paper's mosaics, the recommended ones, and none, in a sentence."""
    cells = expected(PROFILE)["cells"]
    parts = []
    for model in MODELS:
        values = (
            _number(cells[f"table1/{model}/{method}/test_accuracy_last"], 1)
            for method in (REPLACED, RECIPE, "baseline")
        )
        parts.append(f"{results.TITLES[model]} {', '.join(values)} %")
    return f"Accuracy with the paper's, with these, without a mosaic: {'; '.join(parts)}."


def recipe_gains() -> str:
    """The recommended mosaics beside the published method, paired by seed, a row per network."""
    runs = pd.read_csv(Path("reports") / PROFILE / "tables" / "runs.csv")
    kept = runs[(runs.grid == "main") & (runs.weights == "deployed")]
    rows = []
    for model in MODELS:
        accuracy = 100 * kept[kept.model == model].pivot(
            index="seed", columns="method", values="test_accuracy_last"
        )
        gain, gap = accuracy[RECIPE] - accuracy[REPLACED], accuracy.baseline - accuracy[REPLACED]
        rows.append(
            {
                "Network": results.TITLES[model],
                "Seeds": len(gain),
                "No mosaic": f"{accuracy.baseline.mean():.1f}",
                "The paper's": f"{accuracy[REPLACED].mean():.1f}",
                "`momos_best`": f"{accuracy[RECIPE].mean():.1f}",
                "Gain (95 % t interval)": _with_interval(gain),
                "Of the gap": f"{100 * gain.mean() / gap.mean():.0f} %",
            }
        )
    return tables.markdown(pd.DataFrame(rows))


def _with_interval(gain: pd.Series) -> str:
    """The mean with its t interval."""
    low, high = statistics.student(gain) or (math.nan, math.nan)
    return f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def batchnorm() -> str:
    """What BatchNorm statistics that are gathered again after training give, paired by seed."""
    runs = pd.read_csv(Path("reports") / PROFILE / "tables" / "runs.csv")
    kept = runs[(runs.grid == "main") & (runs.weights == "deployed")]
    rows = []
    for model, method in itertools.product(("resnet20", "tiny_vit"), WITH_BATCHNORM):
        found = kept[(kept.model == model) & (kept.method == method)]
        row = {"Network": results.TITLES[model], "Method": f"`{method}`"}
        for which in ("last", "best"):
            column = f"test_accuracy_{which}"
            plain, again = 100 * found[column], 100 * found[f"{column}_remeasured"]
            row |= {
                f"{which} weights": f"{plain.mean():.1f}",
                f"{which}, again": f"{again.mean():.1f}",
                f"gain, {which}": _with_interval(again - plain),
            }
        rows.append(row)
    return tables.markdown(pd.DataFrame(rows))


def networks() -> str:
    """The networks of reports/networks, a row each."""
    rows = [
        {
            "Folder": f"[{row['name']}](../{NETWORKS.parent / row['name']})",
            "Network": f"{results.TITLES[row['model']]}, {row['num_weights']:,} weights",
            "As plain tensors, kB": f"{row['plain_bytes'] / 1e3:.1f}",
            "model.momos, kB": f"{row['file_bytes'] / 1e3:.1f}",
            "Test accuracy, %": f"{100 * row['test_accuracy']:.2f}",
            "without a mosaic": f"{100 * row['baseline_test_accuracy']:.2f}",
        }
        for row in pd.read_csv(NETWORKS).to_dict("records")
    ]
    return tables.markdown(pd.DataFrame(rows))


def column(profile: str, model: str) -> str:
    """A column of Table 1 that ran on copies of CIFAR-10, beside the published one."""
    document = atomic.read_json(Path("reports") / profile / "results.json")
    cells = {cell["id"]: cell for cell in document["cells"]}
    rows = [
        {results.TITLES[model]: about["label"]} | _column_row(cells, model, method)
        for method, about in document["names"]["methods"].items()
    ]
    return tables.markdown(pd.DataFrame(rows))


def _column_row(cells: Mapping[str, ExpectedCell], model: str, method: str) -> dict[str, str]:
    accuracy, rac, bdm, latent = (
        cells.get(f"table1/{model}/{method}/{measure}") for measure in MEASURES
    )
    assert accuracy and bdm, f"{method} has no cell in the table of {model}"
    bdm = latent or bdm  # the published ratio is that of the latent weights
    ran = accuracy["value"] is not None
    packed = cells.get(f"packing/{model}/{method}/rac_measured")
    return {
        "Seeds": str(accuracy["num_seeds"]) if ran else tables.EMPTY,
        "Accuracy (%)": _spread(accuracy) if ran else NOT_RUN,
        "Published": tables.spread(accuracy["published"], accuracy["published_std"]),
        "BDM ratio": _number(bdm, 2),
        "Published BDM": tables.number(bdm["published"], 2),
        "RAC (Eq. 21)": _number(rac, 1) if ran else tables.EMPTY,
        "RAC (bytes)": _number(packed, 1),
    }


def _spread(cell: ExpectedCell) -> str:
    value, std = cell["value"], cell["std"]
    return tables.spread(math.nan if value is None else value, math.nan if std is None else std)


def _number(cell: ExpectedCell | None, digits: int) -> str:
    value = None if cell is None else cell["value"]
    return tables.EMPTY if value is None else tables.number(value, digits)


def rac() -> str:
    """How many published values of RAC follow from the formula, in a sentence."""
    cells = expected(PROFILE)["cells"]
    checks = [cell for name, cell in cells.items() if name.startswith("rac_check/")]
    agree = sum(cell.get("status") == "PASS" for cell in checks)
    return f"{agree} of the {len(checks)} published RAC values follow from the paper's Eq. 21."


def packing() -> str:
    """Kilobytes of the embedded study's models as files, means over seeds."""
    cells = expected(PROFILE)["cells"]
    rows = [
        {"Model": results.TITLES[model], "Method": method}
        | {
            words: f"{(cells[f'packing/{model}/{method}/{name}_bytes']['value'] or 0) / 1000:.1f}"
            for name, words in FILES.items()
        }
        for model in MODELS
        for method in SHOWN
    ]
    return tables.markdown(pd.DataFrame(rows))


def codecs() -> str:
    """Files of ours beside those of nncodec and zipnn, as benchmarks/packing.csv has them."""
    from benchmarks.packing import summary

    frame = summary(pd.read_csv(Path("benchmarks") / "packing.csv"))
    rows = [
        {
            "Model": results.TITLES[row["model"]],
            "Method": row["method"],
            "Accuracy (%)": f"{row['accuracy']:.2f}",
        }
        | {name: tables.number(row[name], 1) for name in ("lzma", "zipnn")}
        | {
            ".momos, lossless": tables.number(row["momos, lossless"], 1),
            "nncodec": tables.number(row["nncodec"], 1),
            "at QP": str(row["nncodec at"]),
            "nncodec (%)": tables.number(row["nncodec accuracy"], 2),
            ".momos": tables.number(row["momos"], 1),
            "at": str(row["momos at"]),
            ".momos (%)": tables.number(row["momos accuracy"], 2),
            "ours / nncodec": tables.number(row["ratio"], 2),
        }
        for row in frame.to_dict("records")
    ]
    return tables.markdown(pd.DataFrame(rows))


def speed() -> str:
    """The jobs that SPEED names."""
    every = benchmark()["jobs"]
    return _jobs({words: every[name] for name, words in SPEED.items()})


def jobs() -> str:
    """Every job."""
    return _jobs({name.replace("_", " "): job for name, job in benchmark()["jobs"].items()})


def machine() -> str:
    """Where the benchmark ran, and what one core of it does at most."""
    about, peaks = benchmark()["machine"], benchmark()["peaks"]
    return (
        f"Measured on {about['cpu']} ({about['cores']} cores), one thread: at most "
        f"{peaks['float32_gflops']:.0f} GFLOP/s in float32, {peaks['bf16_gflops']:.0f} in bf16, "
        f"{peaks['memory_gb_per_second']:.1f} GB/s of copying."
    )


def survey() -> str:
    """What the survey of profile cifar10 costs."""
    measured = atomic.read_json(Path("benchmarks") / "survey.json")
    whole, hours = measured["cifar10"], measured["cifar10"]["hours"]
    return (
        f"Measured on one core of {measured['machine']['cpu']}: "
        f"{measured['seconds_per_million']:.1f} CPU seconds a million weights. The "
        f"{whole['num_models']} models of `cifar10` have {whole['num_weights'] / 1e6:,.0f} "
        f"million: {whole['download'] / 1e9:.0f} GB to download, at most "
        f"{whole['disk'] / 1e9:.1f} GB of disk at a time, and {hours:.1f} hours of one core or "
        f"{hours / 2:.1f} of two."
    )


def zoo() -> str:
    """How many networks that other people trained became simpler."""
    folder = Path("reports") / "zoo" / "tables"
    groups, files = pd.read_csv(folder / "zoo.csv"), pd.read_csv(folder / "zoo_networks.csv")
    (whole,) = groups.query("source == 'elsewhere' and by == 'all'").to_dict("records")
    num_models = int(whole["num_models"])
    share, low, high = (100 * whole[f"share_below{end}"] for end in ("", "_low", "_high"))
    return (
        f"Of {num_models} networks ({len(files)} files, {len(files) - num_models} of them further "
        f"checkpoints of the same training), {share:.0f} % have a 1-D ratio below 1 (95 % interval "
        f"{low:.0f} to {high:.0f} %), and {whole['num_below_chance']} lie below what chance gives: "
        f"z against {int(files.num_initial.max())} initialisations of the same layout."
    )


def benchmark() -> dict:
    return atomic.read_json(Path("benchmarks") / "results.json")


def _jobs(chosen: Mapping[str, Job]) -> str:
    rows = []
    for words, job in chosen.items():
        row = {"What": words, "ours": cost(job["ours"], job["per"])}
        if "ratio" in job:
            plain = {"plain": cost(job["baseline"], job["per"]), "ratio": f"{job['ratio']:.1f}"}
        else:
            plain = {"plain": tables.EMPTY, "ratio": tables.EMPTY}
        rows.append(row | plain)
    return tables.markdown(pd.DataFrame(rows))


BLOCKS: dict[str, Callable[[], str]] = {
    "claims": claims_table,
    "totals": totals,
    "first_result": first_result,
    "verdicts": verdicts,
    "claim_by_claim": claim_by_claim,
    "accuracies": accuracies,
    "recipe": recipe,
    "recipe_gains": recipe_gains,
    "batchnorm": batchnorm,
    "networks": networks,
    "rac": rac,
    "llc_answers": llc_answers,
    "packing": packing,
    "codecs": codecs,
    "speed": speed,
    "jobs": jobs,
    "machine": machine,
    "survey": survey,
    "zoo": zoo,
    "readings_accuracy": lambda: readings("accuracy"),
    "readings_bdm": lambda: readings("bdm"),
    "claims_mlp": claims_of_one_network,
    "column_mlp": lambda: column("cifar10", "mlp"),
    "column_resnet20": lambda: column("cifar10_resnet20", "resnet20"),
}


def rendered(text: str) -> str:
    """Return the text with every block made anew. Raises ValueError for an unknown block."""

    def block(match: re.Match[str]) -> str:
        if match["name"] not in BLOCKS:
            raise ValueError(
                f"nothing makes the block {match['name']!r}; expected one of {', '.join(BLOCKS)}"
            )
        return f"{match['start']}{BLOCKS[match['name']]().strip()}\n{match['end']}"

    return BLOCK.sub(block, text)


def pages() -> dict[Path, str]:
    """Path -> its text with the numbers of today, for every page and the picture."""
    made = {path: rendered(path.read_text()) for path in (README, *sorted(DOCS.glob("*.md")))}
    return made | {PICTURE: picture.svg(expected(PROFILE)["cells"], MODELS)}


def main(arguments: list[str]) -> int:
    made = pages()
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path} is behind: make readme", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        atomic.write_text(path, made[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
