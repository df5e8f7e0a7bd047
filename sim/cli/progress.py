"""A progress bar with the time left, on stderr, for work that takes longer than a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event, Thread

from sim.cli import output
from sim.errors import OutputError

PATIENCE_S = 1.0  # before a bar is shown
REFRESH_S = 0.2


@contextmanager
def bar(label: str, fraction: Callable[[], float]) -> Iterator[None]:
    """Show how much of the work inside is done, as `fraction` says; only on a terminal."""
    if not output.speaks_to_terminal():
        yield
        return
    over = Event()
    watcher = Thread(target=_watch, args=(label, fraction, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(label: str, fraction: Callable[[], float], over: Event) -> None:
    if over.wait(PATIENCE_S):
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.message_console(), transient=True) as progress:
        task = progress.add_task(label, total=1.0)
        while not over.wait(REFRESH_S):
            progress.update(task, completed=fraction())


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
