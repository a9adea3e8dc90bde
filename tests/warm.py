"""A Python with the heavy libraries imported: each `python SCRIPT.py` of a test is a fork of it.

Only what is installed is imported beforehand, nothing of the project: a script imports that itself,
from the folder that its own PYTHONPATH names. No thread has been started when it forks. Whatever is
not a script (`python -c`, `-m`) goes to the real interpreter.

usage: with Warm(hash_seed=1) as warm: warm.path (a PATH that begins with its `python`)
"""

import atexit
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

LIBRARIES = (
    "torch", "torchvision", "timm", "transformers", "numpy", "pandas", "scipy.optimize",
    "scipy.spatial", "matplotlib.pyplot", "seaborn", "jinja2", "PIL.Image", "yaml",
    "safetensors.torch", "pybdm", "tqdm",
)  # fmt: skip
LAUNCHER = '#!/bin/sh\nexec "{python}" -IS "{client}" "$@"\n'
CLIENT = """import os, socket, sys
if len(sys.argv) < 2 or not sys.argv[1].endswith(".py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
import json
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = {{"argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
    request = json.dumps(request).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    status = server.recv(1)
sys.exit(status[0] if status else "the process was killed")
"""


class Warm:
    """The server whose forks become the stages, while the context lasts."""

    def __init__(self, hash_seed: int) -> None:
        """hash_seed: PYTHONHASHSEED, which all its forks share."""
        self.hash_seed = hash_seed

    def __enter__(self) -> Self:
        # A socket's path may have 100 characters, and pytest's folders are deep.
        self.folder = Path(tempfile.mkdtemp(prefix="momos-"))
        launcher, client = self.folder / "python", self.folder / "client.py"
        address = str(self.folder / "socket")
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        launcher.write_text(LAUNCHER.format(python=sys.executable, client=client))
        launcher.chmod(0o755)
        environment = {**os.environ, "PYTHONPATH": "", "PYTHONHASHSEED": str(self.hash_seed)}
        command = [sys.executable, __file__, address]
        self.server = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        assert self.server.stdout.readline() == b"ready\n"
        self.path = os.pathsep.join(
            [str(self.folder), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        self.server.stdout.close()
        shutil.rmtree(self.folder)


def serve(address: str) -> None:
    """Import LIBRARIES, then fork for each client, until the parent process ends."""
    del sys.path[0]  # this folder
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1
    # Nobody waits for the forks: their client hears from them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(5)
        print("ready", flush=True)
        parent = os.getppid()
        while os.getppid() == parent:  # a test run that was killed leaves nothing behind
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listener.close()
                be_python(client)
            client.close()


def be_python(client: socket.socket) -> None:
    """Run the client's script as if this process had been started with its command line."""
    length, handles, _, _ = socket.recv_fds(client, 8, 3)
    request = json.loads(client.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
        os.close(handle)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    folders = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path(sys.argv[0]).resolve().parent), *filter(None, folders)]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(bytes([status & 255]))
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
