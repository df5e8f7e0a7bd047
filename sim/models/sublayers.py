"""Sublayers that encoders share: attention over any span, feed-forward, and the sizes both need."""

from __future__ import annotations

from dataclasses import dataclass

from sim.graph.attention import Attention, AttentionSpan
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import GATED, Activation, Dropout, ProductBias, ResidualSum
from sim.graph.products import Linear
from sim.graph.rows import SharedInput
from sim.models.family import share

SPLIT = frozenset({"heads", "query", "key", "ffn", "vocabulary"})  # axes that tensor ranks share


@dataclass(frozen=True)
class Style:
    """What all sublayers of a model have in common."""

    norm: str  # layernorm or rmsnorm
    activation: str
    bias: bool
    dropout: bool
    fused: bool  # attention is one kernel
    before: bool = True  # norms come before each sublayer, else behind its residual sum
    inner_dropout: bool = False  # of what the activation makes


def transformer_sizes(shard: Shard, *, hidden: int, heads: int, width: int, ffn: int) -> Sizes:
    """Axes that every transformer has; a rank has its share of heads and of the inner width."""
    local = share(heads, shard.tensor)
    return {
        "batch": shard.microbatch,
        "hidden": hidden,
        "heads": local,
        "width": width,
        "query": local * width,
        "key": local * width,
        "ffn": share(ffn, shard.tensor),
    }


def row_sizes(shard: Shard, count: int, whole: str = "tokens", part: str = "rows") -> Sizes:
    """An axis of `count` rows, and the share of them that a rank has outside products."""
    return {whole: count, part: share(count, shard.tensor) if shard.sequence_parallel else count}


def attention_sublayer(
    graph: Graph,
    style: Style,
    x: Tensor,
    span: AttentionSpan,
    *,
    name: str = "attention",
    seen: Tensor | None = None,
    shared: bool = False,
) -> Tensor:
    """The residual stream behind attention of `x` to itself, or to what is `seen` of another sequence.

    What is seen is kept by who made it if it is `shared`.
    """
    add, bias = graph.add, style.bias
    source = add(Norm(f"{name} norm", x, style.norm)).result if style.before else x
    if seen is None:
        queries, keys, values = add(Linear("qkv", source, ("query", "key", "key"), bias=bias)).writes
    else:
        queries = add(Linear(f"{name} query", source, ("query",), bias=bias)).result
        product = SharedInput if shared else Linear
        keys, values = add(product(f"{name} key and value", seen, ("key", "key"), bias=bias)).writes
    if bias:
        add(ProductBias(f"{name} bias", (queries, keys, values)))
    context = add(Attention(queries, keys, values, fused=style.fused, dropout=style.dropout, span=span)).result
    output = add(Linear(f"{name} output", context, ("hidden",), bias=bias)).result
    return _joined(graph, style, name, output, x)


def feed_forward_sublayer(graph: Graph, style: Style, x: Tensor) -> Tensor:
    """The residual stream behind the feed-forward block; two matrices up when gated."""
    add, bias = graph.add, style.bias
    source = add(Norm("feed-forward norm", x, style.norm)).result if style.before else x
    columns = ("ffn", "ffn") if style.activation in GATED else ("ffn",)
    inner = add(Linear("feed-forward up", source, columns, bias=bias)).writes
    activated = add(Activation("activation", inner, style.activation, bias=bias)).result
    if style.inner_dropout:
        activated = add(Dropout("activation dropout", activated)).result
    output = add(Linear("feed-forward down", activated, ("hidden",), bias=bias)).result
    return _joined(graph, style, "feed-forward", output, x)


def _joined(graph: Graph, style: Style, name: str, branch: Tensor, x: Tensor) -> Tensor:
    total = graph.add(ResidualSum(name, branch, x, bias=style.bias, dropout=style.dropout)).result
    return total if style.before else graph.add(Norm(f"{name} norm", total, style.norm)).result
