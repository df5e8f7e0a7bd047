"""The model cut into chunks, and chunks into segments whose gradients or weights travel together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, groupby, pairwise
from operator import attrgetter
from typing import Literal

from sim.graph.graph import Graph
from sim.graph.operation import Block, Operation
from sim.inputs.records import Parallelism, Software
from sim.models.family import NOTHING, Architecture
from sim.phase import Phase
from sim.schedule.catalogue import SCHEDULES, course_of
from sim.transforms.derive import block_of


@dataclass(frozen=True, eq=False)
class Sequence:
    """Operations in issue order; equal only to itself, so that what is known of it is found fast."""

    operations: tuple[Operation, ...]

    @property
    def collectives(self) -> frozenset[str]:
        """Kinds of groups whose collectives are among them."""
        return frozenset(each.group for each in self.operations if each.kind == "collective" and each.group)


@lru_cache(maxsize=1024)  # one object for equal operations: prices are looked up by it
def sequence_of(operations: tuple[Operation, ...]) -> Sequence:
    """The one sequence of these operations, as long as it is remembered."""
    return Sequence(operations)


Work = list[tuple[Sequence, int]]  # sequences and how often they repeat


@dataclass(frozen=True, eq=False)
class Passes:
    """The passes through a block, by phase of the tasks of a schedule; back begins with what is computed again."""

    by_phase: tuple[Sequence, ...]

    @cached_property  # a walk over all operations, for each stage and plan of a search
    def matrix_flops(self) -> float:
        """FLOPs of products and attention in all of them [FLOP]."""
        operations = (each for sequence in self.by_phase for each in sequence.operations)
        return sum(each.flops for each in operations if each.kind != "elementwise")


@dataclass(frozen=True)
class Piece:
    """`count` equal blocks in a row."""

    passes: Passes
    count: int


@dataclass(frozen=True)
class Segment:
    """Pieces in forward order whose parameters (of one rank) are reduced or gathered as one."""

    pieces: tuple[Piece, ...]
    parameters: int  # as wide as products take them; those stored in few bits count less
    trained: int  # those with gradients
    kept: int = 0  # parameters that stay gathered until the backward pass
    experts: int = 0  # parameters whose gradients the replicas of experts exchange
    saved: int = 0  # bytes that its layers keep from forward to backward pass
    matrices: tuple[tuple[int, int, int], ...] = ()  # rows, columns, and how many, of those with gradients

    @property
    def gathered_again(self) -> int:
        """Parameters to gather for the backward pass."""
        return self.parameters - self.kept

    def exchanged(self, what: Literal["trained", "parameters", "gathered_again"], group: str) -> int:
        """Those of its parameters that a group exchanges; experts beside adapters are frozen."""
        frozen = what == "trained" and self.trained < self.parameters
        experts = 0 if frozen else self.experts
        every: int = getattr(self, what)
        return experts if group == "expert_gradient" else every - experts

    @property
    def collectives(self) -> tuple[frozenset[str], ...]:
        """Kinds of groups whose collectives are in its passes, by phase."""
        passes = zip(*(piece.passes.by_phase for piece in self.pieces), strict=True)
        return tuple(frozenset[str]().union(*(each.collectives for each in alike)) for alike in passes)


@dataclass(frozen=True)
class Chunk:
    """What one rank of a stage does with one microbatch: `number` counts chunks in model order."""

    number: int
    stage: int
    layers: int
    segments: tuple[Segment, ...]


Chunks = tuple[Chunk, ...]  # in model order


@dataclass(frozen=True)
class _Scissors:
    """Cuts a model: blocks of each graph, and parameters that fill a segment."""

    architecture: Architecture
    blocks: dict[int, Passes]  # by identity of a graph
    bucket: float  # parameters with gradients; 0: each layer is a segment
    root: bool  # what is in no layer is a unit of its own
    together: bool  # both ends of the model are on one stage: a tied table counts where the model begins

    def segments(self, layers: range, *, first: bool, last: bool) -> tuple[Segment, ...]:
        """Layers in buckets; the embedding joins the first bucket, the head the last.

        With a root unit what is in no layer (at both ends) travels with the first bucket: it is gathered before the
        first pass, kept, and reduced when the backward pass is over.
        """
        model, buckets = self.architecture, self._buckets(layers)
        table = not (first or self.together)
        ends = model.stage(range(0), first=first, last=last, table=table)
        segments = []
        for number, part in enumerate(buckets):
            opens, closes = first and number == 0, last and number == len(buckets) - 1
            runs = self._runs(part, opens, closes)
            pieces = tuple(Piece(self.blocks[id(graph)], count) for graph, count in runs)
            inner = model.stage(part, first=False, last=False)
            narrowed = sum(
                count * (model.narrowed(graph, gathered=True) + model.quantized(graph)) for graph, count in runs
            )
            if not self.root:
                held, matrices = model.stage(part, first=opens, last=closes, table=table), self._matrices(runs)
                counts = held.shared - narrowed, held.trained, 0, held.experts
                segments.append(Segment(pieces, *counts, inner.kept, matrices))
                continue
            rooted = NOTHING if number else ends
            held = inner + rooted
            counts = held.parameters - narrowed, held.trained, rooted.parameters, held.experts
            segments.append(Segment(pieces, *counts, inner.kept))
        return tuple(segments)

    def _runs(self, layers: range, opens: bool, closes: bool) -> list[tuple[Graph, int]]:
        """Equal graphs in a row, and how many."""
        model = self.architecture
        runs = [*([(model.first, 1)] if opens else []), *model.runs(layers), *([(model.last, 1)] if closes else [])]
        return [(graph, count) for graph, count in runs if graph]

    def _matrices(self, runs: list[tuple[Graph, int]]) -> tuple[tuple[int, int, int], ...]:
        """Matrices with gradients, those with more axes folded along all but the first."""
        counts: Counter[tuple[int, int]] = Counter()
        for graph, count in runs:
            for weight in graph.weights():
                if weight.role == "weight" and len(weight.axes) > 1:
                    rows = graph.count(weight.axes[0])
                    counts[rows, graph.elements(weight) // rows] += count
        return tuple((*sides, count) for sides, count in counts.items())

    def _buckets(self, layers: range) -> list[range]:
        """Layers join a bucket while that brings it nearer to its size."""
        ends, filled = [layers.start], 0.0
        for number in layers:
            trained = self.architecture.held(self.architecture.layers[number]).trained
            if number > ends[-1] and not nearer(filled, trained, self.bucket):
                ends.append(number)
                filled = 0.0
            filled += trained
        return [range(start, stop) for start, stop in pairwise([*ends, layers.stop])]


def nearer(filled: float, more: float, size: float) -> bool:
    """Whether `more` brings what is `filled` nearer to `size`."""
    return abs(filled + more - size) < abs(filled - size)


def build_chunks(architecture: Architecture, software: Software, parallelism: Parallelism) -> Chunks:
    """The model cut up as the schedule places and splits it."""
    course = course_of(parallelism.schedule, parallelism.pipeline, parallelism.virtual_stages)
    phases = SCHEDULES[parallelism.schedule].phases
    sizes = course.layers(len(architecture.layers), parallelism.layers_per_stage)
    starts = [0, *accumulate(sizes)]
    shard, gradients = architecture.shard, software.gradient_bytes
    blocks = {id(graph): _passes(block_of(graph, shard, gradients), phases) for graph in architecture.graphs}
    alone = parallelism.zero_stage == 3  # each layer is wrapped
    bucket = 0.0 if alone else software.gradient_bucket / software.gradient_comm_bytes
    together = course.ends[0] == course.ends[1]
    scissors = _Scissors(architecture, blocks, bucket, root=alone and software.root_unit, together=together)

    last, chunks = len(sizes) - 1, []
    known: dict[object, tuple[Segment, ...]] = {}  # chunks in the middle of a model are alike
    for number, layers in enumerate(sizes):
        part = range(starts[number], starts[number] + layers)
        alike = tuple((id(graph), count) for graph, count in architecture.runs(part)), number == 0, number == last
        if alike not in known:
            known[alike] = scissors.segments(part, first=number == 0, last=number == last)
        chunks.append(Chunk(number, course.stage_of[number], layers, known[alike]))
    return tuple(chunks)


def by_stage(chunks: Chunks) -> tuple[Chunks, ...]:
    """The chunks of each stage, in model order."""
    stages = 1 + max(chunk.stage for chunk in chunks)
    return tuple(tuple(chunk for chunk in chunks if chunk.stage == stage) for stage in range(stages))


def _passes(block: Block, phases: tuple[Phase, ...]) -> Passes:
    """A block by the phases that are tasks."""
    back = block.recompute + block.backward
    if Phase.WEIGHT_GRADIENT not in phases:
        return Passes((sequence_of(block.forward), sequence_of(back)))
    apart = [each.phase is Phase.WEIGHT_GRADIENT for each in back]
    inputs = _chosen(back, [not each for each in apart])
    return Passes((sequence_of(block.forward), sequence_of(inputs), sequence_of(_chosen(back, apart))))


def _chosen(operations: tuple[Operation, ...], chosen: list[bool]) -> tuple[Operation, ...]:
    """Those of the operations; a collective runs beside what is left of the operations that it ran beside."""
    return tuple(
        each._replace(hidden_by=sum(chosen[i + 1 : i + 1 + each.hidden_by])) if each.hidden_by else each
        for i, each in enumerate(operations)
        if chosen[i]
    )


def work_of(segments: list[Segment], phase: Phase) -> Work:
    """What a pass through `segments`, given in the order of the pass, runs one after the other."""
    way = 1 if phase is Phase.FORWARD else -1
    pieces = [piece for segment in segments for piece in segment.pieces[::way]]
    return [
        (passes.by_phase[phase], sum(piece.count for piece in alike))
        for passes, alike in groupby(pieces, key=attrgetter("passes"))
    ]
