"""What the instructions of a program cost: passes, messages and updates of a job, by their place in it.

A script says where in a job the numbers of an action come from (rank and flow classes, chunks and segments by number),
so that it serves any job of the same shape: the functions at the end are its recipes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from sim.engine.category import Category
from sim.engine.program import Action
from sim.graph.operation import Operation
from sim.layout.pieces import Segment, Sequence, Work, by_stage, sequence_of, work_of
from sim.phase import Phase
from sim.programs.chains import Alone, Cut, cut
from sim.programs.exchange import Traffic
from sim.programs.ranks import Job, RankClass
from sim.transforms.reduction import GROUPS
from sim.workload.compression import Compressor, Gradients, compressor_of
from sim.workload.memory import state_bytes, stored_bytes, weight_bytes
from sim.workload.optimizer import host_seconds, optimizer_step

WHOLE = -1  # instead of the number of a chunk or a segment: all of them

Kinds = frozenset[str]
Form = tuple[tuple[tuple[int, ...], str, bool], ...]  # of each step of a cut pass: what it awaits, what it issues


class Place(NamedTuple):
    """A pass of a rank class through a model chunk; or the part of it at `position`, segment by segment."""

    rank: int
    phase: Phase
    chunk: int
    position: int = WHOLE


class Message(NamedTuple):
    """What a data-parallel collective moves: gradients or weights of these parameters of a segment.

    group: kind of group, which exchanges its part of them. split: flow class whose members have a share each.
    hop, leg: of what stands for a sum of compressed gradients, which collective and which part of that.
    """

    traffic: Traffic
    stage: int
    chunk: int = WHOLE
    segment: int = WHOLE
    parameters: Literal["trained", "parameters", "gathered_again"] = "trained"
    group: str = "gradient"
    split: int = -1
    hop: int = -1
    leg: int = 0


class Like(NamedTuple):
    """What a pass through a chunk is told apart by: its segments, and whether it begins with a gather."""

    segments: int  # the identity of the tuple
    phase: Phase
    gathers: bool


@dataclass(frozen=True, eq=False)
class Costs:
    """Looks up in a job what recipes ask for. Most ranks and chunks of a job are alike, so each is asked once."""

    job: Job
    _kinds: dict[Like, tuple[Kinds, ...]] = field(default_factory=dict)
    _chains: dict[tuple[object, ...], Alone] = field(default_factory=dict)
    _steps: dict[tuple[object, ...], list[Cut]] = field(default_factory=dict)
    _leads: dict[tuple[object, ...], float] = field(default_factory=dict)

    # --- passes -----------------------------------------------------------------------------------

    @property
    def scatters(self) -> bool:
        """Whether each tensor rank sends its share of a stage's output, so that the next stage has to gather."""
        shard = self.job.plan.shard
        return self.job.plan.software.scatter_gather and shard.tensor > 1 and not shard.sequence_parallel

    @cached_property  # asked for with each send
    def stage_message(self) -> float:
        """Bytes from a rank to the next stage."""
        message = self.job.plan.architecture.message_bytes
        return message / self.job.plan.shard.tensor if self.scatters else message

    @property
    def gather(self) -> Sequence:
        """The gather of the input of a stage, where tensor ranks send a share each."""
        whole = self.job.plan.architecture.message_bytes
        name = "gather of stage input"
        return sequence_of((Operation(name, "collective", collective="all_gather", group="tensor", message=whole),))

    def kinds(self, chunk: int, phase: Phase) -> tuple[Kinds, ...]:
        """Kinds of collectives inside each segment of a pass, in its order."""
        like = self._likes[chunk][phase]
        if like not in self._kinds:
            kinds = [segment.collectives[phase] for segment in self._segments(chunk, phase)]
            self._kinds[like] = (kinds[0] | self.gather.collectives, *kinds[1:]) if like.gathers else tuple(kinds)
        return self._kinds[like]

    def chain(self, place: Place) -> Alone:
        """A pass with nothing beside it."""
        rank, key = self._rank(place)
        if key not in self._chains:
            self._chains[key] = self.job.alone(rank, self._work(place))
        return self._chains[key]

    def lead(self, place: Place) -> float:
        """Seconds into a pass at which its first collective of the tensor group is issued."""
        rank, key = self._rank(place)
        if key not in self._leads:
            self._leads[key] = self.job.lead(rank, self._work(place), "tensor")
        return self._leads[key]

    def steps(self, place: Place) -> list[Cut]:
        """A pass cut at its collectives."""
        rank, key = self._rank(place)
        if key not in self._steps:
            self._steps[key] = cut(self.job.all_timed(rank, self._work(place)))
        return self._steps[key]

    def form(self, place: Place) -> Form:
        """What the instructions of a cut pass follow from: collectives awaited by each step, the one issued after it
        ("" if none) and whether that is hidden."""
        return tuple(
            (step.waits, step.issue.group if step.issue else "", bool(step.issue and step.issue.hidden_by))
            for step in self.steps(place)
        )

    @cached_property  # read for each segment of each pass
    def _likes(self) -> list[list[Like]]:
        """What tells the passes apart, by chunk and phase."""
        course, phases = self.job.plan.course, self.job.plan.phases

        def gathers(chunk: int, phase: Phase) -> bool:
            source = course.source(phase, chunk)
            return self.scatters and source is not None and course.hop(source, chunk) != 0

        return [
            [Like(id(chunk.segments), phase, gathers(chunk.number, phase)) for phase in phases]
            for chunk in self.job.plan.chunks
        ]

    def _rank(self, place: Place) -> tuple[RankClass, tuple[object, ...]]:
        """The rank of a pass, and what the pass costs by: passes of equal keys cost the same."""
        rank = self.job.ranks[place.rank]
        return rank, (id(rank.profile), self._likes[place.chunk][place.phase], place.position)

    def _segments(self, chunk: int, phase: Phase) -> tuple[Segment, ...]:
        """Segments in the order of a pass."""
        segments = self.job.plan.chunks[chunk].segments
        return segments if phase is Phase.FORWARD else segments[::-1]

    def _work(self, place: Place) -> Work:
        """What a pass runs."""
        _, phase, chunk, position = place
        segments = self._segments(chunk, phase)
        work = work_of(list(segments if position == WHOLE else segments[position : position + 1]), phase)
        gathers = self._likes[chunk][phase].gathers and position in (WHOLE, 0)
        return [(self.gather, 1), *work] if gathers else work

    # --- exchange ---------------------------------------------------------------------------------

    @cached_property  # read for each message of the exchange
    def parameters(self) -> tuple[dict[str, float], ...]:
        """Parameters with gradients that a rank computes with, by stage and group that exchanges them."""
        return tuple(
            {
                kind: float(sum(segment.exchanged("trained", kind) for chunk in stage for segment in chunk.segments))
                for kind in GROUPS
            }
            for stage in by_stage(self.job.plan.chunks)
        )

    def updated_parameters(self, rank: RankClass) -> float:
        """Parameters the rank's optimizer updates: a share of those that a group exchanges, if it is sharded."""
        sharded = self.job.plan.experiment.parallelism.zero_stage > 0
        return sum(
            count / (self.job.flows[rank.flows[kind]].group.size if sharded and kind in rank.flows else 1)
            for kind, count in self.parameters[rank.stage].items()
        )

    def bytes_of(self, traffic: Traffic, parameters: float) -> float:
        """Bytes on the network for the weights or the gradients of `parameters`."""
        if traffic is Traffic.GRADIENTS:
            return parameters * self.job.plan.software.gradient_comm_bytes
        return parameters * weight_bytes(self.job.plan.shard.precision, self.job.plan.shard.lora)

    @property
    def embedding_bytes(self) -> float:
        """Bytes on the network for the gradients of a tied embedding."""
        return self.bytes_of(Traffic.GRADIENTS, self.job.plan.architecture.table.parameters)

    def message(self, message: Message) -> float:
        """Size of a message [B], in the convention of nccl-tests [B]."""
        if message.chunk == WHOLE:
            parameters = self.parameters[message.stage][message.group]
        else:
            segment = self.job.plan.chunks[message.chunk].segments[message.segment]
            parameters = segment.exchanged(message.parameters, message.group)
        size = self.bytes_of(message.traffic, parameters)
        return size if message.split < 0 else size / self.job.flows[message.split].group.size

    # --- compressed gradients ---------------------------------------------------------------------

    @cached_property  # asked for with each message of the exchange
    def compressor(self) -> Compressor | None:
        """How gradients are compressed."""
        return compressor_of(self.job.plan.experiment.training.compression)

    def wire(self, message: Message, flow: int) -> float:
        """Size of what is sent of a message in its hop [B]; 0 where there is nothing to sum."""
        gradients = self._gradients(message.stage, message.chunk, message.segment, (message.group,))
        if self.compressor is None or not gradients.elements:
            return 0.0
        return self.compressor.wire(gradients, self.job.flows[flow].group.size)[message.hop]

    def _gradients(self, stage: int, chunk: int, segment: int, groups: Iterable[str]) -> Gradients:
        """Gradients of a segment, a chunk or a stage that are exchanged in these kinds of groups."""
        chunks = by_stage(self.job.plan.chunks)[stage] if chunk == WHOLE else (self.job.plan.chunks[chunk],)
        every = [each for part in chunks for each in part.segments]
        every = every if segment == WHOLE else every[segment : segment + 1]
        software, matrices = self.job.plan.software, Counter[tuple[int, int]]()
        for each in every:
            matrices.update({(rows, columns): count for rows, columns, count in each.matrices})
        return Gradients(
            float(sum(each.exchanged("trained", group) for each in every for group in groups)),
            software.gradient_bytes,
            software.gradient_comm_bytes,
            tuple((*sides, count) for sides, count in matrices.items()),
            self.job.plan.shard.precision,
        )

    def packed(self, place: Place) -> Alone:
        """Kernels that compress what a pass, or with `WHOLE` for a chunk all of them, has left on a rank."""
        rank = self.job.ranks[place.rank]
        segment = WHOLE
        if place.position != WHOLE:
            segment = len(self.job.plan.chunks[place.chunk].segments) - 1 - place.position
        groups = tuple(kind for kind in GROUPS if kind in rank.flows)
        assert self.compressor is not None
        operations = self.compressor.pack(self._gradients(rank.stage, place.chunk, segment, groups))
        return self.job.alone(rank, [(sequence_of(operations), 1)])

    def unpacked(self, number: int, kind: str, often: bool) -> Alone:
        """Kernels that make gradients of what has come of the sum `kind`, of each microbatch where that is `often`."""
        rank, work = self.job.ranks[number], []
        times = (rank.microbatches or self.job.plan.microbatches[0]) if often else 1
        assert self.compressor is not None
        for group in (each for each in GROUPS if each in rank.flows):
            gradients = self._gradients(rank.stage, WHOLE, WHOLE, (group,))
            ranks = self.job.flows[rank.flows[group]].group.size
            if gradients.elements:
                operations = self.compressor.unpack(gradients, ranks, kind)
                work.append((sequence_of(operations), times))
        return self.job.alone(rank, work)

    # --- optimizer --------------------------------------------------------------------------------

    def optimizer(self, rank: RankClass) -> Sequence:
        """The optimizer step of a rank; nothing of it where the host does it, or servers have it."""
        plan = self.job.plan
        if plan.experiment.training.offload.optimizer or plan.experiment.setup.has_servers:
            return sequence_of(())
        chosen = plan.experiment.training.optimizer
        return sequence_of(optimizer_step(self.updated_parameters(rank), plan.software, plan.shard.precision, chosen))

    def update(self, number: int) -> Alone:
        """The optimizer step of a rank class with nothing beside it."""
        rank = self.job.ranks[number]
        key = (id(rank.profile), self.updated_parameters(rank))
        if key not in self._chains:
            self._chains[key] = self.job.alone(rank, [(self.optimizer(rank), 1)])
        return self._chains[key]

    # --- what lies in host memory -------------------------------------------------------------------

    def host_update(self, number: int) -> float:
        """The optimizer step of a rank class where the host does it [s]."""
        return host_seconds(self.updated_parameters(self.job.ranks[number]))

    def weights_updated(self, number: int) -> float:
        """New weights of a rank class, and gradients on their way to the host [B]."""
        weight = stored_bytes(self.job.plan.shard.precision, self.job.plan.software)[0]
        return weight * self.updated_parameters(self.job.ranks[number])

    def state_updated(self, number: int) -> float:
        """Optimizer state and master weights of a rank class [B]."""
        plan = self.job.plan
        state = state_bytes(plan.experiment.training, plan.software)[1]
        return state * self.updated_parameters(self.job.ranks[number])

    def shard_of(self, message: Message, flow: int) -> float:
        """A rank's share of what a group gathers [B]."""
        return self.message(message) / self.job.flows[flow].group.size

    def saved(self, chunk: int, segment: int) -> float:
        """What the layers of a segment keep for the backward pass [B]."""
        return float(self.job.plan.chunks[chunk].segments[segment].saved)


# --- recipes ----------------------------------------------------------------------------------


def given_action(action: Action, costs: Costs) -> Action:
    """An action that is the same for every job."""
    return action


def chain_action(label: str, place: Place, together: tuple[int, ...], costs: Costs) -> Action:
    """A chain of block passes that meets nobody; together: ranks that have to be slowed alike in it."""
    chain, flows = costs.chain(place), costs.job.ranks[place.rank].flows
    return Action(
        label,
        Category.COMPUTE,
        (place.rank,),
        chain.seconds,
        parts=tuple(chain.parts.items()),
        comm=chain.comm,
        carried=tuple([(flows[group], size) for group, size in chain.sizes.items()]),
        operations=chain.operations,
        joules=tuple(chain.spent.joules.items()),
        busy=chain.spent.busy,
        together=together,
    )


def begin_action(label: str, place: Place, costs: Costs) -> Action:
    """A rank begins a pass that it goes through in lock-step with others of its group."""
    return Action(label, Category.COMPUTE, (place.rank,), lead=costs.lead(place))


def step_action(label: str, place: Place, number: int, costs: Costs) -> Action:
    """The computation in a step of a cut pass."""
    step = costs.steps(place)[number]
    return Action(
        label,
        Category.COMPUTE,
        (place.rank,),
        sum(step.parts.values()),
        parts=tuple(step.parts.items()),
        operations=len(step.parts),
        joules=tuple(step.spent.joules.items()),
        busy=step.spent.busy,
    )


def inner_action(place: Place, number: int, flow: int, costs: Costs) -> Action:
    """The collective that a step of a cut pass issues; with its links to itself it takes a known time."""
    operation = costs.steps(place)[number].issue
    assert operation is not None
    members = costs.job.flows[flow].members
    action = Action(
        operation.name,
        operation.category,
        steals=members if operation.hidden_by else (),
        collective=operation.collective,
        message=operation.message,
    )
    way = costs.job.ranks[place.rank].flows[operation.carrier]
    if costs.job.is_apart(flow):
        return action._replace(ranks=members, duration=operation.seconds, carried=((way, operation.size),))
    return action._replace(flow=way, size=operation.size, latency=operation.latency)


def send_action(label: str, flow: int, costs: Costs) -> Action:
    """What a stage sends to its neighbour."""
    (leg,) = costs.job.cost(flow, "send", costs.stage_message).legs
    action = Action(label, Category.PIPELINE_COMM, flow=flow, size=leg.size, latency=leg.latency)
    return action._replace(collective="send", message=costs.stage_message)


def exchange_action(
    label: str, flow: int, kind: str, message: Message, beside: tuple[int, ...], costs: Costs
) -> Action:
    """A data-parallel collective; it slows the work of `beside`."""
    size = costs.message(message) if message.hop < 0 else costs.wire(message, flow)
    legs = costs.job.cost(flow, kind, size).legs if size else ()  # nothing of a segment without experts
    if message.leg >= len(legs):
        return Action(label, Category.DATA_COMM)
    return _exchange(label, flow, kind, size, message.leg, beside, costs)


def embedding_action(flow: int, costs: Costs) -> Action:
    """The sum of the gradients of a tied embedding."""
    return _exchange("embedding gradients", flow, "all_reduce", costs.embedding_bytes, 0, (), costs)


def _exchange(
    label: str, flow: int, kind: str, size: float, number: int, beside: tuple[int, ...], costs: Costs
) -> Action:
    """One leg of a collective of data-parallel ranks; most have one alone."""
    legs = costs.job.cost(flow, kind, size).legs
    leg = legs[number]
    way = costs.job.way(flow, leg.carrier)
    action = Action(label, Category.DATA_COMM, flow=way, size=leg.size, latency=leg.latency, steals=beside)
    return action._replace(collective=kind, message=size) if len(legs) == 1 else action


def pack_action(place: Place, costs: Costs) -> Action:
    """Compression of the gradients that a pass has left."""
    return _kernels("compress gradients", place.rank, costs.packed(place))


def unpack_action(rank: int, kind: str, often: bool, costs: Costs) -> Action:
    """What has come is made gradients again."""
    return _kernels("decompress gradients", rank, costs.unpacked(rank, kind, often))


def _kernels(label: str, rank: int, chain: Alone) -> Action:
    return Action(
        label,
        Category.COMPUTE,
        (rank,),
        chain.seconds,
        parts=((Category.COMPUTE, chain.seconds),),
        operations=chain.operations,
        joules=tuple(chain.spent.joules.items()),
        busy=chain.spent.busy,
    )


def optimizer_action(rank: int, costs: Costs) -> Action:
    """The optimizer step of a rank."""
    chain = costs.update(rank)
    return Action(
        "optimizer",
        Category.OPTIMIZER,
        (rank,),
        chain.seconds,
        parts=((Category.OPTIMIZER, chain.seconds),),
        joules=tuple(chain.spent.joules.items()),
        busy=chain.spent.busy,
    )


def host_update_action(rank: int, costs: Costs) -> Action:
    """The optimizer step that the host does for a rank."""
    seconds = costs.host_update(rank)
    return Action("optimizer", Category.OPTIMIZER, (rank,), seconds, parts=((Category.OPTIMIZER, seconds),))


def copy_action(label: str, flow: int, size: Callable[[Costs], float], costs: Costs) -> Action:
    """A copy between a board, the memory of its host and drives; how much follows from the job."""
    return Action(label, Category.HOST_COMM, flow=flow, size=size(costs))


def overhead_action(rank: int, costs: Costs) -> Action:
    """What the host does between two steps."""
    overhead = costs.job.plan.software.step_overhead
    return Action("step overhead", Category.OTHER, (rank,), overhead, parts=((Category.OTHER, overhead),))
