"""index.html: one file with everything that a reader needs, from the files that the other stages
wrote. No numbers of its own.

The numbers are those of results.json; each cell of a table says which (data-id, data-field) and
names its file and stage. What it cost and where it ran differ from machine to machine and come from
files of their own.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import pandas as pd
import vl_convert

from momos.files import atomic
from momos.page import charts, dag

TEMPLATES = Path(__file__).parent / "templates"
EMPTY = "–"
SMALL = (
    200_000  # bytes up to which a figure is shown as SVG; a larger one as PNG, if that is smaller
)
POINTS = 60  # epochs drawn of a training curve, at most
SYMBOLS = {
    "SUPPORTED": "✓", "PASS": "✓", "NOT SUPPORTED": "✗", "FAIL": "✗", "NOT RUN": "○", "NOT COMPARABLE": "≠",
}  # fmt: skip
CHARTS = {  # what stands under a chart; the static figure's own caption speaks of its panels
    "accuracy_rac": "Test accuracy against relative algorithmic compression (RAC). The line joins what no other method beats in both; "
    "behind it, grey and dashed, the published points and their front (where the table says NOT COMPARABLE only their shape means "
    "anything). Whiskers: 95 % intervals over seeds. Point at a mark for its numbers.",
    "training": "Training curves, means over seeds.",
    "figure2": "Figure 2. 1-D BDM of trained weights relative to the same architecture at initialisation; each mark is one trained model.",
    "critical_llc": "Critical values against the local learning coefficient, a mark a checkpoint, with each run's least-squares line. "
    "Point at a mark for its step.",
    "figure4": "Figures 4 and B.2. Validation accuracy of the last weights against capacity, by block size.",
}
COMPLEXITY = (
    ("bdm_1d_ratio", "1-D ratio", 3), ("bdm_1d_normalized", "1-D normalised", 3), ("bdm_1d_against_shuffled", "1-D / shuffled", 3),
    ("bdm_2d_ratio", "2-D ratio", 3), ("bdm_2d_normalized", "2-D normalised", 3), ("bdm_2d_against_shuffled", "2-D / shuffled", 3),
    ("sparsity", "Zeros (%)", 1), ("l2_norm", "L2 norm", 1), ("distinct_blocks", "Distinct blocks", 0),
)  # fmt: skip
# Shows the charts' places, which gives them their width, draws them, and only then hides the static
# figures that they stand for.
BOOT = """
const root = document.documentElement.classList;
root.add('charts');
const drawn = [...document.querySelectorAll('script[type="application/vnd.vegalite+json"]')].map((spec) =>
  vegaEmbed(spec.previousElementSibling, JSON.parse(spec.textContent), {renderer: 'svg', actions: false}));
Promise.all(drawn).then(() => root.add('drawn')).catch((error) => { root.remove('charts'); throw error; });
"""


@dataclass(frozen=True)
class Sources:
    """Where the page's parts lie."""

    # the folder of the report: results.json, provenance.json, tables, figures, cost, and slt where
    # there is one
    reports: Path
    pipeline: Mapping[str, Any]  # dvc.yaml's stages

    @cached_property
    def results(self) -> dict:
        return atomic.read_json(self.reports / "results.json")

    @cached_property
    def provenance(self) -> dict:
        return atomic.read_json(self.reports / "provenance.json")

    @cached_property
    def costs(self) -> pd.DataFrame:
        return self.table("cost/cost.csv")

    def table(self, name: str) -> pd.DataFrame:
        """Raises ValueError naming a file that is missing."""
        path = self.reports / name
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: expected a table written by an earlier stage (run `dvc repro`)"
            )
        return pd.read_csv(path)


def render(sources: Sources) -> str:
    """The whole page. Raises ValueError naming a file that is missing or damaged."""
    results = sources.results
    cells = {cell["id"]: cell for cell in results["cells"]}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "shown": shown,
        "symbol": SYMBOLS.__getitem__,
        "slug": slug,
        "plain": plain,
        "EMPTY": EMPTY,
    }
    specs = chart_specs(sources)
    return environment.get_template("page.html").render(
        results=results,
        cells=cells,
        num_seeds=max(
            cell["num_seeds"] for cell in results["cells"] if cell["table"] in ("table1", "table2")
        ),
        tables=paper_tables(results),
        blocks=_methods_by_model(results, "complexity"),
        complexity=COMPLEXITY,
        metrics=list(
            dict.fromkeys(
                cell["measure"].removesuffix("_latent")
                for cell in results["cells"]
                if cell["table"] == "metrics"
            )
        ),
        packing=_methods_by_model(results, "packing"),
        packed=_packed(results),
        capacity=_methods_by_model(results, "capacity"),
        aggregates=_methods_by_model(results, "aggregate").get("all", []),
        zoo=[
            cell for cell in results["cells"] if cell["table"] == "zoo" and cell["method"] == "all"
        ],
        checks=[cell for cell in results["cells"] if cell["table"] == "rac_check"],
        figures=figures(sources.reports, "figures", specs),
        specs={
            name: json.dumps(spec, ensure_ascii=True).replace("<", "\\u003c")
            for name, spec in specs.items()
        },
        library=library(),
        singular=figures(sources.reports, "slt/figures", specs)
        if (sources.reports / "slt").is_dir()
        else [],
        checkpoints=_methods_by_model(results, "slt_checkpoints"),
        fits=_methods_by_model(results, "slt_fits"),
        classifiers=_methods_by_model(results, "slt_images"),
        measured=_measures(results),
        costs=cost_rows(sources.costs),
        devices=sorted(sources.costs.device.astype(str).unique()),
        provenance=sources.provenance,
        diagram=dag.layout(dag.edges(sources.pipeline)),
        waits=dag.edges(sources.pipeline),
        box=(dag.WIDTH, dag.HEIGHT),
        files=beside(sources.reports),
    )


def shown(cell: Mapping[str, Any] | None, field: str, digits: int, signed: bool = False) -> str:
    """A number of a cell as readers see it; intervals as "low to high"; a dash for what is not
    there.
    """
    value = None if cell is None else cell.get(field)
    if value is None:
        return EMPTY
    if isinstance(value, list):
        return " to ".join(_digits(end, digits) for end in value)
    return _digits(value, digits, "+" if signed else "")


def _digits(value: float, digits: int, sign: str = "") -> str:
    """With a true minus sign, and no sign before zero."""
    text = f"{value:{sign},.{digits}f}"
    return (text.lstrip("+-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def slug(text: str) -> str:
    return text.lower().replace(" ", "-")


def plain(value: Any) -> str:
    """A setting on one line."""
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value


def paper_tables(results: Mapping[str, Any]) -> list[dict]:
    """Tables 1 and 2, one per model: table, model, title, methods; whether anything of it was run."""
    found: dict[tuple[str, str], dict] = {}
    for cell in results["cells"]:
        if cell["table"] in ("table1", "table2"):
            start = {"table": cell["table"], "model": cell["model"], "methods": [], "run": False}
            entry = found.setdefault(
                (cell["table"], cell["model"]),
                start | {"title": results["names"]["models"][cell["model"]]},
            )
            entry["methods"] += [cell["method"]] if cell["method"] not in entry["methods"] else []
            entry["run"] |= cell["value"] is not None
    return list(found.values())


def _methods_by_model(results: Mapping[str, Any], table: str) -> dict[str, list[str]]:
    found: dict[str, dict] = {}
    for cell in results["cells"]:
        if cell["table"] == table:
            found.setdefault(cell["model"], {})[cell["method"]] = None
    return {model: list(methods) for model, methods in found.items()}


def _packed(results: Mapping[str, Any]) -> list[str]:
    """Measures of files, ordinary ones first, each lossy one's accuracy after its bytes."""
    found = list(
        dict.fromkeys(cell["measure"] for cell in results["cells"] if cell["table"] == "packing")
    )
    order = [
        "safetensors_bytes",
        "gzip_bytes",
        "bz2_bytes",
        "lzma_bytes",
        "zstd_bytes",
        "bound_bytes",
        "fixed_bytes",
        "entropy_bytes",
    ]
    known = [name for name in order if name in found]
    return known + [name for name in found if name not in (*order, "rac_measured")]


def chart_specs(sources: Sources) -> dict[str, dict]:
    """Name of the static figure -> the interactive chart that stands in its place."""
    results = sources.results
    rac, capacity = _rac_points(results), _capacity_points(results)
    with alt.data_transformers.enable("default", max_rows=None):
        specs = {
            "accuracy_rac": charts.accuracy_against_rac(
                rac, _fronts(results), _published_points(results)
            ),
            "training": charts.training(
                _curves(sources.table("tables/training.csv"), results["names"])
            ),
            "figure2": charts.ratio_against_size(_surveyed(sources.table("tables/survey.csv"))),
        }
        if len(capacity):
            specs["figure4"] = charts.accuracy_against_capacity(capacity)
        if len(points := _critical_points(results)):
            specs["critical_llc"] = charts.critical_against_llc(points)
    return specs


def _surveyed(rows: pd.DataFrame) -> pd.DataFrame:
    """What a chart of Figure 2 shows of the pairs that could be measured."""
    shown_columns = ["name", "source", "title", "group", "num_weights", "bdm_1d_ratio"]
    return rows.loc[rows.error.isna(), shown_columns].round({"bdm_1d_ratio": 6})


def _labels(results: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, str]:
    names = results["names"]
    method = names["methods"][cell["method"]]
    return {
        "model": names["models"][cell["model"]],
        "method": method["label"],
        "group": method["group"],
    }


def _pairs(results: Mapping[str, Any]):
    """(accuracy, RAC) cells of each model and method of Tables 1 and 2."""
    cells = {cell["id"]: cell for cell in results["cells"]}
    for name, cell in cells.items():
        if cell["measure"] == "test_accuracy_last":
            yield cell, cells[name.removesuffix("test_accuracy_last") + "rac"]


def _rac_points(results: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for accuracy, rac in _pairs(results):
        if accuracy["value"] is not None and rac["value"] is not None:
            low, high = accuracy["interval"] or (None, None)
            rows.append(
                _labels(results, accuracy)
                | {"rac": rac["value"], "accuracy": accuracy["value"], "low": low, "high": high}
            )
    return pd.DataFrame(
        rows, columns=["model", "method", "group", "rac", "accuracy", "low", "high"]
    ).astype({"low": float, "high": float})


def _published_points(results: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        _labels(results, accuracy) | {"rac": rac["published"], "accuracy": accuracy["published"]}
        for accuracy, rac in _pairs(results)
        if "published" in accuracy
    ]
    return pd.DataFrame(rows, columns=["model", "method", "group", "rac", "accuracy"])


def _fronts(results: Mapping[str, Any]) -> pd.DataFrame:
    """The points on each model's front, measured and published, by RAC."""
    rows, fields = [], {"measured": "value", "published": "published"}
    for accuracy, rac in _pairs(results):
        for kind, field in fields.items():
            if (
                accuracy["method"].removesuffix("_published")
                in results["pareto"][accuracy["model"]][kind]
                and accuracy.get(field) is not None
            ):
                label = results["names"]["models"][accuracy["model"]]
                rows.append(
                    {"model": label, "kind": kind, "rac": rac[field], "accuracy": accuracy[field]}
                )
    return pd.DataFrame(rows, columns=["model", "kind", "rac", "accuracy"]).sort_values(
        ["model", "kind", "rac"], kind="stable"
    )


def _curves(training: pd.DataFrame, names: Mapping[str, Any]) -> pd.DataFrame:
    """At most POINTS epochs of each curve, the first and the last among them."""
    every = -(-int(training.epoch.max()) // POINTS)
    last = training.groupby(["model", "method"]).epoch.transform("max")
    rows = training[
        (training.epoch == 1) | (training.epoch == last) | (training.epoch % every == 0)
    ]
    methods = [names["methods"][name] for name in rows.method]
    shown_rows = {
        "model": [names["models"][name] for name in rows.model],
        "method": [method["label"] for method in methods],
        "group": [method["group"] for method in methods],
        "epoch": rows.epoch.to_numpy(),
        "loss": rows.val_loss.round(5).to_numpy(),
        "accuracy": (100 * rows.val_accuracy).round(3).to_numpy(),
    }
    return pd.DataFrame(shown_rows)


def _capacity_points(results: Mapping[str, Any]) -> pd.DataFrame:
    """The ablation's cells, whose settings their labels hold."""
    rows = []
    for cell in results["cells"]:
        if cell["table"] == "capacity" and cell["value"] is not None:
            size, capacity = (float(part[1:]) for part in cell["method"].split("_"))
            labels = _labels(results, cell)
            rows.append(
                labels
                | {
                    "size": f"s = {int(size)}",
                    "capacity": 100 * capacity,
                    "accuracy": cell["value"],
                }
            )
    return pd.DataFrame(rows)


def _critical_points(results: Mapping[str, Any]) -> pd.DataFrame:
    """Every checkpoint of every run of the second paper: its LLC and its critical values."""
    cells = [cell for cell in results["cells"] if cell["table"] == "slt_checkpoints"]
    llc = {
        cell["id"]: dict(zip(cell["seeds"], cell["values"], strict=True))
        for cell in cells
        if cell["measure"] == "llc_mean"
    }
    rows = []
    for cell in cells:
        if cell["measure"].startswith("critical_"):
            here, step = (
                llc[cell["id"].replace(cell["measure"], "llc_mean")],
                int(cell["method"].removeprefix("step")),
            )
            start = {"scheme": cell["measure"].replace("_", " "), "step": step}
            pairs = zip(cell["seeds"], cell["values"], strict=True)
            rows += [
                start | {"run": f"{cell['model']} {seed}", "llc": here[seed], "critical": value}
                for seed, value in pairs
                if value
            ]
    return pd.DataFrame(rows, columns=["scheme", "run", "step", "llc", "critical"])


def _measures(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Table of the second paper -> its measures."""
    found: dict[str, dict] = {"slt_checkpoints": {}, "slt_images": {}}
    for cell in results["cells"]:
        if cell["table"] in found:
            found[cell["table"]][cell["measure"]] = None
    return {table: list(measures) for table, measures in found.items()}


def figures(reports: Path, place: str, specs: Mapping[str, Any]) -> list[dict]:
    """Of a folder of figures, in reading order: name, place, caption, title, the picture as a data
    URI, and the chart that may stand in its place.
    """
    found, charted = [], set()
    for name, caption in atomic.read_json(reports / place / "captions.json").items():
        chart = "figure4" if name.startswith("figure4_") else name
        chart = chart if chart in specs and chart not in charted else None
        charted |= {chart} if chart else set()
        caption = caption.replace("`", "")
        about = {"name": name, "place": place, "title": caption.split(". ")[0], "caption": caption}
        found.append(
            about
            | {
                "chart": chart,
                "chart_caption": CHARTS.get(chart),
                "uri": data_uri(reports / place / f"{name}.svg"),
            }
        )
    return found


def data_uri(svg: Path) -> str:
    """The SVG, or its PNG twin where that is smaller and the SVG is large. Raises ValueError naming
    a file that is missing.
    """
    png = svg.with_suffix(".png")
    for path in (svg, png):
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: expected a figure written by an earlier stage (run `dvc repro`)"
            )
    as_png = SMALL < svg.stat().st_size > png.stat().st_size
    kind, path = ("png", png) if as_png else ("svg+xml", svg)
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, and the few lines that draw each chart."""
    bundle = vl_convert.javascript_bundle(
        BOOT, vl_version=alt.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]
    )
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def cost_rows(costs: pd.DataFrame) -> list[dict]:
    """By stage and model, and in all: runs, hours, median seconds, GPU hours, peak GiB of memory
    and of the GPU's.
    """
    stage = costs.grid.map({"main": "train", "ablation": "ablation"})
    parts = [(*key, part) for key, part in costs.groupby([stage, costs.model], sort=False)]
    return [_cost(*part) for part in [*parts, ("all", "all", costs)]]


def _cost(stage: str, model: str, part: pd.DataFrame) -> dict:
    on_gpu = part[~part.device.isin(["cpu", "mps"])]
    device_memory = part.peak_device_memory_bytes.max()
    return {
        "stage": stage,
        "model": model,
        "runs": len(part),
        "hours": f"{part.seconds.sum() / 3600:.2f}",
        "median": f"{part.seconds.median():,.1f}",
        "gpu_hours": f"{on_gpu.seconds.sum() / 3600:.2f}",
        "memory": f"{part.peak_memory_bytes.max() / 2**30:.2f}",
        "gpu_memory": EMPTY if pd.isna(device_memory) else f"{device_memory / 2**30:.2f}",
    }


def beside(folder: Path) -> list[str]:
    """The report's other files, relative to the page."""
    kinds = (".md", ".tex", ".csv", ".json", ".pdf", ".svg", ".html")
    own = folder / "index.html"
    paths: Sequence[Path] = sorted(
        path for path in folder.rglob("*") if path.suffix in kinds and path != own
    )
    return [path.relative_to(folder).as_posix() for path in paths]
