"""A warm interpreter: a Python with the heavy libraries imported, whose forks become the stages.

    with Warm() as warm:
        env = os.environ | {"PATH": warm.path}
        subprocess.run("python stages/train.py ...", shell=True, env=env)

Importing torch and its kin takes longer than a small training. While the context lasts, the first
`python` in `warm.path` is a client (warm_client.py) that has the server fork. The fork takes over
the client's arguments, folder, environment, umask and standard streams. It inherits no thread, no
state of a random generator and no CUDA context. Nothing of the project is imported beforehand: a
script imports that itself, from the folders that its own PYTHONPATH names.

What a fork could not take over runs in the real interpreter: `python -c` and `-m`, other limits or
cores than the server's, another environment. A variable such as OMP_NUM_THREADS acts when a library
is imported, so it would come too late. Only variables in FREE may differ.

Forks end with the server, and the server ends with the process that started it. Where a client
dies, its fork is killed. `MOMOS_WARM=0` in the environment does without all of it.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib.machinery
import io
import json
import multiprocessing.process
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, NoReturn, Self

from warm_client import EXITED, FORWARDED, KILLED, REFUSED, STARTED, surroundings

SWITCH = "MOMOS_WARM"  # environment: 0 starts every stage in an interpreter of its own
FOLDER = "MOMOS_WARM_FOLDER"  # environment: the folder whose `python` is the client
# What stages import and takes 0.1 s or more.
LIBRARIES = (
    "torch", "torchvision", "timm", "transformers", "numpy", "numba", "pandas", "scipy.optimize",
    "scipy.spatial", "matplotlib.pyplot", "seaborn", "jinja2", "PIL.Image", "yaml",
    "safetensors.torch", "pybdm", "tqdm", "transformers.models.gpt_neox.modeling_gpt_neox",
)  # fmt: skip
# Variables on which no library depends while it is imported. CUDA reads its own when it is first
# used, which is in the fork.
FREE = (
    "_", "COLUMNS", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "LINES", "OLDPWD", "PATH",
    "PWD", "PYTHONPATH", "SHLVL",
)  # fmt: skip
FREE_PREFIXES = ("DVC_", "MLFLOW_", "MOMOS_", "PYTEST_")
# Arrow's allocator starts a thread when it is imported, unless this is set.
NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
READ_SECONDS = 5.0  # for a client to send its request
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class Refused(Exception):
    """A script that the real interpreter has to run. Its text: why."""


# --- whoever starts stages


def search_path(folder: str | Path | None = None) -> str:
    """A PATH in which `python` is this interpreter, or its warm client where there is one.

    folder: where the client is; None: what MOMOS_WARM_FOLDER says.
    """
    client = str(folder or os.environ.get(FOLDER, ""))
    folders = [client, str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return os.pathsep.join(filter(None, folders))


class Warm:
    """The server, while the context lasts. It raises nothing: without one, stages start cold.

    tell: what to do with a line for the user: why there is no warm interpreter, that it ended too
    early, or, once for each reason, that it does not take a script. hash_seed: PYTHONHASHSEED of
    the server, which all its forks share.
    """

    def __init__(self, tell: Callable[[str], None] = print, hash_seed: int | None = None) -> None:
        self.tell, self.hash_seed = tell, hash_seed
        self.folder: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None  # None where there is no server
        self.refused: Counter[str] = Counter()  # scripts by reason
        self.ending = False

    @property
    def path(self) -> str:
        """A PATH for environments of processes that start stages."""
        return search_path(self.folder)

    def __enter__(self) -> Self:
        if os.environ.get(SWITCH) == "0":
            return self
        try:
            if not sys.platform.startswith("linux"):
                raise OSError(f"it needs Linux, this is {sys.platform}")
            self.start(short_folder())
        except OSError as error:
            self.end()
            self.tell(f"No warm interpreter, each stage imports by itself: {error}")
        return self

    def start(self, folder: Path) -> None:
        """Start the server, which imports meanwhile. Raises OSError where it can't be started."""
        self.folder = folder
        client = str(Path(__file__).with_name("warm_client.py"))
        command = shlex.join([sys.executable, "-IS", client, str(folder / "socket")])
        (folder / "python").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / "python").chmod(0o700)
        with socket.socket(socket.AF_UNIX) as listener, (folder / "log").open("wb") as log:
            listener.bind(str(folder / "socket"))
            listener.listen(64)  # clients that come before the imports are done wait here
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), str(folder)],
                stdin=subprocess.PIPE,  # at its end the server ends
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.server_environment(),
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for whoever started it
            )
        self.watch = threading.Thread(target=self.listen, args=[self.process.stdout], daemon=True)
        self.watch.start()
        os.environ[FOLDER] = str(folder)

    def server_environment(self) -> dict[str, str]:
        env = NO_THREADS | os.environ | {"PYTHONPATH": ""}
        if self.hash_seed is not None:
            env["PYTHONHASHSEED"] = str(self.hash_seed)
        return env

    def listen(self, said: IO[bytes]) -> None:
        """Tell why the server refuses scripts, a reason a line, until it ends."""
        for line in said:
            reason = json.loads(line)
            self.refused[reason] += 1
            if self.refused[reason] == 1:
                self.tell(f"Not for the warm interpreter, so a stage imports by itself: {reason}")
        if not self.ending and self.folder is not None and self.process is not None:
            log = (self.folder / "log").read_text(errors="replace").strip().splitlines()
            code = self.process.wait()
            reason = log[-1] if log and code > 0 else f"it was killed by signal {-code}"
            self.tell(f"The warm interpreter ended, each stage imports by itself: {reason}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the server, and with it all stages that still run in it."""
        self.ending = True
        os.environ.pop(FOLDER, None)
        if self.process is not None:
            if self.process.stdin is not None:
                self.process.stdin.close()
            try:
                self.process.wait(timeout=READ_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.watch.join()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def short_folder() -> Path:
    """A new folder in which a socket can be. Raises OSError if there is no place for one."""
    from momos.tracking.sockets import short  # not above: the server imports nothing of the project

    return Path(tempfile.mkdtemp(prefix="momos-", dir=short()))


# --- the server


class Server:
    """Forks for each client, tells it how the fork ended, and kills the fork if the client dies."""

    def __init__(self, listener: socket.socket, before: Mapping[str, str]) -> None:
        """before: the environment before the imports, which may add to it."""
        self.listener, self.here = listener, surroundings()
        self.reference = relevant(before)
        self.added = {name: os.environ[name] for name in differing(before, os.environ)}
        self.forks: dict[int, socket.socket] = {}  # by process id
        self.selector = selectors.DefaultSelector()
        self.woken, self.wake = socket.socketpair()
        for end in (self.woken, self.wake):
            end.setblocking(False)

    def run(self) -> None:
        """Serve until standard input ends. Then kill the forks."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.wake.fileno(), warn_on_full_buffer=False)
        for source in (self.listener, self.woken, 0):
            self.selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == 0:
                    return self.end()
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj is self.woken:
                    self.woken.recv(4096)
                    self.reap()
                elif isinstance(key.fileobj, socket.socket):
                    self.hear(key.fileobj)

    def end(self) -> None:
        for pid in self.forks:
            kill_group(pid)

    def accept(self) -> None:
        """Read a client's request, and fork or refuse."""
        client, _ = self.listener.accept()
        try:
            asked, streams = read_request(client)
        except (OSError, ValueError):  # it died, or does not speak
            client.close()
            return
        try:
            self.check(asked)
            self.fork(client, asked, streams)
        except (Refused, OSError) as error:
            self.refuse(client, str(error))
        for stream in streams:
            os.close(stream)

    def check(self, asked: dict[str, Any]) -> None:
        """Raises Refused unless a fork would be what a new interpreter is."""
        got = relevant(asked["environment"])
        expected = {
            name: value
            for name, value in self.reference.items()
            if name != "PYTHONHASHSEED" or name in got  # without it any seed will do
        }
        if changed := differing(expected, got):
            name = changed[0]
            raise Refused(
                f"{name} is {got.get(name)!r}, and was {expected.get(name)!r} at the imports"
            )
        if changed := differing(self.here, asked["surroundings"]):
            raise Refused(f"other {changed[0]} than those of the warm interpreter")
        check_names(folders_of(asked))
        check_state()

    def refuse(self, client: socket.socket, reason: str) -> None:
        answer(client, REFUSED, 0)
        with contextlib.suppress(BrokenPipeError):  # whoever started the server was killed
            os.write(1, f"{json.dumps(reason)}\n".encode())

    def fork(self, client: socket.socket, asked: dict[str, Any], streams: list[int]) -> None:
        """Fork for a client. Raises Refused where there can be no more processes."""
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            raise Refused(f"the warm interpreter can't be forked: {error}") from error
        if pid == 0:
            be_python(asked, streams, lambda: self.leave(server, client, asked))
        self.forks[pid] = client
        self.selector.register(client, selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # it is gone, as `hear` will find
            client.sendall(STARTED + b"\0")

    def leave(self, server: int, client: socket.socket, asked: dict[str, Any]) -> None:
        """In a fork: be the server no more. server: its process id."""
        end_with(server)
        signal.set_wakeup_fd(-1)
        self.selector.close()
        for one in (self.listener, self.woken, self.wake, client, *self.forks.values()):
            one.close()
        asked["environment"] = self.added | asked["environment"]

    def hear(self, client: socket.socket) -> None:
        """Hand a client's signal on to its fork; kill the fork if the client is gone."""
        pid = next((pid for pid, its in self.forks.items() if its is client), None)
        if pid is None:  # its fork has just ended
            return
        try:
            numbers = client.recv(64)
        except ConnectionError:
            numbers = b""
        for number in numbers:
            os.kill(pid, number)
        if not numbers:
            self.selector.unregister(client)
            kill_group(pid)

    def reap(self) -> None:
        """Tell the clients of ended forks how they ended."""
        for pid in list(self.forks):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended == 0:
                continue
            client = self.forks.pop(pid)
            with contextlib.suppress(KeyError):  # it was gone before
                self.selector.unregister(client)
            if os.WIFSIGNALED(status):
                answer(client, KILLED, os.WTERMSIG(status))
            else:
                answer(client, EXITED, os.WEXITSTATUS(status))


def answer(client: socket.socket, kind: bytes, number: int) -> None:
    """The last answer to a client, which may be gone."""
    with contextlib.suppress(OSError):
        client.sendall(kind + bytes([number]))
    client.close()


def read_request(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a client asks for, and its standard streams. Raises OSError or ValueError without."""
    client.settimeout(READ_SECONDS)
    head, streams, _, _ = socket.recv_fds(client, 8, 3)
    length, body = int.from_bytes(head, "big"), b""
    while len(body) < length and (part := client.recv(length - len(body))):
        body += part
    client.settimeout(None)
    return json.loads(body), streams


def relevant(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables in which fork and server must not differ."""
    return {
        name: value
        for name, value in environment.items()
        if name not in FREE and not name.startswith(FREE_PREFIXES) and NO_THREADS.get(name) != value
    }


def differing(expected: Mapping[str, object], got: Mapping[str, object]) -> list[str]:
    """Names whose values differ, or that only one of both has."""
    return sorted(name for name in {*expected, *got} if expected.get(name) != got.get(name))


def folders_of(asked: dict[str, Any]) -> list[str]:
    """What a new interpreter has first in sys.path: the script's folder, those of PYTHONPATH."""
    script = Path(asked["cwd"], asked["argv"][0])
    named = filter(None, asked["environment"].get("PYTHONPATH", "").split(os.pathsep))
    own = [] if sys.flags.safe_path else [str(script.resolve().parent)]
    return [*own, *(os.path.abspath(Path(asked["cwd"], folder)) for folder in named)]


def check_names(folders: Iterable[str]) -> None:
    """Raises Refused if a folder has a module that would stand in for one that is imported."""
    loaded = {name.split(".")[0] for name in sys.modules} | {"sitecustomize", "usercustomize"}
    for folder in filter(os.path.isdir, folders):
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name.removesuffix(".py")
                package = name == entry.name and os.path.isfile(f"{entry.path}/__init__.py")
                if name in loaded and (package or name != entry.name):
                    raise Refused(f"{entry.path} has the name of an imported module")


def check_state() -> None:
    """Raises Refused if a fork would inherit a thread, a CUDA context or the project's own code."""
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise Refused(f"the warm interpreter has {threads} threads")
    if sys.modules["torch"].cuda.is_initialized():
        raise Refused("the warm interpreter has used CUDA")
    if any(os.path.realpath(file.path).startswith("/dev/nvidia") for file in open_files()):
        raise Refused("the warm interpreter has opened a GPU")
    if "momos" in sys.modules:
        raise Refused("the warm interpreter has imported the project's code")


def open_files() -> list[os.DirEntry[str]]:
    """This process's open files, as links to them."""
    with os.scandir("/proc/self/fd") as files:
        return list(files)


def kill_group(pid: int) -> None:
    """Kill a fork and the processes that it started."""
    for kill in (os.killpg, os.kill):  # it may not have a group of its own yet
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def prepare() -> None:
    """Import LIBRARIES, and leave what forks should not have."""
    for name in LIBRARIES:
        importlib.import_module(name)
    if (pid := os.fork()) == 0:  # before a fork OpenBLAS ends the threads that it started
        os._exit(0)
    os.waitpid(pid, 0)
    gc.collect()
    gc.freeze()  # forks need not look through, and so copy, what was made until now


def serve(number: int, folder: Path) -> None:
    """Be the server. number: of the listening socket's file."""
    del sys.path[0]  # this folder
    before = dict(os.environ)
    prepare()
    Server(socket.socket(fileno=number), before).run()
    shutil.rmtree(folder, ignore_errors=True)  # whoever started this may have been killed


# --- the fork


def end_with(server: int) -> None:
    """Have this process killed when the server ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    os.setsid()


def be_python(asked: dict[str, Any], streams: list[int], leave: Callable[[], None]) -> NoReturn:
    """Run the script as if this process had been started with the client's command line.

    leave: what comes first.
    """
    status = 1
    try:
        leave()
        take_over(asked, streams)
        status = run_script(asked)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def take_over(asked: dict[str, Any], streams: list[int]) -> None:
    """Become what the client is: its streams, folder, environment, signals, arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in FORWARDED:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in asked["ignored"] else usual)
    os.umask(asked["umask"])
    os.chdir(asked["cwd"])
    # Processes that it starts look from there for the script.
    vars(multiprocessing.process)["ORIGINAL_DIR"] = asked["cwd"]
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["argv"]
    sys.orig_argv = [sys.executable, *asked["argv"]]
    sys.path[:0] = folders_of(asked)
    importlib.invalidate_caches()
    forget_random_state()


def forget_random_state() -> None:
    """Seed the global generators anew, as they are in a new interpreter: by chance.

    Python's own does so after each fork.
    """
    sys.modules["torch"].default_generator.seed()
    sys.modules["numpy"].random.seed()


def run_script(asked: dict[str, Any]) -> int:
    """Run the script, and end as an interpreter ends. Returns the exit status."""
    script = os.path.join(asked["cwd"], asked["argv"][0])
    main = ModuleType("__main__")
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", script)
    main.__dict__.update(__file__=script, __builtins__=sys.modules["builtins"], __cached__=None)
    sys.modules["__main__"] = main
    interrupted = False
    try:
        exec(compile(Path(script).read_bytes(), script, "exec", dont_inherit=True), main.__dict__)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # the script's
        sys.excepthook(type(error), error, error.__traceback__)
        status, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        file.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return status & 255


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
