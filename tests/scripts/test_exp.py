"""`make exp`: other settings run apart from the working tree and are kept as DVC experiments.

On a repository of four trivial stages, with the project's own scripts and settings.
"""

import json
import re
import shutil
import signal
import subprocess

import pytest
import yaml
from scripted import script
from spread import ROOT, Repository, interrupt

STAGE = """
import json, os, pathlib, sys, time, yaml
name, out, *inputs = sys.argv[1:]
with open(os.environ["TRACE"], "a") as trace:
    trace.write(json.dumps({"stage": name, "pid": os.getpid(), "cwd": os.getcwd()}) + "\\n")
behaviour = pathlib.Path("behaviour.txt").read_text().split()
if f"sleep:{name}" in behaviour:
    time.sleep(300)
if f"fail:{name}" in behaviour:
    sys.exit(f"{name} can't")
settings = yaml.safe_load(pathlib.Path("params.yaml").read_text())
found = {"epochs": settings["train"]["epochs"], "bits": settings["methods"]["qat8"]["bits"]}
found["raw"] = len([path for path in pathlib.Path("data/raw").rglob("*")])
pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(out).write_text(json.dumps(found))
if name == "report":
    pathlib.Path(out).with_name("page.html").write_text(f"a page of {found['epochs']} epochs")
"""
PIPELINE = {
    "prepare": {"cmd": "python stage.py prepare data/prepared data/raw", "deps": ["data/raw"],
                "outs": ["data/prepared"]},
    "train": {"cmd": "python stage.py train runs/train data/prepared", "deps": ["data/prepared"],
              "params": ["train.epochs"], "outs": ["runs/train"]},
    "measure": {"cmd": "python stage.py measure runs/measure runs/train", "deps": ["runs/train"],
                "params": ["methods.qat8"], "outs": ["runs/measure"]},
    "report": {"cmd": "python stage.py report reports/digits/metrics.json runs/measure",
               "deps": ["runs/measure"],
               "outs": [{"reports/digits/page.html": {"cache": False}}],
               "metrics": [{"reports/digits/metrics.json": {"cache": False}}]},
}  # fmt: skip

IGNORED = "mine.png"  # of data/raw: git does not know it, and every stage needs it
exp = script("exp")


class Experiments(Repository):
    """A repository whose pipeline has run, with a change that is not committed."""

    def __init__(self, path):
        super().__init__(path)
        self.env["MOMOS_WARM"] = "0"  # its stages import nothing that is heavy
        self.env["PYTHONDONTWRITEBYTECODE"] = "1"  # it would be one more file in the working tree
        (path / "stage.py").write_text(STAGE)
        (path / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}, sort_keys=False))
        ignored = (path / ".gitignore").read_text().replace("/data/", "/data/raw/*\n/data/prepared")
        (path / ".gitignore").write_text(f"{ignored}!/data/raw/README.md\n")
        shutil.rmtree(path / "data" / "raw")
        (path / "data" / "raw" / "folder").mkdir(parents=True)
        (path / "data" / "raw" / "README.md").write_text("git knows this one")
        (path / "data" / "raw" / "folder" / IGNORED).write_text("a picture")
        self.run("dvc", "repro")
        self.commit()
        (path / "behaviour.txt").write_text("not committed")
        (path / "new.py").write_text("# neither is this")

    def experiment(self, *sets, name="", force=False, check=True):
        """What the script prints."""
        options = [*(["--name", name] if name else []), *(["--force"] if force else [])]
        command = ("python", "scripts/exp.py", "--jobs", "1")  # its stages are a chain
        return self.run(*command, *sets, *options, check=check)

    def state(self):
        """All files but those of git, DVC's own and scratch/; and what git says."""
        files = {
            str(path.relative_to(self.path)): (path.read_bytes(), path.stat().st_mtime_ns)
            for name in (*self.run("git", "ls-files", "-co").splitlines(), "runs", "data")
            for path in [self.path / name, *(self.path / name).rglob("*")]
            if path.is_file() and not name.startswith((".dvc", "scratch"))
        }
        how = [self.run("git", "status", "--porcelain", "-uall"), self.run("git", "log", "--all")]
        head = self.run("git", "rev-parse", "--abbrev-ref", "HEAD")
        return files, how[0], head, (self.path / "scratch" / "exp").exists()

    def shown(self):
        """What `dvc exp show` knows of each experiment: its settings and its metrics."""
        (_, baseline) = json.loads(self.run("dvc", "exp", "show", "--json"))
        known = {}
        for experiment in baseline["experiments"] or []:
            data = experiment["revs"][0]["data"]
            params = data["params"]["params.yaml"]["data"]
            metrics = data["metrics"]["reports/digits/metrics.json"]["data"]
            known[experiment["name"]] = (params, metrics)
        return known


@pytest.fixture(scope="module")
def repository(tmp_path_factory, warm):
    return Experiments(tmp_path_factory.mktemp("experiments") / "re po")


def test_experiments_are_dvcs_and_the_working_tree_stays_as_it_is(repository):
    before, ran = repository.state(), repository.ran()
    out = repository.experiment("train.epochs=5; train.epochs=7 methods.qat8={bits: 7}", name="two")
    assert repository.state() == before and "Saved as two-1" in out
    assert repository.ran() - ran == {"train": 2, "measure": 2, "report": 2}, "images are there too"
    shown = repository.shown()
    assert shown["two-1"][0]["train"]["epochs"] == 5
    assert shown["two-1"][1] == {"epochs": 5, "bits": 8, "raw": 3}
    assert shown["two-2"][1] == {"epochs": 7, "bits": 7, "raw": 3}


@pytest.mark.parametrize(("sets", "name", "said"), [
    (["train.epohcs=3"], "", "SET train.epohcs=3: params.yaml has no such key"),
    (["train.epochs=few"], "", "train.epochs must be an integer, got 'few'"),
    (["train.epochs=3; grid.methods=[mine]"], "", "grid.methods.*'mine'"),
    (["train.epochs=3,4"], "", "SET train.epochs=3,4: several values are several exp"),
    (["train.epochs"], "", "SET must be KEY=VALUE, got 'train.epochs'"),
    ([" ; "], "", "SET must be KEY=VALUE, got ''"),
    (["grid.seeds=[0"], "", "SET must close each bracket and quote"),
    (["train.epochs=3; train.epochs=4"], "two", "an experiment two-1, two-2 already.*FORCE=1"),
    (["train.epochs=3"], "a/b", "NAME must be a name as a git branch may have.*'a/b'"),
    (["train.epochs=3"], "a b", "NAME must be a name as a git branch may have.*'a b'"),
])  # fmt: skip
def test_what_is_wrong_stops_it_before_any_work(repository, monkeypatch, sets, name, said):
    before, ran = repository.state(), repository.ran()
    monkeypatch.chdir(repository.path)
    with pytest.raises(ValueError, match=said):
        exp.run_all(repository.path, sets, name, jobs=1, force=False)
    assert repository.state() == before and repository.ran() == ran


COMMAND = re.compile(r"^make exp SET='([^']*)'(?: NAME=(\S+))?", re.M)


def test_the_commands_of_the_pages_have_settings_that_are_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    commands = [command for page in pages for command in COMMAND.findall(page.read_text())]
    assert len(commands) >= 6
    for settings, name in commands:
        sets = exp.settings_of([settings])
        assert len(exp.names_of(name, len(sets))) == len(sets)
        for one in sets:
            assert exp.changed_text(ROOT / "params.yaml", one)


def test_without_a_commit_there_is_no_experiment(tmp_path):
    with pytest.raises(ValueError, match="needs a git repository with a commit"):
        exp.baseline_of(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    with pytest.raises(ValueError, match="needs a git repository with a commit"):
        exp.baseline_of(tmp_path)


@pytest.mark.stress
def test_a_failed_or_stopped_experiment_leaves_nothing_and_goes_on(repository):
    """Three experiments of a dozen processes each. `make repro` is stopped in the suite."""
    before, ran, known = repository.state(), repository.ran(), set(repository.shown())
    repository.behave("fail:measure")
    out = repository.experiment("train.epochs=11", name="eleven", check=False)
    assert "measure can't" in out and "nothing is saved" in out
    repository.behave("sleep:report")
    with repository.start("exp", "train.epochs=11", "--name", "eleven", "--jobs", "1") as process:
        repository.wait_until(lambda: (repository.ran() - ran)["report"], process)
        out = interrupt(process, signal.SIGINT)
    assert process.returncode == 130 and "goes on from here" in out
    repository.wait_until(lambda: not repository.left_running(), seconds=20)
    assert set(repository.shown()) == known
    (repository.path / "behaviour.txt").write_text("not committed")
    assert repository.state()[1:] == before[1:]
    repository.experiment("train.epochs=11", name="eleven")
    assert repository.ran() - ran == {"train": 1, "measure": 2, "report": 2}
    assert repository.shown()["eleven"][1]["epochs"] == 11


@pytest.mark.stress
def test_it_has_the_settings_of_dvcs_own_command_and_can_be_applied(repository):
    """The last test: it leaves the working tree changed. Seven processes that import DVC."""
    repository.experiment("train.epochs=12 +methods.mine={bits: 32}", name="eleven", force=True)
    settings = ("-S", "train.epochs=12", "-S", "+methods.mine={bits: 32}")
    repository.run("dvc", "exp", "run", "--name", "theirs", *settings)
    shown, their_params = repository.shown(), (repository.path / "params.yaml").read_text()
    assert shown["eleven"] == shown["theirs"] and shown["eleven"][1]["epochs"] == 12
    repository.run("git", "checkout", "-q", ".")
    repository.run("dvc", "checkout", "-q")
    repository.run("dvc", "exp", "apply", "eleven")
    assert (repository.path / "params.yaml").read_text() == their_params
    assert json.loads((repository.path / "runs" / "measure").read_text())["epochs"] == 12
    page = (repository.path / "reports" / "digits" / "page.html").read_text()
    assert page == "a page of 12 epochs"
    assert repository.run("dvc", "status", "--json").strip() == "{}"
