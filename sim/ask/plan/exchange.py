"""What the data-parallel exchange of a plan takes at least, stage by stage, in seconds and joules.

The collectives are those that the engine runs (`programs/exchange.py`), each with its links to itself. What replicas of
experts exchange goes on beside that of all other weights, so it is left out, which can only make a bound less.

Public: `Exchanges`, `ExchangeTime`, `exchange_joules`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.ask.plan.chain import alone
from sim.ask.plan.energy import Meter
from sim.ask.plan.layout import ChunkLayout, stack
from sim.layout.pieces import Segment
from sim.phase import Phase
from sim.programs.costs import Costs
from sim.programs.exchange import Collective, Traffic, Which
from sim.programs.ranks import Job, RankClass
from sim.programs.shape import job_exchange
from sim.schedule.table import Ends
from sim.transforms.reduction import GROUPS
from sim.workload.compression import Gradients

Floats = NDArray[np.float64]
T = TypeVar("T")
Segments = tuple[Segment, ...]
BESIDE = ("replica", "second_copy")  # kinds of groups beside those that sum gradients


class ExchangeTime(NamedTuple, Generic[T]):
    """What the exchange of a stage takes [s], or of all stages, (stages,) each.

    first: before the first task can begin. opening: before it can end. each: of the communicator for
    a microbatch, beside the passes. serial: that the tasks of a microbatch wait for weights in their midst.
    between: that they wait for weights before they begin, maybe while the result of the last one is sent.
    closing: of the communicator from the first sum of the last microbatch on. last: between the end of the
    last backward pass and the optimizer. optimizer, weights: of the optimizer, and of sending its result.
    """

    first: T
    opening: T
    each: T
    serial: T
    between: T
    closing: T
    last: T
    optimizer: T
    weights: T


class Exchanges:
    """Exchanges of many plans; stages that are alike are asked once."""

    def __init__(self) -> None:
        self.known: dict[object, ExchangeTime[float]] = {}  # plans of a search differ in little

    def of(self, job: Job, layout: ChunkLayout, ends: Ends) -> tuple[ExchangeTime[Floats], float]:
        """Of all stages of the job of a chain, whose tasks begin and end as said; and of a tied table at both ends."""
        software, costs, stages = stack(job.plan.software), Costs(job), []
        every = job_exchange(job)
        for rank, chunks in zip(job.ranks, job.plan.course.chunks, strict=True):
            groups = tuple(job.flows[rank.flows[kind]].group for kind in (*GROUPS, *BESIDE) if kind in rank.flows)
            sizes = tuple(layout.sizes[chunk] for chunk in chunks)
            turns = chunks.index(ends.first[rank.stage]), chunks.index(ends.last[rank.stage])
            training = job.plan.experiment.training
            moved = training.compression, training.offload
            key = (sizes, turns, groups, rank.speed, every, moved, job.plan.shard.precision, software)
            if key not in self.known:
                self.known[key] = _stage(costs, rank, ends)
            stages.append(self.known[key])
        return ExchangeTime(*np.array(stages).T), _embedding_seconds(costs)


def _stage(costs: Costs, rank: RankClass, ends: Ends) -> ExchangeTime[float]:
    job = costs.job
    optimizer = alone(job, rank, costs.optimizer(rank)).seconds
    if job.plan.experiment.training.offload.optimizer:
        optimizer = costs.host_update(rank.number)
    if "gradient" not in rank.flows:
        return ExchangeTime(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, optimizer, 0.0)
    prices = _Prices(costs, rank, lambda role, kind, message: job.seconds(rank.flows[role], kind, message))
    return prices.stage(ends, optimizer)


def exchange_joules(job: Job, layout: ChunkLayout, meter: Meter) -> tuple[float, float]:
    """What exchange and optimizer add on one rank of each stage, all stages together: once, and each microbatch [J]."""
    once = often = 0.0
    costs = Costs(job)
    alike = [tuple(layout.sizes[chunk] for chunk in chunks) for chunks in job.plan.course.chunks]
    for sizes, count in Counter(alike).items():
        rank = job.ranks[alike.index(sizes)]
        once += count * meter.sequence(costs.optimizer(rank))
        if "gradient" in rank.flows:
            whole, each = _Prices(costs, rank, meter.collective).traffic()
            once, often = once + count * whole, often + count * each
    return once + 2 * _embedding(costs, lambda size: meter.collective("embedding", "all_reduce", size)), often


class _Prices:
    """What the collectives of one stage take by `price`, which is given kind of group, collective and message."""

    def __init__(self, costs: Costs, rank: RankClass, price: Callable[[str, str, float], float]) -> None:
        self.job, self.costs, self.rank, self.price = costs.job, costs, rank, price
        self.exchange = job_exchange(self.job)
        self.chunks = [chunk.segments for chunk in self.job.plan.chunks if chunk.stage == rank.stage]
        self.segments = tuple(chain.from_iterable(self.chunks))

    def stage(self, ends: Ends, optimizer: float) -> ExchangeTime[float]:
        """All of it."""
        chunks, stage, last = self.job.plan.chunks, self.rank.stage, self.job.plan.phases[-1]
        begin, end = chunks[ends.first[stage]].segments, chunks[ends.last[stage]].segments
        start = self.exchange.of(Phase.FORWARD, Traffic.WEIGHTS)
        sums = self.exchange.of(last, Traffic.GRADIENTS)
        at_once = self.exchange.of(last, Traffic.GRADIENTS, whole=True)
        outside = self._outside()
        return ExchangeTime(
            first=self.gradient_group(start, _size(start, begin[0])) if start else 0.0,
            opening=self.all_of(start, begin) if start and start.which is Which.FIRST else 0.0,
            each=max(self._often(second_copy=each) for each in (False, True)),
            serial=sum(self.all_of(c, self.segments) for c in self._in_time()) - outside,
            between=0.0 if last is Phase.WEIGHT_GRADIENT else outside,  # a put off task may hide them
            closing=self.all_of(sums, self.segments) if sums and sums.which is Which.LAST else 0.0,
            last=self.whole(at_once) if at_once else self.with_replicas(sums, _size(sums, end[0])) if sums else 0.0,
            optimizer=optimizer,
            weights=sum(self.whole(c) for c in self.exchange.collectives if c.phase is Phase.OPTIMIZER),
        )

    def traffic(self) -> tuple[float, float]:
        """All collectives of a step: those that come once, and those of each microbatch."""
        once = often = 0.0
        for each in self.exchange.collectives:
            if each.whole:
                once += self.whole(each)
            elif each.which is Which.EVERY:
                often += self.all_of(each, self.segments, replicas=True)
            else:
                once += self.all_of(each, self.segments, replicas=True)
        return once, often

    def _often(self, *, second_copy: bool) -> float:
        """Those of one communicator for each microbatch."""
        mine = (c for c in self.exchange.by_segment if c.which is Which.EVERY and c.second_copy == second_copy)
        return sum(self.all_of(each, self.segments) for each in mine)

    def _in_time(self) -> list[Collective]:
        """Gathers that no other task is in the way of: none is ahead of its own."""
        always = self.exchange.gathers_always and self.exchange.ahead == 1
        return [each for each in self.exchange.by_segment if always and each.traffic is Traffic.WEIGHTS]

    def _outside(self) -> float:
        """Those of the first segment of a task, before it begins."""
        first = {Phase.FORWARD: 0, Phase.INPUT_GRADIENT: -1}
        return sum(
            self.gradient_group(each, _size(each, chunk[first[each.phase]]))
            for each in self._in_time()
            for chunk in self.chunks
        )

    def all_of(self, collective: Collective, segments: Segments, replicas: bool = False) -> float:
        """Of all these segments, most of which are alike."""
        price = self.with_replicas if replicas else self.gradient_group
        sizes = Counter(_size(collective, segment) for segment in segments)
        return sum(count * price(collective, size) for size, count in sizes.items())

    def whole(self, collective: Collective) -> float:
        """Of all of the stage at once."""
        return self.with_replicas(collective, self.costs.parameters[self.rank.stage]["gradient"])

    def with_replicas(self, collective: Collective, parameters: float) -> float:
        """The same, and what replicas of shards sum after it."""
        own = self.gradient_group(collective, parameters)
        if collective.traffic is not Traffic.GRADIENTS or "replica" not in self.rank.flows:
            return own
        size = self.job.flows[self.rank.flows["gradient"]].group.size
        share = self.costs.bytes_of(collective.traffic, parameters) / size
        return own + self.price("replica", "all_reduce", share)

    def gradient_group(self, collective: Collective, parameters: float) -> float:
        """Of so many parameters; compressed at least what their wire formats take without matrices."""
        if collective.traffic is Traffic.GRADIENTS and self.exchange.hops:
            return self._compressed(parameters)
        role = "second_copy" if collective.second_copy else "gradient"
        return self.price(role, collective.kind, self.costs.bytes_of(collective.traffic, parameters))

    def _compressed(self, parameters: float) -> float:
        """What stands for a sum; of factors of matrices, which hang on their shapes, nothing is counted."""
        compressor, plan = self.costs.compressor, self.job.plan
        if compressor is None or plan.experiment.training.compression.kind == "power_sgd" or not parameters:
            return 0.0
        ranks = self.job.flows[self.rank.flows["gradient"]].group.size
        gradients = Gradients(parameters, plan.software.gradient_bytes, plan.software.gradient_comm_bytes)
        sent = zip(self.exchange.hops, compressor.wire(gradients, ranks), strict=False)
        return sum(self.price("gradient", kind, size) for kind, size in sent)


def _size(collective: Collective, segment: Segment) -> float:
    """Parameters of a segment that a collective moves, but those of experts."""
    return float(segment.exchanged(collective.parameters, "gradient"))


def _embedding_seconds(costs: Costs) -> float:
    job = costs.job
    first, _ = job.plan.course.ends
    return _embedding(costs, lambda size: job.seconds(job.ranks[first].flows["embedding"], "all_reduce", size))


def _embedding(costs: Costs, price: Callable[[float], float]) -> float:
    """What summing the gradients of a tied table takes, if there is one at both ends."""
    first, _ = costs.job.plan.course.ends
    return price(costs.embedding_bytes) if "embedding" in costs.job.ranks[first].flows else 0.0
