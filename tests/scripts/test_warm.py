"""scripts/warm.py: a fork is what a new interpreter is, dies alone, and ends with whoever asked."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import repro
import warm
from spread import STAND_INS, Repository, heed_ctrl_c, micro, report_bytes

ROOT = Path(__file__).parents[2]
NOT_TAKEN = "Not for the warm interpreter, so a stage imports by itself: "  # what users are told


class Desk:
    """A folder with scripts, run by the warm interpreter or by a new one."""

    def __init__(self, folder: Path, started: warm.Warm | None) -> None:
        self.folder = folder
        self.env = os.environ | {"PATH": started.path if started else cold_path()}

    def start(self, text: str, *arguments: str, name="script.py", **how) -> subprocess.Popen:
        (self.folder / name).write_text(text)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        how = {"cwd": self.folder, "env": self.env} | pipes | how
        return subprocess.Popen(["python", name, *arguments], **how)

    def run(self, text: str, *arguments: str, **how) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        with self.start(text, *arguments, **how) as process:
            out, errors = process.communicate(timeout=120)
        return process.returncode, out, errors


def cold_path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.fixture(scope="module")
def started():
    """The warm interpreter, and what it told."""
    told = []
    with warm.Warm(told.append) as running:
        yield running
        assert [line for line in told if not line.startswith(NOT_TAKEN)] == []
        assert len(told) == len(set(told)), "each reason is told once"


@pytest.fixture
def fork(tmp_path, started):
    return Desk(tmp_path, started)


@pytest.fixture
def cold(tmp_path):
    return Desk(tmp_path, None)


def server_with(folder: Path, text: str) -> dict[str, str]:
    """The environment of a server that runs this text before its imports."""
    (folder / "before").mkdir()
    (folder / "before" / "sitecustomize.py").write_text(text)
    return os.environ | warm.NO_THREADS | {"PYTHONPATH": str(folder / "before")}


@pytest.fixture
def light(tmp_path, monkeypatch):
    """A function that makes servers start at once, with stand-ins for what is heavy to import.

    It takes what else they run before, and returns their environment. The forks of `started` have
    the real libraries.
    """

    def install(text: str = "") -> dict[str, str]:
        env = server_with(tmp_path, STAND_INS + text)
        monkeypatch.setattr(warm.Warm, "server_environment", lambda self: env)
        return env

    return install


IS_FORK = "import sys\nprint('torch' in sys.modules)"


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_there(pid: int) -> bool:
    """Whether the process exists and runs: a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- a fork is what a new interpreter is

WHAT_IT_IS = """
import json, os, signal, sys, threading
known = {
    "argv": sys.argv, "orig_argv": sys.orig_argv[1:], "path": sys.path, "flags": list(sys.flags),
    "file": __file__, "name": __name__, "main": sys.modules["__main__"].__file__,
    "spec": __spec__, "loader": type(__loader__).__name__, "cwd": os.getcwd(),
    "environment": dict(os.environ), "umask": os.umask(0), "executable": sys.executable,
    "python_threads": threading.active_count(), "threads": len(os.listdir("/proc/self/task")),
    "main_thread": threading.current_thread() is threading.main_thread(),
    "signals": [str(signal.getsignal(one)) for one in (2, 13, 15, 17)],
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "files": sorted(os.listdir("/proc/self/fd"))[:3], "num_files": len(os.listdir("/proc/self/fd")),
    "input": sys.stdin.read(), "buffered": sys.stdout.line_buffering,
    "streams": [[one.encoding, one.errors, one.fileno()] for one in (sys.stdout, sys.stderr)],
    "momos": [name for name in sys.modules if name.startswith("momos")],
}
print(json.dumps(known))
"""


def test_a_fork_sees_what_a_new_interpreter_sees(fork, cold, tmp_path):
    env = {"PYTHONPATH": f"{tmp_path / 'one'}:two", "DVC_STAGE": "a@b", "MLFLOW_TRACKING_URI": "x"}
    how = {"env": {**fork.env, **env}, "umask": 0o027}
    seen = []
    for desk in (cold, fork):
        (desk.folder / "input").write_text("asked")
        with (desk.folder / "input").open() as file:
            how["env"]["PATH"] = desk.env["PATH"]
            code, out, errors = desk.run(WHAT_IT_IS, "--some", "ü \udcff", stdin=file, **how)
        assert code == 0 and errors == ""
        seen.append(json.loads(out))
    new, forked = seen
    own = set(forked["environment"].items()) ^ set(new["environment"].items())
    # The shell sets PWD, torch the last.
    assert {name for name, _ in own} <= {"PATH", "PWD", "TORCHINDUCTOR_CACHE_DIR"}
    for one in seen:
        del one["environment"]
    # pkg_resources, which pybdm imports, adds a folder of its own at the end.
    assert [one for one in forked.pop("path") if "_vendor" not in one] == new.pop("path")
    assert forked == new and forked["threads"] == 1 and forked["umask"] == 0o027
    assert forked["momos"] == []


DRAWS = """
import random, numpy, torch
print(random.random(), numpy.random.random(), torch.rand(1).item(), torch.cuda.is_initialized())
"""


def test_forks_share_no_random_numbers_and_no_gpu_context(fork):
    draws = [fork.run(DRAWS)[1].split() for _ in range(3)]
    for kind in zip(*draws, strict=True):
        assert len(set(kind)) == (1 if kind[0] == "False" else 3), kind
    assert [draw[-1] for draw in draws] == ["False"] * 3


THREADS = """
import os, numpy, torch
numpy.ones((600, 600)) @ numpy.ones((600, 600)), torch.ones(600, 600) @ torch.ones(600, 600)
print(len(os.listdir("/proc/self/task")), torch.get_num_threads())
"""


def test_a_fork_starts_the_threads_that_a_new_interpreter_starts(fork, cold):
    assert fork.run(THREADS)[:2] == cold.run(THREADS)[:2]


ENDS = {
    "nothing": "print('done')",
    "a number": "import sys\nsys.exit(7)",
    "a large number": "import sys\nsys.exit(300)",
    "a text": "import sys\nsys.exit('no more')",
    "an error": "def f():\n    raise ValueError('x is 3')\nf()",
    "no syntax": "print(",
    "at once": "import os\nos._exit(9)",
    "killed": "import os\nos.kill(os.getpid(), 9)",
    "terminated": "import os\nos.kill(os.getpid(), 15)",
    "a broken pointer": "import ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
    "interrupted": "import os\nos.kill(os.getpid(), 2)\nimport time\ntime.sleep(9)",
    "cleanup": "import atexit, threading, time\natexit.register(print, 'last')\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()",
}


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_as_a_new_interpreter_ends(fork, cold, name):
    """With its exit status or signal, output and traceback; the next fork does not notice."""
    how = {"preexec_fn": heed_ctrl_c}
    assert fork.run(ENDS[name], **how) == cold.run(ENDS[name], **how)
    assert fork.run(IS_FORK)[1] == "True\n"


def test_one_that_dies_takes_no_other_with_it(fork):
    text = "print('here', flush=True)\nprint(input())"
    with fork.start(text, name="other.py", stdin=subprocess.PIPE) as other:
        assert other.stdout.readline() == "here\n"
        for name in ("killed", "a broken pointer", "at once"):
            assert fork.run(ENDS[name])[0] != 0
        assert other.communicate("still here", timeout=60)[0] == "still here\n"


STARTS_PROCESSES = """
import multiprocessing, subprocess, sys
def square(number):
    return number * number
if __name__ == "__main__":
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.map(square, [2, 3]))
    print(subprocess.run(["python", "-c", "print(5)"], capture_output=True, text=True).stdout)
    print(subprocess.run(["sh", "-c", "exit 3"]).returncode)
"""


def test_a_fork_can_start_processes(fork, cold):
    assert fork.run(STARTS_PROCESSES) == cold.run(STARTS_PROCESSES) == (
        0, "[4, 9]\n[4, 9]\n5\n\n3\n", "",
    )  # fmt: skip


def test_the_project_comes_from_the_folder_that_pythonpath_names(fork, tmp_path):
    (tmp_path / "copy" / "momos").mkdir(parents=True)
    (tmp_path / "copy" / "momos" / "__init__.py").write_text("here = __file__")
    env = fork.env | {"PYTHONPATH": str(tmp_path / "copy")}
    out = fork.run("import momos, sys\nprint(momos.here, 'torch' in sys.modules)", env=env)[1]
    assert out == f"{tmp_path / 'copy' / 'momos' / '__init__.py'} True\n"


# --- what a fork can't take over runs in the real interpreter


AT_IMPORTS = {
    "OMP_NUM_THREADS": "3",
    "MALLOC_ARENA_MAX": "1",
    "MKL_CBWR": "AVX2",
    "PYTHONHASHSEED": "5",
    "LC_ALL": "C.UTF-8",
}


@pytest.mark.parametrize("name", AT_IMPORTS)
def test_a_variable_that_acts_at_imports_is_honoured(fork, name):
    text = IS_FORK + f"\nimport os\nprint(os.environ.get({name!r}))"
    assert os.environ.get(name) != AT_IMPORTS[name]
    env = fork.env | {name: AT_IMPORTS[name]}
    assert fork.run(text, env=env) == (0, f"False\n{AT_IMPORTS[name]}\n", "")
    assert fork.run(text)[1].split()[0] == "True"


def test_variables_that_act_later_are_taken_over(fork):
    text = IS_FORK + "\nimport os\nprint(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert fork.run(text, env=fork.env | {"CUDA_VISIBLE_DEVICES": "1"})[1] == "True\n1\n"


def test_what_is_refused_is_told_with_its_reason(tmp_path, light):
    light()
    for folder, name in (("shadow", "json"), ("site", "sitecustomize")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text("dumps = loads = None")
    changes = [{"OMP_NUM_THREADS": "3"}, {"PYTHONPATH": "shadow"}, {"PYTHONPATH": "site"}]
    told: list[str] = []
    with warm.Warm(told.append) as own:
        desk = Desk(tmp_path, own)
        for change in changes:
            assert desk.run(IS_FORK, env=desk.env | change)[:2] == (0, "False\n")
        wait_until(lambda: len(told) == 3)
        assert set(own.refused.values()) == {1}
        assert desk.run(IS_FORK, env=desk.env | changes[0])[:2] == (0, "False\n")
    reasons = sorted(own.refused)
    assert sorted(own.refused.values()) == [1, 1, 2] and len(reasons) == 3
    assert sorted(told) == [f"{NOT_TAKEN}{reason}" for reason in reasons], "each of them once"
    assert reasons[2].startswith("OMP_NUM_THREADS is '3', and was ")
    assert [reason.split()[0] for reason in reasons[:2]] == [
        f"{tmp_path}/shadow/json.py",
        f"{tmp_path}/site/sitecustomize.py",
    ]


@pytest.mark.parametrize("change", [
    lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300)),
    lambda: os.nice(1),
    lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]),
])  # fmt: skip
def test_other_limits_cores_or_priority_are_refused(fork, change):
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one core: there are no fewer")
    assert fork.run(IS_FORK, preexec_fn=change)[1] == "False\n"


@pytest.mark.parametrize("arguments", [
    ["-c", "import sys; print('torch' in sys.modules)"],
    ["-m", "timeit", "-n", "1", "-r", "1"],
    ["missing.py"],
    ["-u", "script.py"],
])  # fmt: skip
def test_all_that_is_no_script_is_left_to_the_real_interpreter(fork, cold, tmp_path, arguments):
    (tmp_path / "script.py").write_text(IS_FORK)
    done = [
        subprocess.run(["python", *arguments], cwd=tmp_path, env=desk.env, capture_output=True)
        for desk in (fork, cold)
    ]
    assert done[0].returncode == done[1].returncode
    if "timeit" not in arguments:
        assert done[0].stdout == done[1].stdout
        told = [one.stderr.split(b"python: ")[-1] for one in done]  # by its path, or its name
        assert told[0] == told[1]


# --- signals

TELLS = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "300"])
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
print(os.getpid(), child.pid, flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_client_reaches_the_fork(fork, number):
    with fork.start(TELLS, preexec_fn=heed_ctrl_c) as process:
        pid, child = map(int, process.stdout.readline().split())
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "heard\n"
        process.send_signal(number)
        assert process.wait(timeout=60) == -number
        assert not is_there(pid)
        os.kill(child, signal.SIGKILL)


def test_a_fork_whose_client_is_killed_is_killed_with_what_it_started(fork):
    with fork.start(TELLS) as process:
        pids = list(map(int, process.stdout.readline().split()))
        process.kill()
    wait_until(lambda: not any(map(is_there, pids)))
    assert fork.run(IS_FORK)[1] == "True\n"


# --- the warm interpreter itself


def test_when_it_is_killed_running_scripts_end_and_the_next_start_cold(tmp_path, light):
    light()
    told = []
    with warm.Warm(told.append) as own:
        desk = Desk(tmp_path, own)
        with desk.start(TELLS) as process:
            pid, child = map(int, process.stdout.readline().split())
            os.kill(own.process.pid, signal.SIGKILL)
            assert process.wait(timeout=60) == 1
            os.kill(child, signal.SIGKILL)
            assert "the warm interpreter ended" in process.stderr.read()
        wait_until(lambda: not is_there(pid))
        assert desk.run(IS_FORK)[:2] == (0, "False\n")
        wait_until(lambda: told)
    assert len(told) == 1 and told[0].startswith("The warm interpreter ended")
    assert told[0].endswith("it was killed by signal 9")


FORKS_ONCE = """
import errno, os
allowed = [os.fork]  # of the imports
def fork():
    if allowed:
        return allowed.pop()()
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.fork = fork
"""


def test_where_no_more_processes_can_be_stages_start_cold_and_it_lives_on(tmp_path, light):
    light(FORKS_ONCE)
    told: list[str] = []
    with warm.Warm(told.append) as own:
        desk = Desk(tmp_path, own)
        for _ in range(2):
            assert desk.run(IS_FORK) == (0, "False\n", "")
        assert own.process.poll() is None
    reason = "the warm interpreter can't be forked: [Errno 11] Resource temporarily unavailable"
    assert told == [NOT_TAKEN + reason] and own.refused == {reason: 2}


def test_it_ends_with_the_process_that_started_it(tmp_path, light):
    text = f"import sys, time\nsys.path.insert(0, {str(ROOT / 'scripts')!r})\nimport warm\n"
    text += f"warm.Warm.server_environment = lambda self: {light()!r}\n"
    text += (
        "with warm.Warm() as own:\n    print(own.path.split(':')[0], own.process.pid, flush=True)"
    )
    text += "\n    time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as owner:
        folder, server = owner.stdout.readline().split()
        desk = Desk(tmp_path, None)
        desk.env["PATH"] = f"{folder}:{desk.env['PATH']}"
        with desk.start(TELLS) as process:
            pids = list(map(int, process.stdout.readline().split()))
            owner.kill()
            wait_until(lambda: not any(map(is_there, [*pids, int(server)])))
            assert process.wait(timeout=60) != 0
        wait_until(lambda: not Path(folder).exists())


def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that can't be imported."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('no torch')")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "broken")}
    monkeypatch.setattr(warm.Warm, "server_environment", lambda self: env)


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm.sys, "platform", "darwin")


def no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(warm.tempfile, "mkdtemp", refuse)


@pytest.mark.parametrize(("obstacle", "reason"), [
    (broken, "ImportError: no torch"),
    (elsewhere, "it needs Linux, this is darwin"),
    (no_room, "no space left"),
])  # fmt: skip
def test_where_there_can_be_none_it_says_so_in_one_line_and_goes_on(
    tmp_path, monkeypatch, obstacle, reason
):
    told: list[str] = []
    with monkeypatch.context() as patch:
        obstacle(tmp_path, patch)
        with warm.Warm(told.append) as none:
            wait_until(lambda: told)
            patch.undo()
            assert Desk(tmp_path, none).run(IS_FORK)[:2] == (0, "False\n")
    assert len(told) == 1 and reason in told[0] and "each stage imports by itself" in told[0]
    assert warm.FOLDER not in os.environ


def test_it_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv(warm.SWITCH, "0")
    told: list[str] = []
    with warm.Warm(told.append) as none:
        assert none.process is None and none.path == cold_path()
    assert told == []


def test_a_deep_temporary_folder_is_no_obstacle(tmp_path, monkeypatch):
    deep = tmp_path / "/".join(["a folder with a long name"] * 5)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    folder = warm.short_folder()
    assert folder.parent == Path("/tmp") and not list(deep.iterdir())
    folder.rmdir()


# --- make repro


ONCE = dict.fromkeys(["prepare", "m0", "m1", "measure-m", "report"], 1)
ALL_BUT_THE_DEAD = {"prepare", "train@m-1"}


def goes_on(small: Repository, serial: str) -> None:
    """The next command, here without a warm interpreter, does the same."""
    small.behave()
    out = small.run(sys.executable, "scripts/repro.py", "--jobs", "1")
    assert small.report() == serial and "All stages are up to date: 3" in out
    assert small.ran() == ONCE | {"m0": 2}, "what was finished is not run again"
    assert not any(start["warm"] for start in small.starts()[-3:])


@pytest.mark.parametrize("number", [
    signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.stress), signal.SIGKILL,
])  # fmt: skip
def test_a_stopped_make_repro_leaves_no_stage_and_the_next_goes_on(small, serial, number):
    small.import_stand_ins()
    small.behave("sleep:m0")
    process = small.start("repro", MOMOS_WARM="1")
    small.wait_until(lambda: small.ran()["m0"] and small.locked() == ALL_BUT_THE_DEAD, process)
    assert all(start["warm"] for start in small.starts())
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), out
    small.wait_until(lambda: not small.left_running(), seconds=60)
    goes_on(small, serial)


def test_a_stage_that_dies_fails_alone(small, serial):
    small.import_stand_ins()
    small.behave("die:m0")
    out = small.run(sys.executable, "scripts/repro.py", check=False, MOMOS_WARM="1")
    assert out.splitlines()[-1] == "Failed: train@m-0"
    assert re.search(r"exited with (-9|137)$", out, re.M), "137: of a shell that stays beside it"
    assert small.locked() == ALL_BUT_THE_DEAD
    assert [start["warm"] for start in small.starts()] == [True] * 3
    goes_on(small, serial)


def test_after_a_crash_of_the_warm_interpreter_stages_start_cold(small, serial):
    """Those that ran in it fail; the others go on, and so does the next command."""
    small.import_stand_ins()
    small.behave("sleep:m0")
    process = small.start("repro", "--jobs", "1", MOMOS_WARM="1")
    small.wait_until(lambda: small.ran()["m0"], process)
    (sleeping,) = small.left_running()
    server = int(Path(f"/proc/{sleeping}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(server, signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert "The warm interpreter ended" in out and out.splitlines()[-1] == "Failed: train@m-0"
    warm_of = {start["stage"]: start["warm"] for start in small.starts()}
    assert warm_of == {"prepare": True, "m0": True, "m1": False}
    goes_on(small, serial)


def test_too_few_stages_are_not_worth_a_warm_interpreter():
    for stages, kind in ((["a", "b"], contextlib.nullcontext), (["a", "b", "c"], warm.Warm)):
        board = repro.Board(stages, {}, 2)
        assert type(repro.warm_interpreter(board, repro.Progress(board))) is kind


# --- the real pipeline, 18 stages (minutes): `make stress`


@pytest.mark.stress
def test_a_micro_profile_of_forks_is_the_serial_one(tmp_path, micro_serial, capsys):
    serial, seconds = micro_serial
    clone = micro(tmp_path)
    start = time.monotonic()
    out = clone.run(sys.executable, "scripts/repro.py")
    took = time.monotonic() - start
    with capsys.disabled():
        print(f"\nmake repro: {took:.0f} s, dvc repro: {seconds:.0f} s")
    assert "by itself" not in out, "there was a warm interpreter"
    assert (
        report_bytes(clone.path) == report_bytes(serial.path) and len(report_bytes(clone.path)) > 50
    )
    assert clone.hashes() == serial.hashes() and clone.stale() <= {"cost", "page"}
