"""The report of the singular-MDL study: tables, figures and pages from what its stages wrote."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from momos import config
from momos.files import atomic
from momos.report.shared import claims, figures, tables
from momos.report.slt import claims as singular
from momos.report.slt import figures as singular_figures
from momos.slt.schemes import CRITICAL

DISCRETE = ("quantization", "quantization_max")
FITTED = (
    "quantization",
    "quantization bits",
    "quantization_max",
    "factorization",
    "noise_absolute",
    "noise_relative",
)
CAPTIONS = {
    "llc": "LLC along training (error bars: sample standard deviation over chains), the rise of the loss while sampling, held-out loss.",
    "critical_llc": "Critical values against LLC at eps = {eps:g}, with linear fits over steps {first} to {last} and their 95 % confidence "
    "bands; hollow: outside the fit.",
    "critical_step": "The same against training step.",
    "eps": "Critical values against LLC at three tolerances.",
    "controls": "Critical n_q against the controls: tr(H) by Hutchinson's estimator, and the critical sigma of plain noise.",
    "images": "Image classifiers, last weights as deployed: critical n_q at eps = {eps:g}, RAC and BDM ratio against LLC.",
}


@dataclass(frozen=True)
class Study:
    """Everything that the report shows."""

    name: str  # of the profile
    results: singular.Results
    complexity: pd.DataFrame  # a row per image classifier
    verdicts: pd.DataFrame  # `singular.judge`
    text: Mapping[str, Any]  # the summary that `text` wrote; empty without language models
    settings: tuple[config.Settings, ...]

    @property
    def slt(self) -> config.Slt:
        return self.results.settings

    def caption(self, name: str) -> str:
        first, last = self.slt.fit_steps
        return CAPTIONS[name].format(eps=self.slt.main_eps, first=first, last=last)


def write(study: Study, folder: Path) -> None:
    """tables/, figures/, claims.md, README.md."""
    drawn = drawings(study)
    with figures.style():
        for name, (draw, _) in drawn.items():
            figures.save(draw(), folder / "figures", name)
    atomic.write_json(
        folder / "figures" / "captions.json",
        {name: caption for name, (_, caption) in drawn.items()},
    )
    for name, (frame, caption) in printed(study).items():
        text = _texts(frame)
        atomic.write_text(folder / "tables" / f"{name}.csv", frame.to_csv(index=False))
        atomic.write_text(folder / "tables" / f"{name}.md", tables.markdown(text, caption))
        atomic.write_text(
            folder / "tables" / f"{name}.tex", tables.latex(text, caption, f"slt_{name}")
        )
    if len(study.complexity):
        atomic.write_text(folder / "complexity.csv", study.complexity.to_csv(index=False))
    atomic.write_text(folder / "claims.md", claims_page(study))
    atomic.write_text(
        folder / "README.md", page(study, {name: caption for name, (_, caption) in drawn.items()})
    )


def drawings(study: Study) -> dict[str, tuple]:
    """Name -> (a function that draws it, its caption); what the profile has not run is left out."""
    results, slt, found = study.results, study.slt, {}
    runs = results.runs
    if runs:
        found["llc"] = lambda: singular_figures.llc_against_step(results.llc, results.history, runs)
        for scheme in slt.schemes:
            found[f"curves_{scheme}"] = _curves(study, scheme)
        fitted = _points(study)
        found["critical_llc"] = lambda: singular_figures.against(
            fitted, runs, "llc_mean", slt.fit_steps
        )
        found["critical_step"] = lambda: singular_figures.against(
            fitted, runs, "step", slt.fit_steps
        )
        found["eps"] = lambda: singular_figures.three_eps(_by_eps(study), runs)
        found["controls"] = lambda: singular_figures.controls(_controls(study), runs, slt.fit_steps)
    if len(study.complexity):
        found["images"] = lambda: singular_figures.images(
            study.complexity, f"critical_n_q_eps{slt.main_eps:g}"
        )
    return {
        name: (draw, _curve_caption(name) if name.startswith("curves_") else study.caption(name))
        for name, draw in found.items()
    }


def _curves(study: Study, scheme: str):
    curve = study.results.curve[study.results.curve.scheme == scheme]
    return lambda: singular_figures.curves(curve, study.results.runs, scheme, study.slt.eps)


def _curve_caption(name: str) -> str:
    what = singular_figures.STRENGTHS[name.removeprefix("curves_")]
    return f"Loss increase along training against: {what}. Dotted: the tolerances."


def _points(study: Study, eps: float | None = None) -> dict[str, pd.DataFrame]:
    """Of the schemes that are fitted and were run; "quantization bits" is quantization once more,
    for log2 n_q.
    """
    names = [name for name in FITTED if name.removesuffix(" bits") in study.slt.schemes]
    return {name: study.results.points(name.removesuffix(" bits"), eps) for name in names}


def _by_eps(study: Study) -> dict[float, dict[str, pd.DataFrame]]:
    found = {}
    for eps in study.slt.eps:
        found[eps] = {
            name: points
            for name, points in _points(study, eps).items()
            if not name.endswith(" bits")
        }
    return found


def _controls(study: Study) -> dict[str, pd.DataFrame]:
    """Control -> points of quantisation (without it, of the first scheme) with a column of that
    name.
    """
    results, schemes = study.results, study.slt.schemes
    points = results.points("quantization" if "quantization" in schemes else schemes[0])
    found = {"hessian_trace": points}
    if "noise_absolute" in schemes:
        sigma = results.points("noise_absolute")[[*singular.RUN, "step", "value"]].rename(
            columns={"value": "sigma"}
        )
        found["sigma"] = points.merge(sigma, on=[*singular.RUN, "step"])
    return found


def printed(study: Study) -> dict[str, tuple[pd.DataFrame, str]]:
    """Tables by name: numbers and caption."""
    results, found = study.results, {}
    if results.runs:
        fits = singular.fits(results)
        found["fits"] = (
            fits,
            "Linear fits of critical values (log2: of n_q, in bits) on LLC, step and tr(H), with Spearman's correlation.",
        )
        found["checkpoints"] = (
            _checkpoints(results),
            f"Every checkpoint: LLC, controls, critical values at eps = {study.slt.main_eps:g}.",
        )
    if len(study.complexity):
        found["images"] = (
            study.complexity,
            "Image classifiers: measures of the last weights as deployed, side by side.",
        )
        found["images_correlation"] = (
            _correlation(study),
            "Spearman's correlation of these measures over all image classifiers.",
        )
    return found


def _checkpoints(results: singular.Results) -> pd.DataFrame:
    frame = results.llc[
        [
            *singular.RUN,
            "step",
            "init_loss",
            "llc_mean",
            "llc_std",
            "loss_rise",
            "hessian_trace",
            "flags",
        ]
    ]
    for scheme in results.settings.schemes:
        mine = results.points(scheme)[[*singular.RUN, "step", "value"]].rename(
            columns={"value": CRITICAL[scheme]}
        )
        frame = frame.merge(mine, on=[*singular.RUN, "step"], how="left")
    return frame


def _correlation(study: Study) -> pd.DataFrame:
    measures = [
        f"critical_n_q_eps{study.slt.main_eps:g}",
        "llc_mean",
        "hessian_trace",
        "bdm_1d_ratio",
        "bdm_2d_ratio",
        "rac",
    ]
    measures += [name for name in ("gzip", "bz2", "lzma", "zstd") if name in study.complexity]
    rows = []
    for a in measures:
        rows.append(
            {"measure": a}
            | {b: claims.spearman(study.complexity[a], study.complexity[b]) for b in measures}
        )
    return pd.DataFrame(rows)


def _texts(frame: pd.DataFrame) -> pd.DataFrame:
    """As readers see them: four significant digits, a dash for what is not there."""

    def shown(value: Any) -> str:
        if pd.isna(value):
            return tables.EMPTY
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return frame.map(shown)


def claims_page(study: Study) -> str:
    """claims.md"""
    shown = study.verdicts[
        ["id", "verdict", "claim", "measured", "threshold", "statistic", "where", "note"]
    ]
    counted = ", ".join(
        f"{number} {verdict}" for verdict, number in claims.counts(study.verdicts).items()
    )
    intro = (
        f"# Singular MDL: the paper's claims, judged on profile `{study.name}`\n\n{counted}.\n\n"
        "Statistics and thresholds: `data/paper/claims.yaml`. Steps, tolerances and all settings stand in `params.yaml` and were fixed\n"
        f"before the run, on seed {_listed(study.slt.tuned_on)}, which is not among those judged here: {_listed(study.slt.seeds)}.\n"
    )
    return f"{intro}\n{tables.markdown(shown.rename(columns=str.capitalize))}"


def page(study: Study, captions: Mapping[str, str]) -> str:
    """README.md of this report."""
    parts = [
        f"# Compressibility and the local learning coefficient, profile `{study.name}`",
        _text(study),
    ]
    verdicts = tables.markdown(study.verdicts[["id", "verdict", "claim"]])
    parts.append(f"## Claims\n\n{verdicts}\nEach with its numbers: [claims.md](claims.md).")
    if captions:
        parts.append(
            "## Figures\n\n" + "\n\n".join(_figure(name, text) for name, text in captions.items())
        )
    linked = [
        f"- [{name}](tables/{name}.md): {caption}" for name, (_, caption) in printed(study).items()
    ]
    if len(study.complexity):
        linked.append("- [complexity.csv](complexity.csv): the image classifiers, a row each.")
    if linked:
        parts.append("## Tables\n\n" + "\n".join(linked))
    parts.append("## Settings\n\n" + tables.markdown(_settings(study)))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _figure(name: str, caption: str) -> str:
    return f"![{caption.split('. ')[0]}](figures/{name}.png)\n\n{caption} ([SVG](figures/{name}.svg), [PDF](figures/{name}.pdf))"


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


def _text(study: Study) -> str:
    if not study.text:
        return "This profile has no language models."
    tokens = ", ".join(
        f"{count:,} {part.replace('_', ' ')}" for part, count in study.text["tokens"].items()
    )
    return (
        f"Text: `{study.text['source']}` {study.text['name']}, tokens by `{study.text['tokenizer']}`: {tokens}.\n"
        f"SHA-256: `{study.text['sha256']}`."
    )


def _settings(study: Study) -> pd.DataFrame:
    rows = [
        (f"{kind.section}.{key}", str(value))
        for kind in study.settings
        for key, value in asdict(kind).items()
    ]
    return pd.DataFrame(rows, columns=["Setting", "Value"])
