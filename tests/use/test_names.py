"""Names: what can't be one everywhere is refused before any work, with the rule and a suggestion;
what passes works to the end of the report, in text, HTML, LaTeX and shell commands.
"""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import synthetic
import yaml
from bs4 import BeautifulSoup
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pages import build_report
from synthetic import ROOT, Tree

from momos import config
from momos.config import names
from momos.config.numbers import write_yaml
from momos.report.shared import tables

SECTIONS = ("models", "methods", "language_models")
BAD = {
    "momos_s2_c0.5": "momos_s2_c0_5",  # DVC takes the point for the way to a key
    "two words": "two_words",
    "a;touch x": "a_touch_x",
    "$(touch x)": "touch_x",
    "-x": "x",
    "größe": "groe",
    "8bit": "m8bit",
    "a/b": "a_b",
    "..": None,
    "": None,
    "x" * 64: "x" * 63,
    "<b>": "b",
    "a'b": "a_b",
    "a\nb": "a_b",
    "a-b": "a_b",  # mlp-a and b, or mlp and a-b?
    "nan": None,  # tables read it as a missing value
    "True": None,
    "Null": None,
}


def digits() -> dict:
    return config.profile_settings("digits", ROOT / "profiles")


def checked(params: dict, folder: Path) -> dict:
    path = folder / "params.yaml"
    path.write_text(write_yaml(params))
    return config.check(path)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", BAD)
def test_a_name_that_cant_be_one_is_refused_with_a_suggestion(tmp_path, section, name):
    params = digits()
    params[section][name] = next(iter(params[section].values()))
    with pytest.raises(ValueError) as error:
        checked(params, tmp_path)
    text = str(error.value)
    assert section in text and repr(name) in text
    suggested = BAD[name]
    assert suggested is None or f"(such as {suggested})" in text
    assert names.RULE in text or "which tables read as values" in text


def test_a_number_is_no_name(tmp_path):
    params = digits()
    params["methods"][8] = {"bits": 8}
    with pytest.raises(ValueError, match=r"methods: the name of an entry must be .*, got 8"):
        checked(params, tmp_path)


@pytest.mark.parametrize(("section", "key"), [("grid", "methods"), ("slt", "models")])
def test_a_list_of_names_says_what_a_name_is(tmp_path, section, key):
    """Also where the entry went elsewhere: of -S '+methods.a_c0.5={bits: 8}' comes a_c0."""
    params = digits()
    params[section][key] = [*params[section][key], "a_c0.5"]
    with pytest.raises(ValueError, match=rf"{section}\.{key}: .*such as a_c0_5"):
        checked(params, tmp_path)


def test_names_that_differ_in_capitals_alone_share_folders_elsewhere(tmp_path):
    params = digits()
    params["methods"]["QAT8"] = {"bits": 8}
    with pytest.raises(ValueError, match=r"methods\.QAT8 must be another name than 'qat8'"):
        checked(params, tmp_path)


def test_a_method_is_not_called_like_a_cell_of_the_ablation(tmp_path):
    params = digits()
    params["ablation"] |= {"block_sizes": [2], "capacities": [1]}
    params["methods"]["s2_c1"] = {"bits": 8}
    params["grid"]["methods"].append("s2_c1")
    with pytest.raises(ValueError, match=r"grid\.methods .*'s2_c1', the name of a cell"):
        checked(params, tmp_path)


@pytest.mark.parametrize("name", ["a b", "a;b", "expected", "ä", "../x", "-x", "x" * 64])
def test_a_profile_that_cant_be_a_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="profile must be"):
        checked(digits() | {"profile": name}, tmp_path)


@pytest.mark.parametrize("key", ["remote", "partition"])
def test_what_reaches_a_command_of_the_cluster_is_plain(tmp_path, key):
    params = digits()
    params["sweep"][key] = "gpu; touch x"
    with pytest.raises(ValueError, match=rf"sweep\.{key} must be a name or null"):
        checked(params, tmp_path)


# --- names that pass

# What reads like something else in Python, LaTeX, pandas or SQL
ODD = ("model", "method", "title", "label", "index", "textbf", "E1e5", "x__", "All", "NaN_", "sum")
text = st.text(st.characters(codec="utf-8"), max_size=12) | st.from_regex(
    names.NAME, fullmatch=True
)


def accepted(name: str, kind: str, folder: Path) -> bool:
    """Whether a profile can be called so, or an entry of one of SECTIONS."""
    params = digits()
    if kind == "profile":
        params["profile"] = name
    else:
        params[kind][name] = next(iter(params[kind].values()))
    try:
        checked(params, folder)
    except ValueError:
        return False
    return True


def with_name(command: str, name: str) -> str:
    """A command of dvc.yaml as DVC fills it in."""
    return re.sub(r"\$\{[^}]*\}", lambda _: name, command)


STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
COMMANDS = [stage["cmd"] for stage in STAGES.values()]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=text, kind=st.sampled_from(["profile", *SECTIONS]))
@example(name="a b", kind="methods")
@example(name="a;b", kind="profile")
@example(name="$x", kind="models")
@example(name="0-a", kind="profile")
@example(name="0", kind="profile")
def test_a_name_that_passes_is_one_word_of_a_shell_and_one_key(tmp_path, name, kind):
    if not accepted(name, kind, tmp_path):
        return
    for command in COMMANDS:
        words = shlex.split(re.sub(r"\$\{[^}]*\}", "NAME", command))
        filled = [word.replace("NAME", name) for word in words]
        assert shlex.split(with_name(command, name)) == filled
    said = subprocess.run(["bash", "-c", f"printf %s {name}"], capture_output=True, text=True)
    assert said.stdout == name and not said.stderr
    assert "." not in name and Path(name).name == name
    if kind != "profile":  # the others stand in columns of tables
        row = pd.read_csv(_csv(tmp_path, name)).iloc[0]
        assert row.method == name and isinstance(row.method, str)


def _csv(folder: Path, name: str) -> Path:
    path = folder / "table.csv"
    pd.DataFrame({"method": [name]}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Tree(tmp_path_factory.mktemp("study"))


def renamed(study: Tree, folder: Path, new: dict[str, str]) -> Path:
    """A copy of the study in which models and methods have other names."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(study.root, folder)
    called = {key: new.get(key, key) for key in (*synthetic.TREE_MODELS, *study.params["methods"])}
    for path in folder.rglob("*.csv"):
        frame = pd.read_csv(path)
        for column in {"model", "method"} & set(frame):
            frame[column] = frame[column].replace(called)
        frame.to_csv(path, index=False)
    for place in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if place.name in new:
            place.rename(place.with_name(new[place.name]))
    return folder


def renamed_params(study: Tree, new: dict[str, str]) -> dict:
    """The study's settings with the new names in the place of the old ones."""
    params = json.loads(json.dumps(study.params))
    for section in ("models", "methods"):
        params[section] = {new.get(key, key): value for key, value in params[section].items()}
    for section, key in (
        ("grid", "models"), ("grid", "methods"), ("ablation", "models"), ("complexity", "methods"),
    ):  # fmt: skip
        params[section][key] = [new.get(name, name) for name in params[section][key]]
    for key in ("picture_model", "picture_method"):
        params["report"][key] = new.get(params["report"][key], params["report"][key])
    return params


def plain(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def check_report(reports: Path, model: str, method: str) -> None:
    """Model and method are in each kind of text, and read back as they are."""
    known = json.loads(plain(reports / "results.json"))["names"]
    assert known["models"][model] == model and method in known["methods"]
    label = known["methods"][method]["label"]
    for stem in ("table1", "complexity", "packing"):
        html = BeautifulSoup(plain(reports / "tables" / f"{stem}.html"), "html.parser")
        shown = {cell.get_text() for cell in html.find_all(["th", "td"])}
        assert model in shown and label in shown
        latex = plain(reports / "tables" / f"{stem}.tex")
        assert tables.latex_escape(model) in latex and tables.latex_escape(label) in latex
        body = re.sub(r"\\label\{[^}]*\}", "", latex)
        assert not re.search(r"(?<!\\)[_#$&](?!\\)", re.sub(r" & |\$\\\w+\$|\$[<>-]\$", "", body))
        assert model in plain(reports / "tables" / f"{stem}.md")
    page = BeautifulSoup(plain(reports / "index.html"), "html.parser").get_text()
    assert model in page and label in page


class Names(NamedTuple):
    """What a user may call things: entries and the profile plainly, all else as it comes."""

    model: str
    method: str
    profile: str
    free: str  # of paths and of models from elsewhere


def check_free_text(reports: Path, free: str) -> None:
    """A path of the settings and the name of a model from elsewhere, in each kind of text."""
    rows = [line for line in plain(reports / "README.md").splitlines() if "data.path" in line]
    (row,) = rows
    cells = re.split(r"(?<!\\)\|", row)
    shown = cells[2].strip().replace(r"\|", "|").replace("&lt;", "<")
    assert len(cells) == 4 and shown == f"data/raw/{free}".strip()
    assert not re.search("<[A-Za-z/!?]", row)
    known = BeautifulSoup(plain(reports / "index.html"), "html.parser")
    assert f"data/raw/{free}" in {cell.get_text() for cell in known.find_all("td")}
    html = BeautifulSoup(plain(reports / "tables/zoo_networks.html"), "html.parser")
    assert free in {cell.get_text() for cell in html.find_all("td")}
    assert tables.latex_escape(free) in plain(reports / "tables/zoo_networks.tex")


def free_params(params: dict, free: str) -> None:
    """Put a text wherever any may stand."""
    params["data"] |= {"source": "images", "path": f"data/raw/{free}", "test_fraction": None}
    params["text"] |= {"name": free, "tokenizer": free}
    params["survey"]["path"] = f"data/zoo/{free}"
    params["tracking"]["experiment"] = free


def survives(study: Tree, folder: Path, called: Names) -> None:
    """The whole report, with these names."""
    new = {"resnet20": called.model, "qat8": called.method}
    params = renamed_params(study, new) | {"profile": called.profile}
    free_params(params, called.free)
    try:
        checked(params, folder)
    except ValueError:
        return  # nan, say, or the name of another method
    renamed(study, folder / "renamed", new)
    (folder / "renamed/params.yaml").write_text(write_yaml(params), encoding="utf-8")
    zoo = folder / "renamed/results/digits/zoo.csv"
    frame = pd.read_csv(zoo)
    frame["name"] = frame["name"].where(frame["name"] != "m2", called.free)
    frame.to_csv(zoo, index=False)
    reports = build_report(folder / "renamed", called.profile)
    check_report(reports, called.model, called.method)
    assert f"profile `{called.profile}`" in plain(reports / "README.md")
    check_free_text(reports, called.free)


name = st.from_regex(names.NAME, fullmatch=True) | st.sampled_from(ODD)
free = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=20)
called = st.builds(Names, name, name, st.from_regex(names.PROFILE, fullmatch=True), free)
NASTY = r"a|b <i> `c` $x_1$ & 50% #1 \ </script> é {{x}} {% y %}".replace("/", ":")


def test_a_nasty_name_that_passes_survives_the_whole_report(study, tmp_path):
    survives(study, tmp_path, Names("model", "label", "0-a_B", NASTY))


@pytest.mark.stress
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(called=called)
@example(called=Names("a" * 63, "E1e5_", "x" * 63, "007"))
def test_many_names_that_pass_survive_the_whole_report(study, tmp_path, called):
    survives(study, tmp_path, called)


@pytest.mark.parametrize("line", ["a\nb", "a\x1b[31mb", "a\u2028b", "a\x7f"])
def test_a_text_of_several_lines_or_with_control_characters_is_refused(tmp_path, line):
    for section, key in (("data", "path"), ("text", "name"), ("report", "picture_tensor")):
        params = digits()
        params[section][key] = f"data/raw/{line}"
        with pytest.raises(ValueError) as error:
            checked(params, tmp_path)
        assert f"{section}.{key} must be printable text on one line" in str(error.value)


def test_entries_with_equal_settings_keep_labels_of_their_own(study, tmp_path):
    """Two rows with one label stopped the report after all training."""
    params = renamed_params(study, {"qat4": "again"})
    params["methods"]["again"] = {"bits": 8}
    folder = renamed(study, tmp_path / "equal", {"qat4": "again"})
    (folder / "params.yaml").write_text(write_yaml(params))
    reports = build_report(folder)
    table = pd.read_csv(reports / "tables/table1.csv")
    text = table.astype(str).to_csv()
    assert "QAT 8 bit (again)" in text and re.search(r"QAT 8 bit(?! \()", text)
    methods = json.loads(plain(reports / "results.json"))["names"]["methods"]
    assert methods["qat8"]["label"] == "QAT 8 bit"
    assert methods["again"]["label"] == "QAT 8 bit (again)"
