"""Parser and exit codes of the `momos` command. Each group of subcommands is a module beside it.

Nothing is imported that takes long until a subcommand runs, so that `momos --help` is quick.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from momos.cli import compare, measure, pack, report, singular
from momos.cli.kept import INTERRUPTED
from momos.weights.files import one_line

BAD_INPUT = 2
PIPE_CLOSED = 141  # as shells have it
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # in errors of torch
EXTRAS = {"timm": "pipeline", "transformers": "language"}  # that bring what the command lacks


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand, and return its exit code.

    0: it worked. 1: `verify` or `verify-report` found a difference. 2: the input is bad. 130:
    Ctrl-C came. 141: nobody reads the output any more. With 1 and 2, stderr says what is wrong, in
    one line for bad input.
    """
    try:
        arguments = _parser().parse_args(argv)
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # of a reader that has seen enough, as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes
        return PIPE_CLOSED
    except (ValueError, OSError, ModuleNotFoundError, MemoryError) as error:
        print(f"momos: {one_line(_message(error))}{_remedy(error)}", file=sys.stderr)
        return BAD_INPUT
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        print(
            f"momos: more memory is needed than there is: {one_line(str(error))}", file=sys.stderr
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        print("momos: interrupted", file=sys.stderr)
        return INTERRUPTED


def _message(error: Exception) -> str:
    """What went wrong, without the number that systems give it."""
    if isinstance(error, MemoryError):
        return f"more memory is needed than there is {error}"
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _remedy(error: Exception) -> str:
    """What to install where a library is missing that `pip install` of the base leaves out."""
    extra = EXTRAS.get(str(getattr(error, "name", None)))
    return f" (pip install '.[{extra}]' in a copy of the project brings it)" if extra else ""


class _Parser(argparse.ArgumentParser):
    """A parser that reports bad usage as the ValueError which `main` prints in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(prog="momos", description="How simple are the weights of a neural network?")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    measure.add_commands(commands)
    compare.add_commands(commands)
    pack.add_commands(commands)
    singular.add_commands(commands)
    report.add_commands(commands)
    return parser
