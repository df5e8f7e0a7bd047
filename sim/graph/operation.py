"""The border between models and everything below: operations without hardware.

An `Operation` is one kernel (or one collective inside a layer) with its arithmetic and its
memory traffic for ONE rank. A `Block` is a forward pass, what must be done again before the
backward pass, and the backward pass of one piece of the model (embedding, layer, head).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from sim.phase import Phase as Phase  # of the border between models and what is below

if TYPE_CHECKING:
    from sim.graph.adapters import LowRank

OpKind = Literal["matmul", "attention", "elementwise", "collective"]
CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast"]
LossKind = Literal[
    "vocabulary_parallel",
    "eager",
    "compiled",
    "with_metrics",
    "eager_16bit",
    "eager_16bit_held",
    "transformers",
    "transformers_2023",
    "chunked",
    "liger",
]
GroupKind = Literal["tensor", "context", "expert", "data", "pipeline"]


class Operation(NamedTuple):
    """One kernel of one rank, or one collective that this rank takes part in.

    matmul and attention: `batch` products of (m x k) by (k x n); flops = 2*batch*m*n*k unless the
    kernel does more or less (causal flash attention). bytes_moved is device memory traffic, read
    plus written [B]. elementwise: flops may be 0 (memory-bound). collective: `message` is the
    buffer in the convention of nccl-tests [B]: all_reduce, reduce_scatter and all_to_all: bytes
    held per rank before; all_gather: bytes held per rank after.
    """

    name: str
    kind: OpKind
    flops: float = 0.0  # FLOP, multiply and add counted apart
    bytes_moved: float = 0.0  # B
    precision: str = "bf16"  # rate to look up in the accelerator's profile
    batch: int = 1
    m: int = 0
    n: int = 0
    k: int = 0
    kernels: int = 1  # kernel launches
    parts: int = 1  # kernels that divide it: a product along m, attention along the keys
    output_bytes: int = 2  # of a product, per element of its result
    masked: float = 1.0  # part of an attention kernel whose scores a causal mask cuts through
    seen: float = 0.5  # share of its keys that a row of an attention kernel sees on average
    collective: CollectiveKind | None = None
    group: GroupKind | None = None
    message: float = 0.0  # B
    hidden_by: int = 0  # a collective that runs beside the next `hidden_by` operations, then is waited for
    phase: Phase = Phase.FORWARD


@dataclass(frozen=True, slots=True)
class Block:
    """The work of one microbatch on one rank for one piece of the model, in issue order."""

    name: str  # "embedding", "layer", "head"
    forward: tuple[Operation, ...]
    recompute: tuple[Operation, ...]  # before the backward pass; empty without recomputation
    backward: tuple[Operation, ...]
    model_flops: float  # FLOP of forward and backward on this rank, recomputation excluded


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank holds of the model and of a microbatch."""

    tensor: int = 1
    context: int = 1
    expert: int = 1
    sequence_parallel: bool = False
    microbatch: int = 1  # sequences
    sequence_length: int = 2048  # tokens, before context parallelism
    document_length: int | None = None  # tokens that attention sees; all if None
    precision: str = "bf16"
    recompute: Literal["none", "selective", "alternate", "keep_qkv", "full"] = "none"
    tensor_overlap: Literal["none", "backward", "full"] = "none"
    sums_partials: bool = False  # over ranks, by a kernel of its own
    fused_kernels: bool = True
    pads_vocabulary: int = 1  # to a multiple on each tensor rank
    fused_accumulation: bool = True  # of weight gradients, inside the product
    lora: LowRank | None = None  # adapters; all else is frozen
    fp8_scaling: Literal["delayed", "current", "dynamic"] = "delayed"
    cross_entropy: LossKind = "vocabulary_parallel"
    loss_chunks: int = 1  # parts of the logits, where the loss makes them in parts
    casts_weights: bool = False  # whole, in each pass (autocast)
    autocast: bool = False  # 32-bit weights and residual stream, products in 16 bit
    pointwise: Literal["native", "transformers", "written_out"] = "native"  # norms and activations: whose kernels
    joins_matrices: bool = True  # matrices with the same input are one product
    batch_first: bool = False  # collectives along the sequence copy
    keeps_gathered: bool = False  # inputs gathered along the sequence, for the weight gradient
    stops_recompute: bool = False  # before the last product of a layer
    repeats_keys: bool = False  # keys and values are copied to every query head
    ring_attention: Literal["fused", "separate", "compiled"] = "fused"
    gather_copy: float = 0.0  # memory traffic per parameter of a gathered unit, each pass [B]
    reduce_copy: float = 0.0  # the same of its gradients, each backward pass [B]
