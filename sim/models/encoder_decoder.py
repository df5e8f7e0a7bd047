"""Encoder-decoders of the T5 kind (Raffel 2019, arXiv 1910.10683): the decoder attends to what the encoder made.

Layers come in the order of both stacks. The encoder's last layer ends with the norm of its stack; what it makes goes
to all layers of the decoder, along with the decoder's stream where a pipeline is cut. Scores have a bias by distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding, indivisible
from sim.graph.attention import AttentionSpan
from sim.graph.ends import CHUNKED, CrossEntropy, Lookup
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import Dropout
from sim.graph.products import Linear
from sim.graph.relative import RelativeBias
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
from sim.units import Count

ENCODER = AttentionSpan(causal=False, bias=True)
DECODER = AttentionSpan(bias=True)
CROSS = AttentionSpan(keys="seen", causal=False)


class EncoderDecoder(Workload):
    """An encoder and a decoder of the T5 kind; a sample is an input and a target sequence."""

    kind: Literal["encoder_decoder"]
    name: Name = Field(default="inline", description="the name it is found by")
    encoder_layers: Count = Field(ge=1, le=10_000, description="layers of the encoder")
    decoder_layers: Count = Field(
        ge=1, le=10_000, description="layers of the decoder, each with attention to the encoder"
    )
    hidden: Count = Field(ge=1, le=10_000_000, description="width of the residual stream")
    heads: Count = Field(ge=1, le=100_000, description="attention heads")
    head_dim: Count = Field(ge=1, le=100_000, description="width of a head")
    ffn: Count = Field(ge=1, le=100_000_000, description="inner width of the feed-forward block")
    vocab: Count = Field(ge=1, le=1_000_000_000, description="vocabulary entries")
    buckets: Count = Field(default=32, ge=1, le=1_000_000, description="distances that have a bias of their own")
    target_length: Count = Field(
        default=114,
        ge=1,
        le=1_000_000_000,
        description="tokens of a target; training.sequence_length has those of an input",
    )
    activation: Literal["relu", "gelu", "geglu", "swiglu"] = Field(
        default="relu", description="feed-forward activation; geglu and swiglu have a third matrix"
    )
    tied_embeddings: bool = Field(default=True, description="input and output embedding share weights")
    attention: Literal["flash", "unfused"] = Field(
        default="unfused", description="fused attention, or scores written to memory"
    )
    dropout: bool = Field(
        default=True, description="dropout of scores, activations, sublayers and both ends of a stack"
    )
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    @property
    @override
    def layers(self) -> int:
        return self.encoder_layers + self.decoder_layers

    @property
    @override
    def widths(self) -> tuple[int, int]:
        return self.hidden, self.head_dim

    @property
    @override
    def ties(self) -> bool:
        return self.tied_embeddings

    @property
    @override
    def fuses_attention(self) -> bool:
        return self.attention == "flash"

    @property
    @override
    def line(self) -> str:
        layers = f"{self.encoder_layers} + {self.decoder_layers} layers"
        shape = f"hidden {self.hidden}, {self.heads} heads, {self.activation}"
        return f"encoder-decoder of {layers}, {shape}, vocabulary {self.vocab}, targets of {self.target_length}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Both embeddings, layers of the encoder and of the decoder, head."""
        sizes = sizes_of(self, shard)
        last = encoder_layer(self, shard, sizes, last=True)
        encoder = [encoder_layer(self, shard, sizes, last=False)] * (self.encoder_layers - 1)
        decoder = [decoder_layer(self, shard, sizes, first=False)] * (self.decoder_layers - 1)
        layers = (*encoder, last, decoder_layer(self, shard, sizes, first=True), *decoder)
        return Pieces(embedding(self, shard, sizes), layers, head(self, shard, sizes))

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[EncoderDecoder, Divided, Trained], Iterator[Problem]]


def check_matrices_divide(model: EncoderDecoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks share heads and feed-forward width evenly, and the rows of targets where these are split."""
    for name in ("heads", "ffn"):
        if getattr(model, name) % plan.tensor:
            yield indivisible("parallelism.tensor", name, getattr(model, name), "tensor", plan.tensor)
    if plan.sequence_parallel and model.target_length % plan.tensor:
        message = f"target_length {model.target_length} is no multiple of tensor {plan.tensor}"
        yield finding("parallelism.sequence_parallel", message, "set it to false, or pad workload.target_length")


def check_sequence_is_whole(model: EncoderDecoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Ring attention is written for causal models, whose ranks share the work evenly by halves."""
    if plan.context > 1:
        message = f"context {plan.context}: inputs and targets of an encoder-decoder lie on one rank"
        yield finding("parallelism.context", message, "set context to 1")


def check_attention_of_documents(model: EncoderDecoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Targets belong to whole inputs."""
    if training.document_length is not None:
        message = "inputs of several documents with targets of their own are not modelled"
        yield finding("training.document_length", message, "leave it out")


def check_discipline(model: EncoderDecoder, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are recomputed whole, or their attention is."""
    if training.recompute not in ("none", "selective", "full"):
        message = f"{training.recompute} recomputation is one of decoders"
        yield finding("training.recompute", message, "use none, selective or full")


RULES: tuple[Rule, ...] = (
    check_matrices_divide,
    check_sequence_is_whole,
    check_attention_of_documents,
    check_discipline,
)


def sizes_of(model: EncoderDecoder, shard: Shard) -> Sizes:
    """What `shard` leaves to the fullest rank, with the positions of inputs as queries and keys."""
    batch, length = shard.microbatch, shard.sequence_length
    shape = transformer_sizes(shard, hidden=model.hidden, heads=model.heads, width=model.head_dim, ffn=model.ffn)
    rows = row_sizes(shard, batch * length) | row_sizes(shard, batch * model.target_length, "targets", "target rows")
    return (
        shape
        | rows
        | {
            "queries": length,
            "keys": length,
            "seen": length,
            "target positions": model.target_length,
            "buckets": model.buckets,
            "loss rows": share(batch * model.target_length, shard.loss_chunks),
            "vocabulary": shard.pads_vocabulary * share(model.vocab, shard.tensor * shard.pads_vocabulary),
        }
    )


def _style(model: EncoderDecoder) -> Style:
    return Style(
        "rmsnorm",
        model.activation,
        bias=False,
        dropout=model.dropout,
        fused=model.attention == "flash",
        inner_dropout=model.dropout,
    )


def encoder_layer(model: EncoderDecoder, shard: Shard, sizes: Sizes, *, last: bool) -> Graph:
    """Attention among inputs and feed-forward block; the last one ends with the norm of the stack."""
    x = Tensor("encoder layer input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("encoder layer", x, sizes, SPLIT, repeated=True)
    y = feed_forward_sublayer(graph, _style(model), attention_sublayer(graph, _style(model), x, ENCODER))
    if last:
        _end_of_stack(graph, model, "encoder norm", y)
    return graph


def decoder_layer(model: EncoderDecoder, shard: Shard, sizes: Sizes, *, first: bool) -> Graph:
    """Attention among targets, attention to inputs, feed-forward block; the first is handed what the encoder made."""
    width = element_bytes(shard.precision)
    x = Tensor("decoder layer input", ("targets", "hidden"), width)
    seen = Tensor("encoder output", ("tokens", "hidden"), width)
    positions = dict.fromkeys(("queries", "keys"), sizes["target positions"])
    graph = Graph("decoder layer", seen if first else x, sizes | positions, SPLIT, repeated=True)
    graph.carried = () if first else (seen,)
    style = _style(model)
    y = attention_sublayer(graph, style, x, DECODER)
    y = attention_sublayer(graph, style, y, CROSS, name="cross attention", seen=seen, shared=not first)
    feed_forward_sublayer(graph, style, y)
    return graph


def embedding(model: EncoderDecoder, shard: Shard, sizes: Sizes) -> Graph:
    """Lookup of targets and inputs in one table, and the bias of the scores of both stacks."""
    width = element_bytes(shard.precision)
    inputs, targets = (Tensor(name, (name,), 8, "index") for name in ("tokens", "targets"))
    table = Tensor("token table", ("vocabulary", "hidden"), width, "weight")
    graph = Graph("embedding", inputs, sizes, SPLIT)
    for name, read in (("target embedding", targets), ("embedding", inputs)):
        x = graph.add(Lookup(name, read, table)).result
        if read is targets:
            graph.add(RelativeBias("encoder bias", "queries", "buckets", width))
            graph.add(RelativeBias("decoder bias", "target positions", "buckets", width))
        if model.dropout:
            graph.add(Dropout(f"{name} dropout", x))
    return graph


def head(model: EncoderDecoder, shard: Shard, sizes: Sizes) -> Graph:
    """Norm of the decoder, product with the vocabulary, and cross-entropy of the targets."""
    x = Tensor("head input", ("targets", "hidden"), element_bytes(shard.precision))
    graph = Graph("head", x, sizes, SPLIT)
    normed = _end_of_stack(graph, model, "decoder norm", x)
    product = graph.add(Linear("head", normed, ("vocabulary",), wide=True))
    if model.tied_embeddings:
        product.weights = ()  # the token table, which stands in the embedding
    if shard.cross_entropy in CHUNKED:
        product.result.axes = ("loss rows", "vocabulary")
    graph.add(CrossEntropy(product.result, "targets"))
    return graph


def _end_of_stack(graph: Graph, model: EncoderDecoder, name: str, x: Tensor) -> Tensor:
    normed = graph.add(Norm(name, x, "rmsnorm")).result
    return graph.add(Dropout(f"{name} dropout", normed)).result if model.dropout else normed
