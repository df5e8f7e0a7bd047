"""What the data-parallel exchange of a plan takes at least, stage by stage, in seconds and joules.

The collectives are those of `engine/gradients.py`, each with its links to itself.

Public: `Exchange`, `Exchanges`, `exchange_joules`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.costs import Costs
from sim.engine.ranks import Job, RankClass
from sim.study.search.chain import alone
from sim.study.search.energy import Meter
from sim.study.search.layout import Layout, stack

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
        stages, costs = [], Costs(job)
        for rank, sizes in zip(job.ranks, layout.sizes, strict=True):
            groups = tuple(job.flows[rank.flows[kind]].group for kind in ("gradient", "replica") if kind in rank.flows)
            key = (sizes, groups, rank.speed, zero, len(job.ranks) == 1, job.plan.shard.precision, software)
            if key not in self.known:
                self.known[key] = _stage(costs, rank)
            stages.append(self.known[key])
        first, opening, each, serial, between, closing, last, optimizer, weights = np.array(stages).T
        return Exchange(
            first, opening, each, serial, between, closing, last, optimizer, weights, _embedding_seconds(costs)
        )


def _stage(costs: Costs, rank: RankClass) -> tuple[float, ...]:
    job = costs.job
    optimizer = alone(job, rank, costs.optimizer(rank)).seconds
    if "gradient" not in rank.flows:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, optimizer, 0.0
    prices = _Prices(costs, rank, lambda role, kind, message: job.seconds(rank.flows[role], kind, message))
    return *(prices.sharded() if prices.zero == 3 else prices.replicated()), optimizer, prices.new_weights()


def exchange_joules(job: Job, layout: Layout, meter: Meter) -> tuple[float, float]:
    """What exchange and optimizer add on one rank of each stage, all stages together: once, and each microbatch [J]."""
    once = often = 0.0
    costs = Costs(job)
    for sizes, count in Counter(layout.sizes).items():
        rank = job.ranks[layout.sizes.index(sizes)]
        once += count * meter.sequence(costs.optimizer(rank))
        if "gradient" in rank.flows:
            whole, each = _Prices(costs, rank, meter.collective).traffic()
            once, often = once + count * whole, often + count * each
    return once + 2 * _embedding(costs, lambda size: meter.collective("embedding", "all_reduce", size)), often


class _Prices:
    """What the collectives of one stage take by `price`, which is given role, kind and message."""

    def __init__(self, costs: Costs, rank: RankClass, price: Callable[[str, str, float], float]) -> None:
        self.job, self.costs, self.rank, self.price = costs.job, costs, rank, price
        job = self.job
        self.zero = job.plan.experiment.parallelism.zero_stage
        self.chunks = [chunk.segments for chunk in job.plan.chunks[rank.stage]]
        self.segments = [segment for chunk in self.chunks for segment in chunk]
        self.software = job.plan.software
        self.ahead = self.software.parameter_prefetch and self.zero > 0
        self.often = self.zero == 2 and len(self.job.plan.chunks) == 1  # sums after every microbatch

    def replicated(self) -> tuple[float, ...]:
        """ZeRO 0 to 2: weights before the first pass of each segment, sums after the last."""
        first = self.gather(self.segments[0].trained) if self.ahead else 0.0
        opening = self.total(self.gather, [each.trained for each in self.chunks[0]]) if self.ahead else 0.0
        if not self.software.gradient_overlap:
            total = self.costs.parameters[self.rank.stage]
            return first, opening, 0.0, 0.0, 0.0, 0.0, self.last(total)
        sums = self.total(self.sum, [each.trained for each in self.segments])
        each, closing = (sums, 0.0) if self.often else (0.0, sums)
        return first, opening, each, 0.0, 0.0, closing, self.last(self.segments[0].trained)

    def sharded(self) -> tuple[float, ...]:
        """ZeRO-3: every pass of a segment waits for its weights, and scatters its gradients."""
        gathers = self.gathers()
        scatters = self.total(self.sum, [each.trained for each in self.segments])
        first = self.gather(self.segments[0].parameters)
        each, last = gathers + scatters, self.last(self.segments[0].trained)
        if self.software.parameter_prefetch:
            return first, 0.0, each, 0.0, 0.0, 0.0, last
        between = sum(self.gather(chunk[0].parameters) + self.gather(chunk[-1].gathered_again) for chunk in self.chunks)
        return first, 0.0, each, gathers - between, between, 0.0, last

    def traffic(self) -> tuple[float, float]:
        """All collectives of a step: those that come once, and those of each microbatch."""
        trained = [each.trained for each in self.segments]
        if self.zero == 3:
            return 0.0, self.gathers() + self.total(self.last, trained)
        weights = self.total(self.gather, trained) if self.ahead else self.new_weights()
        if not self.software.gradient_overlap:
            return self.last(self.costs.parameters[self.rank.stage]) + weights, 0.0
        sums = self.total(self.last, trained)
        return (weights, sums) if self.often else (weights + sums, 0.0)

    def gathers(self) -> float:
        """Weights for both passes of a microbatch (ZeRO-3)."""
        sizes = [size for each in self.segments for size in (each.parameters, each.gathered_again)]
        return self.total(self.gather, sizes)

    @staticmethod
    def total(cost: Callable[[float], float], sizes: Iterable[float]) -> float:
        """Sum over segments, most of which are alike."""
        return sum(count * cost(size) for size, count in Counter(sizes).items())

    def last(self, parameters: float) -> float:
        return self.sum(parameters) + self.over_replicas(parameters)

    def new_weights(self) -> float:
        """Sent after the optimizer, unless before the next pass or never."""
        if self.ahead or self.zero in (0, 3):
            return 0.0
        return self.gather(self.costs.parameters[self.rank.stage])

    def gather(self, parameters: float) -> float:
        return self.price("gradient", "all_gather", self.costs.weight_bytes(parameters))

    def sum(self, parameters: float) -> float:
        kind = "all_reduce" if self.zero == 0 else "reduce_scatter"
        return self.price("gradient", kind, self.costs.gradient_bytes(parameters))

    def over_replicas(self, parameters: float) -> float:
        if "replica" not in self.rank.flows:
            return 0.0
        share = self.costs.gradient_bytes(parameters) / self.job.flows[self.rank.flows["gradient"]].group.size
        return self.price("replica", "all_reduce", share)


def _embedding_seconds(costs: Costs) -> float:
    job = costs.job
    return _embedding(costs, lambda size: job.seconds(job.ranks[0].flows["embedding"], "all_reduce", size))


def _embedding(costs: Costs, price: Callable[[float], float]) -> float:
    """What summing the gradients of a tied table takes, if there is one at both ends."""
    return price(costs.embedding_bytes) if "embedding" in costs.job.ranks[0].flows else 0.0
