"""The logger: takes epochs from trainings and puts them into MLflow's store.

usage: python -m momos.tracking STATUS [SOCKET]

Without SOCKET it serves the one training whose messages arrive on standard input. With it, it
serves all trainings that connect to the socket, until standard input ends and they are done.
STATUS: the number of an open pipe, on which it says that it sets up the store, and when that is
done (`momos.tracking.live.Status`).
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from momos.tracking.live import READY, SETTING_UP, warn
from momos.tracking.record import Record
from momos.tracking.store import LIVE_LIMITS, Store, needs_set_up, set_up, uri

PAUSE = 3.0  # seconds over which a training's epochs are gathered
TURN = threading.Lock()  # trainings that share a logger write one after the other


def say(status: bytes) -> None:
    """Tell whoever started the logger; it may have gone."""
    with contextlib.suppress(OSError):
        os.write(int(sys.argv[1]), status)


class StoredRun:
    """One training's run in the store, from its first message on."""

    def __init__(self, first: dict) -> None:
        set_up(LIVE_LIMITS)
        say(READY)
        self.store = Store(first["experiment"], LIVE_LIMITS)
        self.known = first["about"]
        self.run_id = self.store.start(Record.of_training(self.known))
        self.digest: str | None = None

    def add(self, messages: list[dict]) -> None:
        """Put messages of momos.tracking.live into the store."""
        rows = [message["row"] for message in messages if "row" in message]
        self.store.log_rows(self.run_id, rows)
        for message in messages:
            if "output_hash" in message:
                self.digest = message["output_hash"]
                about = message["about"].items()
                new = {name: value for name, value in about if name not in self.known}
                self.store.log_params(self.run_id, new)

    def end(self) -> None:
        """Mark the run as FINISHED, or as FAILED if its training did not say that it was done."""
        if self.digest is not None:
            self.store.finish(self.run_id, self.digest)
        else:
            self.store.fail(self.run_id)


def read_messages(stream: int) -> Iterator[list[dict]]:
    """What a training has sent since the last look, as lists, until it closes the pipe.

    The first message comes at once, later ones gathered over PAUSE: writing many epochs of a short
    training together costs the store little more than one.
    """
    rest, pause = b"", 0.0
    while chunk := _gathered(stream, pause):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            pause = PAUSE
            yield [json.loads(line) for line in lines]


def _gathered(stream: int, seconds: float) -> bytes:
    """Bytes that come within this time from the first of them on; none at the stream's end."""
    found = b""
    end: float | None = None
    while chunk := os.read(stream, 1 << 16):
        found += chunk
        end = time.monotonic() + seconds if end is None else end
        rest = end - time.monotonic()
        if rest <= 0 or not select.select([stream], [], [], rest)[0]:
            break
    return found


def serve(stream: int) -> None:
    """Put one training's messages into the store, until it closes the pipe."""
    run = None
    for messages in read_messages(stream):
        with TURN:
            run = run or StoredRun(messages[0])
            run.add(messages)
    if run is not None:
        with TURN:
            run.end()


def cause_of(error: BaseException) -> BaseException:
    """The error at the root: libraries wrap the database's in texts of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def serve_or_warn(stream: int, warned: threading.Event) -> None:
    """Serve one training; tell the user once if the store fails, whatever it raises."""
    try:
        serve(stream)
    except Exception as error:  # mlflow, sqlalchemy, requests, filelock: each has its own kinds
        if not warned.is_set():
            warned.set()
            warn(f"{uri()}: {cause_of(error)}")


def share(path: str) -> None:
    """Serve all trainings that connect to the socket, until standard input ends and they are done.

    path: of the socket, which appears when it can be connected to.
    """
    listener, warned = socket.socket(socket.AF_UNIX), threading.Event()
    threads: list[threading.Thread] = []
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)

    def handle(connection: socket.socket) -> None:
        with connection:
            serve_or_warn(connection.fileno(), warned)

    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in ready:  # standard input has ended, and nobody is waiting
            break
        threads.append(threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the training, which closes the pipe
    warned = threading.Event()
    if needs_set_up():
        say(SETTING_UP)
    if len(sys.argv) > 2:
        share(sys.argv[2])
    else:
        serve_or_warn(sys.stdin.fileno(), warned)
    return int(warned.is_set())


if __name__ == "__main__":
    sys.exit(main())
