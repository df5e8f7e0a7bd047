"""The model cut into chunks, and chunks into segments whose gradients or weights travel together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import groupby
from operator import attrgetter

from sim.phase import Phase
from sim.schedule.catalogue import SCHEDULES, course_of
from sim.spec.records import Parallelism, Software, Training, Transformer
from sim.workload.operation import Block, Operation, Shard
from sim.workload.parameters import embedding_parameters, head_parameters, rank_parameters, trained_parameters
from sim.workload.transformer import embedding_block, head_block, layer_block


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
    """The passes through a block, by phase of the tasks of a schedule; back begins with what is computed again."""

    by_phase: tuple[Sequence, ...]

    @cached_property
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
    parameters: int
    trained: int  # those with gradients
    kept: int = 0  # parameters that stay gathered until the backward pass

    @property
    def gathered_again(self) -> int:
        """Parameters to gather for the backward pass."""
        return self.parameters - self.kept

    @cached_property
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


def layers_per_chunk(layers: int, chunks: int) -> list[int]:
    """Layers of each of the model chunks, in model order.

    What does not divide goes to the middle: the ends also hold embedding and head (Llama Team
    2024, sec. 3.3.2).
    """
    base, extra = divmod(layers, chunks)
    first = (chunks - extra) // 2
    return [base + (first <= chunk < first + extra) for chunk in range(chunks)]


def shard_of(parallelism: Parallelism, training: Training, software: Software) -> Shard:
    """What one rank holds, as the workload layer wants it.

    Autocast casts each weight once a pass (read 4 B, write 2), and its gradient back.
    """
    cast = 6.0 if software.autocast else 0.0
    return Shard(
        tensor=parallelism.tensor,
        context=parallelism.context,
        expert=parallelism.expert,
        sequence_parallel=parallelism.sequence_parallel,
        microbatch=training.microbatch,
        sequence_length=training.sequence_length,
        document_length=training.document_length,
        precision=training.precision,
        recompute=training.recompute,
        tensor_overlap=software.tensor_overlap,
        sums_partials=software.sums_partials,
        fused_kernels=software.fused_kernels,
        written_out=software.written_out,
        autocast=software.autocast and parallelism.zero_stage < 3,
        pads_vocabulary=software.pads_vocabulary,
        fused_accumulation=software.fused_accumulation,
        lora=training.lora,
        fp8_scaling=software.fp8_scaling,
        cross_entropy=software.cross_entropy,
        joins_matrices=software.joins_matrices,
        batch_first=software.batch_first,
        keeps_gathered=software.keeps_gathered,
        stops_recompute=software.stops_recompute,
        repeats_keys=software.repeats_keys,
        ring_attention=software.ring_attention,
        gather_copy=software.gather_copy_bytes if parallelism.zero_stage == 3 else cast,
        reduce_copy=software.reduce_copy_bytes if parallelism.zero_stage == 3 else cast,
    )


def build_chunks(model: Transformer, shard: Shard, software: Software, parallelism: Parallelism) -> Chunks:
    """The model cut up as the schedule places and splits it."""
    course = course_of(parallelism.schedule, parallelism.pipeline, parallelism.virtual_stages)
    phases = SCHEDULES[parallelism.schedule].phases
    sizes = layers_per_chunk(model.layers, len(course.stage_of))
    blocks = {
        "embedding": _passes(embedding_block(model, shard, gradient_bytes=software.gradient_bytes), phases),
        "layer": _passes(layer_block(model, shard, gradient_bytes=software.gradient_bytes), phases),
        "head": _passes(head_block(model, shard, gradient_bytes=software.gradient_bytes), phases),
    }
    bucket, together = _layers_per_segment(model, shard, software, parallelism), course.ends[0] == course.ends[1]

    @cache
    def segments(layers: int, first: bool, last: bool) -> tuple[Segment, ...]:
        found = _segments(model, shard, blocks, layers, bucket, first=first, last=last, together=together)
        return _with_root(found) if software.root_unit and parallelism.zero_stage == 3 else found

    last = len(sizes) - 1
    return tuple(
        Chunk(number, course.stage_of[number], layers, segments(layers, number == 0, number == last))
        for number, layers in enumerate(sizes)
    )


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
        replace(each, hidden_by=sum(chosen[i + 1 : i + 1 + each.hidden_by])) if each.hidden_by else each
        for i, each in enumerate(operations)
        if chosen[i]
    )


def _layers_per_segment(model: Transformer, shard: Shard, software: Software, parallelism: Parallelism) -> int:
    """Layers in one bucket of gradients; one under ZeRO-3, which wraps each layer."""
    if parallelism.zero_stage == 3 or software.gradient_bucket == 0:
        return 1
    layer = rank_parameters(model, shard.tensor, 1, first=False, last=False)
    trained = trained_parameters(model, shard.lora, shard.tensor, 1, layer)
    return max(1, round(software.gradient_bucket / (trained * software.gradient_comm_bytes)))


def _segments(
    model: Transformer,
    shard: Shard,
    blocks: dict[str, Passes],
    layers: int,
    bucket: int,
    *,
    first: bool,
    last: bool,
    together: bool,
) -> tuple[Segment, ...]:
    """Layers in buckets; the embedding joins the first bucket, the head the last; `together`: on one stage."""
    counts = [min(bucket, layers - done) for done in range(0, layers, bucket)] or [0]
    segments = []
    for number, count in enumerate(counts):
        opens, closes = first and number == 0, last and number == len(counts) - 1
        pieces = (
            *((Piece(blocks["embedding"], 1),) if opens else ()),
            *((Piece(blocks["layer"], count),) if count else ()),
            *((Piece(blocks["head"], 1),) if closes else ()),
        )
        parameters = rank_parameters(
            model, shard.tensor, count, first=opens, last=closes, sequence_length=shard.sequence_length
        )
        if closes and together and not opens:  # a tied table counts where the model begins
            parameters += head_parameters(model, shard.tensor) - embedding_parameters(model, shard.tensor)
        trained = trained_parameters(model, shard.lora, shard.tensor, count, parameters)
        segments.append(Segment(pieces, parameters, trained))
    return tuple(segments)


def _with_root(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """What is in no layer (at both ends) travels with the first one, the root of the model.

    It is gathered before the first pass, kept, and reduced when the backward pass is over. Segments are of one layer.
    """
    layer = min(segments, key=lambda segment: segment.parameters)
    bare = [replace(segment, parameters=layer.parameters, trained=layer.trained) for segment in segments]
    kept = sum(segment.parameters for segment in segments) - len(segments) * layer.parameters
    trained = sum(segment.trained for segment in segments) - len(segments) * layer.trained
    bare[0] = replace(bare[0], parameters=layer.parameters + kept, trained=layer.trained + trained, kept=kept)
    return tuple(bare)


def work_of(segments: list[Segment], phase: Phase) -> Work:
    """What a pass through `segments`, given in the order of the pass, runs one after the other."""
    way = 1 if phase is Phase.FORWARD else -1
    pieces = [piece for segment in segments for piece in segment.pieces[::way]]
    return [
        (passes.by_phase[phase], sum(piece.count for piece in alike))
        for passes, alike in groupby(pieces, key=attrgetter("passes"))
    ]
