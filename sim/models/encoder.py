"""Encoders of the BERT kind (Devlin 2018, arXiv 1810.04805): norms behind residual sums, masked positions predicted.

Only the positions that are predicted go through the head. Padding is computed like tokens, or left out in attention
too where sequences lie one behind the other without it (MLPerf), or the longest of a batch ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding, indivisible
from sim.graph.attention import AttentionSpan
from sim.graph.ends import CHUNKED, CrossEntropy, Lookup
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import Activation, Dropout, Positions, ProductBias
from sim.graph.products import Linear
from sim.graph.rows import SelectedRows
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload, share
from sim.models.sublayers import (
    SPLIT,
    Style,
    attention_sublayer,
    feed_forward_sublayer,
    row_sizes,
    transformer_sizes,
)
from sim.record import Name
from sim.units import Count, Fraction

SPAN = AttentionSpan(causal=False)


class Encoder(Workload):
    """A bidirectional encoder of the BERT kind with masked and next-sentence prediction."""

    kind: Literal["encoder"]
    name: Name = Field(default="inline", description="the name it is found by")
    layers: Count = Field(ge=1, le=10_000, description="transformer layers")
    hidden: Count = Field(ge=1, le=10_000_000, description="width of the residual stream")
    heads: Count = Field(ge=1, le=100_000, description="attention heads")
    ffn: Count = Field(ge=1, le=100_000_000, description="inner width of the feed-forward block")
    vocab: Count = Field(ge=1, le=1_000_000_000, description="vocabulary entries")
    segments: Count = Field(
        default=2, ge=0, le=1_000_000, description="rows of the table of segments; 0: no such table"
    )
    max_positions: Count = Field(default=512, ge=1, le=1_000_000_000, description="rows of the position table")
    activation: Literal["gelu", "relu"] = Field(default="gelu", description="feed-forward activation")
    masked: Fraction = Field(
        default=0.15, gt=0, description="share of the positions that are predicted; no others go through the head"
    )
    next_sentence: bool = Field(default=True, description="the first position also tells whether sentences follow")
    computed: Fraction = Field(
        default=1.0,
        gt=0,
        description="mean share of the positions of a sequence that are computed: less than 1 where padding is left "
        "out, or batches end with their longest sequence; training.document_length then is the sum of squared lengths "
        "over that of lengths",
    )
    attention: Literal["flash", "unfused"] = Field(
        default="flash", description="fused attention, or scores written to memory"
    )
    dropout: bool = Field(default=True, description="dropout of scores, sublayers and the embedding")
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    @property
    @override
    def widths(self) -> tuple[int, int]:
        return self.hidden, self.hidden // self.heads

    @property
    @override
    def ties(self) -> bool:
        return True

    @property
    @override
    def fuses_attention(self) -> bool:
        return self.attention == "flash"

    @property
    @override
    def line(self) -> str:
        padding = f", {self.computed:.0%} of positions computed" if self.computed < 1 else ""
        shape = f"{self.layers} layers, hidden {self.hidden}, {self.heads} heads"
        return f"encoder of {shape}, vocabulary {self.vocab}, {self.masked:.0%} masked{padding}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Embedding with its norm, equal layers, and both heads with their losses."""
        sizes = sizes_of(self, shard)
        layers = (layer(self, shard, sizes),) * self.layers
        return Pieces(embedding(self, shard, sizes), layers, head(self, shard, sizes))

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[Encoder, Divided, Trained], Iterator[Problem]]


def check_matrices_divide(model: Encoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks share heads and feed-forward width evenly."""
    for name in ("heads", "ffn"):
        if getattr(model, name) % plan.tensor:
            yield indivisible("parallelism.tensor", name, getattr(model, name), "tensor", plan.tensor)


def check_head_shape(model: Encoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Heads make up the hidden width."""
    if model.hidden % model.heads:
        message = f"heads {model.heads} do not divide hidden {model.hidden}"
        yield finding("workload.heads", message, "change one of them")


def check_positions(model: Encoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """The position table has a row for each token of a sequence."""
    length = training.sequence_length or 0
    if length > model.max_positions:
        message = f"sequence_length {length} is more than max_positions {model.max_positions} of {model.name}"
        yield finding("training.sequence_length", message, "shorten it, or set workload.max_positions")


def check_sequence_is_whole(model: Encoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Ring attention is written for causal models, whose ranks share the work evenly by halves."""
    if plan.context > 1:
        message = f"context {plan.context}: each sequence of an encoder lies on one rank"
        yield finding("parallelism.context", message, "set context to 1")


def check_attention_of_documents(model: Encoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Only a fused kernel skips the scores between documents of a full sequence."""
    if model.attention != "flash" and training.document_length is not None and model.computed == 1:
        message = "unfused attention computes all scores and masks them"
        yield finding("training.document_length", message, "use workload.attention flash, or leave it out")


def check_discipline(model: Encoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are recomputed whole, or their attention is."""
    if training.recompute not in ("none", "selective", "full"):
        message = f"{training.recompute} recomputation is one of decoders"
        yield finding("training.recompute", message, "use none, selective or full")


def check_adapters(model: Encoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """The heads of an encoder are trained, and adapters freeze them."""
    if training.lora:
        yield finding("training.lora", f"{model.name} is trained whole: its heads are new", "leave it out")


RULES: tuple[Rule, ...] = (
    check_matrices_divide,
    check_head_shape,
    check_positions,
    check_sequence_is_whole,
    check_attention_of_documents,
    check_discipline,
    check_adapters,
)


def sizes_of(model: Encoder, shard: Shard) -> Sizes:
    """What `shard` leaves to the fullest rank; where padding is left out samples have fewer rows."""
    length, batch = shard.sequence_length, shard.microbatch
    tokens = ceil(batch * length * model.computed)
    masked = batch * ceil(model.masked * length * model.computed)
    queries = ceil(length * model.computed)
    shape = transformer_sizes(
        shard, hidden=model.hidden, heads=model.heads, width=model.hidden // model.heads, ffn=model.ffn
    )
    return (
        shape
        | row_sizes(shard, tokens)
        | row_sizes(shard, masked, "masked", "masked rows")
        | {
            "queries": queries,
            "keys": shard.document_length or queries,
            "loss rows": share(masked, shard.loss_chunks),
            "vocabulary": shard.pads_vocabulary * share(model.vocab, shard.tensor * shard.pads_vocabulary),
            "positions": model.max_positions,
            "segments": model.segments,
        }
    )


def _style(model: Encoder) -> Style:
    fused = model.attention == "flash"
    return Style("layernorm", model.activation, bias=True, dropout=model.dropout, fused=fused, before=False)


def layer(model: Encoder, shard: Shard, sizes: Sizes) -> Graph:
    """Attention and feed-forward block, each with a residual sum and a norm behind it."""
    x = Tensor("layer input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("layer", x, sizes, SPLIT, repeated=True)
    feed_forward_sublayer(graph, _style(model), attention_sublayer(graph, _style(model), x, SPAN))
    return graph


def embedding(model: Encoder, shard: Shard, sizes: Sizes) -> Graph:
    """Lookup of tokens, positions and segments, a norm and dropout."""
    width = element_bytes(shard.precision)
    tokens = Tensor("tokens", ("tokens",), 8, "index")
    graph = Graph("embedding", tokens, sizes, SPLIT)
    x = graph.add(Lookup("embedding", tokens, Tensor("token table", ("vocabulary", "hidden"), width, "weight"))).result
    for name, rows in (("positions", "positions"), ("segments", "segments")):
        if sizes[rows]:
            x = graph.add(Positions(name, x, Tensor(f"{name} table", (rows, "hidden"), width, "weight"))).result
    x = graph.add(Norm("embedding norm", x, "layernorm")).result
    if model.dropout:
        graph.add(Dropout("embedding dropout", x))
    return graph


def head(model: Encoder, shard: Shard, sizes: Sizes) -> Graph:
    """Masked positions: dense, norm, product with the token table; the first position: pooler and two classes."""
    x = Tensor("head input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("head", x, sizes, SPLIT)
    if model.next_sentence:
        first = graph.add(SelectedRows("first position", x, "batch")).result
        pooled = graph.add(Linear("pooler", first, ("hidden",), bias=True)).writes
        pooled = graph.add(Activation("pooler", pooled, "tanh", bias=True)).writes
        graph.add(CrossEntropy(graph.add(Linear("next sentence", pooled[0], (2,), bias=True)).result, rows=None))
    masked = graph.add(SelectedRows("masked positions", x, "masked")).result
    dense = graph.add(Linear("masked dense", masked, ("hidden",), bias=True)).writes
    dense = graph.add(Activation("masked activation", dense, model.activation, bias=True)).writes
    normed = graph.add(Norm("masked norm", dense[0], "layernorm")).result
    product = graph.add(Linear("head", normed, ("vocabulary",), bias=True, wide=True))
    product.weights = product.weights[1:]  # the token table stands in the embedding
    graph.add(ProductBias("head bias", product.writes))
    if shard.cross_entropy in CHUNKED:
        product.result.axes = ("loss rows", "vocabulary")
    graph.add(CrossEntropy(product.result, "masked"))
    return graph
