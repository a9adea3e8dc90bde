"""The `python` of stages that are forks: hands one script to the warm interpreter (warm.py).

usage: python -IS warm_client.py SOCKET SCRIPT.py [ARGUMENT ...]

It runs without site-packages, so that it starts in 10 ms. Signals go on to the fork, and it ends
as the fork ends. Where the warm interpreter does not take the script, or is gone, and for anything
that is no script (`-c`, `-m`), this process becomes the real interpreter.
"""

import json
import os
import resource
import signal
import socket
import sys
from typing import NoReturn

# What the answers begin with: the script was not taken, is about to start, has ended. The second
# byte is its exit status, or the signal that killed it.
REFUSED, STARTED, EXITED, KILLED = b"R", b"S", b"E", b"K"
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LIMITS = ("AS", "CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "NOFILE", "NPROC", "RSS", "STACK")
LOST = "the warm interpreter ended, and this stage with it: run it again"


def surroundings() -> dict[str, object]:
    """What a fork does not have from its client: it must be the same where it is inherited."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        cgroup = file.read()
    return {
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)),
        "limits": [list(resource.getrlimit(getattr(resource, f"RLIMIT_{one}"))) for one in LIMITS],
        "cgroup": cgroup,
    }


def file_mask() -> int:
    """This process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def request(arguments: list[str]) -> bytes:
    """What the fork has to know to be `python ARGUMENTS`."""
    known = {
        "argv": arguments,
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "umask": file_mask(),
        "ignored": [one for one in FORWARDED if signal.getsignal(one) is signal.SIG_IGN],
        "surroundings": surroundings(),
    }
    return json.dumps(known).encode()


def connect(address: str) -> socket.socket | None:
    """A connection to the warm interpreter; None if none listens there."""
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(address)
    except OSError:
        server.close()
        return None
    return server


def start(server: socket.socket, arguments: list[str]) -> bool:
    """Send the request; signals are forwarded from then on. Returns whether the script starts."""

    def forward(number: int, frame: object) -> None:
        server.send(bytes([number]))

    body = request(arguments)
    try:
        socket.send_fds(server, [len(body).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(body)
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, forward)
        return answer(server)[:1] == STARTED
    except OSError:
        return False


def answer(server: socket.socket) -> bytes:
    """The next answer, two bytes; empty if the server has ended."""
    try:
        return server.recv(2, socket.MSG_WAITALL)
    except ConnectionError:
        return b""


def become_python(arguments: list[str]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, *arguments])


def end_by(number: int) -> NoReturn:
    """End by this signal, without a second core dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)


def main(address: str, arguments: list[str]) -> None:
    script = arguments[0] if arguments else ""
    server = connect(address) if script.endswith(".py") and os.path.isfile(script) else None
    if server is None or not start(server, arguments):
        become_python(arguments)
    end = answer(server)
    if end[:1] == KILLED:
        end_by(end[1])
    sys.exit(end[1] if end[:1] == EXITED else LOST)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
