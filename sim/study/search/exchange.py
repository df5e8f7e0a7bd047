"""What the data-parallel exchange of a plan takes at least, stage by stage.

The collectives are those of `engine/gradients.py`, each with its links to itself.

Public: `Exchange`, `Exchanges`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.gradients import DataParallel, data_parallel
from sim.engine.program import Program
from sim.engine.ranks import Job, RankClass
from sim.plan.pieces import Segment, Sequence
from sim.study.search.chain import alone
from sim.study.search.layout import Layout, stack
from sim.workload.optimizer import optimizer_step

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Exchange:
    """Seconds by stage, (stages,) each.

    first: before the first forward pass can begin. opening: before it can end. each: of the communicator for
    a microbatch, beside the passes. serial: that the passes of a microbatch wait for weights in their midst.
    between: that they wait for weights before they begin, maybe while the result of the last one is sent.
    closing: of the communicator from the first sum of the last microbatch on. last: between the end of the
    last backward pass and the optimizer. optimizer, weights: of the optimizer, and of sending its result.
    """

    first: Floats
    opening: Floats
    each: Floats
    serial: Floats
    between: Floats
    closing: Floats
    last: Floats
    optimizer: Floats
    weights: Floats
    embedding: float  # of the tied table at both ends, after the last backward pass


class Exchanges:
    """Exchanges of many plans; stages that are alike are asked once."""

    def __init__(self) -> None:
        self.known: dict[object, tuple[float, ...]] = {}

    def of(self, job: Job, layout: Layout) -> Exchange:
        """The exchange of the job of a chain."""
        zero, software = job.plan.experiment.parallelism.zero_stage, stack(job.plan.software)
        stages, exchange = [], None
        for rank, sizes in zip(job.ranks, layout.sizes, strict=True):
            groups = tuple(job.flows[rank.flows[kind]].group for kind in ("gradient", "replica") if kind in rank.flows)
            key = (sizes, groups, rank.speed, zero, len(job.ranks) == 1, job.plan.shard.precision, software)
            if key not in self.known:
                exchange = exchange or data_parallel(job, Program())
                self.known[key] = _stage(job, exchange, rank)
            stages.append(self.known[key])
        first, opening, each, serial, between, closing, last, optimizer, weights = np.array(stages).T
        return Exchange(first, opening, each, serial, between, closing, last, optimizer, weights, _embedding(job))


def _stage(job: Job, exchange: DataParallel, rank: RankClass) -> tuple[float, ...]:
    update = optimizer_step(exchange.updated_parameters(rank), job.plan.software, job.plan.shard.precision)
    optimizer = alone(job, rank, Sequence(update)).seconds
    if "gradient" not in rank.flows:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, optimizer, 0.0
    costs = _Costs(job, exchange, rank)
    return *(costs.sharded() if exchange.zero == 3 else costs.replicated()), optimizer, costs.new_weights()


class _Costs:
    """Seconds of the collectives of one stage."""

    def __init__(self, job: Job, exchange: DataParallel, rank: RankClass) -> None:
        self.job, self.exchange, self.rank = job, exchange, rank
        self.zero = exchange.zero
        self.chunks = [chunk.segments for chunk in job.plan.chunks[rank.stage]]
        self.segments = [segment for chunk in self.chunks for segment in chunk]
        self.software = job.plan.software
        self.ahead = self.software.parameter_prefetch and self.zero > 0

    def replicated(self) -> tuple[float, ...]:
        """ZeRO 0 to 2: weights before the first pass of each segment, sums after the last."""
        first = self.gather(self.segments[0].parameters) if self.ahead else 0.0
        opening = self.total(self.gather, [each.parameters for each in self.chunks[0]]) if self.ahead else 0.0
        if not self.software.gradient_overlap:
            total = self.exchange.parameters(self.rank)
            last = self.sum(total) + self.over_replicas(total)
            return first, opening, 0.0, 0.0, 0.0, 0.0, last
        sums = self.total(self.sum, [each.trained for each in self.segments])
        often = self.zero == 2 and len(self.job.plan.chunks) == 1
        each, closing = (sums, 0.0) if often else (0.0, sums)
        return first, opening, each, 0.0, 0.0, closing, self.last(self.segments[0])

    def sharded(self) -> tuple[float, ...]:
        """ZeRO-3: every pass of a segment waits for its weights, and scatters its gradients."""
        gathers = 2 * self.total(self.gather, [each.parameters for each in self.segments])
        scatters = self.total(self.sum, [each.trained for each in self.segments])
        first = self.gather(self.segments[0].parameters)
        each, last = gathers + scatters, self.last(self.segments[0])
        if self.software.parameter_prefetch:
            return first, 0.0, each, 0.0, 0.0, 0.0, last
        between = sum(self.gather(chunk[0].parameters) + self.gather(chunk[-1].parameters) for chunk in self.chunks)
        return first, 0.0, each, gathers - between, between, 0.0, last

    @staticmethod
    def total(cost: Callable[[float], float], sizes: Iterable[float]) -> float:
        """Sum over segments, most of which are alike."""
        return sum(count * cost(size) for size, count in Counter(sizes).items())

    def last(self, segment: Segment) -> float:
        return self.sum(segment.trained) + self.over_replicas(segment.trained)

    def new_weights(self) -> float:
        """Sent after the optimizer, unless before the next pass or never."""
        if self.ahead or self.zero in (0, 3):
            return 0.0
        return self.gather(self.exchange.parameters(self.rank))

    def gather(self, parameters: float) -> float:
        return self._seconds("gradient", "all_gather", self.exchange.weight_bytes(parameters))

    def sum(self, parameters: float) -> float:
        kind = "all_reduce" if self.zero == 0 else "reduce_scatter"
        return self._seconds("gradient", kind, self.exchange.gradient_bytes(parameters))

    def over_replicas(self, parameters: float) -> float:
        if "replica" not in self.rank.flows:
            return 0.0
        share = self.exchange.gradient_bytes(parameters) / self.job.flows[self.rank.flows["gradient"]].group.size
        return self._seconds("replica", "all_reduce", share)

    def _seconds(self, role: str, kind: str, message: float) -> float:
        return seconds(self.job, self.rank.flows[role], kind, message)


def seconds(job: Job, flow: int, kind: str, message: float) -> float:
    """Seconds of a collective or a send with its links to itself."""
    cost = job.cost(flow, kind, message)
    return cost.latency + cost.size / job.flows[flow].rate


def _embedding(job: Job) -> float:
    flow = job.ranks[0].flows.get("embedding")
    if flow is None:
        return 0.0
    plan, model = job.plan, job.plan.model
    size = model.vocab / plan.shard.tensor * model.hidden * plan.software.gradient_comm_bytes
    return seconds(job, flow, "all_reduce", size)
