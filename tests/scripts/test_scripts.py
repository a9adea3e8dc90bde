"""scripts/: swapping profiles, and running stages side by side, on a small DVC repository."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from scripted import script
from spread import heed_ctrl_c

ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(ROOT / "scripts"))  # scripts import each other


jobs, mutants, repro, scm, use = map(script, ("jobs", "mutants", "repro", "scm", "use"))


@pytest.fixture
def two_profiles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("profiles").mkdir()
    for name, epochs in (("small", 1), ("large", 200)):
        Path(f"profiles/{name}.yaml").write_text(
            f"profile: {name} # a comment\ntrain: {{epochs: {epochs}, patience: null}}\n"
        )
    Path("params.yaml").write_text(Path("profiles/small.yaml").read_text())
    Path("dvc.lock").write_text("of small")


def test_use_swaps_settings_and_locks(two_profiles):
    use.use("large", force=False)
    assert Path("params.yaml").read_text() == Path("profiles/large.yaml").read_text()
    assert Path("profiles/small.lock").read_text() == "of small" and not Path("dvc.lock").exists()
    Path("dvc.lock").write_text("of large")
    use.use("small", force=False)
    assert Path("params.yaml").read_text() == Path("profiles/small.yaml").read_text()
    assert (
        Path("dvc.lock").read_text() == "of small"
        and Path("profiles/large.lock").read_text() == "of large"
    )
    assert not Path("profiles/small.lock").exists(), "a lock stands in one place"
    use.use("small", force=False)
    assert Path("dvc.lock").read_text() == "of small"


def test_use_refuses_to_drop_edits(two_profiles):
    edited = "profile: small\ntrain: {epochs: 3, patience: null}\n"
    Path("params.yaml").write_text(edited)
    for name in ("small", "large"):
        with pytest.raises(SystemExit, match=r"not in profiles/small.yaml: train\.epochs.*FORCE=1"):
            use.use(name, force=False)
    assert Path("params.yaml").read_text() == edited and Path("dvc.lock").read_text() == "of small"
    use.use("large", force=True)
    assert yaml.safe_load(Path("params.yaml").read_text())["train"]["epochs"] == 200


def test_use_sees_no_edit_where_only_the_layout_changed(two_profiles):
    Path("params.yaml").write_text("train:\n  patience:\n  epochs: 1\nprofile: small\n")
    use.use("large", force=False)


@pytest.mark.parametrize(
    ("params", "name", "message"),
    [
        ("profile: small\n", "huge", "must be one of large, small.*got 'huge'"),
        ("profile: small\n", "../small", "must be one of large, small"),
        ("profile: mine\n", "large", "which no file holds: copy it to profiles/mine.yaml first"),
        ("profile: [a\n", "large", "params.yaml is not valid YAML"),
        ("- a\n", "large", "params.yaml must hold a mapping"),
        (None, "large", "params.yaml is missing"),
    ],
)
def test_use_names_what_is_wrong(two_profiles, params, name, message):
    Path("params.yaml").unlink() if params is None else Path("params.yaml").write_text(params)
    with pytest.raises(SystemExit, match=message):
        use.use(name, force=False)
    assert Path("dvc.lock").read_text() == "of small"


def test_parents_descendants_and_order():
    parents = repro.parents_of(
        'strict digraph {\n"a";\n"a" -> "b@x-1";\n"b@x-1" -> "c";\n"d" -> "c";\n}\n'
    )
    assert parents == {"b@x-1": {"a"}, "c": {"b@x-1", "d"}}
    assert repro.with_descendants({"a"}, parents) == {"a", "b@x-1", "c"}
    assert repro.with_descendants({"d"}, parents) == {"d", "c"}
    stages = ["t@m-0", "t@m-1", "t@m-2", "t@n-0", "t@n-1", "a@m-1"]
    assert repro.interleaved(stages) == ["a@m-1", "t@m-0", "t@n-0", "t@m-1", "t@n-1", "t@m-2"]


def test_what_most_waits_for_begins_first():
    """Measuring m's three runs takes longer than n's one; nothing waits for u."""
    runs = {"m": ["t@m-0", "t@m-1", "t@m-2"], "n": ["t@n-0"]}
    parents = {f"e@{model}": set(stages) for model, stages in runs.items()}
    parents["report"] = set(parents)
    stages = ["u", *runs["n"], *runs["m"], *parents]
    expected = [*runs["m"], "t@n-0", "e@m", "e@n", "u", "report"]
    found = repro.most_behind_first(stages, parents | {stage: set() for stage in stages[:5]})
    assert found == expected
    board = repro.Board(reversed(stages), parents, jobs=1)
    firsts = ["e@m", "e@n", "report", "t@m-0", "t@n-0", "u"]
    assert board.waiting == [*firsts, "t@m-1", "t@m-2"], "one of each group comes first"


def test_board_gives_out_a_stage_only_when_its_parents_are_done():
    board = repro.Board(
        ["a", "b", "c", "d"], {"b": {"a"}, "c": {"b", "elsewhere"}, "d": {"a"}}, jobs=1
    )
    assert board.take() == ["a"]
    board.finish("a", 2.0)
    assert board.take() == ["b"]
    board.fail(["b"])
    assert board.skipped == ["c"] and board.take() == ["d"]
    board.finish("d")
    assert board.take() == [] and board.done == {"a", "d"} and board.failed == ["b"]


def test_board_takes_few_stages_at_a_time_towards_the_end():
    board = repro.Board([f"t@m-{i:03}" for i in range(100)], {}, jobs=2)
    sizes = []
    while taken := board.take():
        sizes.append(len(taken))
    assert (
        sum(sizes) == 100
        and sizes[0] == repro.CHUNK
        and sizes[-1] == 1
        and sizes == sorted(sizes, reverse=True)
    )


def test_board_estimates_from_the_mean_of_each_group():
    board = repro.Board(["t@m-0", "t@m-1", "t@n-0", "t@n-1", "u"], {}, jobs=2)
    assert board.seconds_left() is None
    board.running, board.waiting = {"t@m-0", "t@n-0"}, ["t@m-1", "t@n-1", "u"]
    board.finish("t@m-0", 10.0)
    board.finish("t@n-0", 2.0)
    assert board.seconds_left() == (10 + 2 + 6) / 2


@pytest.mark.parametrize("text", ["0", "-1", "two", ""])
def test_jobs_must_be_a_count(text):
    with pytest.raises(Exception, match=f"must be 1 or more processes, got '{text}'"):
        jobs.num_jobs(text)


@pytest.mark.parametrize("name", ["repro", "exp", "sweep", "quick", "trainings"])
def test_every_script_that_runs_things_side_by_side_takes_the_same_jobs(name, monkeypatch):
    """Nothing is run: the count is refused while the command line is read."""
    monkeypatch.setenv(jobs.JOBS, "none")
    needed = {"exp": ["a=1"], "trainings": ["data", "folder"]}.get(name, [])
    monkeypatch.setattr(sys, "argv", [name, *needed])
    for options in ([], ["--jobs", "0"]):
        sys.argv[1:] = needed + options
        with pytest.raises(SystemExit) as error:
            script(name).main()
        assert error.value.code == 2


STAGE = """
import pathlib, sys, time
name, out = sys.argv[1:3]
settings = pathlib.Path("behaviour.txt").read_text().split()
time.sleep(30 if "sleep" in settings else 0)
if name in settings:
    sys.exit(f"{name} can't")
pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(out).write_text(name)
"""
PIPELINE = {
    "prepare": {
        "cmd": "python stage.py prepare data/prepared",
        "deps": ["raw.txt"],
        "outs": ["data/prepared"],
    },
    "train": {
        "matrix": {"model": ["m", "n"], "seed": [0, 1, 2, 3]},
        "cmd": "python stage.py ${item.model}${item.seed} runs/${item.model}/${item.seed}",
        "deps": ["data/prepared"],
        "outs": ["runs/${item.model}/${item.seed}"],
    },
    "measure": {
        "matrix": {"model": ["m", "n"]},
        "cmd": "python stage.py measure results/${item.model}",
        "deps": ["runs/${item.model}"],
        "outs": ["results/${item.model}"],
    },
    "report": {
        "cmd": "python stage.py report report.md",
        "deps": ["results"],
        "outs": [{"report.md": {"cache": False}}],
    },
}
NUM_STAGES = 12


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        repro, "shared_logger", contextlib.nullcontext
    )  # it and check_params need the study's own settings
    monkeypatch.setenv("MOMOS_WARM", "0")  # these stages import nothing; test_warm.py tries it with
    Path("stage.py").write_text(STAGE)
    Path("raw.txt").write_text("raw")
    Path("behaviour.txt").write_text("")
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}))
    commands = [["git", "init", "-q"], repro.dvc("init", "-q", wait=False)]
    for option in ("analytics", "check_update", "autostage"):
        commands.append(repro.dvc("config", f"core.{option}", "false", wait=False))
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def locked_stages():
    return set(yaml.safe_load(Path("dvc.lock").read_text())["stages"])


def test_stages_side_by_side_fail_apart_and_are_completed_later(repository, capfd):
    Path("behaviour.txt").write_text("m1")
    assert repro.reproduce(jobs=2) == 1
    out = capfd.readouterr().out
    assert "m1 can't" in out and out.splitlines()[-1] == "Failed: train@m-1"
    assert "Not run, as they need what failed: measure@m, report" in out
    expected = {
        "prepare",
        *(f"train@{model}-{seed}" for model in "mn" for seed in range(4)),
        "measure@n",
    } - {"train@m-1"}
    assert locked_stages() == expected

    Path("behaviour.txt").write_text("")
    assert repro.reproduce(jobs=2) == 0
    assert len(locked_stages()) == NUM_STAGES and Path("report.md").read_text() == "report"
    assert "Up to 3 stages to run" in capfd.readouterr().out
    assert repro.reproduce(jobs=2) == 0
    assert capfd.readouterr().out == "All stages are up to date.\n"
    dry = subprocess.run(repro.dvc("repro", "--dry"), capture_output=True, text=True, check=True)
    assert "Running stage" not in dry.stdout


@pytest.mark.stress  # nine stages twice
def test_a_full_disk_ends_the_study_with_one_line(repository, capfd, monkeypatch):
    """The stage that fails is the last one that is started; with space again, all goes on."""
    Path("behaviour.txt").write_text("m0 m1 m2 m3 n0 n1 n2 n3")
    usage = repro.shutil.disk_usage(".")._replace(free=repro.LEAST_SPACE - 1)
    with monkeypatch.context() as full:
        full.setattr(repro.shutil, "disk_usage", lambda folder: usage)
        full.setattr(repro, "CHUNK", 1)
        assert repro.reproduce(jobs=1) == 1
    out = capfd.readouterr().out
    assert out.count("the disk is full (32 MB free in ") == 1 and out.count(" can't") == 1
    assert out.splitlines()[-1].startswith("Failed: train@m-0")
    assert locked_stages() == {"prepare"}
    Path("behaviour.txt").write_text("")
    assert repro.reproduce(jobs=2) == 0 and len(locked_stages()) == NUM_STAGES


def test_a_message_names_only_the_first_of_many_stages():
    board = repro.Board([f"t{i:02}" for i in range(13)], {}, jobs=1)
    board.skipped = board.waiting
    assert repro.not_run(board).endswith(
        ": t00, t01, t02, t03, t04, t05, t06, t07, t08, t09 and 3 more"
    )
    board.skipped = board.waiting[:10]
    assert repro.not_run(board).endswith("t08, t09")


def group_exists(pid):
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def writers_by_output():
    """Processes that DVC's lock file names as writing an output; none while it is rewritten."""
    lock = Path(".dvc/tmp/rwlock")
    text = lock.read_text() if lock.exists() else ""
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(text).get("write", {})
    return {}


@pytest.mark.parametrize(("call", "number"), [
    ("repro.main()", signal.SIGINT),
    pytest.param("repro.until_stopped('repro', lambda: repro.last_word(repro.Dvc()))",
                 signal.SIGTERM, marks=pytest.mark.stress),
])  # fmt: skip
def test_stopping_leaves_no_process_and_no_lock(repository, call, number):
    Path("behaviour.txt").write_text("sleep")
    code = "import contextlib, sys; sys.path.insert(0, sys.argv[1]); import repro;"
    code += "sys.argv[1:] = []; repro.check_params = int;"
    code += f"repro.shared_logger = contextlib.nullcontext; sys.exit({call})"
    how = {"stderr": subprocess.PIPE, "text": True, "preexec_fn": heed_ctrl_c}
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT / "scripts")], **how)
    deadline = time.monotonic() + 120  # it imports DVC first
    while not (writers := writers_by_output()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    assert any("data/prepared" in output for output in writers)
    pid = next(iter(writers.values()))["pid"]
    process.send_signal(number)
    assert process.wait(timeout=90) == 130  # on a machine that others use too
    assert "goes on from here" in process.stderr.read()
    deadline = time.monotonic() + 10  # the stage's command sleeps for longer
    while group_exists(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    Path("behaviour.txt").write_text("")
    again = subprocess.run(
        repro.dvc("repro", "prepare"), env=repro.environment(), capture_output=True, text=True
    )
    assert again.returncode == 0, again.stdout + again.stderr


WHOLE = '{"read": {}, "write": {}}'


def test_a_list_of_running_stages_cut_off_by_a_kill_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scm.time, "sleep", lambda seconds: None)
    lock = Path(".dvc/tmp/rwlock")
    lock.parent.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(repro, "run_stages", Mock(side_effect=KeyboardInterrupt))
        patch.setattr(repro, "shared_logger", contextlib.nullcontext)
        patch.setattr(repro, "changed_stages", lambda asked: lock.write_text("") or {"prepare"})
        patch.setattr(repro, "graph", lambda asked: {})
        assert repro.until_stopped("repro", lambda: repro.reproduce(1)) == 130
    assert not lock.exists(), "a plain dvc command works at once"
    for text in (WHOLE[:12], "", WHOLE):
        lock.write_text(text)
        scm.drop_torn_lock(Path.cwd())
        assert lock.exists() == (text == WHOLE)


@pytest.mark.stress
def test_without_such_a_list_dvc_works_at_once(repository):
    lock, command = Path(".dvc/tmp/rwlock"), repro.dvc("repro", "prepare")
    lock.write_text(WHOLE[:12])
    refused = subprocess.run(command, env=repro.environment(), capture_output=True, text=True)
    assert refused.returncode and "corrupted" in refused.stderr
    scm.drop_torn_lock(Path.cwd())
    again = subprocess.run(command, env=repro.environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


def test_sigterm_stops_all_that_is_done_beside_the_stages(capsys):
    """While DVC says which stages there are, say, or results are restored."""

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return 0

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # so that pytest is not ended
    start = time.monotonic()
    try:
        told = signal.getsignal(signal.SIGTERM)
        assert repro.until_stopped("sweep", work) == 130 and time.monotonic() - start < 30
        assert signal.getsignal(signal.SIGTERM) is told
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "`make sweep` goes on from here" in capsys.readouterr().err


def test_every_mutant_still_has_its_place():
    """Each line to be broken stands where it is looked for, once; `make mutants` breaks them."""
    for name, mutant in mutants.MUTANTS.items():
        if mutant.file != "params.yaml":
            text = (ROOT / mutant.file).read_text()
            assert (
                text.count(mutant.right) == 1
                and text.replace(mutant.right, mutant.wrong).count(mutant.wrong) == 1
            ), name


class FakeCopy:
    """A copy whose regress() is red while a file is broken, unless that is the file `blind`."""

    def __init__(self, folder):
        self.broken = None

    def again(self, folder):
        return FakeCopy(folder)

    def replace(self, file, old, new):
        self.broken = None if self.broken else file

    def study(self):
        pass

    def regress(self, *arguments):
        red = self.broken not in (None, "blind")
        return int(red), "\n1 REGRESSION." if red else "\nno regression."


@pytest.mark.parametrize(("files", "code", "said"), [
    (["a", "b"], 0, "ok  b"),
    (["a", "blind"], 1, "does not tell right from wrong: blind"),
])  # fmt: skip
def test_a_mutant_that_nothing_notices_fails(monkeypatch, capsys, files, code, said):
    monkeypatch.setattr(mutants, "Copy", FakeCopy)
    monkeypatch.setattr(
        mutants, "MUTANTS", {file: mutants.Mutant(file, "x", "y") for file in files}
    )
    assert mutants.main([]) == code
    assert said in capsys.readouterr().out
