"""Decoder-only transformers of the GPT and Llama kind, dense or with what `experts.py` adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding, indivisible
from sim.graph.attention import Attention
from sim.graph.ends import CHUNKED, CrossEntropy, Lookup
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.latent import HeadNorm, Join
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import GATED, Activation, Dropout, Positions, ProductBias, ResidualSum, Rotation
from sim.graph.products import Linear
from sim.graph.work import element_bytes
from sim.models.experts import (
    EXPERT_RULES,
    ExpertBlock,
    Latent,
    Mixture,
    expert_sizes,
    latent_queries_and_keys,
    latent_sizes,
)
from sim.models.family import Divided, Pieces, Trained, Workload, share
from sim.record import Name
from sim.units import Count

SPLIT = frozenset(
    {"heads", "query", "key", "own key", "value", "ffn", "shared ffn", "vocabulary"}
)  # axes that tensor ranks share


class Transformer(Workload):
    """A decoder-only transformer of the GPT or Llama kind, dense or with layers of experts."""

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
    attention_bias: bool = Field(default=False, description="products of attention have a bias where others have none")
    head_norms: bool = Field(default=False, description="queries and keys are normed head by head (RMS norm)")
    window: Count | None = Field(
        default=None, ge=1, le=1_000_000_000, description="tokens that attention looks back on; all if absent"
    )
    full_every: Count | None = Field(
        default=None, ge=1, le=10_000, description="every n-th layer looks back on all tokens; none if absent"
    )
    predicted_tokens: Count = Field(
        default=0,
        ge=0,
        le=16,
        description="tokens beyond the next that are predicted (multi-token prediction), each by a layer more and the "
        "same head",
    )
    moe: Mixture | None = Field(default=None, description="layers of experts; dense if absent")
    mla: Latent | None = Field(default=None, description="latent attention (MLA); plain heads if absent")
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    @property
    @override
    def widths(self) -> tuple[int, int]:
        return self.hidden, self.mla.width if self.mla else self.head_dim or self.hidden // self.heads

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
        beside = [f"{self.moe.top_k} of {self.moe.experts} experts"] if self.moe else []
        parts = [f"{self.layers} layers, hidden {self.hidden}, {heads}", *beside, self.activation]
        return ", ".join([*parts, f"vocabulary {self.vocab}"])

    @property
    @override
    def experts(self) -> int:
        return self.moe.experts if self.moe else 0

    @property
    @override
    def resting_share(self) -> float:
        return 1 - self.moe.top_k / self.moe.experts if self.moe else 0.0

    @property
    @override
    def imbalance(self) -> float:
        return self.moe.imbalance if self.moe else 1.0

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Embedding, layers, of which equal ones are one graph, and a head with its loss."""
        sizes = sizes_of(self, shard)
        kinds = [self.layer_kind(number) for number in range(self.layers)]
        graphs = {kind: layer(self, shard, sizes, *kind) for kind in dict.fromkeys(kinds)}
        return Pieces(embedding(self, shard, sizes), [graphs[kind] for kind in kinds], head(self, shard, sizes))

    def layer_kind(self, number: int) -> tuple[bool, bool]:
        """Whether a layer, counted from 0, has experts, and whether its attention has a window."""
        full = self.window is None or (self.full_every is not None and (number + 1) % self.full_every == 0)
        return self.moe is not None and self.moe.has_experts(number), not full

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[Transformer, Divided, Trained], Iterator[Problem]]


def check_heads_divide(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks share the heads evenly; more ranks than key-value heads hold copies of them."""
    kv_heads, tensor = model.heads if model.mla else model.kv_heads or model.heads, plan.tensor
    if model.heads % tensor:
        yield indivisible("parallelism.tensor", "heads", model.heads, "tensor", tensor)
    elif kv_heads % tensor and tensor % kv_heads:
        yield indivisible("parallelism.tensor", "kv_heads", kv_heads, "tensor", tensor)


def check_heads_exchanged(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Ranks that exchange positions for heads have as many heads each, and attention is one kernel."""
    kv_heads = model.heads if model.mla else model.kv_heads or model.heads
    if plan.ulysses > 1 and model.attention != "flash":
        yield finding("parallelism.ulysses", "unfused attention exchanges no heads", "use workload.attention flash")
    for name, heads in (("heads", model.heads), ("kv_heads", kv_heads)):
        each = max(1, heads // plan.tensor)
        if each % plan.ulysses:
            yield indivisible("parallelism.ulysses", f"{name} of a rank", each, "ulysses", plan.ulysses)
            return


def check_matrices_divide(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks share the feed-forward width evenly; a vocabulary is padded instead."""
    if model.ffn % plan.tensor:
        yield indivisible("parallelism.tensor", "ffn", model.ffn, "tensor", plan.tensor)


def check_head_shape(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Heads make up the hidden width, and query heads share key-value heads evenly."""
    if model.head_dim is None and model.mla is None and model.hidden % model.heads:
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
    check_heads_exchanged,
    check_matrices_divide,
    check_head_shape,
    check_attention_of_documents,
    check_positions,
    check_adapters_are_narrow,
    *EXPERT_RULES,
)


def sizes_of(model: Transformer, shard: Shard) -> Sizes:
    """What `shard` leaves to the fullest rank; key heads are copied when there are fewer than ranks."""
    tensor, width = shard.tensor, model.head_dim or max(1, model.hidden // model.heads)
    queries = share(shard.sequence_length, shard.context)
    tokens, heads = shard.microbatch * queries, share(model.heads, tensor)
    rows = share(tokens, tensor) if shard.sequence_parallel else tokens
    return {
        "batch": shard.microbatch,
        "queries": queries,
        "keys": shard.document_length or shard.sequence_length,
        "tokens": tokens,
        "loss rows": share(tokens, shard.loss_chunks),
        "rows": rows,
        "hidden": model.hidden,
        "heads": heads,
        "width": width,
        "query": heads * width,
        "key": share(model.kv_heads or model.heads, tensor) * width,
        "ffn": share(model.ffn, tensor),
        "vocabulary": shard.pads_vocabulary * share(model.vocab, tensor * shard.pads_vocabulary),
        "positions": model.max_positions or shard.sequence_length,
        **(latent_sizes(model.mla, heads) if model.mla else {}),
        **(expert_sizes(model.moe, model.hidden, shard, rows) if model.moe else {}),
    }


def layer(model: Transformer, shard: Shard, sizes: Sizes, experts: bool = False, windowed: bool = False) -> Graph:
    """Attention and feed-forward block, each with a norm before and a residual behind."""
    x = Tensor("layer input", ("tokens", "hidden"), element_bytes(shard.precision))
    sizes = windowed_sizes(model, sizes) if windowed else sizes
    graph = Graph("layer with experts" if experts else "layer", x, sizes, SPLIT, repeated=True)
    feed_forward(graph, model, shard, attention(graph, model, x), experts)
    return graph


def windowed_sizes(model: Transformer, sizes: Sizes) -> Sizes:
    """With so many keys that half of them, as a causal mask leaves, are those of a window of w tokens.

    Of s tokens the first w see as many as there are, all others w: w (1 - w/2s) in the mean.
    """
    keys, window = sizes["keys"], model.window or sizes["keys"]
    return sizes if window >= keys else {**sizes, "keys": ceil(2 * window - window * window / keys)}


def attention(graph: Graph, model: Transformer, x: Tensor) -> Tensor:
    """The residual stream behind attention."""
    add, bias = graph.add, model.bias
    normed = add(Norm("attention norm", x, model.norm)).result
    if model.mla:
        queries, keys, values = latent_queries_and_keys(graph, model.mla, model.norm, normed)
    else:
        queries, keys, values = queries_and_keys(graph, model, normed)
    fused, columns = model.attention == "flash", "value" if model.mla else None
    context = add(Attention(queries, keys, values, fused=fused, dropout=model.dropout, output=columns)).result
    output = add(Linear("attention output", context, ("hidden",), bias=bias or model.attention_bias)).result
    return add(ResidualSum("attention", output, x, bias=bias or model.attention_bias, dropout=model.dropout)).result


def queries_and_keys(graph: Graph, model: Transformer, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values by one product."""
    add, bias = graph.add, model.bias or model.attention_bias
    queries, keys, values = add(Linear("qkv", normed, ("query", "key", "key"), bias=bias)).writes
    if bias:
        add(ProductBias("qkv bias", (queries, keys, values)))
    if model.head_norms:
        queries = add(HeadNorm("query norm", queries)).result
        keys = add(HeadNorm("key norm", keys)).result
    if model.positions == "rotary":
        add(Rotation(queries, keys))
    return queries, keys, values


def feed_forward(graph: Graph, model: Transformer, shard: Shard, x: Tensor, experts: bool = False) -> Tensor:
    """The residual stream behind the feed-forward block, of experts or dense; two matrices up when gated."""
    add, bias = graph.add, model.bias
    normed = add(Norm("feed-forward norm", x, model.norm)).result
    if model.moe and experts:
        output = ExpertBlock(graph, model, model.moe, shard).write(normed)
        return add(ResidualSum("feed-forward", output, x, bias=False, dropout=model.dropout)).result
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
    """Final norm, output product and cross-entropy; the product stays in 16 bit under fp8.

    Each token that is predicted beyond the next takes one layer more, of the kind of the last, and the same head.
    """
    x = Tensor("head input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("head", x, sizes, SPLIT)
    product = logits(graph, model, shard, x)
    if model.tied_embeddings:
        product.weights = ()  # the token table, which stands in the embedding
    for _ in range(model.predicted_tokens):
        x = next_prediction(graph, model, shard, x)
        logits(graph, model, shard, x).weights = product.weights
    return graph


def logits(graph: Graph, model: Transformer, shard: Shard, x: Tensor) -> Linear:
    """Norm, output product and its loss."""
    normed = graph.add(Norm("final norm", x, model.norm)).result
    product = graph.add(Linear("head", normed, ("vocabulary",), wide=True))
    if shard.cross_entropy in CHUNKED:
        product.result.axes = ("loss rows", "vocabulary")
    graph.add(CrossEntropy(product.result))
    return product


def next_prediction(graph: Graph, model: Transformer, shard: Shard, x: Tensor) -> Tensor:
    """The layer of a token further on: of the stream and the embedding of the token before (DeepSeek-AI 2024, 2.2).

    The stage has its own copy of the token table for it, as Megatron Core has.
    """
    add = graph.add
    table = Tensor("token table", ("vocabulary", "hidden"), x.width, "weight")
    token = add(Lookup("next embedding", Tensor("next tokens", ("tokens",), 8, "index"), table)).result
    normed = add(Norm("next token norm", token, model.norm)).result
    joined = add(Join("next join", add(Norm("next stream norm", x, model.norm)).result, normed, ("hidden", "hidden")))
    stream = add(Linear("next projection", joined.result, ("hidden",))).result
    experts, _ = model.layer_kind(model.layers - 1)
    return feed_forward(graph, model, shard, attention(graph, model, stream), experts)
