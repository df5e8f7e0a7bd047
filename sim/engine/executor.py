"""Runs a program on the SimPy clock: streams wait for tokens, act, signal, go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from simpy.core import Environment
from simpy.events import Event

from sim.engine.clock import NEVER, ring_at
from sim.engine.network import Flow, FlowTable, Network
from sim.engine.periods import PeriodSkipper
from sim.engine.processors import Processors
from sim.engine.program import NOT_YET, Action, Program, Stream, Template, Token
from sim.engine.trace import Ints, Repeat, Trace
from sim.errors import Deadlock

WAITS, WORKS, MOVES = range(3)  # what a stream does: wait (or nothing any more), work for a time, move bytes
COLUMNS = 5  # of a row: stream, position, start, end, blocker


class Head(NamedTuple):
    """What the executor reads of a template: its flow class or -1, seconds and bytes, the token it signals or -1."""

    waits: tuple[Token, ...]
    flow: int
    seconds: float
    size: float
    kind: int
    at: int
    action: Action


class Runner(Flow):
    """A stream as it runs: its place, what it does since when and allowed by which row; the bell of its work,
    and the flow of its bytes.
    """

    def __init__(self, number: int, stream: Stream, heads: list[Head], done: Callable[[Any], None]) -> None:
        super().__init__(done)
        self.number = number
        self.which, self.index = stream.which, stream.index
        self.heads = [heads[template] for template in stream.table]
        self.length, self.position = len(stream.which), 0
        self.doing = WAITS
        self.began, self.blocker, self.speed = 0.0, -1, 1.0
        self.look_at = -1  # position at which the period skipper wants to look

    @property
    def is_working(self) -> bool:
        """Whether it is busy with something that takes a time, not bytes."""
        return self.doing == WORKS

    @property
    def head(self) -> Head:
        """The instruction it is at."""
        return self.heads[self.which[self.position]]


class Executor:
    """One run of one program. `slowdown` is the share of a processor that a running collective takes."""

    def __init__(
        self,
        program: Program,
        table: FlowTable,
        *,
        flow_ranks: tuple[tuple[int, ...], ...] = (),
        slowdown: float = 0.0,
        skip: bool = True,
        check: bool = False,
    ) -> None:
        self.env = Environment()
        self.program, self.flow_ranks = program, flow_ranks
        self.network = Network(self.env, table, check)
        self.network.note_alone({flow for action in program.actions for flow, _ in action.carried})
        self.runners: list[Runner] = []
        self.reached = [NOT_YET] * len(program.kinds)  # highest index signalled of each kind of token
        self.waiting: list[list[Runner]] = [[] for _ in program.kinds]  # who waits for one of a higher index
        self.unfinished = 0
        self.finished = Event(self.env)
        self.rows: list[float] = []  # one after the other, COLUMNS numbers each
        self.n_rows = 0
        self.repeats: list[Repeat] = []
        self._on_alarm: list[Callable[[Any], None]] = [self._wake]
        self.slowdown = slowdown if any(action.steals for action in program.actions) else 0.0
        self.processors: Processors | None = None
        self.skip = skip
        self.skipper: PeriodSkipper | None = None

    def run(self) -> Trace:
        """Execute to the end. Raises Deadlock if the work cannot finish."""
        heads = [_head(template, self.program.actions) for template in self.program.templates]
        self.runners = [Runner(s, stream, heads, self._complete) for s, stream in enumerate(self.program.streams)]
        self.unfinished = len(self.runners)
        if self.slowdown > 0:
            self.processors = Processors(self.slowdown, self.runners)
        for runner in self.runners:
            self._advance(runner, -1)
        if self.skip and self.program.parts:
            self.skipper = PeriodSkipper(self)
        if self.unfinished:
            try:
                self.env.run(until=self.finished)
            except RuntimeError as stuck:
                if "until" not in str(stuck):
                    raise
                raise Deadlock(self.describe_waiting()) from stuck
        return self._trace()

    def streams_of(self, first: int, last: int) -> Ints:
        """Streams of the rows first..last-1."""
        return np.array(self.rows[first * COLUMNS : last * COLUMNS : COLUMNS], dtype=np.int64)

    def release(self) -> None:
        """Let go of all after the run: what it is made of holds itself in circles, which are slow to collect."""
        vars(self.network).clear()
        vars(self).clear()

    def progress(self) -> float:
        """Share of the instructions that are done, 0 to 1."""
        return sum(runner.position for runner in self.runners) / max(1, sum(runner.length for runner in self.runners))

    def jump(self, shift: dict[int, int], kinds: set[int], index_shift: int, times: int, period: float) -> None:
        """Streams do shift[s] instructions `times` more; what they are doing ends `times` periods later.

        kinds: tokens signalled in a period, index_shift: their indices per period. Who waits, waits for the same
        kind of token.
        """
        for kind in kinds:
            self.reached[kind] += times * index_shift
        for s, step in shift.items():
            runner = self.runners[s]
            runner.position += times * step
            if runner.doing != WAITS:
                self._put_off(runner, times * period)

    def _put_off(self, runner: Runner, later: float) -> None:
        """What a stream is doing began and will end `later` s later."""
        runner.began += later
        if runner.doing == WORKS:
            self._ring(runner, runner.rings_at - self.env.now + later)
        else:
            self.network.put_off(runner, later)

    def missing(self, runner: Runner) -> list[Token]:
        """Tokens that the head of a stream still waits for."""
        index = runner.index[runner.position]
        return [(kind, at + index) for kind, at in runner.head.waits if self.reached[kind] < at + index]

    def _advance(self, runner: Runner, cause: int) -> None:
        """Begin the next instruction of a stream if its tokens are there; `cause`: row that allowed it."""
        position = runner.position
        if position == runner.length:
            self._close()
            return
        waits, flow, seconds, size, _, _, action = runner.heads[runner.which[position]]
        if waits:
            index, reached = runner.index[position], self.reached
            for kind, at in waits:
                if reached[kind] < at + index:
                    self.waiting[kind].append(runner)
                    return
        runner.blocker = cause
        runner.began = now = self.env._now
        if self.processors is not None:
            if action.steals:
                self._steal(action, 1)
            runner.speed = speed = self.processors.speed(action)
            seconds /= speed
        if flow < 0:
            runner.doing, runner.callbacks = WORKS, self._on_alarm
            runner.rings_at = time = now + seconds
            ring_at(self.env, runner, time)
        else:
            runner.doing = MOVES
            self.network.start(runner, flow, size, seconds)

    def _ring(self, runner: Runner, seconds: float) -> None:
        """The work of a stream ends `seconds` from now."""
        runner.rings_at = time = self.env._now + seconds
        ring_at(self.env, runner, time)

    def _wake(self, runner: Runner) -> None:
        runner.callbacks = self._on_alarm
        if runner.rings_at == self.env._now:
            runner.rings_at = NEVER
            self._complete(runner)

    def _complete(self, runner: Runner) -> None:
        """The instruction at the head of a stream is done: record, signal, go on."""
        position = runner.position
        head = runner.heads[runner.which[position]]
        runner.doing = WAITS
        if self.processors is not None and head.action.steals:
            self._steal(head.action, -1)
        row = self.n_rows
        self.n_rows = row + 1
        rows = self.rows
        rows += (runner.number, position, runner.began, self.env._now, runner.blocker)
        runner.position = position + 1
        if (kind := head.kind) >= 0:
            self.reached[kind] = runner.index[position] + head.at
            if waiting := self.waiting[kind]:
                self.waiting[kind] = []
                for other in waiting:
                    self._advance(other, row)
        self._advance(runner, row)
        if position + 1 == runner.look_at and self.skipper:
            self.skipper.plan_look(runner)

    def _steal(self, action: Action, change: int) -> None:
        """A collective that takes processors begins (1) or ends (-1)."""
        if self.processors is not None:
            for runner, seconds in self.processors.steal(action, change, self.env.now):
                self._ring(runner, seconds)

    def _close(self) -> None:
        self.unfinished -= 1
        if not self.unfinished:
            self.finished.succeed()

    # --- reporting ------------------------------------------------------------------------------

    def describe_waiting(self) -> str:
        """Who waits for what, for the Deadlock message."""
        lines = []
        for runner in [runner for queue in self.waiting for runner in queue][:8]:
            name = self.program.streams[runner.number].name
            kind, index = self.missing(runner)[0]
            lines.append(f"{name} waits for '{self.program.name_of(kind)}' of index {index}")
        return f"{self.unfinished} streams cannot go on at {self.env.now:.6g} s: " + "; ".join(lines)

    def _trace(self) -> Trace:
        rows = np.fromiter(self.rows, np.float64, len(self.rows)).reshape(-1, COLUMNS).T
        stream, position, blocker = (rows[place].astype(np.int64) for place in (0, 1, 4))
        start, end = rows[2].copy(), rows[3].copy()
        template, index = self.program.instructions(stream, position)
        return Trace(
            program=self.program,
            table=self.network.table,
            flow_ranks=self.flow_ranks,
            stream=stream,
            position=position,
            template=template,
            index=index,
            start=start,
            end=end,
            blocker=blocker,
            repeats=tuple(self.repeats),
            link_peak=self.network.peak_load(),
            time=float(end.max(initial=0.0)),
            events=self.n_rows + self.network.n_joins,
        )


def _head(template: Template, actions: list[Action]) -> Head:
    waits, act, signal = template
    action = actions[act]
    kind, at = signal or (-1, 0)
    seconds = action.latency if action.flow >= 0 else action.duration
    return Head(waits, action.flow, seconds, action.size, kind, at, action)
