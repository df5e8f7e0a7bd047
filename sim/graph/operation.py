"""The border between models and everything below: operations without hardware.

An `Operation` is one kernel (or one collective inside a layer) with its arithmetic and its
memory traffic for ONE rank. A `Block` is a forward pass, what must be done again before the
backward pass, and the backward pass of one piece of the model (embedding, layer, head).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import comb, prod
from typing import TYPE_CHECKING, Literal, NamedTuple

from sim.graph.kernels import ExpertKernels
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
Recompute = Literal["none", "selective", "alternate", "keep_qkv", "full"]
RecomputePart = Literal["norm", "activation", "up_projection", "attention", "feed_forward"]
ScalingKind = Literal["delayed", "current", "dynamic"]
GroupKind = Literal["tensor", "context", "ulysses", "expert", "expert_tensor", "data", "pipeline"]


class TokenRouting(NamedTuple):
    """How tokens choose: `chosen` of `experts`, from at most `limit` of `groups` where there are groups.

    imbalance: rows of the fullest rank over the mean.
    """

    experts: int
    chosen: int
    groups: int = 1
    limit: int = 1
    imbalance: float = 1.0

    def distinct(self, parts: int) -> float:
        """How many of `parts` equal shares of the experts a token meets in the mean, with uniform choice.

        Groups of a token are drawn first, then experts among theirs. A part is missed if none of its groups is drawn,
        or none of its experts in those that are (hypergeometric, both).
        """
        pool, size = self.limit * self.experts // self.groups, self.experts / self.groups
        if parts >= self.groups:  # each part lies in one group
            missed = _missed(pool, self.experts / parts, self.chosen)
            return parts * self.limit / self.groups * (1 - missed)
        own, met = self.groups // parts, 0.0
        for drawn in range(1, min(own, self.limit) + 1):
            likely = comb(own, drawn) * comb(self.groups - own, self.limit - drawn) / comb(self.groups, self.limit)
            met += likely * (1 - _missed(pool, drawn * size, self.chosen))
        return parts * met


def _missed(pool: int, own: float, chosen: int) -> float:
    """Chance that none of `chosen` experts of a pool is among `own` of them."""
    return prod(max(0.0, pool - own - drawn) / (pool - drawn) for drawn in range(chosen))


class Operation(NamedTuple):
    """One kernel of one rank, or one collective that this rank takes part in.

    matmul and attention: `batch` products of (m x k) by (k x n); flops = 2*batch*m*n*k unless the
    kernel does more or less (causal flash attention). bytes_moved is device memory traffic, read
    plus written [B]. elementwise: flops may be 0 (memory-bound). collective: `message` is the
    buffer in the convention of nccl-tests [B]: all_reduce, reduce_scatter and all_to_all: bytes
    held per rank before; all_gather: bytes held per rank after. With `routing` it is that of one copy of each token.
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
    waits: float = 0.0  # s that the device has nothing to do beside it: the host has to learn something first
    gain: float = 1.0  # of a product, rate over that of its dense form
    routing: TokenRouting | None = None  # of an all_to_all that sends one copy to each node and rank: of which experts
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
    ulysses: int = 1  # of the context ranks, those that exchange positions for heads
    expert: int = 1
    expert_tensor: int = 1
    sequence_parallel: bool = False
    microbatch: int = 1  # sequences
    sequence_length: int = 2048  # tokens, before context parallelism
    document_length: int | None = None  # tokens that attention sees; all if None
    precision: str = "bf16"
    recompute: Recompute | tuple[RecomputePart, ...] = "none"
    tensor_overlap: Literal["none", "backward", "full"] = "none"
    sums_partials: bool = False  # over ranks, by a kernel of its own
    fused_kernels: bool = True
    pads_vocabulary: int = 1  # to a multiple on each tensor rank
    fused_accumulation: bool = True  # of weight gradients, inside the product
    lora: LowRank | None = None  # adapters; all else is frozen
    sparse_gain: float = 0.0  # rate of products with 2:4 sparse weights over that of dense ones; 0: weights are dense
    pruned: float = 0.0  # share of the inner columns of feed-forward blocks that is gone
    fp8_scaling: ScalingKind = "delayed"
    cross_entropy: LossKind = "vocabulary_parallel"
    loss_chunks: int = 1  # parts of the logits, where the loss makes them in parts
    casts_weights: bool = False  # whole, in each pass (autocast)
    autocast: bool = False  # 32-bit weights and residual stream, products in 16 bit
    pointwise: Literal["native", "transformers", "written_out"] = "native"  # norms and activations: whose kernels
    joins_matrices: bool = True  # matrices with the same input are one product
    batch_first: bool = False  # collectives along the sequence copy
    keeps_gathered: bool = False  # inputs gathered along the sequence, for the weight gradient
    stops_recompute: bool = False  # before the last product of a layer
    fusion: Literal["none", "pointwise", "library", "epilogue"] = "none"  # of what follows a convolution
    channels_first: bool = False  # copies between layouts around convolutions on tensor cores
    recurrence: Literal["eager", "library", "persistent"] = "library"  # kernels of recurrent layers
    repeats_keys: bool = False  # keys and values are copied to every query head
    ring_attention: Literal["fused", "separate", "compiled"] = "fused"
    gather_copy: float = 0.0  # memory traffic per parameter of a gathered unit, forward [B]
    gather_copy_again: float = 0.0  # the same where it is gathered for the backward pass [B]
    gathers_narrow: bool = False  # matrices of layers are cast to 8 bit or less before they are gathered
    quantizes_gathers: bool = False  # matrices of layers travel as 8-bit integers, and are 16 bit again where they come
    reduce_copy: float = 0.0  # the same of its gradients, each backward pass [B]
    experts: ExpertKernels = field(default_factory=ExpertKernels)  # how the stack runs layers of experts

    @property
    def ring(self) -> int:
        """Context ranks that pass keys and values on."""
        return self.context // self.ulysses

    @property
    def recomputes_core(self) -> bool:
        """Whether the attention core runs again, and all else is kept or made anew by itself."""
        return self.recompute == "selective" or "attention" in self.recompute

    @property
    def divides_experts(self) -> bool:
        """Whether experts lie on ranks in another way than all other weights, so that their gradients do too."""
        return self.expert > 1 or self.expert_tensor != self.tensor
