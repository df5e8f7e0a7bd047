"""Runs a program on the SimPy clock: streams wait for tokens, act, signal, go on.

A stream is a process in all but name: a generator that a plain callback of its alarm, of its bytes or of a token that
it waits for lets go on. That takes a third of the time of SimPy's own processes, which are events of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np
from simpy.events import Event

from sim.engine.network import Flow, Network
from sim.engine.periods import PeriodSkipper
from sim.engine.processors import Processors
from sim.engine.program import NOT_YET, Action, Program, Stream, Template, Token
from sim.engine.trace import Ints, Paces, Repeat, Stops, Trace
from sim.errors import Deadlock

WAITS, WORKS, MOVES = range(3)  # what a stream does: wait (or nothing any more), work for a time, move bytes
COLUMNS = 5  # of a row: stream, position, start, end, blocker
NOBODY = -COLUMNS  # the blocker of what waits for nothing
NAMED = 8  # streams in the message of a deadlock


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
    """A stream as it runs: its place, what it does since when; and the flow of its bytes.

    `resume` lets it go on; if it waits for a token, with the row that allows it.
    """

    def __init__(self, number: int, stream: Stream, heads: list[Head]) -> None:
        super().__init__(_nobody)
        self.resume: Callable[[Any], Any] = _nobody
        self.number, self.name = number, stream.name
        self.which, self.index = stream.which, stream.index
        self.heads = [heads[template] for template in stream.table]
        self.length = len(stream.which)
        self.doing = WAITS
        self.began, self.speed = 0.0, 1.0
        self.look_at = -1  # position at which the period skipper wants to look

    @property
    def is_working(self) -> bool:
        """Whether it is busy with something that takes a time, not bytes."""
        return self.doing == WORKS

    @property
    def head(self) -> Head:
        """The instruction it is at."""
        return self.heads[self.which[self.position]]

    def live(self, life: Generator[None, Any, None]) -> None:
        """Begin."""
        self.resume = self.done = life.send
        next(life)

    def end(self) -> None:
        """Let go of its life."""
        self.resume = self.done = _nobody


class Signals:
    """What has been signalled, who waits for more, and how many streams do not wait.

    Runs whose programs wait for each other share them; their token kinds are numbered in common.
    """

    def __init__(self, kinds: list[tuple[object, ...]]) -> None:
        self.kinds = kinds
        self.reached = [NOT_YET] * len(kinds)  # highest index signalled of each kind
        self.waiting: list[list[Runner]] = [[] for _ in kinds]  # who waits for one of a higher index
        self.awake = 0
        self.runs: list[Executor] = []

    def join(self, run: Executor) -> None:
        """Count the streams of a run, which has still to begin."""
        self.runs.append(run)
        self.awake += len(run.program.streams)

    def fall_asleep(self) -> None:
        """A stream waits, or has ended. If it was the last one awake, nobody will ever signal again."""
        self.awake -= 1
        if not self.awake:
            for run in self.runs:
                run.give_up()

    def call(self, kind: int, row: int) -> None:
        """Those who wait for tokens of a kind go on, or wait for more; row: the one that let them."""
        waiting, self.waiting[kind] = self.waiting[kind], []
        for runner in waiting:
            runner.resume(row)

    def missing(self, runner: Runner) -> list[Token]:
        """Tokens that the head of a stream still waits for."""
        index = runner.index[runner.position]
        return [(kind, at + index) for kind, at in runner.head.waits if self.reached[kind] < at + index]


class Executor:
    """One run of one program on a network, whose clock it goes by. `run` if it has that to itself, else `begin`.

    slowdown: the share of a processor that a running collective takes. signals: shared with other runs, its own if
    absent. stops: when loose parts are not skipped, if what is skipped of them is checked afterwards. finished: happens
    when all streams have ended; fails with Deadlock as soon as they never will.
    """

    def __init__(
        self,
        program: Program,
        network: Network,
        *,
        flow_ranks: tuple[tuple[int, ...], ...] = (),
        slowdown: float = 0.0,
        skip: bool = True,
        signals: Signals | None = None,
        stops: Stops | None = None,
    ) -> None:
        self.program, self.network, self.flow_ranks = program, network, flow_ranks
        self.env, self.begun = network.env, 0.0
        heads = [_head(template, program.actions) for template in program.templates]
        self.runners = [Runner(s, stream, heads) for s, stream in enumerate(program.streams)]
        self.signals = signals or Signals(program.kinds)
        self.signals.join(self)
        self.unfinished = len(self.runners)
        self.finished = Event(self.env)
        self.rows: list[float] = []  # one after the other, COLUMNS numbers each; a blocker is where its row begins
        self.repeats: list[Repeat] = []
        steals = slowdown > 0 and any(action.steals for action in program.actions)
        self.processors = Processors(slowdown, self.runners) if steals else None
        self.skipper = PeriodSkipper(self, stops) if skip and program.parts else None

    def run(self) -> Trace:
        """Execute to the end. Raises Deadlock if the work cannot finish."""
        self.env.run(until=self.begin())
        return self.trace()

    def begin(self) -> Event:
        """Let all streams begin now; `finished`."""
        self.begun = self.env.now
        self.network.note_alone({flow for action in self.program.actions for flow, _ in action.carried})
        for runner in self.runners:
            runner.live(self._life(runner))
        if not self.runners:
            self.finished.succeed()
        return self.finished

    def _life(self, runner: Runner) -> Generator[None, Any, None]:
        """The life of a stream: wait for tokens, work or move bytes, record, signal, and so on to its last instruction.

        After each wait its position is read anew: the period skipper may have moved it on.
        """
        env, signals, rows, slowed = self.env, self.signals, self.rows, self.processors is not None
        number, heads, which, index, length = runner.number, runner.heads, runner.which, runner.index, runner.length
        timeout, move, reached, waiting = env.timeout, self.network.start, signals.reached, signals.waiting
        position, now, cause = 0, env.now, NOBODY
        while position < length:
            waits, flow, seconds, size, kind, at, action = heads[which[position]]
            for awaited, ahead in waits:
                while reached[awaited] < index[position] + ahead:
                    waiting[awaited].append(runner)
                    signals.fall_asleep()
                    cause = yield
                    signals.awake += 1
                    position, now = runner.position, env.now
            runner.began = now
            if slowed:
                seconds /= self._speed(runner, action)
            if flow < 0:
                runner.doing, runner.rings_at = WORKS, now + seconds
                runner.alarm = alarm = timeout(seconds)
                alarm.callbacks.append(runner.resume)
            else:
                runner.doing = MOVES
                move(runner, flow, size, seconds)
            yield
            runner.doing = WAITS
            if slowed:
                self._steal(action, -1)
            position, now, row = runner.position, env.now, len(rows)
            rows += (number, position, runner.began, now, cause)
            runner.position = after = position + 1
            if kind >= 0:
                reached[kind] = index[position] + at
                if waiting[kind]:
                    signals.call(kind, row)
            if after == runner.look_at and self.skipper:
                self.skipper.plan_look(runner)
            position, cause = after, row
        self._close(runner)
        yield  # for good: to return would raise StopIteration in the callback that let it go on

    def _speed(self, runner: Runner, action: Action) -> float:
        """Speed at which a stream begins an action."""
        assert self.processors is not None
        self._steal(action, 1)
        runner.speed = self.processors.speed(action)
        return runner.speed

    def _steal(self, action: Action, change: int) -> None:
        """A collective that takes processors begins (1) or ends (-1); work beside it goes on at another speed."""
        if self.processors is not None and action.steals:
            now = self.env.now
            for runner, seconds in self.processors.steal(action, change, now):
                runner.sleep_until(self.env, now + seconds, runner.resume)

    def _close(self, runner: Runner) -> None:
        """A stream has ended."""
        runner.end()
        self.unfinished -= 1
        if not self.unfinished:
            self.finished.succeed()
        self.signals.fall_asleep()

    def give_up(self) -> None:
        """What has not ended never will."""
        if self.unfinished and not self.finished.triggered:
            self.finished.fail(Deadlock(self.describe_waiting()))

    # --- periods that are skipped -------------------------------------------------------------------

    def streams_of(self, first: int, last: int) -> Ints:
        """Streams of the rows first..last-1."""
        return np.array(self.rows[first * COLUMNS : last * COLUMNS : COLUMNS], dtype=np.int64)

    def jump(self, shift: dict[int, int], kinds: set[int], index_shift: int, times: int, period: float) -> None:
        """Streams do shift[s] instructions `times` more; what they are doing ends `times` periods later.

        kinds: tokens signalled in a period, index_shift: their indices per period. Who waits, waits for the same
        kind of token.
        """
        for kind in kinds:
            self.signals.reached[kind] += times * index_shift
        for s, step in shift.items():
            runner = self.runners[s]
            runner.position += times * step
            if runner.doing != WAITS:
                self._put_off(runner, times * period)

    def _put_off(self, runner: Runner, later: float) -> None:
        """What a stream is doing began and will end `later` s later."""
        runner.began += later
        if runner.doing == WORKS:
            runner.sleep_until(self.env, runner.rings_at + later, runner.resume)
        else:
            self.network.put_off(runner, later)

    # --- reporting ------------------------------------------------------------------------------

    @property
    def n_rows(self) -> int:
        """Instructions that have been done."""
        return len(self.rows) // COLUMNS

    @property
    def n_instructions(self) -> int:
        """Instructions of all streams."""
        return sum(runner.length for runner in self.runners)

    def progress(self) -> float:
        """Share of the instructions that are done, 0 to 1."""
        return sum(runner.position for runner in self.runners) / max(1, self.n_instructions)

    def describe_waiting(self) -> str:
        """Who waits for what, for the Deadlock message."""
        lines = []
        mine = set(map(id, self.runners))
        waiting = [runner for queue in self.signals.waiting for runner in queue if id(runner) in mine]
        for runner in waiting[:NAMED]:
            kind, index = self.signals.missing(runner)[0]
            lines.append(f"{runner.name} waits for '{self.program.name_of(kind)}' of index {index}")
        return f"{self.unfinished} streams cannot go on at {self.env.now:.6g} s: " + "; ".join(lines)

    def trace(self) -> Trace:
        """What happened, by the time since it began; loads of links are those of all that ran on the network."""
        rows = np.fromiter(self.rows, np.float64, len(self.rows)).reshape(-1, COLUMNS).T
        stream, position, blocker = (rows[place].astype(np.int64) for place in (0, 1, 4))
        blocker //= COLUMNS
        start, end = rows[2] - self.begun, rows[3] - self.begun
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
            paces=self._paces(stream, position),
        )

    def _paces(self, stream: Ints, position: Ints) -> Paces:
        """Rates of transfers whose rate changed, of the rows with these streams and positions, (n,) each."""
        paced = [
            (runner.number, place, *pace) for runner in self.runners for place, paces in runner.paced for pace in paces
        ]
        number, place, begin, end, rate = np.array(paced, dtype=np.float64).reshape(-1, 5).T
        longest = 1 + max((runner.length for runner in self.runners), default=0)
        key = stream * longest + position
        order = np.argsort(key)
        row = order[np.searchsorted(key[order], (number * longest + place).astype(np.int64))]
        rising = np.argsort(row, kind="stable")
        return Paces(row[rising], begin[rising] - self.begun, end[rising] - self.begun, rate[rising])

    def release(self) -> None:
        """Let go of all after the run: what it is made of holds itself in circles, which are slow to collect."""
        vars(self.network).clear()
        self.runners, self.rows = [], []  # a thread that watches may ask at any moment
        for name in vars(self).keys() - {"runners", "rows"}:
            delattr(self, name)


def _nobody(_: Any) -> None:
    """Whom nobody waits for."""


def _head(template: Template, actions: list[Action]) -> Head:
    waits, act, signal = template
    action = actions[act]
    kind, at = signal or (-1, 0)
    seconds = action.latency if action.flow >= 0 else action.duration
    return Head(waits, action.flow, seconds, action.size, kind, at, action)
