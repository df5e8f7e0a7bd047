"""What the script of a program follows from: who passes what in which order, who meets whom, what is exchanged when.

There is no number of bytes or seconds in it, and those who write scripts see nothing else of a job: jobs of equal
shape have equal scripts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from typing_extensions import override

from sim.engine.costs import Costs, Kinds
from sim.plan.schedule import Order, Pass


class RankShape(NamedTuple):
    """A rank class: its pipeline stage, and its flow class of each kind that it has."""

    number: int
    stage: int
    flows: tuple[tuple[str, int], ...]

    def flow(self, kind: str) -> int:
        """Its flow class of a kind, -1 if it has none."""
        return next((flow for name, flow in self.flows if name == kind), -1)


class FlowShape(NamedTuple):
    """A flow class as in `FlowClass`; is_apart: each of its kind has its links to itself."""

    kind: str
    members: tuple[int, ...]
    receiver: int
    is_apart: bool


class Switches(NamedTuple):
    """What plan, stack and options of the simulation say about the order of things."""

    zero_stage: int
    gradient_overlap: bool
    parameter_prefetch: bool
    pipeline_overlap: bool
    slows: bool  # collectives slow computation beside them
    coalesce: bool
    skip: bool


@dataclass(frozen=True)
class Shape:
    """The shape of a job.

    conflicts: flow classes that share links with each flow class, itself too. inside[stage][chunk][backward]: of each
    segment of a pass in its order, the kinds of collectives inside.
    """

    ranks: tuple[RankShape, ...]
    flows: tuple[FlowShape, ...]
    conflicts: tuple[frozenset[int], ...]
    orders: tuple[Order, ...]
    inside: tuple[tuple[tuple[tuple[Kinds, ...], tuple[Kinds, ...]], ...], ...]
    switches: Switches

    @cached_property
    def _hash(self) -> int:
        return hash((self.ranks, self.flows, self.conflicts, self.orders, self.inside, self.switches))

    @override
    def __hash__(self) -> int:
        """Known after the first time."""
        return self._hash

    @cached_property
    def stages(self) -> tuple[tuple[RankShape, ...], ...]:
        """Rank classes by pipeline stage."""
        return tuple(tuple(rank for rank in self.ranks if rank.stage == s) for s in range(len(self.orders)))

    @property
    def virtual_stages(self) -> int:
        """Model chunks of a stage."""
        return len(self.inside[0])

    @property
    def microbatches(self) -> int:
        """Microbatches of a step."""
        return len(self.orders[0]) // (2 * self.virtual_stages)

    def segments(self, stage: int, chunk: int) -> int:
        """How many segments a chunk has."""
        return len(self.inside[stage][chunk][0])

    def ends_model(self, stage: int, chunk: int, *, last: bool) -> bool:
        """Whether a chunk is the first of the model, or the last."""
        if last:
            return stage == len(self.orders) - 1 and chunk == self.virtual_stages - 1
        return stage == chunk == 0

    def next_chunk(self, stage: int, each: Pass) -> int:
        """The chunk of the neighbouring stage that goes on where a pass ends."""
        if each.backward:
            return each.chunk - (stage == 0)
        return each.chunk + (stage == len(self.orders) - 1)

    def meets_nobody(self, rank: RankShape, flow: int, calm: bool) -> bool:
        """Whether a communicator of equal ranks has its links to itself while a pass of the rank runs.

        In a calm pass the rank's own gradient traffic is either over or has still to wait for it; in others
        it slows a collective that has its links to itself, but not one that shares them with its like.
        """
        if self.flows[flow].members != (rank.number,):
            return False
        others = self.conflicts[flow] - {flow}
        if calm:
            return all(self._is_gradient(other, rank) for other in others)
        return not others and (self.flows[flow].is_apart or not self.switches.slows)

    def _is_gradient(self, flow: int, rank: RankShape) -> bool:
        each = self.flows[flow]
        return each.kind in ("gradient", "replica", "embedding") and rank.number in each.members


def shape_of(costs: Costs) -> Shape:
    """The shape of the job whose costs these are."""
    job, plan = costs.job, costs.job.plan
    software, options = plan.software, plan.experiment.simulation
    ranks = tuple(RankShape(rank.number, rank.stage, tuple(rank.flows.items())) for rank in job.ranks)
    apart = {kind: plan.apart[number] for kind, number in plan.flow_sets.items()}
    flows = tuple(FlowShape(each.kind, each.members, each.receiver, apart[each.kind]) for each in job.flows)
    inside = tuple(
        tuple((costs.kinds(stage, c, backward=False), costs.kinds(stage, c, backward=True)) for c in range(len(chunks)))
        for stage, chunks in enumerate(plan.chunks)
    )
    switches = Switches(
        zero_stage=plan.experiment.parallelism.zero_stage,
        gradient_overlap=software.gradient_overlap,
        parameter_prefetch=software.parameter_prefetch,
        pipeline_overlap=software.pipeline_overlap,
        slows=software.overlap_slowdown > 0,
        coalesce=options.coalesce == "auto",
        skip=options.skip == "auto",
    )
    return Shape(ranks, flows, job.conflicts, plan.orders, inside, switches)
