"""A process that works for the page, and can be told to stop without being lost.

The server stays free to answer while a step is simulated or plans are searched. What is asked goes through a pipe and
what is found comes back through it, progress first. To cancel is Ctrl-C for that process: it says that it stopped, or,
for a search, what it found so far.

Public: `Desk`, `Reply`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

Reply = dict[str, Any]  # "progress", or "done" with what was found, "problems" or "cancelled"
LOST = {"problems": ["the process that worked on it ended; was there enough memory?"]}
POLL = 0.2  # s between looks at whether a process that was told to end did


class Desk:
    """One worker; questions are answered one after the other. It starts with the first, and anew if it is lost."""

    def __init__(self) -> None:
        self._turn = threading.Lock()  # one question at a time
        self._process: BaseProcess | None = None

    def start(self) -> None:
        """Start the process already now, unless it runs."""
        if self._process is None:
            context = get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,))
            self._process.start()
            theirs.close()

    def ask(self, kind: str, question: dict[str, Any]) -> Iterator[Reply]:
        """Replies to a question, the last of them without `progress`."""
        with self._turn:
            self.start()
            try:
                self._pipe.send((kind, question))
                while True:
                    reply = self._pipe.recv()
                    yield reply
                    if "progress" not in reply:
                        return
            except (EOFError, OSError):
                self._process = None
                yield LOST

    def cancel(self) -> None:
        """Stop what is being worked on; nothing happens if nothing is."""
        if self._turn.locked() and self._process is not None and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGINT)

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(POLL)
        if self._process.is_alive():
            self._process.kill()
        self._pipe.close()


def _work(pipe: Connection) -> None:
    """Answer until the other end is closed. Interrupts count only while something is being worked on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from sim.explore import answer  # noqa: F401  (imported now, so that the first answer is quick)

    while True:
        try:
            kind, question = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            reply = _reply(kind, question, pipe)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            reply = {"cancelled": True}
        pipe.send(reply)


def _reply(kind: str, question: dict[str, Any], pipe: Connection) -> Reply:
    from sim.errors import SimError
    from sim.explore.design import Design

    try:
        design = Design.of(question)
        return {"done": _search(design, pipe) if kind == "plan" else _answer(design)}
    except SimError as error:
        problems = getattr(error, "problems", None)
        return {"problems": [_told(problem) for problem in problems] if problems else [str(error)]}


def _answer(design: Any) -> dict[str, Any]:
    from sim.explore.answer import answer

    return answer(design)


def _search(design: Any, pipe: Connection) -> dict[str, Any]:
    from sim.ask.plan.search import search_plans
    from sim.explore.answer import found_plans
    from sim.explore.design import open_design

    experiment = open_design(design, planned=False).loaded.experiment
    found = search_plans(experiment, progress=lambda what, share: pipe.send({"progress": share, "what": what}))
    return found_plans(found)


def _told(problem: Any) -> str:
    """A problem as `check` prints it; a control has no place in a file."""
    text = str(problem)
    where = problem.where
    return text.removeprefix(f"{where}: ") if where.startswith("--set") else text
