"""Data prepared on host cores, on the SimPy clock: tasks read, compute, write, phase after phase.

Stages between two shuffles are one phase, a task for each partition; a core takes the next task when it is free, so
that large partitions and stragglers end a phase late (Zaharia 2012, Resilient distributed datasets; Zaharia 2008,
Improving MapReduce performance in heterogeneous environments, on beginning slow tasks again). All bytes move over real
links, beside those of training if that runs on them.

Public: `PhaseWork`, `phases_of`, `Preparing`.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray
from simpy.events import AnyOf, Event
from simpy.resources.resource import Resource

from sim.engine.network import Flow, Network
from sim.inputs.preparation import Preparation, PreparingStage
from sim.layout.preparing import FETCH, READ, WRITE
from sim.rng import Generator as Random
from sim.rng import stream

Floats = NDArray[np.float64]
QUANTILE, MULTIPLIER = 0.75, 1.5  # Spark, spark.speculation.quantile and .multiplier (3.x)


@dataclass(frozen=True)
class PhaseWork:
    """A phase: bytes that each task has first, by which way; seconds on a core; bytes that it writes, (n_tasks,)."""

    name: str
    way: str
    moved: Floats
    compute_s: Floats
    written: Floats

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.moved)

    def sample(self, tasks: int, scale: float) -> PhaseWork:
        """So many equal tasks of its mean, `scale` times as large."""
        columns = (np.full(tasks, scale * float(each.mean())) for each in (self.moved, self.compute_s, self.written))
        return PhaseWork(self.name, self.way, *columns)


def phases_of(job: Preparation, seed: int) -> list[PhaseWork]:
    """The phases of a job, with partitions as its skew draws them."""
    draws = stream(seed, "preparation/partitions")
    begins = [number for number, stage in enumerate(job.stages) if number == 0 or stage.shuffle]
    if job.stages[0].shuffle:
        begins.insert(0, 0)
    total, found, partitions = job.input, list[PhaseWork](), job.partitions
    for place, begin in enumerate(begins):
        last = place == len(begins) - 1
        stages = job.stages[begin : None if last else begins[place + 1]]
        partitions = (stages[0].partitions or partitions) if place and stages else partitions
        moved = total * _shares(job.skew, partitions, draws)
        seconds, plain = np.zeros(partitions), moved
        if not place:
            plain = moved * job.compression_ratio
            seconds += plain / job.decompression_bandwidth if job.decompression_bandwidth else 0.0
        more, out = _through(stages, plain)
        written = out / job.output_compression if last else np.zeros(partitions)
        name = " ".join(stage.name for stage in stages) or "read"
        found.append(PhaseWork(name, FETCH if place else READ, moved, seconds + more, written))
        total = float(out.sum())
    return found


def _shares(skew: float, partitions: int, draws: Random) -> Floats:
    """Parts of all data, (partitions,), that sum to 1."""
    sizes = np.exp(skew * draws.standard_normal(partitions)) if skew else np.ones(partitions)
    return np.asarray(sizes / sizes.sum())


def _through(stages: tuple[PreparingStage, ...], size: Floats) -> tuple[Floats, Floats]:
    """Seconds of a core for each of these, and the bytes that come out."""
    seconds = np.zeros_like(size)
    for stage in stages:
        seconds += size / stage.rate if stage.rate else 0.0
        size = size * stage.output
    return seconds, size


@dataclass
class PhaseRun:
    """What became of a phase: seconds; of each task from its begin to its end; begun again; seconds of cores, of all
    tasks and of the longest."""

    work: PhaseWork
    seconds: float = 0.0
    taken: list[float] = field(default_factory=list)
    copies: int = 0
    busy_s: float = 0.0
    longest_s: float = 0.0


class Preparing:
    """A job on the cores of nodes, on a network that has its flows.

    flows: flow class and latency [s] of each way of each node. ended: happens when all is written.
    """

    def __init__(
        self, network: Network, flows: dict[str, list[tuple[int, float]]], cores: int, job: Preparation, seed: int
    ) -> None:
        self.network, self.env, self.flows, self.cores, self.job = network, network.env, flows, cores, job
        self.nodes = len(flows[READ])
        self.chance = stream(seed, "preparation/stragglers")
        self.runs: list[PhaseRun] = []

    def begin(self, phases: list[PhaseWork]) -> Event:
        """Let it begin now."""
        return self.env.process(self._run(phases))

    def _run(self, phases: list[PhaseWork]) -> Generator[Event, object, None]:
        for work in phases:
            began, run = self.env.now, PhaseRun(work)
            self.runs.append(run)
            slow = self.chance.random(work.tasks) < self.job.slow_share
            yield _Phase(self, run, np.where(slow, self.job.slow_factor, 1.0)).done
            run.seconds = self.env.now - began

    def move(self, way: str, node: int, size: float) -> Event:
        """Happens when `size` bytes have gone that way of a node."""
        arrived = self.env.event()
        kind, latency = self.flows[way][node]
        if size > 0:
            self.network.start(Flow(lambda _: arrived.succeed()), kind, size, latency)
        else:
            arrived.succeed()
        return arrived


class _Phase:
    """One phase under way."""

    def __init__(self, whole: Preparing, run: PhaseRun, factor: Floats) -> None:
        self.whole, self.run, self.factor, self.env = whole, run, factor, whole.env
        self.pending = deque(range(run.work.tasks))
        self.running: dict[int, float] = {}  # tasks without a copy, in the order in which they began, and when [s]
        self.finished: set[int] = set()
        self.ascending: list[float] = []  # seconds of those that have ended
        self.idle: deque[Event] = deque()  # free cores, which are given tasks to begin again
        self.done, self.changed = self.env.event(), self.env.event()
        for node in range(whole.nodes):
            for _ in range(whole.cores):
                core = Resource(self.env)
                for _ in range(2 if whole.job.reads_ahead else 1):
                    self.env.process(self._slot(node, core))
        if whole.job.speculation:
            self.env.process(self._begin_again())

    def _slot(self, node: int, core: Resource) -> Generator[Event, object, None]:
        """A core, or half of one that reads ahead: task after task, then copies of slow ones."""
        while self.pending:
            task = self.pending.popleft()
            self.running[task] = self.env.now
            yield from self._task(node, core, task, float(self.factor[task]))
        while self.whole.job.speculation and not self.done.triggered:
            given = self.env.event()
            self.idle.append(given)
            again = yield given
            assert isinstance(again, int)
            yield from self._task(node, core, again, 1.0)

    def _begin_again(self) -> Generator[Event, object, None]:
        """Give the task that has run longest to a free core when it counts as slow; until all are done."""
        while not self.done.triggered:
            due = self._next_slow()
            if due <= self.env.now and self.idle:
                task = next(iter(self.running))
                del self.running[task]
                self.run.copies += 1
                self.idle.popleft().succeed(task)
                continue
            timer = [self.env.timeout(due - self.env.now)] if self.env.now < due < inf else []
            yield AnyOf(self.env, [self.done, self.changed, *timer])

    def _task(self, node: int, core: Resource, task: int, factor: float) -> Generator[Event, object, None]:
        """One attempt at a task; the first that has written counts."""
        whole, work, began = self.whole, self.run.work, self.env.now
        seconds = float(work.compute_s[task]) * factor
        yield self.env.timeout(whole.job.overhead)
        yield whole.move(work.way, node, float(work.moved[task]))
        with core.request() as turn:
            yield turn
            yield self.env.timeout(seconds)
        self.run.busy_s += seconds
        self.run.longest_s = max(self.run.longest_s, seconds)
        if task in self.finished:
            return
        yield whole.move(WRITE, node, float(work.written[task]))
        if task not in self.finished:
            self._finish(task, self.env.now - began)

    def _finish(self, task: int, seconds: float) -> None:
        self.finished.add(task)
        self.running.pop(task, None)
        self.run.taken.append(seconds)
        insort(self.ascending, seconds)
        changed, self.changed = self.changed, self.env.event()
        changed.succeed()
        if len(self.finished) == self.run.work.tasks:
            self.done.succeed()

    def _next_slow(self) -> float:
        """When the first of the running tasks counts as slow [s]; never before enough others have ended."""
        if not self.running or len(self.finished) < QUANTILE * self.run.work.tasks:
            return inf
        middle = self.ascending[len(self.ascending) // 2]
        return next(iter(self.running.values())) + MULTIPLIER * middle
