"""A progress bar with the time left, on stderr, for work that takes longer than a moment."""

from __future__ import annotations

import sys
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from select import select
from threading import Event, Thread
from typing import TYPE_CHECKING

from sim.cli import output
from sim.errors import OutputError
from sim.report import human
from sim.units import TIME

if TYPE_CHECKING:
    from sim.ask.run.step import Runs

PATIENCE_S = 1.0  # before a bar is shown
MINUTE, HOUR = (TIME.units[name] for name in ("min", "h"))
LONG_S = MINUTE  # that nobody should have to wait for unasked
REFRESH_S = 0.2


@contextmanager
def bar(label: str, fraction: Callable[[], float], ahead: Runs | None = None, *, sure: bool = False) -> Iterator[None]:
    """Show how much of the work inside is done, as `fraction` says; only on a terminal.

    Of a step `ahead` that takes long, it shows what its time lies between. Where more than a minute is left, whoever
    sits at the terminal is asked whether to wait, unless that is `sure`, while it goes on; a script is told on stderr.
    """
    over, watchers = Event(), list[Thread]()
    if output.speaks_to_terminal():
        watchers.append(Thread(target=_watch, args=(label, fraction, over, ahead), daemon=True))
    if ahead and not sure:
        watchers.append(Thread(target=_ask, args=(ahead, over), daemon=True))
    if ahead:
        ahead.wanted = output.speaks_to_terminal()
    for watcher in watchers:
        watcher.start()
    try:
        yield
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()


def _watch(label: str, fraction: Callable[[], float], over: Event, ahead: Runs | None) -> None:
    if over.wait(PATIENCE_S):
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.message_console(), transient=True) as progress:
        task = progress.add_task(label, total=1.0)
        while not over.wait(REFRESH_S):
            if ahead and ahead.bounds:
                shortest, longest = map(human.duration, ahead.bounds)
                progress.update(task, description=f"{label} a step of {shortest} to {longest}")
            progress.update(task, completed=fraction())


def _ask(ahead: Runs, over: Event) -> None:
    """Tell of a step that takes long as soon as that is known; end the program if nobody wants to wait."""
    while not over.wait(REFRESH_S):
        if (left := ahead.seconds_left()) > LONG_S:
            break
    else:
        return
    told = f"the step takes about {_roughly(left)} more to simulate; --bounds tells at once what it lies between"
    if not (output.speaks_to_terminal() and sys.stdin is not None and sys.stdin.isatty()):
        output.say(told)
        return
    output.say(f"{told}. Go on? [Y/n]")
    while not over.is_set():
        if select([sys.stdin], [], [], REFRESH_S)[0]:
            if sys.stdin.readline().strip().lower().startswith("n"):
                interrupt_main()
            return


def _roughly(seconds: float) -> str:
    """An estimate as it is worth telling."""
    return f"{seconds / HOUR:.0f} h" if seconds >= 2 * HOUR else f"{seconds / MINUTE:.0f} min"


@contextmanager
def told(label: str) -> Iterator[Callable[[int, int], None]]:
    """The same for work that tells how many parts are done, and how many there are."""
    reached = [0.0]

    def show(done: int, total: int) -> None:
        reached[0] = done / max(1, total)

    with bar(label, lambda: reached[0]):
        yield show


@contextmanager
def counted(label: str, what: str, folder: Path) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with rate and time left, if it is a terminal; on Ctrl-C or a full disk, how to go on.

    It is told how many `what` are done, and how many there are; they are kept in `folder`.
    """
    reached = [0, 0]
    try:
        with _rated(label) if output.speaks_to_terminal() else nullcontext(_unseen) as show:

            def tell(done: int, total: int) -> None:
                reached[:] = done, total
                show(done, total)

            yield tell
    except (KeyboardInterrupt, OutputError):
        done, total = reached
        if total:
            output.say(f"{done} of {total} {what} are kept in {folder}; the same command goes on from there")
        raise


def _unseen(done: int, total: int) -> None:
    """Nobody looks."""


@contextmanager
def _rated(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.message_console(), transient=True) as bar:
        task = bar.add_task(label, total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.0f}/s" if speed else "")

        yield show
