"""Dense decoder-only transformers of the GPT and Llama kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding, indivisible
from sim.graph.attention import Attention
from sim.graph.ends import CHUNKED, CrossEntropy, Lookup
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import GATED, Activation, Dropout, Positions, ProductBias, ResidualSum, Rotation
from sim.graph.products import Linear
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload, share
from sim.record import Name
from sim.units import Count

SPLIT = frozenset({"heads", "query", "key", "ffn", "vocabulary"})  # axes that tensor ranks share


class Transformer(Workload):
    """A dense decoder-only transformer of the GPT or Llama kind."""

    kind: Literal["transformer"]
    name: Name = Field(default="inline", description="the name it is found by")
    layers: Count = Field(ge=1, le=10_000, description="transformer layers")
    hidden: Count = Field(ge=1, le=10_000_000, description="width of the residual stream")
    heads: Count = Field(ge=1, le=100_000, description="query heads")
    kv_heads: Count | None = Field(
        default=None, ge=1, le=100_000, description="key and value heads; heads if absent (1: multi-query)"
    )
    head_dim: Count | None = Field(
        default=None, ge=1, le=100_000, description="width of a head; hidden/heads if absent"
    )
    ffn: Count = Field(ge=1, le=100_000_000, description="inner width of the feed-forward block")
    vocab: Count = Field(ge=1, le=1_000_000_000, description="vocabulary entries, as padded")
    activation: Literal["gelu", "swiglu", "geglu", "relu", "squared_relu"] = Field(
        default="gelu", description="feed-forward activation; swiglu and geglu have a third matrix"
    )
    norm: Literal["layernorm", "rmsnorm"] = Field(default="layernorm", description="normalisation")
    positions: Literal["learned", "rotary", "alibi", "none"] = Field(default="learned", description="position encoding")
    max_positions: Count | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="rows of a learned position table; the sequence length if absent",
    )
    tied_embeddings: bool = Field(default=True, description="input and output embedding share weights")
    attention: Literal["flash", "unfused"] = Field(
        default="flash", description="fused attention, or scores written to memory"
    )
    bias: bool = Field(default=True, description="linear layers have a bias")
    dropout: bool = Field(default=False, description="dropout after attention and feed-forward")
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    @property
    @override
    def widths(self) -> tuple[int, int]:
        return self.hidden, self.head_dim or self.hidden // self.heads

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
        heads = f"{self.heads} heads" + (f" ({self.kv_heads} key-value)" if self.kv_heads else "")
        return f"{self.layers} layers, hidden {self.hidden}, {heads}, {self.activation}, vocabulary {self.vocab}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Embedding, equal layers, and a head with its loss."""
        sizes = sizes_of(self, shard)
        layers = (layer(self, shard, sizes),) * self.layers
        return Pieces(embedding(self, shard, sizes), layers, head(self, shard, sizes))

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[Transformer, Divided, Trained], Iterator[Problem]]


def check_heads_divide(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks share the heads evenly; more ranks than key-value heads hold copies of them."""
    kv_heads, tensor = model.kv_heads or model.heads, plan.tensor
    if model.heads % tensor:
        yield indivisible("parallelism.tensor", "heads", model.heads, "tensor", tensor)
    elif kv_heads % tensor and tensor % kv_heads:
        yield indivisible("parallelism.tensor", "kv_heads", kv_heads, "tensor", tensor)


def check_matrices_divide(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks share the feed-forward width evenly; a vocabulary is padded instead."""
    if model.ffn % plan.tensor:
        yield indivisible("parallelism.tensor", "ffn", model.ffn, "tensor", plan.tensor)


def check_head_shape(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Heads make up the hidden width, and query heads share key-value heads evenly."""
    if model.head_dim is None and model.hidden % model.heads:
        way_out = "give head_dim, or change one of them"
        yield finding("workload.heads", f"heads {model.heads} do not divide hidden {model.hidden}", way_out)
    if model.kv_heads and model.heads % model.kv_heads:
        message = f"kv_heads {model.kv_heads} do not divide heads {model.heads}"
        yield finding("workload.kv_heads", message, "each group of query heads shares one")


def check_attention_of_documents(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Only a fused kernel skips the scores between documents of a sequence."""
    if training.document_length is not None and model.attention != "flash":
        message = "unfused attention computes all scores and masks them"
        yield finding("training.document_length", message, "use workload.attention flash, or leave it out")


def check_positions(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A learned position table has a row for each token of a sequence."""
    length = training.sequence_length or 0
    if model.positions == "learned" and model.max_positions and model.max_positions < length:
        message = f"sequence_length {length} is more than max_positions {model.max_positions} of {model.name}"
        yield finding("training.sequence_length", message, "shorten it, or use another position encoding")


def check_adapters_are_narrow(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """An adapter is narrower than the hidden state."""
    if training.lora and training.lora.rank >= model.hidden:
        message = f"rank {training.lora.rank} is no less than hidden {model.hidden}"
        yield finding("training.lora.rank", message, "an adapter saves nothing then; 8 to 64 is usual")


RULES: tuple[Rule, ...] = (
    check_heads_divide,
    check_matrices_divide,
    check_head_shape,
    check_attention_of_documents,
    check_positions,
    check_adapters_are_narrow,
)


def sizes_of(model: Transformer, shard: Shard) -> Sizes:
    """What `shard` leaves to the fullest rank; key heads are copied when there are fewer than ranks."""
    tensor, width = shard.tensor, model.head_dim or model.hidden // model.heads
    queries = share(shard.sequence_length, shard.context)
    tokens, heads = shard.microbatch * queries, share(model.heads, tensor)
    return {
        "batch": shard.microbatch,
        "queries": queries,
        "keys": shard.document_length or shard.sequence_length,
        "tokens": tokens,
        "loss rows": share(tokens, shard.loss_chunks),
        "rows": share(tokens, tensor) if shard.sequence_parallel else tokens,
        "hidden": model.hidden,
        "heads": heads,
        "width": width,
        "query": heads * width,
        "key": share(model.kv_heads or model.heads, tensor) * width,
        "ffn": share(model.ffn, tensor),
        "vocabulary": shard.pads_vocabulary * share(model.vocab, tensor * shard.pads_vocabulary),
        "positions": model.max_positions or shard.sequence_length,
    }


def layer(model: Transformer, shard: Shard, sizes: Sizes) -> Graph:
    """Attention and feed-forward block, each with a norm before and a residual behind."""
    x = Tensor("layer input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("layer", x, sizes, SPLIT, repeated=True)
    feed_forward(graph, model, attention(graph, model, x))
    return graph


def attention(graph: Graph, model: Transformer, x: Tensor) -> Tensor:
    """The residual stream behind attention."""
    add, bias = graph.add, model.bias
    normed = add(Norm("attention norm", x, model.norm)).result
    queries, keys, values = add(Linear("qkv", normed, ("query", "key", "key"), bias=bias)).writes
    if bias:
        add(ProductBias("qkv bias", (queries, keys, values)))
    if model.positions == "rotary":
        add(Rotation(queries, keys))
    fused = model.attention == "flash"
    context = add(Attention(queries, keys, values, fused=fused, dropout=model.dropout)).result
    output = add(Linear("attention output", context, ("hidden",), bias=bias)).result
    return add(ResidualSum("attention", output, x, bias=bias, dropout=model.dropout)).result


def feed_forward(graph: Graph, model: Transformer, x: Tensor) -> Tensor:
    """The residual stream behind the feed-forward block; two matrices up when gated."""
    add, bias = graph.add, model.bias
    normed = add(Norm("feed-forward norm", x, model.norm)).result
    columns = ("ffn", "ffn") if model.activation in GATED else ("ffn",)
    inner = add(Linear("feed-forward up", normed, columns, bias=bias)).writes
    activated = add(Activation("activation", inner, model.activation, bias=bias)).result
    output = add(Linear("feed-forward down", activated, ("hidden",), bias=bias)).result
    return add(ResidualSum("feed-forward", output, x, bias=bias, dropout=model.dropout)).result


def embedding(model: Transformer, shard: Shard, sizes: Sizes) -> Graph:
    """Token lookup, learned positions and dropout; no matrix product, so no model FLOPs."""
    width = element_bytes(shard.precision)
    tokens = Tensor("tokens", ("tokens",), 8, "index")
    graph = Graph("embedding", tokens, sizes, SPLIT)
    x = graph.add(Lookup("embedding", tokens, Tensor("token table", ("vocabulary", "hidden"), width, "weight"))).result
    if model.positions == "learned":
        table = Tensor("position table", ("positions", "hidden"), width, "weight")
        x = graph.add(Positions("positions", x, table)).result
    if model.dropout:
        graph.add(Dropout("embedding dropout", x))
    return graph


def head(model: Transformer, shard: Shard, sizes: Sizes) -> Graph:
    """Final norm, output product and cross-entropy; the product stays in 16 bit under fp8."""
    x = Tensor("head input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("head", x, sizes, SPLIT)
    normed = graph.add(Norm("final norm", x, model.norm)).result
    product = graph.add(Linear("head", normed, ("vocabulary",), wide=True))
    if model.tied_embeddings:
        product.weights = ()  # the token table, which stands in the embedding
    if shard.cross_entropy in CHUNKED:
        product.result.axes = ("loss rows", "vocabulary")
    graph.add(CrossEntropy(product.result))
    return graph
