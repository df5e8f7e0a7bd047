"""The first pass: which kernels compute attention."""

from __future__ import annotations

from sim.graph.attention import (
    Attention,
    Context,
    FlashAttention,
    KeyRepetition,
    LayoutCopy,
    ScoreBias,
    Scores,
    Softmax,
)
from sim.graph.graph import Graph, Operator, Tensor
from sim.graph.operation import Shard
from sim.graph.pointwise import Dropout, Rotation


def choose_attention_kernels(graph: Graph, shard: Shard) -> None:
    """Write attention out: repeated keys, and without a fused kernel copies of layout, products and a softmax."""
    operators: list[Operator] = []
    for operator in graph.operators:
        if not isinstance(operator, Attention):
            operators.append(operator)
            continue
        queries, keys, values = operator.reads
        if not operator.fused:  # rotation reads heads, so copies come before
            at = len(operators) - isinstance(operators[-1], Rotation)
            operators.insert(at, LayoutCopy("qkv layout", operator.reads, ()))
        if shard.repeats_keys and graph.count(keys.axes[-1]) != graph.count(queries.axes[-1]):
            every = tuple(Tensor(f"every {each.name}", queries.axes, each.width) for each in (keys, values))
            operators.append(KeyRepetition("key repetition", (keys, values), every))
            keys, values = every
        output = operator.result
        if operator.fused:
            read = queries, keys, values
            operators.append(FlashAttention(read, output, dropout=operator.dropout, span=operator.span))
        else:
            operators += [*_core(operator, queries, keys, values), LayoutCopy("context layout", (output,), ())]
    graph.operators = operators


def _core(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> list[Operator]:
    scores = Scores(queries, keys, attention.span)
    biased = [ScoreBias(scores.result)] if attention.span.bias else []
    softmax = Softmax(biased[0].result if biased else scores.result)
    dropped = [Dropout("attention dropout", softmax.result, softmax.region)] if attention.dropout else []
    read = dropped[0].result if dropped else softmax.result
    return [scores, *biased, softmax, *dropped, Context(read, keys, values, attention.result, attention.span)]
