"""Two models, a shard and the sums that tests of the workload layer share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from sim.graph.adapters import LowRank
from sim.graph.graph import Graph
from sim.graph.operation import Block, Operation, Shard
from sim.inputs.records import Parallelism, Software, Training
from sim.models.dense import Transformer
from sim.models.family import Architecture, Workload
from sim.transforms.derive import block_of
from sim.workload.memory import StageMemory

Recompute = Literal["none", "selective", "full"]
Again = Literal[Recompute, "alternate", "keep_qkv"]
Build = Callable[[Transformer, Shard], Block]

GPT = Transformer(
    kind="transformer", layers=96, hidden=12288, heads=96, ffn=49152, vocab=51200, attention="unfused", dropout=True
)
LLAMA = Transformer(
    kind="transformer",
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    ffn=14336,
    vocab=128256,
    activation="swiglu",
    norm="rmsnorm",
    positions="rotary",
    tied_embeddings=False,
    bias=False,
)


def layer_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """Operations of one layer."""
    return block_of(Architecture(model, shard).layers[0], shard, gradient_bytes)


def embedding_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """Operations of the embedding."""
    return block_of(_end(Architecture(model, shard).first), shard, gradient_bytes)


def head_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """Operations of the head."""
    return block_of(_end(Architecture(model, shard).last), shard, gradient_bytes)


def _end(graph: Graph | None) -> Graph:
    assert graph is not None
    return graph


def layer_activation_bytes(model: Transformer, shard: Shard) -> float:
    """What one layer keeps from forward to backward [B]."""
    architecture = Architecture(model, shard)
    return float(architecture.held(architecture.layers[0]).kept)


def head_activation_bytes(model: Transformer, shard: Shard) -> float:
    """The same of the head [B]."""
    architecture = Architecture(model, shard)
    return float(architecture.held(architecture.last).kept)


def layer_parameters(model: Transformer, tensor: int = 1) -> int:
    """Parameters of one layer on one of `tensor` ranks."""
    return rank_parameters(model, tensor, 1, first=False, last=False)


def embedding_parameters(model: Transformer, tensor: int = 1) -> int:
    """The token table on one of `tensor` ranks."""
    return Architecture(model, Shard(tensor=tensor)).table.parameters


def copied_parameters(model: Transformer, sequence_length: int = 2048) -> int:
    """Weights that every tensor rank keeps whole: norms, tables of positions, biases behind sums over ranks."""
    architecture = Architecture(model, Shard(sequence_length=sequence_length))
    pieces = [architecture.first, *architecture.layers, architecture.last]
    graphs = [graph for graph in pieces if graph]
    return sum(
        graph.elements(weight)
        for graph in graphs
        for weight in graph.weights()
        if not any(map(graph.is_split, weight.axes))
    )


def rank_parameters(
    model: Transformer, tensor: int, layers: int, *, first: bool, last: bool, sequence_length: int = 2048
) -> int:
    """Parameters of a rank with some layers."""
    architecture = Architecture(model, Shard(tensor=tensor, sequence_length=sequence_length))
    return architecture.stage(range(layers), first=first, last=last).parameters


def total_parameters(model: Workload, sequence_length: int = 2048) -> int:
    """Parameters of the model."""
    return Architecture(model, Shard(sequence_length=sequence_length)).whole.parameters


def model_flops_per_token(model: Transformer, sequence_length: int, lora: LowRank | None = None) -> float:
    """FLOPs of both passes [FLOP]."""
    return Architecture(model, Shard(sequence_length=sequence_length, lora=lora)).flops[0] / sequence_length


def hardware_flops_per_token(
    model: Transformer,
    sequence_length: int,
    recompute: Literal[Recompute, "alternate", "keep_qkv"],
    *,
    stops: bool = False,
) -> float:
    """The same with what is computed again [FLOP]."""
    shard = Shard(sequence_length=sequence_length, recompute=recompute, stops_recompute=stops)
    return Architecture(model, shard).flops[1] / sequence_length


def stage_memory(
    model: Transformer,
    shard: Shard,
    training: Training,
    parallelism: Parallelism,
    software: Software,
    stage: int,
    layers: int,
    in_flight: int,
) -> dict[str, float]:
    """Peak bytes of a stage with so many layers, by part."""
    memory = StageMemory(Architecture(model, shard), training, parallelism, software)
    last = parallelism.pipeline - 1
    moments = memory.at((range(layers),), [[in_flight]], first=stage == 0, last=stage == last)
    return max(moments.values(), key=lambda parts: sum(parts.values()))


SHARD = Shard(tensor=8, microbatch=2, sequence_length=2048, precision="fp16")
BLOCKS: tuple[Build, ...] = (embedding_block, layer_block, head_block)


def with_(model: Transformer, **changes: object) -> Transformer:
    return model.model_copy(update=changes)


def everything(block: Block) -> tuple[Operation, ...]:
    return (*block.forward, *block.recompute, *block.backward)


def flops(operations: Iterable[Operation], kind: str = "matmul") -> float:
    return sum(operation.flops for operation in operations if operation.kind == kind)


def traffic(operations: Iterable[Operation]) -> float:
    return sum(operation.bytes_moved for operation in operations)


def collectives(operations: Iterable[Operation], group: str = "tensor") -> list[Operation]:
    return [operation for operation in operations if operation.group == group]


def wire_bytes(operations: Iterable[Operation], ranks: int, group: str = "tensor") -> float:
    """What one rank of a ring sends: all-reduce twice as much as either of its halves."""
    passes = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
    return sum(
        passes[str(operation.collective)] * operation.message * (ranks - 1) / ranks
        for operation in collectives(operations, group)
    )


def named(operations: Iterable[Operation], name: str) -> Operation:
    return next(operation for operation in operations if operation.name == name)
