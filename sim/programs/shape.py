"""What the script of a program follows from: the schedule, who meets whom, and what is exchanged when.

There is no number of bytes or seconds in it, and those who write scripts see nothing else of a job: jobs of equal
shape have equal scripts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from typing_extensions import override

from sim.inputs.records import Offload
from sim.memo import Memo, Same
from sim.programs.costs import Costs, Kinds
from sim.programs.exchange import GradientExchange, exchange_of
from sim.programs.ranks import CATEGORY, Job, RankClass
from sim.schedule.course import Course
from sim.schedule.table import Schedule
from sim.transforms.reduction import GROUPS
from sim.workload.compression import compressor_of

LOCKED = "tensor"  # kind of groups whose ranks may go in lock-step
EXCHANGING = (*GROUPS, "replica", "second_copy", "embedding")  # kinds of groups beside passes
KEPT = 64  # layouts and models whose part of a shape is remembered

Inside = tuple[tuple[tuple[Kinds, ...], ...], ...]


class RankShape(NamedTuple):
    """A rank class: its pipeline stage, its own microbatches if it has such, and its flow class of each kind.

    calm: kinds of groups inside passes that have their links to themselves while a calm pass runs. free: those that
    have them while any pass runs. together: ranks of its tensor group, which go through such passes in lock-step.
    """

    number: int
    stage: int
    microbatches: int
    flows: tuple[tuple[str, int], ...]
    calm: Kinds
    free: Kinds
    together: tuple[int, ...]

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

    @cached_property  # a walk over all classes, asked for at each look-up of a script
    def _hash(self) -> int:
        return hash((self.ranks, self.flows))

    @override
    def __hash__(self) -> int:
        """Known after the first time: it is asked for with every job."""
        return self._hash


class Switches(NamedTuple):
    """What stack and options of the simulation say about the order of things."""

    pipeline_overlap: bool
    slows: bool  # collectives slow computation beside them
    coalesce: bool
    skip: bool


@dataclass(frozen=True)
class Shape:
    """The shape of a job.

    schedules: one for each number of microbatches that ranks have, the largest first.
    inside[chunk][phase]: of each segment of a pass in its order, the kinds of collectives inside.
    """

    classes: Classes
    schedules: tuple[Schedule, ...]
    inside: Inside
    switches: Switches
    exchange: GradientExchange
    offload: Offload

    @property
    def ranks(self) -> tuple[RankShape, ...]:
        """Rank classes."""
        return self.classes.ranks

    @property
    def flows(self) -> tuple[FlowShape, ...]:
        """Flow classes."""
        return self.classes.flows

    @property
    def schedule(self) -> Schedule:
        """That of the ranks with most microbatches."""
        return self.schedules[0]

    def schedule_of(self, rank: RankShape) -> Schedule:
        """The schedule of a rank."""
        return next((each for each in self.schedules if each.microbatches == rank.microbatches), self.schedule)

    @property
    def course(self) -> Course:
        """Which stage has each chunk."""
        return self.schedule.course

    @property
    def stages(self) -> tuple[tuple[RankShape, ...], ...]:
        """Rank classes by pipeline stage."""
        return tuple(tuple(rank for rank in self.ranks if rank.stage == s) for s in range(self.course.stages))

    def segments(self, chunk: int) -> int:
        """How many segments a chunk has."""
        return len(self.inside[chunk][0])


def shape_of(costs: Costs) -> Shape:
    """The shape of the job whose costs these are."""
    plan = costs.job.plan
    software, options = plan.software, plan.experiment.simulation
    switches = Switches(
        pipeline_overlap=software.pipeline_overlap,
        slows=software.overlap_slowdown > 0,
        coalesce=options.coalesce == "auto",
        skip=options.skip == "auto",
    )
    exchange = job_exchange(costs.job)
    classes = _classes_of(costs.job, bool(exchange.by_segment), switches.slows)
    return Shape(classes, plan.schedules, _inside_of(costs), switches, exchange, plan.experiment.training.offload)


def job_exchange(job: Job) -> GradientExchange:
    """What the data-parallel ranks of a job exchange; nothing if there is one of each."""
    plan = job.plan
    if not any(kind in rank.flows for rank in job.ranks for kind in GROUPS):
        return GradientExchange()
    zero, software = plan.experiment.parallelism.zero_stage, plan.software
    exchange = exchange_of(
        zero, software.gradient_overlap, software.parameter_prefetch, plan.course.stages, plan.phases
    )
    if plan.experiment.parallelism.second_copy is not None:
        exchange = exchange.with_second_copy()
    compressor = compressor_of(plan.experiment.training.compression)
    if compressor is None or exchange.sums is None:
        return exchange
    return replace(exchange, hops=compressor.collectives(exchange.sums.kind))


_classes: Memo[Classes] = Memo(KEPT)  # equal classes are one object, so that comparing shapes is quick
# a walk over all operations of a model, the same for all points that share its chunks
_insides: Memo[Inside] = Memo(KEPT)


def _inside_of(costs: Costs) -> Inside:
    """The collectives inside the passes of a job, looked for once in a model that is cut into chunks."""
    chunks, phases = costs.job.plan.chunks, costs.job.plan.phases

    def make() -> Inside:
        return tuple(tuple(costs.kinds(chunk.number, phase) for phase in phases) for chunk in chunks)

    return _insides.get((Same(chunks), costs.scatters), make, lambda made: 1.0)


def _classes_of(job: Job, beside: bool, slows: bool) -> Classes:
    """The classes of a job, made once for all jobs of its layout.

    beside: whether it exchanges something beside passes; else all passes are calm, and nothing needs to be free.
    """

    def make() -> Classes:
        ranks = []
        for rank in job.ranks:
            inner = [(kind, flow) for kind, flow in rank.flows.items() if kind in CATEGORY]
            calm = frozenset(kind for kind, flow in inner if _is_calm(job, rank, flow))
            free = frozenset(kind for kind, flow in inner if beside and _is_free(job, rank, flow, slows))
            together = _in_lock_step(job, rank)
            if len(together) > 1:
                locked = beside and (not slows or rank.flows[LOCKED] in job.in_step)
                calm, free = calm | {LOCKED}, free | {LOCKED} if locked else free
            flows = tuple(rank.flows.items())
            ranks.append(RankShape(rank.number, rank.stage, rank.microbatches, flows, calm, free, together))
        return Classes(tuple(ranks), tuple(FlowShape(each.key, each.members, each.receiver) for each in job.flows))

    key = Same(job.ranks), job.plan.apart, beside, slows, job.in_step
    return _classes.get(key, make, lambda made: 1.0)


def _in_lock_step(job: Job, rank: RankClass) -> tuple[int, ...]:
    """Ranks that go through a pass together once all have begun it, that of the rank itself among them.

    They are equally fast, and nobody else is ever on the links of their group. Where collectives beside a pass slow it,
    they must slow all of them alike: where that is hoped for, it is found out afterwards (`engine/lockstep.py`).
    """
    flow = rank.flows.get(LOCKED, -1)
    if flow < 0 or not job.is_apart(flow):
        return (rank.number,)
    others = job.flows[flow].members
    alike = all(job.ranks[other].profile == rank.profile and job.ranks[other].stage == rank.stage for other in others)
    return others if alike else (rank.number,)


def _is_calm(job: Job, rank: RankClass, flow: int) -> bool:
    """Whether a communicator of equal ranks has its links to itself while a calm pass of the rank runs.

    The rank's own gradient traffic is then either over or has still to wait for the pass.
    """
    others = [job.flows[other] for other in job.rivals(flow)]
    own = (each.kind in EXCHANGING and rank.number in each.members for each in others)
    return job.flows[flow].members == (rank.number,) and all(own)


def _is_free(job: Job, rank: RankClass, flow: int, slows: bool) -> bool:
    """Whether it has its links to itself in any pass.

    Gradient traffic slows a collective that has its links to itself, but not one that shares them with its like.
    """
    alone = job.flows[flow].members == (rank.number,) and not job.rivals(flow)
    return alone and (job.is_apart(flow) or not slows)
