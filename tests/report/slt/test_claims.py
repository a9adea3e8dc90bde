"""Every claim of the second paper on results whose verdict is known; fits against scipy."""

import dataclasses
import functools
import json
import math
import re
import runpy
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from clones import environment, fork
from kept import kept_steps
from pages import one_for_all
from scipy import stats

from momos import config
from momos.report.momos import cell_list
from momos.report.momos.claims import read_singular
from momos.report.shared import figures as shared_figures
from momos.report.shared import verdicts
from momos.report.shared.claims import read_claims
from momos.report.shared.results import read_singular_numbers
from momos.report.slt import beside, claims, figures, rivals, study
from momos.report.slt.fits import fit, rise_at_knee
from momos.report.slt.results import RUN, SltResults

ROOT = Path(__file__).parents[3]
WANTED = read_claims(ROOT / "data" / "paper")
STEPS = [100, 200, 300, 400, 600, 800, 1000, 1500]
PARAMS = config.profile_settings("digits", ROOT / "profiles")


def settings(**changes) -> config.Slt:
    return config.Slt.from_mapping(
        PARAMS["slt"] | {"fit_steps": [200, 1500], "models": ["neox"]} | changes, "slt"
    )


def knee_curve(eps: float, num: int = 30) -> pd.DataFrame:
    """rise = exp(-k ln n_q + b) bends most where it is 1 / (k sqrt 2): k puts that at eps."""
    k = 1 / (eps * math.sqrt(2))
    strengths = np.geomspace(3, 300, num)
    return pd.DataFrame(
        {
            "strength": strengths,
            "cost": np.log2(strengths),
            "rise": np.exp(k * (np.log(20) - np.log(strengths)) + math.log(eps)),
            "coarse": np.arange(num) % 2 == 0,
        }
    )


@functools.cache
def curves(knee: float, seeds: tuple[int, ...], schemes: tuple[str, ...]) -> pd.DataFrame:
    """One curve for all runs, schemes and steps."""
    keys = [("neox", seed, step, name) for seed in seeds for name in schemes for step in STEPS]
    one = knee_curve(knee)
    places = pd.DataFrame(keys, columns=["model", "seed", "step", "scheme"])
    repeated = places.loc[np.repeat(places.index, len(one))].reset_index(drop=True)
    return pd.concat([pd.concat([one] * len(keys), ignore_index=True), repeated], axis=1)


def results(*, noise: float = 0.0, knee: float = 0.1, **changes) -> SltResults:
    """All claims hold: n_q is linear in the LLC, which rises. noise: of critical values; a scheme's
    values: a function of the LLC.
    """
    here = settings(**{name: value for name, value in changes.items() if name in PARAMS["slt"]})
    laws = {
        "quantization": lambda llc: 3 + 0.5 * llc,
        "quantization_max": lambda llc: 20 + 0.01 * llc**2,
        "factorization": lambda llc: 0.5 + 0.001 * llc,
        "noise_absolute": lambda llc: 0.1 + 0.01 * np.sin(llc),
        "noise_relative": lambda llc: 1 / llc,
        "pruning": lambda llc: 0.5 + 0 * llc,
    } | {name: law for name, law in changes.items() if name in config.CRITICAL}
    llc, critical = [], []
    for seed in here.seeds:
        values = np.sqrt(STEPS) * (1 + 0.1 * seed)
        if changes.get("llc") == "falls":
            values = values[::-1]
        draws = np.random.default_rng(seed)
        trace = draws.uniform(1, 2, len(STEPS))
        common = {"model": "neox", "seed": seed, "step": STEPS}
        llc.append(
            pd.DataFrame(
                common
                | {
                    "llc_mean": values,
                    "llc_std": 1.0,
                    "hessian_trace": trace,
                    "loss_rise": 0.1,
                    "init_loss": 3 - 0.1 * np.log(STEPS) ** 1.5,
                    "l2_norm": np.log(STEPS) + 0.1 * seed,
                    "flags": np.nan,
                    "nbeta": 300.0,
                    "localization": 3000.0,
                }
            )
        )
        for scheme in here.schemes:
            for eps in here.eps:
                found = (
                    laws[scheme](values)
                    * (0.1 / eps) ** 0.3
                    * (1 + noise * draws.normal(size=len(STEPS)))
                )
                critical.append(
                    pd.DataFrame(
                        common
                        | {"scheme": scheme, "eps": eps, "value": found, "status": "found"}
                        | {"refined": found - 2 * (np.arange(len(STEPS)) % 2)}
                    )
                )
    frames = (pd.concat(parts, ignore_index=True) for parts in (llc, critical))
    curve = curves(knee, tuple(here.seeds), tuple(here.schemes)).copy()
    return SltResults(*frames, curve, pd.DataFrame(), here)


def verdict(name: str, found: SltResults) -> verdicts.Judgement:
    (claim,) = [claim for claim in WANTED if claim.id == name]
    return claims.judge_claim(claim, found)


# --- fits


def test_a_fit_equals_scipys():
    draws = np.random.default_rng(0)
    x = draws.uniform(0, 10, 12)
    y = 3 - 2 * x + draws.normal(size=12)
    found, expected = fit(x, y), stats.linregress(x, y)
    assert (found.slope, found.intercept, found.r2) == pytest.approx(
        (expected.slope, expected.intercept, expected.rvalue**2)
    )
    places = np.array([-1.0, 5.0, 20.0])
    line, half = found.band(places)
    design = np.column_stack([np.ones(12), x])
    covariance = (
        np.linalg.inv(design.T @ design)
        * ((y - design @ [found.intercept, found.slope]) ** 2).sum()
        / 10
    )
    rows = np.column_stack([np.ones(3), places])
    np.testing.assert_allclose(
        half, stats.t.ppf(0.975, 10) * np.sqrt(np.einsum("ij,jk,ik->i", rows, covariance, rows))
    )
    np.testing.assert_allclose(line, expected.intercept + expected.slope * places)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [5, 5, 5, 5])]
)
def test_no_fit_where_there_is_nothing_to_fit(x, y):
    assert fit(x, y) is None


@pytest.mark.parametrize("eps", [0.03, 0.1, 0.5])
def test_the_knee_of_a_known_curve(eps):
    assert rise_at_knee(knee_curve(eps, 500)) == pytest.approx(eps, rel=0.25)


# --- claims

HOLD = results()


def test_the_knee_is_judged_without_a_power_law_too():
    flat = results()
    flat.curve["rise"] = flat.curve["rise"].clip(upper=0.009)
    found = verdict("S2", flat)
    assert found.verdict == verdicts.NOT_SUPPORTED and "no power law" in found.also
    assert "A power law through its rises" in verdict("S2", HOLD).also


def test_a_finer_theta_stands_beside_the_fit_on_the_llc():
    found = verdict("S1", HOLD).also
    assert "lower at 12 of 21 checkpoints, by at most 2" in found
    assert "Eq. 9 predicts linearity in bits" in found and "n_q itself is the more linear" in found
    assert "predict critical n_q better?" in verdict("S8", HOLD).also


@pytest.mark.parametrize("name", claims.JUDGES.functions)
def test_a_claim_that_holds(name):
    found = verdict(name, HOLD)
    assert found.verdict == verdicts.SUPPORTED and "neox 1: " in found.measured


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("S1", {"quantization": lambda llc: 100 * np.exp(-((llc - 25) ** 2) / 20)}),
        ("S1", {"quantization": lambda llc: 100 - llc}),
        ("S2", {"knee": 0.4}),
        ("S2", {"knee": 0.02}),
        ("S3", {"noise": 0.5}),
        ("S4", {"llc": "falls"}),
        ("S5", {"factorization": lambda llc: 1 - 0.001 * llc}),
        (
            "S6",
            {
                "quantization_max": lambda llc: 20 + llc,
                "noise": 0.0,
                "quantization": lambda llc: 3 + llc**3,
            },
        ),
        ("S7", {"noise_relative": lambda llc: llc}),
        (
            "S8",
            {
                "noise_absolute": lambda llc: 1 - 0.01 * llc,
                "quantization": lambda llc: 3 + 0.5 * llc,
                "noise": 0.0,
            },
        ),
    ],
)
def test_a_claim_that_does_not(name, changes):
    assert verdict(name, results(**changes)).verdict == verdicts.NOT_SUPPORTED


def test_the_mean_over_runs_is_judged_and_each_run_is_shown():
    found = verdict("S4", HOLD)
    assert "1.000 (mean of neox 1: 1.000, neox 2: 1.000, neox 3: 1.000)" in found.measured


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        (
            {"seeds": [1, 2]},
            list(claims.JUDGES.functions),
            "Needs 3 runs on which no setting was chosen, has 2",
        ),
        ({"schemes": ["pruning"]}, ["S1", "S2", "S3", "S5", "S6", "S7", "S8"], "was not run"),
        ({"eps": [0.1, 0.3]}, ["S3"], "Needs three eps"),
        (
            {"fit_steps": [600, 1000]},
            ["S1", "S5", "S7", "S8"],
            "3 checkpoints have a critical point, 4 are needed",
        ),
    ],
)
def test_what_was_not_run_is_not_judged(changes, names, message):
    found = results(**changes)
    for name in names:
        judged = verdict(name, found)
        assert judged.verdict == verdicts.NOT_RUN and message in judged.note, name


def test_equal_runs_decide_nothing():
    """All of HOLD's fits are exact in every run, so that there is no spread to judge by."""
    for name in ("S1", "S3", "S4", "S5", "S7"):
        found = verdict(name, HOLD)
        assert (found.verdict, found.decided) == (verdicts.SUPPORTED, "no"), name
        assert "without spread (n=3)" in found.interval


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_the_runs_own_values_decide(noise):
    """By hand: Student's interval of R^2 over three seeds lies on one side of 0.9, or not.

    Against a claim of two conditions, R^2 and slope, the level is 1 - 0.05 / 2.
    """
    found = results(noise=noise)
    values = [
        stats.linregress(mine.llc_mean, mine.value).rvalue ** 2
        for _, mine in found.in_range(found.points("quantization")).groupby("seed")
    ]
    judged = verdict("S1", found)
    level = 0.95 if judged.verdict == verdicts.SUPPORTED else 0.975
    low, high = stats.t.interval(level, 2, np.mean(values), stats.sem(values))
    slopes = [f"r2 {low:.4g} to {high:.4g} (n=3)", "slope "]
    assert all(part in judged.interval for part in slopes)
    assert judged.decided == ("yes" if low >= 0.9 or high < 0.9 else "no")
    assert (judged.decided == "yes") == (noise == 0.02), "both cases are seen"


def test_two_runs_decide_nothing_and_say_so():
    found = verdict("S1", results(seeds=[1, 2], noise=0.01))
    assert (found.verdict, found.decided, found.interval) == (verdicts.NOT_RUN, "", "")


def test_tolerances_are_parts_each_with_its_interval():
    found = verdict("S3", results(noise=0.05))
    assert all(
        f"eps {a:g} and {b:g} " in found.interval for a, b in ((0.03, 0.1), (0.03, 0.3), (0.1, 0.3))
    )


@pytest.mark.parametrize("name", ["S1", "S4", "S5", "S7", "S8"])
def test_what_the_llc_cannot_be_told_apart_from_stands_beside(name):
    """Here the LLC is 0.8 * nbeta / (2 localization) tr(H), up to two percent."""
    found = results(noise=0.05)
    factor = 1 + 0.02 * np.random.default_rng(3).normal(size=len(found.llc))
    llc = found.llc.assign(hessian_trace=found.llc.llc_mean / (0.8 * 0.05) * factor)
    found = dataclasses.replace(found, llc=llc)
    text = verdict(name, found).also
    points = found.in_range(llc)
    ratio = (points.llc_mean / (300 / (2 * 3000) * points.hessian_trace)).median()
    assert f"the LLC is {ratio:.2f} times" in text and ratio == pytest.approx(0.8, rel=0.02)
    for x, name_shown in (
        (points.hessian_trace, "tr(H)"),
        (np.log(points.step), "log step"),
        (points.init_loss, "loss"),
    ):
        by_run = [
            stats.pearsonr(points.llc_mean[mine], x[mine]).statistic
            for mine in points.groupby("seed").groups.values()
        ]
        assert f"{name_shown} {np.mean(by_run):.3f} (mean of neox 1: {by_run[0]:.3f}" in text
    assert ("R^2 of the critical value on the LLC" in text) == (name != "S4")


def test_rivals_are_fitted_as_the_llc_is():
    found = results(noise=0.05)
    llc = beside.statistic_by_run(found, "quantization", beside.r2("llc_mean"))
    text = beside.rivals_text(found, "quantization", llc)
    points = found.in_range(found.points("quantization"))
    by_run = [
        stats.linregress(np.log(mine.step), mine.value).rvalue ** 2
        for _, mine in points.groupby("seed")
    ]
    assert f"on log step {np.mean(by_run):.3f}" in text and "all worse than the LLC" in text
    no_better = results(llc="falls", quantization=lambda llc: 3 + 0 * llc)
    flat = beside.statistic_by_run(no_better, "quantization", beside.r2("llc_mean"))
    text = beside.rivals_text(no_better, "quantization", flat)
    assert "no worse than the LLC: tr(H), log step, loss" in text


def test_the_llc_stands_beside_its_quadratic_prediction():
    found = results()
    assert "quadratic prediction" not in beside.llc_text(found)
    found.llc["llc_corrected"] = 3 * found.llc.llc_mean
    found.llc["llc_quadratic"], found.llc["llc_gradient"] = 2 * found.llc.llc_mean, 0.0
    found.llc.loc[found.llc.step == 300, "llc_gradient"] = -found.llc.llc_mean
    text = beside.llc_text(found)
    assert "1.50 times the quadratic prediction over the spectrum (1.50 to 3.00)" in text
    assert "quadratic prediction of the LLC" in set(rivals.table(found).predictor)


def test_no_language_models():
    nothing = SltResults(
        pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), settings(models=[])
    )
    assert set(claims.judge(WANTED, nothing).verdict) == {verdicts.NOT_RUN}


@pytest.mark.parametrize("status", ["none", "all"])
def test_a_bound_or_nothing_is_no_critical_point(status):
    found = results()
    found.critical.loc[
        (found.critical.step == 300) & (found.critical.seed == 2), ["status", "value"]
    ] = [status, 999.0]
    judged = verdict("S1", found)
    assert (
        judged.verdict == verdicts.SUPPORTED
        and "1 checkpoints without a critical point on the grid left out" in judged.note
    )
    assert found.points("quantization").query("step == 300 and seed == 2").value.isna().all()


def test_steps_outside_the_range_take_no_part():
    found = results()
    found.critical.loc[found.critical.step == 100, "value"] = 1e6
    assert verdict("S1", found).verdict == verdicts.SUPPORTED


def test_claims_and_functions_must_be_the_same():
    without_s1 = [claim for claim in WANTED if claim.id != "S1"]
    with pytest.raises(ValueError, match=r"no function: \[\], not in the file: \['S1'\]"):
        claims.judge(without_s1, HOLD)


@pytest.mark.parametrize("name", claims.JUDGES.functions)
def test_the_threshold_of_the_file_decides(name):
    (claim,) = [claim for claim in WANTED if claim.id == name]
    for operator, expected in ((">=", verdicts.SUPPORTED), ("<", verdicts.NOT_SUPPORTED)):
        changed = [
            dataclasses.replace(condition, operator=operator, value=-math.inf, factor=1)
            for condition in claim.conditions
        ]
        other = dataclasses.replace(claim, conditions=tuple(changed))
        assert claims.judge_claim(other, HOLD).verdict == expected


# --- the stage


def write_tree(root: Path, found: SltResults, **changes) -> None:
    """As the measuring stages do, below root/slt; params.yaml, too."""
    params = PARAMS | {
        "slt": PARAMS["slt"] | {"fit_steps": [200, 1500]} | changes,
        "grid": PARAMS["grid"] | {"models": ["mlp"]},
    }
    (root / "params.yaml").write_text(
        yaml.safe_dump(params | {"ablation": PARAMS["ablation"] | {"models": []}})
    )
    slt = root / "slt"
    for (model, seed), llc in found.llc.groupby(RUN):
        run = f"{model}/{seed}"
        own = llc.drop(columns=[*RUN, "l2_norm"])
        save(slt / "measures" / run / "llc" / "llc.csv", own)
        save(slt / "checkpoints" / run / "history.csv", llc[["step"]].assign(val_loss=1.0))
        for scheme in found.settings.schemes:
            for name, frame in (("critical", found.critical), ("curve", found.curve)):
                mine = frame[
                    (frame.model == model) & (frame.seed == seed) & (frame.scheme == scheme)
                ]
                save(
                    slt / "measures" / run / scheme / f"{name}.csv",
                    mine.drop(columns=[*RUN, "scheme"]),
                )
    norms = found.llc[["model", "seed", "step", "l2_norm"]]
    for model, mine in norms.groupby("model"):
        save(slt / "rivals" / f"{model}.csv", mine.drop(columns="model"))
    (slt / "text.json").write_text(
        json.dumps(
            {
                "source": "package",
                "name": "x",
                "tokenizer": "bytes",
                "sha256": "ab",
                "tokens": {"train": 9},
            }
        )
    )
    measures = {
        "rac": 2.0,
        "bdm_1d_ratio": 0.9,
        "bdm_2d_ratio": 0.8,
        "llc_std": 1.0,
        "hessian_trace": 3.0,
        "gzip": 1.1,
        "lzma": 1.2,
    }
    rows = [
        {
            "model": "mlp",
            "method": f"m{i}",
            "seed": 0,
            "llc_mean": i,
            "critical_n_q_eps0.1": 3 + 2 * i,
        }
        | measures
        for i in range(4)
    ]
    save(slt / "images" / "mlp.csv", pd.DataFrame(rows))
    save(slt / "along" / "mlp.csv", kept_steps())
    save(slt / "quantised" / "mlp.csv", pd.DataFrame(columns=["model", "method", "seed"]))


def save(path: Path, frame: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


STAGE = ROOT / "stages" / "slt_report.py"


def arguments(root: Path, out: Path) -> list[Path]:
    """Of the stage."""
    inputs = (ROOT / "data" / "paper", root / "imported", root / "slt")
    return [*inputs, root / "verdicts.json", out / "slt_numbers.csv", out / "digits" / "slt"]


def run_stage(root: Path, out: Path, monkeypatch) -> None:
    monkeypatch.chdir(root)
    runpy.run_path(str(STAGE))["main"](*arguments(root, out))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    write_tree(root, HOLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_figures, "write_all", made_alone)
        run_stage(root, root, patch)
    return root


def made_alone(drawn, folder: Path) -> None:
    """Make every figure, and write one small picture for all: most of the time is the writing."""
    with shared_figures.style():
        assert all(drawing.draw().axes for drawing in drawn.values())
    one_for_all(drawn, folder)


def test_the_report_holds_all_that_it_links_to(tree):
    report = tree / "digits" / "slt"
    targets = re.findall(r"\]\(([^)]+)\)", (report / "README.md").read_text())
    assert len(targets) > 20 and all((report / target).is_file() for target in targets)
    drawn = {path.stem for path in (report / "figures").iterdir()} - {"captions"}
    assert drawn == {f"curves_{scheme}" for scheme in config.CRITICAL} | {
        "llc",
        "critical_llc",
        "critical_step",
        "eps",
        "controls",
        "measures",
        "images",
        "along",
    }
    assert (
        "seed 0, which is not among those judged here: 1, 2, 3"
        in (report / "claims.md").read_text()
    )
    fits = pd.read_csv(report / "tables" / "fits.csv")
    exact = fits[
        (fits.scheme == "quantization") & (fits.fitted == "value") & (fits.on == "llc_mean")
    ]
    assert (
        exact.r2.to_numpy() == pytest.approx(1)
        and exact.slope.to_numpy() == pytest.approx(0.5)
        and set(exact.num_points) == {7}
    )


def test_its_numbers_stand_in_the_document_of_both_papers(tree):
    rows = read_singular_numbers(tree / "slt_numbers.csv")
    cells = {cell["id"]: cell for cell in cell_list.singular_cells(rows)}
    slope = cells["slt_fits/neox/quantization_on_llc_mean/slope"]
    assert (
        slope["values"] == pytest.approx([0.5] * 3)
        and slope["seeds"] == [1, 2, 3]
        and slope["stage"] == "slt_report"
    )
    llc = HOLD.llc[HOLD.llc.step == 800].llc_mean
    at_800 = cells["slt_checkpoints/neox/step800/llc_mean"]
    assert at_800["values"] == pytest.approx(list(llc)) and at_800["source"].endswith(
        "slt/measures/neox/*/llc/llc.csv"
    )
    norm = cells["slt_checkpoints/neox/step800/l2_norm"]
    assert norm["source"].endswith("slt/rivals/neox.csv") and norm["stage"] == "rivals"
    assert norm["values"] == pytest.approx(list(HOLD.llc[HOLD.llc.step == 800].l2_norm))
    assert (
        cells["slt_images/mlp/m3/critical_n_q_eps0.1"]["value"] == 9
        and cells["slt_images/mlp/m3/llc_mean"]["num_seeds"] == 1
    )
    assert read_singular_numbers(tree / "missing.csv").empty


def test_an_eps_below_the_losses_own_noise_is_flagged():
    """At eps = 0.1, beside the flags that there are."""
    errors = [0.2, 0.2, 0.05, 0.05] + [0.0] * (len(HOLD.llc) - 4)
    flags = [None, "negative", None, "negative"] + [None] * (len(HOLD.llc) - 4)
    noisy = dataclasses.replace(HOLD, llc=HOLD.llc.assign(loss_se=errors, flags=flags))
    found = study._step_table(noisy)["flags"].fillna("").tolist()
    assert found[:5] == ["eps_below_noise", "negative eps_below_noise", "", "negative", ""]


def test_bits_are_drawn_for_every_run():
    points = {name: HOLD.points("quantization") for name in ("quantization", "quantization bits")}
    drawn = figures.against(points, HOLD.runs, "llc_mean", [200, 1500])
    for place, ax in enumerate(drawn.axes):
        mine = points["quantization"][points["quantization"].seed == HOLD.runs[place % 3][1]]
        expected = mine["log2" if place >= 3 else "value"].max()
        marks = [
            line for line in ax.get_lines() if line.get_marker() == "o" and len(line.get_xdata())
        ]  # the fitted line may lie higher
        assert max(line.get_ydata().max() for line in marks) == pytest.approx(expected)


def test_the_first_papers_report_reads_the_verdicts(tree):
    found = read_singular(tree / "verdicts.json")
    assert list(found) == list(claims.JUDGES.functions)
    assert list(found)[:8] == [f"S{number}" for number in range(1, 9)]
    assert found["S1"] == verdict("S1", HOLD)
    assert read_singular(tree / "missing.json") == {}


def written(root: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(root): path.read_bytes()
        for path in (root / "digits").rglob("*")
        if path.is_file()
    }


@pytest.mark.stress
def test_the_same_results_give_the_same_bytes(tree, tmp_path, monkeypatch, warm):
    """All texts of three runs; the figures as they are written, of one run.

    Four reports. The suite makes one twice, without figures: tests/test_pipeline.py.

    The second time by a process with another order of every set of strings.
    """
    with monkeypatch.context() as patch:
        patch.setattr(shared_figures, "write_all", one_for_all)
        run_stage(tree, tmp_path / "again", patch)
    assert written(tree) == written(tmp_path / "again")
    write_tree(tmp_path, results(seeds=[1]), seeds=[1])
    run_stage(tmp_path, tmp_path / "first", monkeypatch)
    command = [fork(warm), STAGE, *arguments(tmp_path, tmp_path / "second")]
    env = environment() | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    assert written(tmp_path / "first") == written(tmp_path / "second")
    names = {path.name for path in (tree / "digits" / "slt" / "figures").iterdir()}
    drawn = {path.name: path.read_bytes() for path in tmp_path.glob("first/digits/slt/figures/*")}
    assert drawn.keys() == names and len(names) == 3 * 14 + 1
    assert len(set(drawn.values())) == len(names), "no picture stands for another"


def test_odd_names_of_models_and_texts_survive_the_page(tmp_path, monkeypatch):
    """A model of any name that config takes, and a text from a folder of any name."""
    model, odd = "a" * 60 + "_E1", "a|b <i> `c` ``d`` $x_1$ & 50% #1 \\ é {{x}}"
    frames = ("llc", "critical", "curve")
    one = results(seeds=[1])
    renamed = {name: getattr(one, name).assign(model=model) for name in frames}
    found = dataclasses.replace(one, **renamed, settings=settings(models=[model], seeds=[1]))
    write_tree(tmp_path, found, seeds=[1])
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["language_models"][model] = params["language_models"].pop("neox")
    params["slt"]["models"] = [model]
    for key in ("lr", "num_draws"):
        params["llc"][key] = {model: params["llc"][key]["neox"]}
    params["text"] |= {"name": odd, "tokenizer": odd}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    text = json.loads((tmp_path / "slt/text.json").read_text()) | {"name": odd, "tokenizer": odd}
    (tmp_path / "slt/text.json").write_text(json.dumps(text))
    monkeypatch.setattr(shared_figures, "write_all", one_for_all)
    run_stage(tmp_path, tmp_path, monkeypatch)
    report = tmp_path / "digits" / "slt"
    page = (report / "README.md").read_text()
    assert f"``` {odd} ```, tokens by ``` {odd} ```" in page
    (row,) = [line for line in page.splitlines() if "text.tokenizer" in line]
    assert len(re.split(r"(?<!\\)\|", row)) == 4 and "<i>" not in row
    fits = pd.read_csv(report / "tables" / "fits.csv")
    assert set(fits.model) == {model} and model in (report / "tables/fits.md").read_text()
    assert model.replace("_", r"\_") in (report / "tables/fits.tex").read_text()


def test_a_missing_table_is_named(tree, tmp_path, monkeypatch):
    write_tree(tmp_path, HOLD)
    (tmp_path / "slt" / "measures" / "neox" / "2" / "factorization" / "critical.csv").unlink()
    with pytest.raises(ValueError, match="neox/2/factorization/critical.csv is missing"):
        run_stage(tmp_path, tmp_path, monkeypatch)
    assert not (tmp_path / "digits").exists()
