"""The preparation of training data: how long it takes, and what it and training cost one another.

Beside training a sample of equal tasks is simulated with steps on the same network, and alone; what either takes
longer holds for all of it.

Public: `prepare_data`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from sim.cluster.storage import StorageSystem
from sim.engine.fairness import totals
from sim.engine.network import Network
from sim.errors import PlanError, Problem
from sim.inputs.preparation import Preparation
from sim.layout.plan import Plan
from sim.layout.preparing import FETCH, READ, WRITE, preparing_nodes, preparing_transfers
from sim.layout.transfers import with_transfers
from sim.metrics.result import DataPrepared, PreparedPhase
from sim.programs.drains import beside
from sim.programs.preparing import PhaseRun, PhaseWork, Preparing, phases_of
from sim.programs.ranks import build_job, flow_table
from sim.programs.rounds import Rounds
from sim.programs.trainer import Trainer

Floats = NDArray[np.float64]
WAYS = (READ, FETCH, WRITE)
WAVES = 2  # of tasks on all cores, of each phase, that are simulated beside training
MOST_STEPS = 16  # of training beside them: longer tasks are cut to as much


def prepare_data(plan: Plan, job: Preparation, storage: StorageSystem, step_s: float) -> DataPrepared:
    """What becomes of `job` before or beside a training whose steps take `step_s` without it. Raises PlanError."""
    asked = _Asked(plan, job, storage, preparing_nodes(plan, job), job.cores or plan.cluster.node.host.cores)
    phases = phases_of(job, plan.experiment.seed)
    alone = _Setting(asked, training=False, alike=False)
    prepared, seconds = alone.run(phases)
    slower = slowdown = 1.0
    if job.when == "beside":
        slower, slowdown = _beside(asked, phases, seconds, step_s)
    read, fetched = (sum(float(each.moved.sum()) for each in phases if each.way == way) for way in (READ, FETCH))
    return DataPrepared(
        when=job.when,
        time_s=seconds * slower,
        nodes=len(asked.nodes),
        cores=asked.cores,
        read_bytes=read,
        shuffled_bytes=fetched,
        written_bytes=sum(float(each.written.sum()) for each in phases),
        phases=tuple(_phase(run, alone, slower) for run in prepared.runs),
        beside_slowdown=slower,
        training_slowdown=slowdown,
        training_lost_s=seconds * slower * (1 - 1 / slowdown),
    )


@dataclass(frozen=True)
class _Asked:
    """What is prepared where: nodes (n,), and cores of each."""

    plan: Plan
    job: Preparation
    storage: StorageSystem
    nodes: NDArray[np.int64]
    cores: int

    @property
    def slots(self) -> int:
        """All cores."""
        return len(self.nodes) * self.cores


class _Setting:
    """A network with the ways of a preparation, and with those of training if that is wanted.

    Beside training nodes that it reaches alike are one; else each is by itself.
    """

    def __init__(self, asked: _Asked, *, training: bool, alike: bool) -> None:
        self.asked, plan = asked, asked.plan
        transfers = preparing_transfers(plan, asked.storage, asked.nodes, alike=alike)
        self.plan = with_transfers(plan, transfers, training=training)
        self.table = build_job(self.plan).table if training else flow_table(self.plan)
        self.network = Network(self.table, check=plan.experiment.simulation.certificate)
        numbers, latency = self._classes(alike)
        groups, first = np.unique(numbers, axis=1, return_index=True)
        if any(len(np.unique(row)) != groups.shape[1] for row in numbers):
            message = "nodes that prepare data are neither alike nor unlike for what training does"
            raise PlanError(Problem("", "preparation.when", message, "use before, or placement: idle"))
        start = asked.storage.spec.requests.latency
        self.flows = {
            way: [(int(numbers[row, node]), latency[row, node] + (0.0 if way == FETCH else start)) for node in first]
            for row, way in enumerate(WAYS)
        }

    def _classes(self, alike: bool) -> tuple[NDArray[np.int64], Floats]:
        """Flow class of each way of each node, and its latency [s], (ways, nodes)."""
        numbers, latency = np.zeros((2, len(WAYS), len(self.asked.nodes)))
        for row, way in enumerate(WAYS):
            for place in range(len(self.asked.nodes)):
                number = self.plan.flow_sets[way if alike else f"{way} {place}"]
                at = place if alike else 0
                numbers[row, place] = self.plan.partition.flow[number][at]
                latency[row, place] = self.plan.flows[number].latency[at]
        return numbers.astype(np.int64), latency

    def run(self, phases: list[PhaseWork]) -> tuple[Preparing, float]:
        """The phases, and how long they take [s]."""
        asked = self.asked
        prepared = Preparing(self.network, self.flows, asked.cores, asked.job, asked.plan.experiment.seed)
        self.network.env.run(until=prepared.begin(phases))
        return prepared, sum(run.seconds for run in prepared.runs)

    def rate(self, way: str) -> float:
        """Of all nodes together, by the fullest link [B/s]."""
        kinds = [kind for kind, _ in self.flows[way]]
        load = np.isin(self.table.flow, kinds)
        on = totals(self.table.link[load], self.table.coefficient[load], len(self.table.capacity))
        with np.errstate(divide="ignore"):
            each = float(np.min(np.where(on > 0, self.table.capacity / on, np.inf)))
        return each * len(self.asked.nodes)


def _beside(asked: _Asked, phases: list[PhaseWork], seconds: float, step_s: float) -> tuple[float, float]:
    """How many times as long a sample takes beside training, and steps beside it; `seconds`: all phases alone."""
    scale = min(1.0, MOST_STEPS * step_s / seconds * max(1.0, min(each.tasks for each in phases) / asked.slots / WAVES))
    alone, together = (_Setting(asked, training=training, alike=True) for training in (False, True))
    tasks = WAVES * asked.cores * len(together.flows[READ])
    some = [each.sample(tasks, scale) for each in phases]
    expected = alone.run([each.sample(WAVES * asked.cores * len(alone.flows[READ]), scale) for each in phases])[1]
    job, network = build_job(together.plan), together.network
    flows = frozenset(kind for way in together.flows.values() for kind, _ in way)
    training = Trainer(
        Rounds(network, skip=False), beside(job, flows, step_s), slowdown=job.plan.software.overlap_slowdown
    )
    taken = together.run(some)[1]
    training.left = 0
    network.env.run(until=training.process)
    whole = [each for each, end in zip(training.step_s, training.ends, strict=False) if end <= taken]
    steps = whole or training.step_s
    return max(1.0, taken / expected), max(1.0, sum(steps) / len(steps) / step_s)


def _phase(run: PhaseRun, setting: _Setting, slower: float) -> PreparedPhase:
    """What is told of a phase, with what it would take by itself most of."""
    work, slots = run.work, setting.asked.slots
    bounds = {
        "cores": run.busy_s / slots,
        "storage" if work.way == READ else "network": float(work.moved.sum()) / setting.rate(work.way),
        "slowest task": run.longest_s,
    }
    written = float(work.written.sum()) / setting.rate(WRITE)
    bounds["storage"] = max(bounds.get("storage", 0.0), written)
    return PreparedPhase(
        name=work.name,
        tasks=work.tasks,
        time_s=run.seconds * slower,
        median_task_s=median(run.taken),
        slowest_task_s=max(run.taken),
        copies=run.copies,
        core_share=run.busy_s / slots / run.seconds if run.seconds else 0.0,
        limit=max(bounds, key=lambda name: bounds[name]),
    )
