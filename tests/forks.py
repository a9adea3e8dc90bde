"""Python processes that are forks of this one, in which MLflow is imported already."""

import contextlib
import inspect
import os
import runpy
import subprocess
import sys
from typing import Any, NoReturn

PREPARED = inspect.signature(subprocess.Popen._execute_child)
ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")  # of pipes, in Popen


class Fork(subprocess.Popen):
    """`Popen` for `python -m NAME ..` and `python -c CODE ..`; any other command as usual.

    Importing MLflow takes three seconds of each new process. A fork knows the stores that this
    process has opened: it is for stores that only itself has to do with until then.
    """

    def _execute_child(self, args: Any, *rest: Any) -> None:
        if (
            not isinstance(args, list)
            or args[:1] != [sys.executable]
            or args[1] not in ("-m", "-c")
        ):
            super()._execute_child(args, *rest)
            return
        here = PREPARED.bind(self, args, *rest).arguments
        assert here["cwd"] is here["env"] is None, "a fork has this process's folder and variables"
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_python(args[1:], here)
        self._child_created = True
        self._close_pipe_fds(*(here[name] for name in ENDS))


def _be_python(arguments: list[str], here: dict[str, Any]) -> NoReturn:
    """Run the module or the code. here: what Popen has prepared."""
    status = 1
    try:
        if here["start_new_session"]:
            os.setsid()
        for number, stream in enumerate((here["p2cread"], here["c2pwrite"], here["errwrite"])):
            if stream != -1:
                os.dup2(stream, number)
        for name in os.listdir("/dev/fd"):
            if int(name) > 2 and int(name) not in here["pass_fds"]:
                with contextlib.suppress(OSError):  # the list's own
                    os.close(int(name))
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, closefd=False) for number, mode in enumerate("rww")
        )
        status = _run(*arguments)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(option: str, what: str, *arguments: str) -> int:
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(what, {"__name__": "__main__"})
    return 0
