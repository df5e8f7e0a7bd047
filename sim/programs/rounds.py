"""Whole rounds of several programs on one network left out, exactly.

Each time a job begins a step, the state of all programs is taken: where their streams are, what they do, how long that
lasts still, and at which rate. If it is one that was there before, what lies between happens again and again. So rounds
are left out by lowering the steps that are left, and reported times are later by as much; no clock is moved. A
flow that was under way all the time, like one of a long transfer, is a counter: it ends in none of the rounds left out.
Jobs with unequal periods never repeat; after some dozens of states that are all different nobody looks any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.engine.executor import MOVES, WORKS, Executor, Runner
from sim.engine.network import Network
from sim.engine.trace import TOLERANCE

if TYPE_CHECKING:
    from sim.programs.trainer import Trainer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LOOK = 2  # rank at the end of an instant: when rates are known and parts of steps have been skipped
KEPT_STATES = 64
ALIKE = 1e-9  # relative difference of equal rates


@dataclass(frozen=True)
class Standing:
    """What all programs are doing at `now` [s], stream by stream.

    begun: steps that each job has begun. place: (n, 2) position, and what is done there. rate: (n,) B/s, or speed of
    work. ends_in: (n,) seconds of work or start-up left. left, since: (n,) bytes to move, and when that began [s].
    """

    now: float
    begun: tuple[int, ...]
    place: Ints
    rate: Floats
    ends_in: Floats
    left: Floats
    since: Floats

    def moved_since(self, before: Standing) -> Floats | None:
        """Bytes moved of flows under way since `before`, (n,), 0 for others; None if anything else differs."""
        if not np.array_equal(self.place, before.place) or not np.allclose(self.rate, before.rate, ALIKE, 0.0):
            return None
        slack = TOLERANCE * self.now
        moved = before.left - self.left
        same = np.abs(moved) <= self.rate * slack + TOLERANCE * self.left
        counts = (self.since == before.since) & (moved > 0)
        if not np.all(same | counts) or np.any(np.abs(self.ends_in - before.ends_in) > slack):
            return None
        return np.where(same, 0.0, moved)


class Rounds:
    """The jobs on a network and what else runs there; `skip`: whether rounds may be left out."""

    def __init__(self, network: Network, *, skip: bool = True) -> None:
        self.network, self.skip = network, skip
        self.jobs: list[Trainer] = []
        self.others: list[Executor] = []
        self.left_out = 0.0  # seconds
        self.seen: list[Standing] = []
        self.alive: tuple[object, ...] = ()

    @property
    def now(self) -> float:
        """Time with the rounds that were left out [s]."""
        return self.network.env.now + self.left_out

    def step_begins(self, job: Trainer) -> None:
        """Look for a state that was there before, once for all that begin now."""
        if self.skip and job is next(each for each in self.jobs if not each.is_over):
            self.network.settling.after_all(LOOK, self._look)

    def _look(self) -> None:
        steps = [job.step for job in self.jobs if not job.is_over]
        others = [runner for run in self.others for runner in run.runners if runner.position < runner.length]
        alive = len(steps), tuple(map(id, others))
        if alive != self.alive:
            self.seen, self.alive = [], alive
        if None in steps or len(self.seen) == KEPT_STATES:
            return  # a job has still to begin; or nothing ever repeats
        runners = [runner for step in steps if step for runner in step.runners] + others
        state = _standing(self.network.env.now, tuple(len(job.begins) for job in self.jobs), runners)
        for before in reversed(self.seen):
            moved = state.moved_since(before)
            if moved is not None and self.again(state, before, moved, runners):
                return
        self.seen.append(state)

    def again(self, state: Standing, before: Standing, moved: Floats, runners: list[Runner]) -> bool:
        """A state was there before: leave out rounds if any can be, and say whether."""
        times = self._times(state, before, moved)
        if times > 0:
            self._leave_out(times, state, before, moved, runners)
        return times > 0

    def _times(self, state: Standing, before: Standing, moved: Floats) -> int:
        """How many rounds can be left out: every job keeps the step it is in, every flow some of its bytes."""
        steps = [b - a for a, b in zip(before.begun, state.begun, strict=True)]
        most = min((job.left / n for job, n in zip(self.jobs, steps, strict=True) if n), default=inf)
        counts = moved > 0
        rounds = (state.left[counts] / moved[counts]).min(initial=inf)
        times = min(most, ceil(rounds * (1 - ALIKE)) - 1 if isfinite(rounds) else inf)
        return int(times) if isfinite(times) else 0

    def _leave_out(self, times: int, state: Standing, before: Standing, moved: Floats, runners: list[Runner]) -> None:
        period = state.now - before.now
        for job, first, last in zip(self.jobs, before.begun, state.begun, strict=True):
            job.repeat(last - first, times, period)
        for place in np.flatnonzero(moved):
            self.network.move(runners[place], times * float(moved[place]))
        self.left_out += times * period
        self.seen = []


def _standing(now: float, begun: tuple[int, ...], runners: list[Runner]) -> Standing:
    """The state of the streams."""
    rows = [_doing(runner, now) for runner in runners]
    place = np.array([(runner.position, runner.doing) for runner in runners], dtype=np.int64).reshape(-1, 2)
    return Standing(now, begun, place, *np.array(rows).reshape(-1, 4).T)


def _doing(runner: Runner, now: float) -> tuple[float, float, float, float]:
    """Rate, seconds of work or start-up left, bytes left, and since when."""
    if runner.doing == WORKS:
        return runner.speed, runner.rings_at - now, 0.0, 0.0
    if runner.doing == MOVES:
        return runner.rate, max(0.0, runner.since - now), runner.left_at(now), runner.began
    return 0.0, 0.0, 0.0, 0.0
