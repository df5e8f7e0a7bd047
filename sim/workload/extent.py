"""How much of a model and of a microbatch one rank works on.

An `Extent` is a `Transformer` seen through a `Shard`: every count is that of the fullest rank,
so what does not divide is rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.spec.records import LowRank, Transformer
from sim.workload.operation import Shard

ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 2}
GATED = ("swiglu", "geglu")


@dataclass(frozen=True, slots=True)
class Extent:
    """Local sizes of one rank for one microbatch. Counts, except where a unit is given."""

    model: Transformer
    shard: Shard
    gradient_bytes: int  # B per element of an accumulated weight gradient
    element: int  # B per element of an activation
    precision: str  # number format outside fp8 products: attention, head
    batch: int  # sequences
    queries: int  # positions whose rows this rank owns
    keys: int  # positions attended to: the whole sequence, or a document of it
    tokens: int  # rows of every matrix product
    rows: int  # rows of norms, dropout and residual; tokens/tensor under sequence parallelism
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int

    @property
    def query_width(self) -> int:
        """Columns of the queries, and of the attention output."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Columns of the keys; as many of the values."""
        return self.kv_heads * self.head_dim

    @property
    def held_key_width(self) -> int:
        """Columns of the keys as attention reads them."""
        return self.query_width if self.shard.repeats_keys else self.key_width

    @property
    def qkv_widths(self) -> tuple[int, int, int]:
        """Columns of queries, keys and values."""
        return self.query_width, self.key_width, self.key_width

    @property
    def ffn_widths(self) -> tuple[int, ...]:
        """Columns of the first feed-forward product; two matrices when gated."""
        return (self.ffn, self.ffn) if self.gated else (self.ffn,)

    @property
    def gated(self) -> bool:
        """The feed-forward block multiplies an activated by a plain projection."""
        return self.model.activation in GATED

    @property
    def flash(self) -> bool:
        """Scores never reach device memory."""
        return self.model.attention == "flash"

    @property
    def fused(self) -> bool:
        """Neighbouring elementwise kernels are one kernel."""
        return self.shard.fused_kernels

    @property
    def splits_sequence(self) -> bool:
        """Norms, dropout and residual are split over tensor ranks."""
        return self.shard.sequence_parallel and self.shard.tensor > 1

    @property
    def hidden_bytes(self) -> float:
        """The hidden state of all `tokens` rows [B]."""
        return float(self.element * self.tokens * self.hidden)

    @property
    def stream(self) -> int:
        """Bytes per element of the residual stream: under autocast embeddings are in 32 bit, and so are sums with them."""
        return 4 if self.shard.autocast else self.element

    @property
    def scores(self) -> float:
        """Elements of the attention scores of this rank."""
        return float(self.batch * self.heads * self.queries * self.keys)

    @property
    def frozen(self) -> bool:
        """Only adapters are trained."""
        return self.shard.lora is not None

    @property
    def trains_bias(self) -> bool:
        """Linear layers have a bias that needs a gradient."""
        return self.model.bias and not self.frozen

    @property
    def rank(self) -> int:
        """Inner width of an adapter."""
        return self.shard.lora.rank if self.shard.lora else 0

    def adapts(self, target: str) -> bool:
        """Whether the matrix has an adapter beside it."""
        return self.shard.lora is not None and target in self.shard.lora.targets

    @property
    def finds_scales(self) -> bool:
        """The scale of an fp8 tensor is found in the tensor itself."""
        return self.shard.fp8_scaling != "delayed"

    @property
    def scales_dynamically(self) -> bool:
        """So is that of weights, at each use."""
        return self.shard.fp8_scaling == "dynamic"

    @property
    def kept_input(self) -> int:
        """Bytes per element of what a product keeps for its weight gradient.

        Transformer Engine (pytorch/module/linear.py) keeps what it has cast to fp8; torchao, which casts again in
        the backward pass, and adapters keep 16 bit.
        """
        cast = self.shard.precision == "fp8" and not self.scales_dynamically and not self.frozen
        return 1 if cast else self.element

    def hides(self, phase: str) -> bool:
        """Tensor-parallel traffic of "forward" or "backward" runs beside products."""
        return self.shard.tensor_overlap in (("full",) if phase == "forward" else ("backward", "full"))


def share(count: int, ranks: int) -> int:
    """Part of `count` on the fullest of `ranks` ranks."""
    return -(-count // ranks)


def head_width(model: Transformer) -> int:
    """Columns of one attention head."""
    return model.head_dim or model.hidden // model.heads


def kv_head_count(model: Transformer) -> int:
    """Key and value heads of the whole model."""
    return model.kv_heads or model.heads


def element_bytes(precision: str) -> int:
    """Bytes of an activation or trained weight; fp8 keeps both in 16 bit."""
    return ELEMENT_BYTES[precision]


def weight_bytes(precision: str, lora: LowRank | None) -> int:
    """Bytes of a stored weight; frozen weights under fp8 need no 16-bit copy."""
    return 1 if lora and precision == "fp8" else ELEMENT_BYTES[precision]


def extent_of(model: Transformer, shard: Shard, gradient_bytes: int = 4) -> Extent:
    """The sizes `shard` leaves to one rank; key heads are copied when there are fewer than ranks."""
    queries = share(shard.sequence_length, shard.context)
    tokens = shard.microbatch * queries
    return Extent(
        model=model,
        shard=shard,
        gradient_bytes=gradient_bytes,
        element=element_bytes(shard.precision),
        precision="bf16" if shard.precision == "fp8" else shard.precision,
        batch=shard.microbatch,
        queries=queries,
        keys=shard.document_length or shard.sequence_length,
        tokens=tokens,
        rows=share(tokens, shard.tensor) if shard.sequence_parallel else tokens,
        hidden=model.hidden,
        heads=share(model.heads, shard.tensor),
        kv_heads=share(kv_head_count(model), shard.tensor),
        head_dim=head_width(model),
        ffn=share(model.ffn, shard.tensor),
        vocab=shard.pads_vocabulary * share(model.vocab, shard.tensor * shard.pads_vocabulary),
    )
