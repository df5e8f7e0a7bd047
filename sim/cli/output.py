"""What the command prints and the exit codes it gives: documents on stdout, messages on stderr."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from sim.errors import ConfigError, SimError

if TYPE_CHECKING:
    from rich.console import Console

FINE, MISSED, USAGE, INVALID, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 130


def emit(text: str) -> None:
    """Write `text` to stdout. A reader that went away (`| head`) is no error."""
    with quiet_pipe():
        sys.stdout.write(text)


def emit_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout."""
    emit("".join(f"{line}\n" for line in lines))


def emit_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    from sim.report.jsonout import dumps

    emit(dumps(document))


def emit_rich(print_to: Callable[[Console], None]) -> None:
    """Let `print_to` print on stdout: as wide as the terminal, 80 columns and bare text in a pipe."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    if console.is_terminal:
        with quiet_pipe():
            print_to(console)
    else:
        with console.capture() as captured:
            print_to(console)
        emit_lines(line.rstrip() for line in captured.get().splitlines())


def say(message: str) -> None:
    """Write a message for people to stderr."""
    print(message, file=sys.stderr)


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """Ends without a word when the reader of stdout closed the pipe."""
    _replace_unprintable(sys.stdout)
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace_unprintable(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")


def fail(error: BaseException, as_json: bool = False, debug: bool = False) -> int:
    """Tell of an error, one problem per line and then how many; returns the exit code."""
    if debug:
        traceback.print_exception(error)
    if as_json:
        emit_json({"error": describe(error)})
    if isinstance(error, ConfigError):
        say_problems([str(problem) for problem in error.problems])
    elif isinstance(error, SimError):
        say(f"{type(error).__name__}: {error}")
    else:
        say(f"internal error: {type(error).__name__}: {error}" + ("" if debug else "; --debug shows where"))
    return exit_code(error)


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    return error.exit_code if isinstance(error, SimError) else INTERNAL


def say_problems(lines: list[str]) -> None:
    """Write problems to stderr, one per line, and their count."""
    for line in lines:
        say(line)
    say(f"{len(lines)} problem{'' if len(lines) == 1 else 's'}")


def describe(error: BaseException) -> dict[str, Any]:
    """An error as plain data."""
    problems = error.problems if isinstance(error, ConfigError) else []
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "exit_code": exit_code(error),
        "problems": [vars(problem) for problem in problems],
    }
