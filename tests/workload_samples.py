"""Two models, a shard and the sums that tests of the workload layer share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from sim.spec.records import Transformer
from sim.workload.operation import Block, Operation, Shard
from sim.workload.transformer import embedding_block, head_block, layer_block

Recompute = Literal["none", "selective", "full"]
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
