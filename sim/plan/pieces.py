"""The model cut into chunks, and chunks into segments whose gradients or weights travel together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, groupby, pairwise
from operator import attrgetter

from sim.graph.operation import Block, Operation
from sim.models.family import NOTHING, Architecture
from sim.plan.schedule import layers_per_chunk
from sim.spec.records import Parallelism, Software
from sim.transforms.derive import block_of


@dataclass(frozen=True, eq=False)
class Sequence:
    """Operations in issue order; equal only to itself, so that what is known of it is found fast."""

    operations: tuple[Operation, ...]

    @cached_property
    def collectives(self) -> frozenset[str]:
        """Kinds of groups whose collectives are among them."""
        return frozenset(each.group for each in self.operations if each.kind == "collective" and each.group)


@lru_cache(maxsize=1024)
def sequence_of(operations: tuple[Operation, ...]) -> Sequence:
    """The one sequence of these operations, as long as it is remembered."""
    return Sequence(operations)


Work = list[tuple[Sequence, int]]  # sequences and how often they repeat


@dataclass(frozen=True, eq=False)
class Passes:
    """The two passes through a block; the backward pass begins with what is computed again."""

    forward: Sequence
    backward: Sequence

    @cached_property
    def matrix_flops(self) -> float:
        """FLOPs of products and attention in both [FLOP]."""
        operations = (*self.forward.operations, *self.backward.operations)
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
    parameters: int
    trained: int  # those with gradients
    kept: int = 0  # parameters that stay gathered until the backward pass

    @property
    def gathered_again(self) -> int:
        """Parameters to gather for the backward pass."""
        return self.parameters - self.kept

    @cached_property
    def collectives(self) -> tuple[frozenset[str], frozenset[str]]:
        """Kinds of groups whose collectives are in its forward pass, and in its backward pass."""
        passes = [piece.passes for piece in self.pieces]
        forward, backward = (
            (each.forward.collectives for each in passes),
            (each.backward.collectives for each in passes),
        )
        return frozenset().union(*forward), frozenset().union(*backward)


@dataclass(frozen=True)
class Chunk:
    """What one rank of a stage does with one microbatch: `number` counts chunks in model order."""

    number: int
    stage: int
    virtual: int
    layers: int
    segments: tuple[Segment, ...]


Chunks = tuple[tuple[Chunk, ...], ...]  # by stage and virtual stage


@dataclass(frozen=True)
class _Scissors:
    """Cuts a model: blocks of each graph, and parameters that fill a segment."""

    architecture: Architecture
    blocks: dict[int, Passes]  # by identity of a graph
    bucket: float  # parameters with gradients; 0: each layer is a segment
    root: bool  # what is in no layer is a unit of its own

    def segments(self, layers: range, *, first: bool, last: bool) -> tuple[Segment, ...]:
        """Layers in buckets; the embedding joins the first bucket, the head the last.

        With a root unit what is in no layer (at both ends) travels with the first bucket: it is gathered before the
        first pass, kept, and reduced when the backward pass is over.
        """
        model, buckets = self.architecture, self._buckets(layers)
        ends = model.stage(range(0), first=first, last=last, table=not first)
        segments = []
        for number, part in enumerate(buckets):
            opens, closes = first and number == 0, last and number == len(buckets) - 1
            pieces = self._pieces(part, opens, closes)
            if not self.root:  # one stage: a tied table counts where the model begins
                held = model.stage(part, first=opens, last=closes, table=not first)
                segments.append(Segment(pieces, held.parameters, held.trained))
                continue
            inner, rooted = model.stage(part, first=False, last=False), NOTHING if number else ends
            held = inner + rooted
            segments.append(Segment(pieces, held.parameters, held.trained, rooted.parameters))
        return tuple(segments)

    def _pieces(self, layers: range, opens: bool, closes: bool) -> tuple[Piece, ...]:
        model = self.architecture
        runs = [*([(model.first, 1)] if opens else []), *model.runs(layers), *([(model.last, 1)] if closes else [])]
        return tuple(Piece(self.blocks[id(graph)], count) for graph, count in runs if graph)

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
    """The model cut up. Chunk c of the model is virtual stage c // stages of stage c % stages."""
    stages, virtual = parallelism.pipeline, parallelism.virtual_stages
    sizes = layers_per_chunk(len(architecture.layers), stages, virtual)
    starts = [0, *accumulate(sizes)]
    shard, gradients = architecture.shard, software.gradient_bytes
    blocks = {id(graph): _passes(block_of(graph, shard, gradients)) for graph in architecture.graphs}
    alone = parallelism.zero_stage == 3  # each layer is wrapped
    bucket = 0.0 if alone else software.gradient_bucket / software.gradient_comm_bytes
    scissors = _Scissors(architecture, blocks, bucket, root=alone and software.root_unit)

    last, chunks = len(sizes) - 1, []
    known: dict[object, tuple[Segment, ...]] = {}
    for number, layers in enumerate(sizes):
        part = range(starts[number], starts[number] + layers)
        alike = tuple((id(graph), count) for graph, count in architecture.runs(part)), number == 0, number == last
        if alike not in known:
            known[alike] = scissors.segments(part, first=number == 0, last=number == last)
        chunks.append(Chunk(number, number % stages, number // stages, layers, known[alike]))
    return tuple(tuple(chunks[stage::stages]) for stage in range(stages))


def _passes(block: Block) -> Passes:
    return Passes(sequence_of(block.forward), sequence_of(block.recompute + block.backward))


def work_of(segments: list[Segment], backward: bool) -> Work:
    """What a pass through `segments`, given in the order of the pass, runs one after the other."""
    pieces = [piece for segment in segments for piece in (segment.pieces[::-1] if backward else segment.pieces)]
    return [
        (passes.backward if backward else passes.forward, sum(piece.count for piece in alike))
        for passes, alike in groupby(pieces, key=attrgetter("passes"))
    ]
