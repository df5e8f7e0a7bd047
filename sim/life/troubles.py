"""Faults as they strike a job: what a candidate event does to the nodes and to the training.

Public: `Troubles`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import inf
from typing import TYPE_CHECKING, Any

from simpy import Event

from sim.inputs.reliability import FailureMode
from sim.life.delay import draw
from sim.life.faults import Strike, count_parts, frailties, strikes
from sim.life.life_inputs import Slow
from sim.rng import stream

if TYPE_CHECKING:
    from sim.life.life import JobState

Waiting = Generator[Event, Any, None]
RUNNING = ("training", "initialisation", "restore")  # phases in which the job's processes exist


class Troubles:
    """Everything that can happen to one job."""

    def __init__(self, job: JobState) -> None:
        self.job, self.env, self.pool = job, job.env, job.pool
        self.modes = job.inputs.failures.modes
        self.random = stream(job.seed, "failures/effects")
        frailty = frailties(job.inputs.failures.frailty, self.pool.n_total, job.seed)
        self.frailty, self.worst = frailty.tolist(), float(frailty.max())
        self.node_of = self._recorded_nodes()
        own = {i: name for i, name in enumerate(job.inputs.names) if name != f"node{i}"}
        self.names = own | {
            self.node_of[outage.name]: outage.name for outage in job.inputs.outages if outage.name in self.node_of
        }

    def begin(self) -> None:
        """Start the clocks of all faults."""
        inputs = self.job.inputs
        counts = [count_parts(mode, inputs.parts, inputs.nodes, len(inputs.blast)) for mode in self.modes]
        if any(places * parts for places, parts in counts):
            self.env.process(self._follow_modes(counts))
        if inputs.outages:
            self.env.process(self._follow_log())

    def started(self) -> None:
        """The job has begun to train: it may fail at once."""
        starts = self.job.inputs.failures.starts
        if starts and self.random.random() < starts.probability:
            self.env.process(self._fail_start(self.job.starts, draw(starts.after, self.random)))

    def _fail_start(self, start: int, after: float) -> Waiting:
        yield self.env.timeout(after)
        self.job.count_strike()
        if self.job.starts == start and self.job.phase == "training" and not self.job.struck:
            self.job.interrupt("failed_start", "job", ())

    # --- recorded faults ----------------------------------------------------------------------

    def _recorded_nodes(self) -> dict[str, int]:
        """Which node of the job or its spares a node of the log is: the one of its name if the log names any of
        the job's, else as the seed deals them; some are none."""
        inputs = self.job.inputs
        if inputs.struck_by_name:
            return {name: i for i, name in enumerate(inputs.names)}
        log = inputs.failures.log
        n_logged = log.nodes if log else self.pool.n_total
        dealt = stream(self.job.seed, "failures/log").permutation(n_logged).tolist()
        return {o.name or str(o.node): dealt[o.node] for o in inputs.outages if dealt[o.node] < self.pool.n_total}

    def _follow_log(self) -> Waiting:
        for outage in self.job.inputs.outages:
            if outage.start > self.env.now:
                yield self.env.timeout(outage.start - self.env.now)
            node = self.node_of.get(outage.name or str(outage.node))
            if node is not None:
                self._lose((node,), outage.end - outage.start, outage.cause, "node", queued=False)

    # --- modes --------------------------------------------------------------------------------

    def _follow_modes(self, counts: list[tuple[int, int]]) -> Waiting:
        for strike in strikes(self.job.inputs.failures, counts, self.worst, self._frailty_at, self.job.seed):
            yield self.env.timeout(strike.time - self.env.now)
            self.job.count_strike()
            self._strike(strike, self.modes[strike.mode])

    def _frailty_at(self, slot: int) -> float:
        node = self.pool.slots[slot]
        return 1.0 if node is None else self.frailty[node]

    def _strike(self, strike: Strike, mode: FailureMode) -> None:
        if mode.component == "job":
            if self.job.phase in RUNNING and not self.job.struck:
                self._affect(mode, strike, ())
        elif mode.component == "switch":
            self._strike_switch(mode, strike.place)
        else:
            node = self.pool.slots[strike.place]
            if node is not None and strike.luck * self.worst <= self.frailty[node]:
                self._affect(mode, strike, self._batch(mode, strike.place))

    def _batch(self, mode: FailureMode, slot: int) -> tuple[int, ...]:
        """Nodes that an event at `slot` strikes."""
        batch, slots = mode.batch, self.pool.slots
        if batch is None or self.random.random() >= batch.probability:
            nodes = [slots[slot]]
        else:
            size = min(batch.nodes, len(slots))
            nodes = [slots[(slot + i) % len(slots)] for i in range(size)]
        return tuple(node for node in nodes if node is not None)

    def _strike_switch(self, mode: FailureMode, switch: int) -> None:
        """Nodes that the switch cuts off are down until it is repaired; without any, capacity is lost."""
        repair_s = draw(mode.repair or mode.duration, self.random)
        cut = self.job.inputs.blast[switch]
        if mode.effect == "pause":
            self._pause(mode, ())
        elif cut:
            self._lose(cut, repair_s, mode.cause, "switch")
        else:
            self.job.note(mode.cause, "switch", (), "slow")
            self._slow_down(Slow("switch", switch, 0, 0.0), repair_s)

    def _affect(self, mode: FailureMode, strike: Strike, nodes: tuple[int, ...]) -> None:
        effects: dict[str, Callable[[], None]] = {
            "stop": lambda: self._stop(mode, nodes),
            "pause": lambda: self._pause(mode, nodes),
            "slow": lambda: self._slow(mode, strike, nodes),
            "corrupt": lambda: self._corrupt(mode, nodes),
            "planned": lambda: self._plan(mode),
        }
        effects[mode.effect]()

    def _stop(self, mode: FailureMode, nodes: tuple[int, ...], cutoff: float = inf) -> None:
        if mode.repair is None:
            self.job.interrupt(mode.cause, mode.component, nodes, cutoff=cutoff)
            return
        repairs = [draw(mode.repair, self.random) for _ in nodes]
        slots = self._slots(nodes)
        for node, repair_s in zip(nodes, repairs, strict=True):
            self.pool.take_down((node,), repair_s)
        self.job.interrupt(mode.cause, mode.component, nodes, slots, cutoff)

    def _lose(self, nodes: tuple[int, ...], repair_s: float, cause: str, component: str, queued: bool = True) -> None:
        """Nodes go down together; the job dies if it stands on one of them."""
        slots = self._slots(nodes)
        self.pool.take_down(nodes, repair_s, queued)
        if slots:
            self.job.interrupt(cause, component, nodes, slots)

    def _slots(self, nodes: tuple[int, ...]) -> list[int]:
        """Slots of those nodes that are in the job."""
        return [slot for node in nodes if (slot := self.pool.slot_of.get(node)) is not None]

    def _pause(self, mode: FailureMode, nodes: tuple[int, ...]) -> None:
        if self.job.phase == "training":
            self.job.note(mode.cause, mode.component, nodes, "pause")
            self.job.pause(draw(mode.duration, self.random))

    def _plan(self, mode: FailureMode) -> None:
        """A planned stop; one that falls into an outage takes no time of its own."""
        self.job.note(mode.cause, mode.component, (), "planned")
        if self.job.phase == "training" and not self.job.struck:
            self.job.plan_stop(draw(mode.duration, self.random))

    def _slow(self, mode: FailureMode, strike: Strike, nodes: tuple[int, ...]) -> None:
        self.job.note(mode.cause, mode.component, nodes, "slow")
        part = Slow(mode.component, strike.place, strike.part, mode.speed)
        self._slow_down(part, draw(mode.duration, self.random))

    def _slow_down(self, part: Slow, seconds: float) -> None:
        self.job.slow.append(part)
        self.job.change_state()
        self.env.process(self._speed_up(part, seconds))

    def _speed_up(self, part: Slow, seconds: float) -> Waiting:
        yield self.env.timeout(seconds)
        if part in self.job.slow:
            self.job.slow.remove(part)
            self.job.change_state()

    def _corrupt(self, mode: FailureMode, nodes: tuple[int, ...]) -> None:
        if self.job.phase == "training" and not self.job.struck:
            self.job.settle()
            self.job.tainted = min(self.job.tainted, self.env.now)
            self.env.process(self._find_corruption(mode, nodes, draw(mode.duration, self.random)))

    def _find_corruption(self, mode: FailureMode, nodes: tuple[int, ...], after: float) -> Waiting:
        """Corrupt results are found, unless the job went back before them meanwhile."""
        since = self.env.now
        yield self.env.timeout(after)
        if self.job.tainted <= since:
            still_here = tuple(node for node in nodes if node in self.pool.slot_of)
            self._stop(mode, still_here, cutoff=self.job.tainted)
