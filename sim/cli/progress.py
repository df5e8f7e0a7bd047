"""A progress bar with the time left, on stderr, for work that takes longer than a moment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

PATIENCE_S = 1.0  # before a bar is shown
REFRESH_S = 0.2


@contextmanager
def bar(label: str, fraction: Callable[[], float]) -> Iterator[None]:
    """Show how much of the work inside is done, as `fraction` says; only on a terminal."""
    if not sys.stderr.isatty():
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
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=1.0)
        while not over.wait(REFRESH_S):
            progress.update(task, completed=fraction())
