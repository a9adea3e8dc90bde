"""scripts/locks.py and quick_dvc.py: dvc.lock taken apart, put together and written stage by stage
has the bytes that DVC gives it, and settings are read as DVC reads them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from spread import fresh

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import locks  # noqa: E402
import quick_dvc  # noqa: E402
import repro  # noqa: E402
from dvc import dvcfile  # noqa: E402
from dvc.dependency import param  # noqa: E402
from dvc.fs import LocalFileSystem  # noqa: E402
from dvc.utils.serialize import parse_yaml  # noqa: E402

FAIL = "(lambda self, stages, **kwargs: 1 / 0).__code__"
DENY = f"quick_dvc.dvcfile.Lockfile.dump_stages.__code__ = {FAIL};"
COMMITTED = [ROOT / "dvc.lock", *sorted((ROOT / "profiles").glob("*.lock"))]


@pytest.mark.parametrize("text", [
    "<<<<<<< mine\nschema: '2.0'\nstages:\n  a:\n    cmd: a\n",
    "stages:\n  a:\n    cmd: a\nschema: '2.0'\n",
    "schema: '2.0'\nstages:\n    a:\n        cmd: a\n",
    "schema: '2.0'\nstages:\n  a:\n    cmd: a\n  # a comment\n  b:\n    cmd: b\n",
    "schema: '2.0'\nstages:\n  a: {\n    cmd: a\n  }\n",
    "schema: '2.0'\nstages:\n  a:\n    cmd: &id001 a\n  b:\n    cmd: *id001\n",
])  # fmt: skip
def test_a_lock_that_dvc_did_not_write_is_refused_and_not_emptied(text):
    with pytest.raises(ValueError, match="dvc.lock"):
        locks.split_lock(text)


def test_a_lock_without_stages():
    assert locks.split_lock("") == locks.split_lock("schema: '2.0'\nstages: {}\n") == {}


@pytest.mark.parametrize("lock", COMMITTED, ids=lambda path: path.name)
def test_a_lock_taken_apart_and_put_together_is_the_same_bytes(lock):
    entries = locks.split_lock(lock.read_text())
    assert locks.join_lock(entries.values()) == lock.read_text()
    stages = yaml.load(lock.read_text(), yaml.CSafeLoader)["stages"]
    assert list(entries) == list(stages)
    for name in [*stages][::20]:
        assert yaml.safe_load(entries[name]) == {name: stages[name]}
        as_dvc_reads = parse_yaml(entries[name], lock)  # 1e-05 is a number in YAML 1.2
        assert quick_dvc.entries_of(as_dvc_reads) == {name: entries[name]}


def pipeline(words: dict[str, str]) -> str:
    """A stage a word; names, commands and settings that YAML has to quote or fold among them."""
    code = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
    cmd = f"python -c \"{code}\" out/{{name}}.txt '{{word}}'"
    return yaml.safe_dump(
        {
            "stages": {
                name: {
                    "cmd": cmd.format(name=name, word=word),
                    "params": ["train", "empty"],
                    "deps": ["in.txt"],
                    "outs": [f"out/{name}.txt"],
                }
                for name, word in words.items()
            }
        }
    )


@pytest.fixture
def twins(tmp_path):
    """Two repositories alike: one for DVC as ever, one for ours."""
    for name in ("dvc", "ours"):
        (tmp_path / name / "out").mkdir(parents=True)
        (tmp_path / name / "in.txt").write_text("in")
        (tmp_path / name / "params.yaml").write_text(
            "train: {lr: 1.0e-3, names: ['yes', '1e5', ü], path: null}\nempty: {}\n"
        )
        (tmp_path / name / "shared.yaml").write_text(
            "one: {seeds: &seeds [0, 1]}\ntwo: {seeds: *seeds}\n"
        )
        shutil.copytree(fresh("--no-scm"), tmp_path / name, dirs_exist_ok=True)
    return tmp_path


def stages_of(text: str) -> dict:
    return yaml.safe_load(text)["stages"]


def reproduce(twins: Path, words: dict[str, str], *, quick: bool = True) -> str:
    """Both run the pipeline; dvc.lock, which is the same. quick: whether ours may do without DVC's
    own way of writing.
    """
    run = f"import quick_dvc, sys; {DENY if quick else ''} quick_dvc.replace_writing();"
    run += "sys.exit(quick_dvc.main(sys.argv[1:]))"
    for name, command in (("dvc", repro.dvc(wait=False)), ("ours", [sys.executable, "-c", run])):
        (twins / name / "dvc.yaml").write_text(pipeline(words))
        environment = repro.environment() | {"PYTHONPATH": str(ROOT / "scripts")}
        done = subprocess.run(
            [*command, "repro"], cwd=twins / name, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Updating lock file 'dvc.lock'" in done.stdout + done.stderr
    texts = {name: (twins / name / "dvc.lock").read_text() for name in ("dvc", "ours")}
    assert texts["ours"] == texts["dvc"]
    return texts["ours"]


LONG = "a word and another " * 12


def test_written_stage_by_stage_it_has_the_bytes_that_dvc_gives_it(twins):
    first = locks.split_lock(
        reproduce(twins, {"a": "one", "b_2": LONG}, quick=False)
    )  # there is no file yet: that is DVC's to begin
    second = locks.split_lock(reproduce(twins, {"a": "other", "b_2": LONG, "c": "yes: 'no' # 1"}))
    assert (
        set(second) == {"a", "b_2", "c"}
        and first["b_2"] == second["b_2"]
        and first["a"] != second["a"]
    )


@pytest.mark.stress
def test_a_file_that_dvc_did_not_write_is_left_to_dvc(twins):
    text = reproduce(twins, {"a": "one"}, quick=False)
    for name in ("dvc", "ours"):
        (twins / name / "dvc.lock").write_text(f"# mine\n{text}")
    assert reproduce(twins, {"a": "two"}, quick=False).startswith("# mine\n")


@pytest.mark.stress  # eight processes of DVC each
def test_a_comment_within_is_left_to_dvc(twins):
    text = reproduce(twins, {"a": "one", "b_2": "two"}, quick=False)
    for name in ("dvc", "ours"):
        (twins / name / "dvc.lock").write_text(text.replace("  b_2:\n", "  # mine\n  b_2:\n"))
    reproduce(twins, {"a": "other", "b_2": "two"}, quick=False)


@pytest.mark.stress
def test_settings_that_are_one_object_can_be_read_again(twins):
    """DVC names them by anchors, which have to be unique in a file."""
    for word in ("one", "two"):
        text = yaml.safe_load(pipeline({"a": word, "b": word}))
        for stage in text["stages"].values():
            stage["params"] = [{"shared.yaml": ["one", "two"]}]
        locks_of = {}
        for name, script in (
            ("dvc", repro.dvc(wait=False)),
            ("ours", [sys.executable, str(ROOT / "scripts" / "quick_dvc.py")]),
        ):
            (twins / name / "dvc.yaml").write_text(yaml.safe_dump(text))
            for command in ("repro", "status"):
                subprocess.run(
                    [*script, command],
                    cwd=twins / name,
                    env=repro.environment(),
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            locks_of[name] = (twins / name / "dvc.lock").read_text()
        assert stages_of(locks_of["ours"]) == stages_of(locks_of["dvc"])
    assert "&id" in locks_of["dvc"] and "&id" not in locks_of["ours"]
    joined = locks.join_lock(locks.split_lock(locks_of["dvc"]).values())
    assert "&id" not in joined and stages_of(joined) == stages_of(locks_of["dvc"])


def test_another_dvc_writes_as_ever(monkeypatch):
    def dump_stages(self, stages):
        raise AssertionError

    monkeypatch.setattr(dvcfile.Lockfile, "dump_stages", dump_stages)
    quick_dvc.replace_writing()
    assert dvcfile.Lockfile.dump_stages is dump_stages
    monkeypatch.delattr(dvcfile, "Lockfile")
    quick_dvc.replace_writing()


def test_the_release_that_is_installed_is_one_where_it_works(monkeypatch):
    before = dvcfile.Lockfile.dump_stages
    monkeypatch.setattr(dvcfile.Lockfile, "dump_stages", before)
    quick_dvc.replace_writing()
    assert dvcfile.Lockfile.dump_stages is not before


def test_make_repro_writes_so(monkeypatch):
    told = []

    def start_group(command, env, stdin):
        told.append(command)
        return Mock(stdin=Mock(write=told.append))

    monkeypatch.setattr(repro, "start_group", start_group)
    repro.DvcHand(repro.Board([], {}, 1), None, repro.Dvc()).begin(["a"])
    assert told[0][1:] == [str(ROOT / "scripts" / "quick_dvc.py"), quick_dvc.ORDERS]
    given, arguments = json.loads(told[1])
    assert given == repro.environment() and arguments[:-1] == quick_dvc.REPRODUCE
    assert arguments == ["--wait-for-lock", "repro", "--keep-going", "--single-item", "a"]


def keys_of(settings: dict, before: str = "") -> list[str]:
    """Every dotted key of nested settings, sections included."""
    inner = [
        key
        for name, value in settings.items()
        if isinstance(value, dict)
        for key in keys_of(value, f"{before}{name}.")
    ]
    return [f"{before}{name}" for name in settings] + inner


class Read:
    """DVC's reader of settings, which counts how often it is called."""

    def __init__(self):
        self.calls, self.own_way = 0, param.read_param_file

    def __call__(self, *arguments, **options):
        self.calls += 1
        return self.own_way(*arguments, **options)


@pytest.fixture
def reading():
    return Read()


def both_ways(reading: Read, known: quick_dvc.KnownParams, path: Path, keys: list[str] | None):
    """What the quick reader finds, which has to be what DVC finds -> with the calls of DVC's."""
    before = reading.calls
    found = known.read(LocalFileSystem(), str(path), keys, flatten=True)
    assert found == reading.own_way(LocalFileSystem(), str(path), keys, flatten=True)
    return found, reading.calls - before


def test_settings_are_parsed_once_and_are_what_dvc_reads(reading):
    keys = keys_of(yaml.safe_load((ROOT / "params.yaml").read_text()))
    known = quick_dvc.KnownParams(reading)
    assert len(keys) > 250
    found, calls = both_ways(reading, known, ROOT / "params.yaml", keys[::5])
    assert (list(found), calls) == (keys[::5], 1)
    for key in keys[1::5]:
        assert both_ways(reading, known, ROOT / "params.yaml", [key])[1] == 0


@pytest.mark.parametrize(
    "keys",
    [["a.b", "missing"], ["a.b.c.d"], ["l.0"], ["a.*"], ["True"], ["a..b"], None],
    ids=str,
)
def test_keys_that_are_not_plain_are_read_by_dvc(reading, keys, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a:\n  b:\n    c: [1, 2]\nl: [5]\ntrue: 7\n")
    known = quick_dvc.KnownParams(reading)
    assert both_ways(reading, known, path, keys)[1] >= 1
    assert both_ways(reading, known, path, keys)[1] >= 1, "nothing of it is remembered"


def test_settings_that_change_are_read_again_and_belong_to_who_reads_them(reading, tmp_path):
    path = tmp_path / "params.yaml"
    known = quick_dvc.KnownParams(reading)
    for text in ("a: {b: [1]}", "a: {b: [2]}"):
        path.write_text(text)
        os.utime(path, ns=(0, int(text[-3])))  # another version of the same size
        found, calls = both_ways(reading, known, path, ["a"])
        assert calls == 1
        found["a"]["b"].append(3)
        assert both_ways(reading, known, path, ["a"]) == ({"a": {"b": [int(text[-3])]}}, 0)


def test_another_dvc_reads_as_ever(monkeypatch):
    def read_param_file(fs, path):
        raise AssertionError

    installed = param.read_param_file
    monkeypatch.setattr(param, "read_param_file", installed)
    quick_dvc.replace_reading()
    assert param.read_param_file is not installed, "the installed one is as expected"
    monkeypatch.setattr(param, "read_param_file", read_param_file)
    quick_dvc.replace_reading()
    assert param.read_param_file is read_param_file
    monkeypatch.delattr(param, "read_param_file")
    quick_dvc.replace_reading()
