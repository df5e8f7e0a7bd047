"""What the command prints and the exit codes it gives: documents on stdout, messages on stderr."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from sim.errors import ConfigError, OutputError, Problem, SimError
from sim.report.visible import visible, visible_console

if TYPE_CHECKING:
    from rich.console import Console

FINE, MISSED, USAGE, INVALID, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 130
_UNWRITTEN = (errno.ENOSPC, errno.EPIPE, errno.EBADF, errno.EIO, errno.EFBIG, errno.EDQUOT)


def emit(text: str) -> None:
    """Write `text` to stdout. A reader that went away (`| head`) is no error. Raises OutputError."""
    with delivering():
        sys.stdout.write(visible(text))


def emit_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout."""
    emit("".join(f"{line}\n" for line in lines))


def emit_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    from sim.report.jsonout import dumps

    emit(dumps(document))


def emit_rich(print_to: Callable[[Console], None]) -> None:
    """Let `print_to` print on stdout: as wide as the terminal, 80 columns and bare text in a pipe."""
    with delivering():
        console = visible_console(sys.stdout)
        if console.is_terminal:
            print_to(console)
            return
        with console.capture() as captured:
            print_to(console)
    emit_lines(line.rstrip() for line in captured.get().splitlines())


def message_console() -> Console:
    """A console on stderr; no terminal where that is closed."""
    return visible_console(sys.stderr or io.StringIO())


def speaks_to_terminal() -> bool:
    """Whether somebody may be looking at stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(message: str) -> None:
    """Write a message for people to stderr; where that is closed or full, nobody can be told."""
    if sys.stderr is not None:
        try:
            print(visible(message), file=sys.stderr, flush=True)
        except OSError:
            _silence(sys.stderr)


@contextmanager
def delivering() -> Iterator[None]:
    """Ends without a word when the reader of stdout closed the pipe. Raises OutputError if it cannot be written."""
    if sys.stdout is None:
        raise OutputError(Problem("stdout", "", "is closed"))
    _replace_unprintable(sys.stdout)
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise OutputError(Problem("stdout", "", f"cannot be written: {error.strerror}")) from None


@contextmanager
def own_words() -> Iterator[None]:
    """The same for what is printed by the library that reads arguments, such as help."""
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITTEN:
            raise
        _silence(sys.stdout)
        if error.errno != errno.EPIPE:
            raise OutputError(Problem("stdout", "", f"cannot be written: {error.strerror}")) from None


def occupy_closed_streams() -> None:
    """Let no file become stdin, stdout or stderr because that was closed when the process began."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(free, True)
    os.close(free)


def _silence(stream: TextIO) -> None:
    """Nothing more is written there, not even when the process ends and writes what is left."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _replace_unprintable(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")


def fail(error: BaseException, as_json: bool = False, debug: bool = False) -> int:
    """Tell of an error, one problem per line and then how many; returns the exit code."""
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, OutputError):
        for problem in error.problems:
            say(str(problem))
        return error.exit_code
    try:
        if as_json:
            emit_json({"error": describe(error)})
    except OutputError as unwritten:
        fail(unwritten)
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
