"""Runs a program on the SimPy clock: streams wait for tokens, act, signal, go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from simpy.core import Environment
from simpy.events import NORMAL, Event

from sim.engine.network import Flow, FlowTable, Network
from sim.engine.periods import PeriodSkipper
from sim.engine.processors import Processors
from sim.engine.program import Program, Token
from sim.engine.trace import Repeat, Trace
from sim.errors import Deadlock

NEVER = -(1 << 62)
IDLE, COMPUTING, STARTING, MOVING = range(4)  # phases of a stream


class Alarm(Event):
    """A stream's alarm clock; the same event rings again and again."""

    def __init__(self, env: Environment, stream: int) -> None:
        super().__init__(env)
        self.stream = stream
        self._ok, self._value = True, None


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
        self.phase = [IDLE] * n
        self.began = [0.0] * n
        self.blocker = [-1] * n
        self.timer: list[Alarm | Flow | None] = [None] * n
        self.alarms: list[Alarm | None] = [None] * n
        self.on_alarm: list[Callable[[Any], None]] = [self._wake]
        self.rings_at = [0.0] * n  # clock at which the running alarm ends
        self.reached = [NEVER] * len(program.kinds)  # highest index signalled of each kind of token
        self.waiting: dict[Token, list[int]] = {}
        self.unfinished = sum(1 for stream in program.streams if stream.template)
        self.finished = Event(self.env)
        self.rows: list[tuple[int, int, float, float, int]] = []
        self.repeats: list[Repeat] = []
        shared = slowdown > 0 and any(action.steals for action in program.actions)
        self.processors = Processors(slowdown, self._alarm) if shared else None
        self.events = 0
        skipper = PeriodSkipper(self) if skip and program.beats else None
        self.beats = dict.fromkeys(skipper.parts, skipper) if skipper else {}

    def _tabulate(self, program: Program) -> None:
        actions = program.actions
        self.is_transfer = [action.flow >= 0 for action in actions]
        self.durations = [action.latency if action.flow >= 0 else action.duration for action in actions]
        self.flows = [action.flow for action in actions]
        self.steals = [bool(action.steals) for action in actions]
        self.sizes = [action.size for action in actions]
        self.templates = [stream.template for stream in program.streams]
        self.indices = [stream.index for stream in program.streams]
        self.waits = [template.waits for template in program.templates]
        self.signals = [template.signal for template in program.templates]
        self.acts = [template.action for template in program.templates]
        self.makers = {
            signal[0]: s
            for s, stream in enumerate(program.streams)
            for template in dict.fromkeys(stream.template)
            if (signal := self.signals[template]) is not None
        }

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
        waiting = {s for s in shift if self.phase[s] == IDLE and self.position[s] < len(self.templates[s])}
        self.waiting = {
            token: kept for token, streams in self.waiting.items() if (kept := [s for s in streams if s not in waiting])
        }
        for s in shift:
            if s in waiting:
                self.waiting.setdefault(self.missing(s)[0], []).append(s)
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
        templates, indices = self.templates[s], self.indices[s]
        position = self.position[s]
        if position == len(templates):
            self._close()
            return
        template, index, reached = templates[position], indices[position], self.reached
        for kind, at in self.waits[template]:
            if reached[kind] < at + index:
                self.waiting.setdefault((kind, at + index), []).append(s)
                return
        self.began[s] = self.env._now
        self.blocker[s] = cause
        self._begin(s, self.acts[template])

    def _begin(self, s: int, action: int) -> None:
        shared = self.processors
        if shared is not None and self.steals[action]:
            shared.steal(self.program.actions[action], 1, self.env._now)
        if not self.is_transfer[action]:
            self.phase[s] = COMPUTING
            if shared is not None:
                shared.begin(s, self.program.actions[action], self.env._now)
            else:
                self._alarm(s, self.durations[action])
        elif self.durations[action] > 0:
            self.phase[s] = STARTING
            self._alarm(s, self.durations[action])
        else:
            self._move(s, action)

    def _alarm(self, s: int, delay: float) -> None:
        """Ring stream `s` after `delay` s. Its event is used again unless it is still on its way."""
        timer = self.alarms[s]
        if timer is None or timer is self.timer[s]:
            timer = self.alarms[s] = Alarm(self.env, s)
        timer.callbacks = self.on_alarm
        self.timer[s] = timer
        self.rings_at[s] = self.env._now + delay
        self.env.schedule(timer, NORMAL, delay)

    def _move(self, s: int, action: int) -> None:
        self.phase[s] = MOVING
        self.timer[s] = self.network.start(self.flows[action], self.sizes[action], s, self._complete)

    def _wake(self, timer: Event) -> None:
        s: int = timer.stream  # type: ignore[attr-defined]
        if self.timer[s] is not timer:
            return
        self.events += 1
        if self.phase[s] == STARTING:
            self._move(s, self.acts[self.templates[s][self.position[s]]])
        else:
            self._complete(s)

    def _complete(self, s: int) -> None:
        """The instruction at the head of stream `s` is done: record, signal, go on."""
        position = self.position[s]
        template = self.templates[s][position]
        if self.phase[s] == MOVING:
            self.events += 1
        if self.processors is not None:
            self._release(s, self.acts[template])
        row = len(self.rows)
        self.rows.append((s, position, self.began[s], self.env._now, self.blocker[s]))
        self.phase[s] = IDLE
        self.timer[s] = None
        self.position[s] = position + 1
        signal = self.signals[template]
        if signal is not None:
            kind, index = signal[0], signal[1] + self.indices[s][position]
            self.reached[kind] = index
            waiters = self.waiting.pop((kind, index), None)
            if waiters is not None:
                for waiter in waiters:
                    self._advance(waiter, row)
        self._advance(s, row)
        if s in self.beats:
            self.beats[s].after(s, position + 1)

    def _release(self, s: int, action: int) -> None:
        """Give processors back."""
        if self.processors is not None:
            self.processors.end(s)
            if self.steals[action]:
                self.processors.steal(self.program.actions[action], -1, self.env._now)

    def _close(self) -> None:
        self.unfinished -= 1
        if not self.unfinished:
            self.finished.succeed()

    # --- reporting ------------------------------------------------------------------------------

    def describe_waiting(self) -> str:
        """Who waits for what, for the Deadlock message."""
        lines = []
        for (kind, index), streams in list(self.waiting.items())[:8]:
            names = ", ".join(self.program.streams[s].name for s in streams)
            lines.append(f"{names} waits for '{self.program.kinds[kind]}' of index {index}")
        return f"{self.unfinished} streams cannot go on at {self.env.now:.6g} s: " + "; ".join(lines)

    def _trace(self) -> Trace:
        rows = self.rows
        stream = np.array([row[0] for row in rows], dtype=np.int64)
        position = np.array([row[1] for row in rows], dtype=np.int64)
        return Trace(
            program=self.program,
            table=self.network.table,
            flow_ranks=self.flow_ranks,
            stream=stream,
            position=position,
            template=np.array([self.templates[row[0]][row[1]] for row in rows], dtype=np.int64),
            index=np.array([self.indices[row[0]][row[1]] for row in rows], dtype=np.int64),
            start=np.array([row[2] for row in rows]),
            end=np.array([row[3] for row in rows]),
            blocker=np.array([row[4] for row in rows], dtype=np.int64),
            repeats=tuple(self.repeats),
            flow_bytes=np.array(self.network.bytes_moved),
            link_peak=self.network.peak_load(),
            time=max((row[3] for row in rows), default=0.0),
            events=self.events,
        )
