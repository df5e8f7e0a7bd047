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
from sim.engine.ranks import CATEGORY, Job, RankClass
from sim.engine.roles import Rule
from sim.memo import Memo, Same
from sim.plan.schedule import Order, Pass

KEPT = 64  # layouts and models whose part of a shape is remembered

Inside = tuple[tuple[tuple[tuple[Kinds, ...], ...], ...], ...]


class RankShape(NamedTuple):
    """A rank class: its pipeline stage, and its flow class of each kind that it has.

    calm: kinds of groups inside passes that have their links to themselves while a calm pass runs. free: those that
    have them while any pass runs.
    """

    number: int
    stage: int
    flows: tuple[tuple[str, int], ...]
    calm: Kinds
    free: Kinds

    def flow(self, kind: str) -> int:
        """Its flow class of a kind, -1 if it has none."""
        return next((flow for name, flow in self.flows if name == kind), -1)


class FlowShape(NamedTuple):
    """A flow class as in `FlowClass`; kind: its key, so that only the one on the ring has the kind of its group."""

    kind: str
    members: tuple[int, ...]
    receiver: int


@dataclass(frozen=True)
class Classes:
    """Rank classes and flow classes."""

    ranks: tuple[RankShape, ...]
    flows: tuple[FlowShape, ...]

    @cached_property
    def _hash(self) -> int:
        return hash((self.ranks, self.flows))

    @override
    def __hash__(self) -> int:
        """Known after the first time: it is asked for with every job."""
        return self._hash


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

    inside[stage][chunk][backward]: of each segment of a pass in its order, the kinds of collectives inside. rule: what
    the exchange does beside the passes.
    """

    classes: Classes
    orders: tuple[Order, ...]
    inside: Inside
    switches: Switches
    rule: Rule

    @property
    def ranks(self) -> tuple[RankShape, ...]:
        """Rank classes."""
        return self.classes.ranks

    @property
    def flows(self) -> tuple[FlowShape, ...]:
        """Flow classes."""
        return self.classes.flows

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


def shape_of(costs: Costs) -> Shape:
    """The shape of the job whose costs these are."""
    plan = costs.job.plan
    software, options = plan.software, plan.experiment.simulation
    switches = Switches(
        zero_stage=plan.experiment.parallelism.zero_stage,
        gradient_overlap=software.gradient_overlap,
        parameter_prefetch=software.parameter_prefetch,
        pipeline_overlap=software.pipeline_overlap,
        slows=software.overlap_slowdown > 0,
        coalesce=options.coalesce == "auto",
        skip=options.skip == "auto",
    )
    rule = _rule(switches, len(plan.orders)) if "gradient" in plan.flow_sets else Rule()
    return Shape(_classes_of(costs.job, rule, switches.slows), plan.orders, _inside_of(costs), switches, rule)


def _rule(switches: Switches, stages: int) -> Rule:
    zero = switches.zero_stage
    if zero == 3:
        return Rule(sharded=True)
    gathers = switches.parameter_prefetch and zero > 0
    return Rule(gathers=gathers, sums=switches.gradient_overlap, every=zero == 2 and stages == 1)


_classes: Memo[Classes] = Memo(KEPT)
_insides: Memo[Inside] = Memo(KEPT)


def _inside_of(costs: Costs) -> Inside:
    """The collectives inside the passes of a job, looked for once in a model that is cut into chunks."""
    chunks = costs.job.plan.chunks

    def make() -> Inside:
        return tuple(
            tuple(tuple(costs.kinds(s, c, backward) for backward in (False, True)) for c in range(len(chunks[s])))
            for s in range(len(chunks))
        )

    return _insides.get((Same(chunks), costs.scatters), make, lambda made: 1.0)


def _classes_of(job: Job, rule: Rule, slows: bool) -> Classes:
    """The classes of a job, made once for all jobs of its layout. Without passes that are not calm, nothing is free."""
    beside = rule.sharded or rule.gathers or rule.sums

    def make() -> Classes:
        ranks = []
        for rank in job.ranks:
            inner = [(kind, flow) for kind, flow in rank.flows.items() if kind in CATEGORY]
            calm = frozenset(kind for kind, flow in inner if _is_calm(job, rank, flow))
            free = frozenset(kind for kind, flow in inner if beside and _is_free(job, rank, flow, slows))
            ranks.append(RankShape(rank.number, rank.stage, tuple(rank.flows.items()), calm, free))
        return Classes(tuple(ranks), tuple(FlowShape(each.key, each.members, each.receiver) for each in job.flows))

    return _classes.get((Same(job.flows), job.plan.apart, beside, slows), make, lambda made: 1.0)


def _is_calm(job: Job, rank: RankClass, flow: int) -> bool:
    """Whether a communicator of equal ranks has its links to itself while a calm pass of the rank runs.

    The rank's own gradient traffic is then either over or has still to wait for the pass.
    """
    others = [job.flows[other] for other in job.rivals(flow)]
    own = (each.kind in ("gradient", "replica", "embedding") and rank.number in each.members for each in others)
    return job.flows[flow].members == (rank.number,) and all(own)


def _is_free(job: Job, rank: RankClass, flow: int, slows: bool) -> bool:
    """Whether it has its links to itself in any pass.

    Gradient traffic slows a collective that has its links to itself, but not one that shares them with its like.
    """
    alone = job.flows[flow].members == (rank.number,) and not job.rivals(flow)
    return alone and (job.is_apart(flow) or not slows)
