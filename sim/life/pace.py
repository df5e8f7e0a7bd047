"""Training and saving between two events, in closed form: how far the job is, and what it can fall back on.

Public: `Pace`, `Saved`.

A cycle is steps, then a blocking save, then more steps while the save drains; the state is safe when
the drain has ended. A save that comes due while the last one drains waits for it, at the next step.
Copies to a peer's memory are spread evenly over the steps between them.
"""

from __future__ import annotations

from collections import deque
from math import ceil, floor, inf
from typing import NamedTuple

from sim.life.life_inputs import Saving


class Saved(NamedTuple):
    """A persistent checkpoint: the steps in it, when it was taken, and when it became safe."""

    steps: float
    taken: float
    durable: float


class Pace:
    """The progress of one job. Times in seconds, progress in steps of the whole job."""

    def __init__(self, target: float, healthy: float, saving: Saving | None, bulk: bool) -> None:
        self.target, self.healthy, self.saving, self.bulk = target, healthy, saving, bulk
        self.peer_share = saving.costs.peer_blocking_s / saving.peer_steps if saving and saving.peer_steps else 0.0
        self.quickest = healthy + self.peer_share
        self.now = 0.0
        self.step = healthy  # present seconds of a step
        self.done = 0.0  # steps the present state holds
        self.furthest = 0.0  # steps ever reached
        self.trained = 0.0  # steps computed, those that were lost included
        self.pending: Saved | None = None  # drains
        self.block_end: float | None = None  # end of a running blocking save
        self.saved: deque[Saved] = deque([Saved(0.0, 0.0, 0.0)], maxlen=max(1, saving.keep) if saving else 1)
        self.checkpoints = 0
        self.from_peers, self.taken = False, 0.0  # where the state came from when it was last restored, and its age
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Training starts, or starts again, with the state that `done` says."""
        self.now, self.block_end, self.pending, self.base = now, None, None, self.done
        self.due = self.done + self.saving.steps if self.saving else inf

    def resume(self, now: float) -> None:
        """Training goes on after a standstill; a drain went on meanwhile."""
        if self.block_end is not None:
            self.block_end += now - self.now
        self.now = now
        self._settle_drain()

    @property
    def finished(self) -> bool:
        """Whether the target is reached."""
        return self.done >= self.target

    def seconds_per_step(self, draining: bool) -> float:
        """Present wall time of a step, copies to a peer included."""
        if self.saving is None:
            return self.step
        slowdown = self.saving.costs.drain_slowdown if draining else 1.0
        return self.step * slowdown + self.peer_share

    def _period(self) -> int:
        """Steps from the end of a save until the next is due; it has to have drained by then."""
        saving = self.saving
        assert saving is not None
        return max(saving.steps, ceil(saving.costs.drain_s / self.seconds_per_step(True) - 1e-9))

    def earliest_end(self) -> float:
        """A time before which the target is not reached; the very moment once no save or drain is left before it."""
        start = self.now if self.block_end is None else self.block_end
        return start + (self.target - self.done) * self.seconds_per_step(False)

    def advance(self, until: float) -> dict[str, float]:
        """Let time pass, at most to the target; returns its seconds by kind.

        steps and redo (steps done before) and blocking add up to the time passed. Of steps and redo,
        extra is what went beyond the healthy step time, and peer what copies to peers took.
        """
        spent = {"steps": 0.0, "redo": 0.0, "blocking": 0.0, "extra": 0.0, "peer": 0.0}
        while self.now < until and not self.finished:
            if self.block_end is None:
                self._move(until, spent)
            else:
                self._block(self.block_end, until, spent)
        return spent

    def _block(self, block_end: float, until: float, spent: dict[str, float]) -> None:
        end = min(until, block_end)
        spent["blocking"] += end - self.now
        self.now = end
        if end == block_end:
            self._saved(until, spent)

    def _saved(self, until: float, spent: dict[str, float]) -> None:
        """The copy is made; it drains from now on."""
        saving = self.saving
        assert saving is not None
        taken, self.block_end = self.now - saving.costs.blocking_s, None
        self.pending = Saved(self.done, taken, self.now + saving.costs.drain_s)
        self.due = self.done + self._period()
        if self.bulk:
            self._skip_cycles(until, spent)
        if saving.costs.drain_s == 0:
            self._settle_drain()

    def _settle_drain(self) -> None:
        if self.pending is not None and self.pending.durable <= self.now:
            self.saved.append(self.pending)
            self.checkpoints += 1
            self.pending = None

    def _move(self, until: float, spent: dict[str, float]) -> None:
        """Steps until something changes: the drain ends, a save is due, the target, or `until`."""
        pending = self.pending
        stop = min(until, pending.durable) if pending else until
        step = self.seconds_per_step(pending is not None)
        goal = min(self.due, self.target)
        needed = (goal - self.done) * step
        if self.now + needed <= stop:
            self._count(goal - self.done, step, spent)
            self.now, self.done = self.now + needed, goal
            self._settle_drain()
            if not self.finished:
                self._save_or_wait(step)
        else:
            self._count((stop - self.now) / step, step, spent)
            self.done = min(goal, self.done + (stop - self.now) / step)
            self.now = stop
            self._settle_drain()
        self.furthest = max(self.furthest, self.done)

    def _save_or_wait(self, step: float) -> None:
        if self.pending is None:
            assert self.saving is not None
            self.block_end = self.now + self.saving.costs.blocking_s
        else:
            self.due = self.done + max(1, ceil((self.pending.durable - self.now) / step))

    def _count(self, steps: float, step: float, spent: dict[str, float]) -> None:
        """`steps` were done at `step` seconds each; those up to `furthest` for another time."""
        again = min(steps, max(0.0, self.furthest - self.done))
        spent["redo"] += again * step
        spent["steps"] += (steps - again) * step
        spent["peer"] += steps * self.peer_share
        spent["extra"] += steps * (step - self.quickest)
        self.trained += steps

    def _skip_cycles(self, until: float, spent: dict[str, float]) -> None:
        """Pass as many whole cycles as fit; each is the same as the last, begun at the end of a blocking save."""
        saving = self.saving
        assert saving is not None
        slow, fast = self.seconds_per_step(True), self.seconds_per_step(False)
        steps, drained = self._period(), saving.costs.drain_s / slow
        moving = saving.costs.drain_s + (steps - drained) * fast
        cycle = moving + saving.costs.blocking_s
        again = self.furthest > self.done
        ahead = (self.furthest if again else self.target) - self.done
        times = floor(min((until - self.now) / cycle, ahead / steps)) - 1
        if times < 1:
            return
        spent["redo" if again else "steps"] += times * moving
        spent["blocking"] += times * saving.costs.blocking_s
        spent["peer"] += times * steps * self.peer_share
        spent["extra"] += times * (drained * (slow - self.quickest) + (steps - drained) * (fast - self.quickest))
        self.trained += times * steps
        self._keep_skipped(times, steps, cycle)

    def _keep_skipped(self, times: int, steps: int, cycle: float) -> None:
        """Note the saves of skipped cycles of `steps` and `cycle` seconds; the last of them drains now."""
        pending = self.pending
        assert pending is not None
        held = self.saved.maxlen or 1
        for back in range(min(times, held), 0, -1):
            n = times - back
            self.saved.append(Saved(pending.steps + n * steps, pending.taken + n * cycle, pending.durable + n * cycle))
        self.checkpoints += times
        self.now += times * cycle
        self.done += times * steps
        self.furthest = max(self.furthest, self.done)
        self.due = self.done + steps
        self.pending = Saved(self.done, pending.taken + times * cycle, pending.durable + times * cycle)

    def save(self, now: float) -> None:
        """The state as it is, whole steps only, is durable."""
        self.saved.append(Saved(float(floor(self.done + 1e-9)), now, now))
        self.checkpoints += 1

    def fall_back(self, now: float, cutoff: float = inf, in_memory: bool = False) -> float:
        """Go back to the newest good state taken by `cutoff`; returns the steps lost.

        in_memory: the peers' copies are there. Else the newest durable checkpoint, or the very start.
        """
        before, self.now = self.done, now
        self._settle_drain()
        self.pending, self.block_end = None, None
        while self.saved and self.saved[-1].taken > cutoff:
            self.saved.pop()
        if not self.saved:
            self.saved.append(Saved(0.0, 0.0, 0.0))
        newest, peers = self.saved[-1], self._peer_state() if in_memory else -inf
        self.from_peers = peers >= newest.steps
        self.done, self.taken = (peers, now) if self.from_peers else (newest.steps, newest.taken)
        return before - self.done

    def _peer_state(self) -> float:
        """Steps in the newest copy that peers hold."""
        every = self.saving.peer_steps if self.saving else 0
        return self.base + floor((self.done - self.base) / every + 1e-9) * every if every else -inf
