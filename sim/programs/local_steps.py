"""Workers that take steps of their own and exchange what they learned now and then, on the SimPy clock.

Local SGD (Stich 2019, arXiv 1805.09767) and DiLoCo (Douillard 2023, arXiv 2311.08105) exchange all weights after so
many steps, streaming DiLoCo (Douillard 2025, arXiv 2501.18512) fragments of them in turn, beside steps. How long an
exchange takes comes from the flows over real links between workers, alone or beside training.

Public: `OuterExchange`, `exchanges_of`, `LocalWorkers`, `LocalPace`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from simpy.core import Environment
from simpy.events import AllOf, Event

from sim.comm.tuner import collective_cost
from sim.engine.trace import Trace
from sim.inputs.synchronization import LocalSteps
from sim.layout.flows import FlowSet, collective_flows
from sim.layout.plan import JobFlows, Plan, divides_experts
from sim.layout.prune import Covers
from sim.layout.state import exchanged_parameters
from sim.layout.transfers import Transfers
from sim.programs.drains import Drain, drain_beside, transfers_alone
from sim.programs.ranks import Job, groups_of
from sim.programs.workers import draw
from sim.rng import stream
from sim.transforms.reduction import GROUPS, GradientGroup

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
OUTER_KEY = 31  # feeds the hash that chooses among equal paths
ALIKE_ROUNDS, ROUNDS = 4, 40  # of exchanges of all fragments, where steps are alike and where they vary
WARM_UP = 0.25  # share of them before they count


@dataclass(frozen=True)
class OuterExchange:
    """What one exchange, of one fragment, takes.

    alone_s: with nothing else on the links, handed on inside workers too. beside_s: beside training, which loses lost_s
    meanwhile. sent: bytes that a worker sends. trace: of the transfers alone.
    """

    alone_s: float
    beside_s: float
    lost_s: float
    sent: float
    trace: Trace


def exchanges_of(job: Job, way: LocalSteps, step_s: float) -> OuterExchange:
    """The exchange of a job whose steps take `step_s` without it. Raises PlanError, Deadlock."""
    plan = job.plan
    transfers, sent = _transfers(plan, way)
    alone_s, trace = transfers_alone(plan, transfers)
    inside = _handed_on(job, way)
    drain = drain_beside(plan, transfers, step_s) if way.overlap_steps else Drain(alone_s, 0.0)
    return OuterExchange(alone_s + inside, drain.seconds + inside, drain.lost, sent, trace)


def _transfers(plan: Plan, way: LocalSteps) -> tuple[Transfers, float]:
    """Sums over all workers, a kind of flow for each stage and kind of weights; and what a worker sends in all [B]."""
    flows: JobFlows = {}
    size: dict[str, float] = {}
    sent = 0.0
    for kind in held_kinds(plan):
        across = _across(plan, kind)
        part, counted = (1, across[:, :1]) if way.carried_by == "first" else (across.shape[1], across)
        stage = plan.grid.coordinate["pipeline"][across[:, 0, 0]]
        for number, parameters in enumerate(exchanged_parameters(plan, kind)):
            groups = counted[stage == number].reshape(-1, plan.experiment.setup.workers)
            message = parameters * way.bytes_per_parameter / part / way.fragments
            if message > 0:
                name = f"outer {kind} {number}"
                flows[name], size[name] = _sum_over(plan, name, groups, message)
                sent += size[name] * len(groups)
    return Transfers(plan.cluster, flows, size), sent


def held_kinds(plan: Plan) -> tuple[GradientGroup, ...]:
    """Kinds of groups that exchange weights: dense ones, and experts where they lie on ranks in a way of their own."""
    return tuple(GROUPS) if divides_experts(plan.experiment, plan.model) else ("gradient",)


def _across(plan: Plan, kind: GradientGroup) -> Ints:
    """Ranks that hold the same weights: (n, of one worker, workers)."""
    ranks = plan.grid.groups(*GROUPS[kind])
    return ranks.reshape(len(ranks), plan.experiment.setup.workers, -1).transpose(0, 2, 1)


def _sum_over(plan: Plan, name: str, groups: Ints, message: float) -> tuple[tuple[FlowSet, Covers], float]:
    """A ring through each group, and the bytes of its flow."""
    laid, covers = collective_flows(name, plan.grid, plan.cluster, groups, OUTER_KEY)
    group = groups_of([laid], np.zeros(1, dtype=np.int64), plan.cluster)[0]
    leg = collective_cost("all_reduce", message, group, plan.cluster.node, ("ring",)).legs[0]
    return (replace(laid, latency=np.full(laid.n, leg.latency)), covers), leg.size


def _handed_on(job: Job, way: LocalSteps) -> float:
    """Seconds until all ranks of a worker have what each of them, or the first, has exchanged."""
    if job.plan.experiment.parallelism.zero_stage == 3:
        return 0.0  # weights are gathered for each pass anyway
    longest = 0.0
    for kind in held_kinds(job.plan):
        parameters = exchanged_parameters(job.plan, kind)
        for rank in job.ranks:
            if kind in rank.flows and parameters[rank.stage]:
                message = parameters[rank.stage] * way.bytes_per_parameter / way.fragments
                longest = max(longest, job.seconds(rank.flows[kind], "all_gather", message))
    return longest


class LocalPace(NamedTuple):
    """How workers come on: compute_s (workers,) of a step, exchange_s and lost_s of an exchange, jitter of steps."""

    compute_s: tuple[float, ...]
    exchange_s: float
    lost_s: float
    way: LocalSteps
    seed: int = 0

    @property
    def gap(self) -> int:
        """Steps between two exchanges."""
        return self.way.every // self.way.fragments

    @property
    def exchanges(self) -> int:
        """How many of them to simulate."""
        return self.way.fragments * (ROUNDS if self.way.jitter else ALIKE_ROUNDS)


class LocalWorkers:
    """One run of the workers."""

    def __init__(self, pace: LocalPace) -> None:
        self.pace, self.env = pace, Environment()
        self.arrived = [[self.env.event() for _ in pace.compute_s] for _ in range(pace.exchanges)]
        self.done = [self.env.event() for _ in range(pace.exchanges)]
        self.all_there = [0.0] * pace.exchanges  # when the last worker was [s]
        self.ends = [0.0] * pace.exchanges
        self.stalls: list[tuple[float, float]] = []  # when a worker went on, and what of its wait was the exchange's

    def run(self) -> tuple[float, float]:
        """Mean seconds of a step, and what of it is the exchange."""
        for worker in range(len(self.pace.compute_s)):
            self.env.process(self._work(worker))
        self.env.run(until=self.env.process(self._exchange()))
        first, last = int(WARM_UP * self.pace.exchanges), self.pace.exchanges - 1
        begin, end = self.ends[first], self.ends[last]
        steps = (last - first) * self.pace.gap
        waits = [wait for at, wait in self.stalls if begin < at <= end]
        lost = self.pace.lost_s / self.pace.gap
        return (end - begin) / steps, lost + sum(waits) / (steps * len(self.pace.compute_s))

    def _exchange(self) -> Generator[Event, object, None]:
        """One exchange after the other, each when all workers are there."""
        for number, arrived in enumerate(self.arrived):
            yield AllOf(self.env, arrived)
            self.all_there[number] = self.env.now
            yield self.env.timeout(self.pace.exchange_s)
            self.ends[number] = self.env.now
            self.done[number].succeed()

    def _work(self, worker: int) -> Generator[Event, object, None]:
        pace, gap, ahead = self.pace, self.pace.gap, self.pace.way.overlap_steps
        chance = stream(pace.seed, f"workers/{worker}")
        step, sent, more = 0, 0, 0.0
        for awaited in range(pace.exchanges):
            due = (awaited + 1) * gap + ahead
            while step < due:
                stop = min(due, (sent + 1) * gap) if sent < pace.exchanges else due
                yield self.env.timeout(more + pace.compute_s[worker] * draw(chance, pace.way.jitter, stop - step))
                step, more = stop, 0.0
                if sent < pace.exchanges and step == (sent + 1) * gap:
                    self.arrived[sent][worker].succeed()
                    sent, more = sent + 1, pace.lost_s
            asked = self.env.now
            yield self.done[awaited]
            if self.env.now > asked:
                self.stalls.append((self.env.now, self.env.now - max(asked, self.all_there[awaited])))
