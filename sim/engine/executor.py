"""Runs a program on the SimPy clock: streams wait for tokens, act, signal, go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from simpy.core import Environment
from simpy.events import Event

from sim.engine.clock import ring_at
from sim.engine.network import Flow, FlowTable, Network
from sim.engine.periods import PeriodSkipper
from sim.engine.processors import Processors
from sim.engine.program import Action, Program, Token
from sim.engine.trace import Repeat, Trace
from sim.errors import Deadlock

NEVER = -(1 << 62)
COLUMNS = 7  # of a row: stream, position, template, index, start, end, blocker


class Alarm(Event):
    """A stream's alarm clock; the same event rings again and again."""

    _ok, _value = True, None

    def __init__(self, stream: int) -> None:
        self.stream = stream


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
        for action in program.actions:
            self.network.note_alone([flow for flow, _ in action.carried])
        self._tabulate(program)
        n = len(program.streams)
        self.position = [0] * n
        self.began = [0.0] * n
        self.blocker = [-1] * n
        self.timer: list[Alarm | Flow | None] = [None] * n  # what ends the running action; None: waiting or done
        self.alarms = [Alarm(s) for s in range(n)]
        self.on_alarm: list[Callable[[Any], None]] = [self._wake]
        self.rings_at = [0.0] * n  # clock at which the running alarm ends
        self.reached = [NEVER] * len(program.kinds)  # highest index signalled of each kind of token
        self.waiting: list[list[tuple[int, int]]] = [[] for _ in program.kinds]  # index, stream that waits for it
        self.unfinished = sum(1 for stream in program.streams if stream.template)
        self.finished = Event(self.env)
        self.rows: list[float] = []  # one after the other, COLUMNS numbers each
        self.n_rows = 0
        self.repeats: list[Repeat] = []
        shared = slowdown > 0 and any(action.steals for action in program.actions)
        self.processors = Processors(slowdown, self._alarm) if shared else None
        skipper = PeriodSkipper(self) if skip and program.beats else None
        self.beats = dict.fromkeys(skipper.parts, skipper) if skipper else {}

    def _tabulate(self, program: Program) -> None:
        actions = program.actions
        self.templates = [stream.template for stream in program.streams]
        self.indices = [stream.index for stream in program.streams]
        self.waits = [template.waits for template in program.templates]
        self.signals = [template.signal for template in program.templates]
        self.acts = [template.action for template in program.templates]
        self.heads = [  # what an instruction waits for, its flow class or -1, seconds and bytes
            (template.waits, action.flow, action.latency if action.flow >= 0 else action.duration, action.size)
            for template in program.templates
            for action in (actions[template.action],)
        ]
        self.used = [stream.used for stream in program.streams]
        self.makers = {
            signal[0]: s
            for s, templates in enumerate(self.used)
            for template in templates
            if (signal := self.signals[template]) is not None
        }

    def flows_of(self, template: int) -> list[int]:
        """Flow classes that an instruction moves bytes of."""
        action = self.program.actions[self.acts[template]]
        return [flow for flow, _ in action.carried] + [action.flow] * (action.flow >= 0)

    def run(self) -> Trace:
        """Execute to the end. Raises Deadlock if the work cannot finish."""
        for s in range(len(self.position)):
            self._advance(s, -1)
        if self.unfinished:
            try:
                self.env.run(until=self.finished)
            except RuntimeError as stuck:
                if "until" not in str(stuck):
                    raise
                raise Deadlock(self.describe_waiting()) from stuck
        return self._trace()

    def progress(self) -> float:
        """Share of the instructions that are done, 0 to 1."""
        return sum(self.position) / max(1, sum(map(len, self.templates)))

    def jump(self, shift: dict[int, int], kinds: set[int], index_shift: int, times: int, period: float) -> None:
        """Streams do shift[s] instructions `times` more; what they are doing ends `times` periods later.

        kinds: tokens signalled in a period, index_shift: their indices per period.
        """
        later = times * period
        for s, step in shift.items():
            self.position[s] += times * step
        for kind in kinds:
            self.reached[kind] += times * index_shift
        waiting = {s for s in shift if self.timer[s] is None and self.position[s] < len(self.templates[s])}
        self.waiting = [[entry for entry in queue if entry[1] not in waiting] for queue in self.waiting]
        for s in shift:
            if s in waiting:
                kind, index = self.missing(s)[0]
                self.waiting[kind].append((index, s))
            else:
                self._put_off(s, later)

    def _put_off(self, s: int, later: float) -> None:
        """What stream `s` is doing began and will end `later` s later."""
        timer = self.timer[s]
        self.began[s] += later
        if isinstance(timer, Flow):
            self.network.put_off(timer, later)
        elif timer is not None:
            self._alarm(s, self.rings_at[s] - self.env.now + later)
            if self.processors is not None:
                self.processors.put_off(s, later)

    def missing(self, s: int) -> list[Token]:
        """Tokens that the head of stream `s` still waits for."""
        template, index = self.templates[s][self.position[s]], self.indices[s][self.position[s]]
        return [(kind, at + index) for kind, at in self.waits[template] if self.reached[kind] < at + index]

    def _advance(self, s: int, cause: int) -> None:
        """Begin the next instruction of stream `s` if its tokens are there; `cause`: row that allowed it."""
        templates, position = self.templates[s], self.position[s]
        if position == len(templates):
            self._close()
            return
        waits, flow, seconds, size = self.heads[template := templates[position]]
        if waits:
            index, reached = self.indices[s][position], self.reached
            for kind, at in waits:
                if reached[kind] < at + index:
                    self.waiting[kind].append((at + index, s))
                    return
        env = self.env
        self.began[s] = now = env._now
        self.blocker[s] = cause
        if self.processors is not None:
            self._occupy(s, self.program.actions[self.acts[template]])
        elif flow < 0:
            timer = self.timer[s] = self.alarms[s]
            timer.callbacks = self.on_alarm
            self.rings_at[s] = time = now + seconds
            ring_at(env, timer, time)
        if flow >= 0:
            self.timer[s] = self.network.start(flow, size, s, self._complete, seconds)

    def _alarm(self, s: int, delay: float) -> None:
        """Ring stream `s` after `delay` s. Its event is used again unless it is still on its way."""
        timer = self.alarms[s]
        if timer is self.timer[s]:
            timer = self.alarms[s] = Alarm(s)
        timer.callbacks = self.on_alarm
        self.timer[s] = timer
        self.rings_at[s] = time = self.env._now + delay
        ring_at(self.env, timer, time)

    def _wake(self, timer: Event) -> None:
        s: int = timer.stream  # type: ignore[attr-defined]
        if self.timer[s] is timer:
            self._complete(s)

    def _complete(self, s: int) -> None:
        """The instruction at the head of stream `s` is done: record, signal, go on."""
        position = self.position[s]
        template, index = self.templates[s][position], self.indices[s][position]
        if self.processors is not None:
            self._release(s, self.program.actions[self.acts[template]])
        row = self.n_rows
        self.n_rows = row + 1
        self.rows += (s, position, template, index, self.began[s], self.env._now, self.blocker[s])
        self.timer[s] = None
        self.position[s] = position + 1
        if (signal := self.signals[template]) is not None:
            kind, at = signal
            self.reached[kind] = index = at + index
            if self.waiting[kind]:
                self._wake_waiting(kind, index, row)
        self._advance(s, row)
        if s in self.beats:
            self.beats[s].after(s, position + 1)

    def _wake_waiting(self, kind: int, index: int, row: int) -> None:
        """A token is there: who waits for it looks again."""
        queue = self.waiting[kind]
        self.waiting[kind] = [entry for entry in queue if entry[0] > index]
        for at, waiter in queue:
            if at <= index:
                self._advance(waiter, row)

    # --- processors -----------------------------------------------------------------------------

    def _occupy(self, s: int, action: Action) -> None:
        """Take processors: for work, or from the work beside it."""
        if self.processors is not None:
            if action.steals:
                self.processors.steal(action, 1, self.env._now)
            if action.flow < 0:
                self.processors.begin(s, action, self.env._now)

    def _release(self, s: int, action: Action) -> None:
        """Give processors back."""
        if self.processors is not None:
            self.processors.end(s)
            if action.steals:
                self.processors.steal(action, -1, self.env._now)

    def _close(self) -> None:
        self.unfinished -= 1
        if not self.unfinished:
            self.finished.succeed()

    # --- reporting ------------------------------------------------------------------------------

    def describe_waiting(self) -> str:
        """Who waits for what, for the Deadlock message."""
        lines = []
        waits = [(kind, index, s) for kind, queue in enumerate(self.waiting) for index, s in queue]
        for kind, index, s in waits[:8]:
            name = self.program.streams[s].name
            lines.append(f"{name} waits for '{self.program.name_of(kind)}' of index {index}")
        return f"{self.unfinished} streams cannot go on at {self.env.now:.6g} s: " + "; ".join(lines)

    def _trace(self) -> Trace:
        columns = [np.array(self.rows[column::COLUMNS], dtype=np.float64) for column in range(COLUMNS)]
        stream, position, template, index, blocker = (columns[place].astype(np.int64) for place in (0, 1, 2, 3, 6))
        start, end = columns[4:6]
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
            flow_bytes=np.array(self.network.bytes_moved),
            link_peak=self.network.peak_load(),
            time=float(end.max(initial=0.0)),
            events=self.n_rows + self.network.n_joins,
        )
