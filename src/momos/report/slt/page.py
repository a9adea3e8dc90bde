"""The pages of the singular-MDL report, and all of its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from momos.files import atomic
from momos.report.shared import figures, verdicts
from momos.report.shared import tables as rendering
from momos.report.shared.figures import Drawing
from momos.report.slt import rivals
from momos.report.slt.study import SltStudy, drawings, tables


def write(study: SltStudy, folder: Path) -> None:
    """Write tables/, figures/, claims.md and README.md into a folder."""
    drawn, tabulated = drawings(study), tables(study)
    figures.write_all(drawn, folder / "figures")
    for name, (frame, caption) in tabulated.items():
        _write_table(folder / "tables", name, frame, caption)
    if len(study.complexity):
        atomic.write_text(folder / "complexity.csv", study.complexity.to_csv(index=False))
    atomic.write_text(folder / "claims.md", claims_page(study))
    captions = {name: caption for name, (_, caption) in tabulated.items()}
    atomic.write_text(folder / "README.md", page(study, drawn, captions))


def _write_table(folder: Path, name: str, frame: pd.DataFrame, caption: str) -> None:
    text = frame.map(_shown)
    atomic.write_text(folder / f"{name}.csv", frame.to_csv(index=False))
    atomic.write_text(folder / f"{name}.md", rendering.markdown(text, caption))
    atomic.write_text(folder / f"{name}.tex", rendering.latex(text, caption, f"slt_{name}"))


def _shown(value: Any) -> str:
    """A value for readers: four significant digits, a dash for what is not there."""
    if pd.isna(value):
        return rendering.EMPTY
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def claims_page(study: SltStudy) -> str:
    """The text of claims.md: every verdict with its statistic and threshold."""
    intro = (
        f"# Singular MDL: the paper's claims, judged on profile `{study.name}`\n\n"
        f"{verdicts.counts_text(study.verdicts)}.\n\n"
        "Statistics and thresholds: `data/paper/claims.yaml`."
        " Steps, tolerances and all settings stand in `params.yaml` and were fixed\n"
        f"before the run, on seed {_listed(study.slt.tuned_on)},"
        f" which is not among those judged here: {_listed(study.slt.seeds)}.\n"
    )
    return f"{intro}\n{verdicts.markdown(study.verdicts)}"


def page(study: SltStudy, drawn: Mapping[str, Drawing], table_captions: Mapping[str, str]) -> str:
    """The text of README.md."""
    summary = rendering.markdown(study.verdicts[["id", "verdict", "claim"]])
    parts = [
        f"# Compressibility and the local learning coefficient, profile `{study.name}`",
        _data_text(study),
        f"## Claims\n\n{summary}\nEach with its numbers: [claims.md](claims.md).",
    ]
    parts += _answer(study)
    if drawn:
        parts.append("## Figures\n\n" + figures.markdown(drawn))
    linked = [f"- [{name}](tables/{name}.md): {text}" for name, text in table_captions.items()]
    if len(study.complexity):
        linked.append("- [complexity.csv](complexity.csv): the image classifiers, a row each.")
    if linked:
        parts.append("## Tables\n\n" + "\n".join(linked))
    parts.append("## Settings\n\n" + rendering.markdown(_settings(study)))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _answer(study: SltStudy) -> list[str]:
    """The section that answers the question of the title; none without two seeds of a model."""
    said = rivals.sentences(study.results)
    if not said:
        return []
    text = (
        "Differences of R^2, LLC less rival, for leave-one-seed-out predictions and for what is"
        " left at equal loss; in brackets 95 % intervals of a bootstrap over runs and steps."
        " `Not told apart`: the interval holds zero. Every predictor and critical value:"
        " [rivals](tables/rivals.md), [answers](tables/answers.md)."
    )
    listed = "\n".join(f"- {sentence}" for sentence in said)
    return [f"## Does the LLC predict compressibility better?\n\n{listed}\n\n{text}"]


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


def _data_text(study: SltStudy) -> str:
    if not study.text:
        return "This profile has no language models."
    source, name, tokenizer = (
        rendering.code(study.text[key]) for key in ("source", "name", "tokenizer")
    )
    tokens = ", ".join(
        f"{count:,} {part.replace('_', ' ')}" for part, count in study.text["tokens"].items()
    )
    return (
        f"Text: {source} {name}, tokens by {tokenizer}: {tokens}.\n"
        f"SHA-256: `{study.text['sha256']}`."
    )


def _settings(study: SltStudy) -> pd.DataFrame:
    rows = [
        (f"{section.section}.{key}", str(value))
        for section in study.settings
        for key, value in vars(section).items()
    ]
    return pd.DataFrame(rows, columns=["Setting", "Value"])
