"""What recipes ask of a job: passes, messages and updates by their place in it (`recipes.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from sim.engine.chains import Alone, Cut, cut
from sim.engine.ranks import Job, RankClass
from sim.graph.operation import Operation
from sim.plan.pieces import Segment, Sequence, Work, sequence_of, work_of
from sim.workload.memory import weight_bytes
from sim.workload.optimizer import optimizer_step

WHOLE = -1  # instead of the number of a chunk or a segment: all of them

Kinds = frozenset[str]
Form = tuple[tuple[tuple[int, ...], str, bool], ...]  # of each step of a cut pass: what it awaits, what it issues


class Place(NamedTuple):
    """A pass of a rank class through a model chunk; or the part of it at `position`, segment by segment."""

    rank: int
    backward: bool
    chunk: int
    position: int = WHOLE


class Message(NamedTuple):
    """What a data-parallel collective moves: gradients or weights of these parameters of a segment.

    split: flow class whose members have a share each.
    """

    what: Literal["gradients", "weights"]
    stage: int
    chunk: int = WHOLE
    segment: int = WHOLE
    parameters: Literal["trained", "parameters", "gathered_again"] = "trained"
    split: int = -1


class Chain(NamedTuple):
    """Operations one after the other with nothing beside them; fields as in `Alone`."""

    seconds: float
    parts: tuple[tuple[str, float], ...]
    comm: float
    sizes: tuple[tuple[str, float], ...]
    operations: int
    joules: tuple[tuple[str, float], ...]
    busy: float


class Like(NamedTuple):
    """What a pass through a chunk is told apart by: its segments, and whether it begins with a gather."""

    segments: int  # the identity of the tuple
    backward: bool
    gathers: bool


@dataclass(frozen=True, eq=False)
class Costs:
    """Looks up in a job what recipes ask for. Most ranks and chunks of a job are alike, so each is asked once."""

    job: Job
    _kinds: dict[Like, tuple[Kinds, ...]] = field(default_factory=dict)
    _chains: dict[tuple[object, ...], Chain] = field(default_factory=dict)
    _steps: dict[tuple[object, ...], list[Cut]] = field(default_factory=dict)

    # --- passes -----------------------------------------------------------------------------------

    @cached_property
    def scatters(self) -> bool:
        """Whether each tensor rank sends its share of a stage's output, so that the next stage has to gather."""
        shard = self.job.plan.shard
        return self.job.plan.software.scatter_gather and shard.tensor > 1 and not shard.sequence_parallel

    @cached_property
    def stage_message(self) -> float:
        """Bytes from a rank to the next stage."""
        message = self.job.plan.architecture.message_bytes
        return message / self.job.plan.shard.tensor if self.scatters else message

    @cached_property
    def gather(self) -> Sequence:
        """The gather of the input of a stage, where tensor ranks send a share each."""
        whole = self.job.plan.architecture.message_bytes
        name = "gather of stage input"
        return sequence_of((Operation(name, "collective", collective="all_gather", group="tensor", message=whole),))

    def kinds(self, stage: int, chunk: int, backward: bool) -> tuple[Kinds, ...]:
        """Kinds of collectives inside each segment of a pass, in its order."""
        like = self._likes[stage][chunk][backward]
        if like not in self._kinds:
            kinds = [segment.collectives[backward] for segment in self._segments(stage, chunk, backward)]
            self._kinds[like] = (kinds[0] | self.gather.collectives, *kinds[1:]) if like.gathers else tuple(kinds)
        return self._kinds[like]

    def chain(self, place: Place) -> Chain:
        """A pass with nothing beside it."""
        rank, key = self._rank(place)
        if key not in self._chains:
            self._chains[key] = _frozen(self.job.alone(rank, self._work(rank, place)))
        return self._chains[key]

    def steps(self, place: Place) -> list[Cut]:
        """A pass cut at its collectives."""
        rank, key = self._rank(place)
        if key not in self._steps:
            self._steps[key] = cut(self.job.all_timed(rank, self._work(rank, place)))
        return self._steps[key]

    def form(self, place: Place) -> Form:
        """What the instructions of a cut pass follow from: collectives awaited by each step, the one issued after it
        ("" if none) and whether that is hidden."""
        return tuple(
            (step.waits, step.issue.group if step.issue else "", bool(step.issue and step.issue.hidden_by))
            for step in self.steps(place)
        )

    @cached_property
    def _likes(self) -> list[list[tuple[Like, Like]]]:
        """What tells the forward and the backward pass apart, by stage and chunk."""
        chunks, scatters = self.job.plan.chunks, self.scatters
        last = len(chunks) * len(chunks[0]) - 1
        return [
            [
                (
                    Like(id(chunk.segments), backward=False, gathers=scatters and chunk.number > 0),
                    Like(id(chunk.segments), backward=True, gathers=scatters and chunk.number < last),
                )
                for chunk in stage
            ]
            for stage in chunks
        ]

    def _rank(self, place: Place) -> tuple[RankClass, tuple[object, ...]]:
        """The rank of a pass, and what the pass costs by: passes of equal keys cost the same."""
        rank = self.job.ranks[place.rank]
        return rank, (id(rank.profile), self._likes[rank.stage][place.chunk][place.backward], place.position)

    def _segments(self, stage: int, chunk: int, backward: bool) -> tuple[Segment, ...]:
        """Segments in the order of a pass."""
        segments = self.job.plan.chunks[stage][chunk].segments
        return segments[::-1] if backward else segments

    def _work(self, rank: RankClass, place: Place) -> Work:
        """What a pass runs."""
        _, backward, chunk, position = place
        segments = self._segments(rank.stage, chunk, backward)
        work = work_of(list(segments if position == WHOLE else segments[position : position + 1]), backward)
        gathers = self._likes[rank.stage][chunk][backward].gathers and position in (WHOLE, 0)
        return [(self.gather, 1), *work] if gathers else work

    # --- exchange ---------------------------------------------------------------------------------

    @cached_property
    def parameters(self) -> tuple[float, ...]:
        """Parameters with gradients that a rank computes with, by stage."""
        return tuple(
            float(sum(segment.trained for chunk in stage for segment in chunk.segments))
            for stage in self.job.plan.chunks
        )

    def updated_parameters(self, rank: RankClass) -> float:
        """Parameters the rank's optimizer updates."""
        parameters = self.parameters[rank.stage]
        if self.job.plan.experiment.parallelism.zero_stage == 0 or "gradient" not in rank.flows:
            return parameters
        return parameters / self.job.flows[rank.flows["gradient"]].group.size

    def gradient_bytes(self, parameters: float) -> float:
        """Bytes on the network for the gradients of `parameters`."""
        return parameters * self.job.plan.software.gradient_comm_bytes

    def weight_bytes(self, parameters: float) -> float:
        """Bytes on the network for the weights of `parameters`."""
        return parameters * weight_bytes(self.job.plan.shard.precision, self.job.plan.shard.lora)

    @cached_property
    def embedding_bytes(self) -> float:
        """Bytes on the network for the gradients of a tied embedding."""
        return self.gradient_bytes(self.job.plan.architecture.table.parameters)

    def message(self, message: Message) -> float:
        """Size of a message [B], in the convention of nccl-tests [B]."""
        if message.chunk == WHOLE:
            parameters = self.parameters[message.stage]
        else:
            segment = self.job.plan.chunks[message.stage][message.chunk].segments[message.segment]
            parameters = getattr(segment, message.parameters)
        size = self.gradient_bytes(parameters) if message.what == "gradients" else self.weight_bytes(parameters)
        return size if message.split < 0 else size / self.job.flows[message.split].group.size

    def optimizer(self, rank: RankClass) -> Sequence:
        """The optimizer step of a rank."""
        plan = self.job.plan
        return sequence_of(optimizer_step(self.updated_parameters(rank), plan.software, plan.shard.precision))

    def update(self, number: int) -> Chain:
        """The optimizer step of a rank class with nothing beside it."""
        rank = self.job.ranks[number]
        key = (id(rank.profile), self.updated_parameters(rank))
        if key not in self._chains:
            self._chains[key] = _frozen(self.job.alone(rank, [(self.optimizer(rank), 1)]))
        return self._chains[key]


def _frozen(alone: Alone) -> Chain:
    parts, sizes, joules = (tuple(each.items()) for each in (alone.parts, alone.sizes, alone.spent.joules))
    return Chain(alone.seconds, parts, alone.comm, sizes, alone.operations, joules, alone.spent.busy)
