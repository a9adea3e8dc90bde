"""Settings as they come through DVC: its numbers, names in its commands, its copies."""

import io
import re

import numpy as np
import pytest
from clones import Clone, merge
from dvc.utils.serialize import parse_yaml
from PIL import Image

from momos.config.numbers import read_yaml, write_yaml

MINE = "data/raw/mine"
OWN = {
    "source": "images",
    "path": MINE,
    "test_fraction": None,
    "validation_fraction": 0.5,
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory, warm):
    """With images of its own, which git ignores. Its stages are forks."""
    clone = Clone(tmp_path_factory.mktemp("own"))
    clone.env["PATH"] = warm.path
    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(content, "PNG")
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            for i in range(6):
                path = clone.path / MINE / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.getvalue())
    clone.write_params(merge(clone.params(), {"data": OWN}))
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    clone.run("git", *identity, "commit", "-qam", "own images")
    return clone


def test_numbers_as_dvc_writes_them_are_numbers(clone):
    """DVC writes 1.0e-5 as 1e-05, which PyYAML reads as text; also inside of a mapping."""
    before = clone.params()
    numbers = ["models.mlp.lr=1.0e-5", "llc.lr.neox=2.5e-7", "pack.refit_lr=1e-6"]
    options = [part for number in numbers for part in ("-S", number)]
    out = clone.run("dvc", "exp", "run", *options, "prepare")
    assert "Ran experiment" in out
    text = (clone.path / "params.yaml").read_text()
    assert "lr: 1e-05" in text and "2.5e-07" in text, "as DVC writes them"
    values = read_yaml(text)
    assert values["models"]["mlp"]["lr"] == 1e-5 and values["llc"]["lr"] == {"neox": 2.5e-7}
    clone.write_params(before)


LITERALS = (
    "1e-05 1.0e-5 1E5 1e+16 .5 5. 010 0o17 0x1F 1_000 1:30 on yes true True ~ null .inf -.inf +1"
    " -0 1e 'x' '1e-5' 12e03 08 0.1.2 191e4 .Inf"
).split()


@pytest.mark.parametrize("literal", LITERALS)
def test_settings_are_read_as_dvc_reads_them(literal):
    """DVC fills them into commands: 010 is ten in both, or runs lie where nobody looks."""
    line = f"a: {literal}\n"
    mine, theirs = read_yaml(line)["a"], parse_yaml(line, "params.yaml")["a"]
    assert (type(mine), mine) == (type(theirs), theirs)


@pytest.mark.parametrize("value", ["1e-05", "010", "on", "1:30", "~", "", 1e-5, 1e16, 0.1, None])
def test_what_is_written_is_read_back_by_both(value):
    text = write_yaml({"a": value})
    assert read_yaml(text)["a"] == parse_yaml(text, "params.yaml")["a"] == value


@pytest.mark.parametrize(
    "name", ["mine; touch touched", pytest.param("momos_s2_c0.5", marks=pytest.mark.stress)]
)
def test_a_bad_name_is_met_before_any_command_has_it(clone, name):
    """Also where the data are prepared already, and DVC would begin with a training."""
    before = clone.params()
    clone.run("dvc", "repro", "prepare")
    methods, grid = {name: {"bits": 8}}, {"methods": ["baseline", name]}
    clone.write_params(merge(before, {"methods": methods, "grid": grid}))
    out = clone.run("dvc", "repro", "train", check=False)
    clone.write_params(before)
    assert "methods: the name of an entry must be a name of at most 63 letters" in out
    assert "(such as " in out and not (clone.path / "touched").exists()
    assert not (clone.path / "runs").exists()


@pytest.mark.stress
def test_an_experiments_copy_lacks_own_images_and_says_what_to_add(clone):
    out = clone.run("dvc", "exp", "run", "--temp", "-S", "train.epochs=1", "prepare", check=False)
    assert f"'{MINE}' does not exist" in out and f"add `-C {MINE}` to `dvc exp run`" in out
    more = ["-C", MINE]
    out = clone.run("dvc", "exp", "run", "--temp", *more, "-S", "train.epochs=1", "prepare")
    assert "Ran experiment" in out and "does not exist" not in out


@pytest.mark.stress
def test_queued_experiments_lack_own_images_too_and_say_what_to_add(clone):
    """Their output is in `dvc queue logs`. In `make stress`: the queue's worker takes its time,
    and the words are those of the test above.
    """
    queue = ("dvc", "exp", "run", "--queue", "-S", "train.epochs=1", "--name")
    clone.run(*queue, "without", "prepare")
    clone.run(*queue, "with", "-C", MINE, "prepare")
    clone.run("dvc", "exp", "run", "--run-all", check=False)
    status = clone.run("dvc", "queue", "status")
    assert re.search(r"without .*Failed", status) and re.search(r"with .*Success", status), status
    logs = clone.run("dvc", "queue", "logs", "without")
    assert f"'{MINE}' does not exist" in logs and f"add `-C {MINE}` to `dvc exp run`" in logs
