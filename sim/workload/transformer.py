"""A transformer layer, its embedding and its head as operations of one rank and one microbatch.

`model_flops` counts matrix products with full (not causal) attention, as Megatron does
(Narayanan 2021, appendix; Korthikanti 2022, appendix A), two products backward for each forward
one, or one for a frozen matrix; `Operation.flops` counts what runs.
"""

from __future__ import annotations

from sim.spec.records import Transformer
from sim.workload.attention import attention_backward, attention_forward, core_recompute
from sim.workload.elementwise import (
    activation_backward,
    activation_forward,
    context_copy,
    layout_backward,
    layout_forward,
    norm_backward,
    norm_forward,
    residual_backward,
    residual_forward,
    residual_gradient,
)
from sim.workload.ends import embedding_backward, embedding_forward, head_backward, head_forward
from sim.workload.extent import Extent, extent_of
from sim.workload.kernels import Operations
from sim.workload.linear import Linear, column_backward, column_forward, linear, row_backward, row_forward
from sim.workload.lora import adapter_parameters
from sim.workload.operation import Block, Shard
from sim.workload.parameters import PASSES, passes_of_weights


def layer_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """One transformer layer; `gradient_bytes` [B] per element of the accumulated weight gradient."""
    extent = extent_of(model, shard, gradient_bytes)
    return Block(
        name="layer",
        forward=_layer_forward(extent),
        recompute=_layer_recompute(extent),
        backward=(*_feed_forward_backward(extent), *_attention_backward(extent)),
        model_flops=_layer_flops(extent),
    )


def embedding_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """Token lookup, learned positions and dropout; no matrix product, so no model FLOPs."""
    extent = extent_of(model, shard, gradient_bytes)
    return Block("embedding", embedding_forward(extent), (), embedding_backward(extent), 0.0)


def head_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """Final norm, output product and vocabulary-parallel cross-entropy."""
    extent = extent_of(model, shard, gradient_bytes)
    product = 2.0 * extent.tokens * extent.hidden * extent.vocab
    flops = passes_of_weights(shard.lora) * product
    return Block("head", head_forward(extent), (), head_backward(extent), flops)


def _layer_flops(extent: Extent) -> float:
    """FLOPs of both passes: 2 per weight and token, 4 per score and head column."""
    lora = extent.shard.lora
    columns = sum(extent.qkv_widths) + extent.query_width + extent.ffn * (len(extent.ffn_widths) + 1)
    weights = passes_of_weights(lora) * 2.0 * extent.tokens * extent.hidden * columns
    trained = adapter_parameters(extent.model, lora, extent.shard.tensor) if lora else 0
    return weights + PASSES * (2.0 * extent.tokens * trained + 4.0 * extent.scores * extent.head_dim)


def _layer_forward(extent: Extent) -> Operations:
    return (*_attention_forward(extent), *_feed_forward_forward(extent))


def _layer_recompute(extent: Extent) -> Operations:
    """Full recomputation repeats the forward pass with its collectives."""
    match extent.shard.recompute:
        case "full":
            return _layer_forward(extent)
        case "selective":
            return core_recompute(extent)
        case _:
            return ()


def _attention_forward(extent: Extent) -> Operations:
    qkv, out, _, _ = _linears(extent)
    return (
        *norm_forward(extent, "attention norm"),
        *column_forward(extent, qkv),
        *layout_forward(extent),
        *attention_forward(extent),
        *context_copy(extent, "context layout"),
        *row_forward(extent, out),
        *residual_forward(extent, "attention"),
    )


def _feed_forward_forward(extent: Extent) -> Operations:
    _, _, up, down = _linears(extent)
    return (
        *norm_forward(extent, "feed-forward norm"),
        *column_forward(extent, up),
        *activation_forward(extent),
        *row_forward(extent, down),
        *residual_forward(extent, "feed-forward"),
    )


def _feed_forward_backward(extent: Extent) -> Operations:
    _, _, up, down = _linears(extent)
    return (
        *residual_backward(extent, "feed-forward"),
        *row_backward(extent, down),
        *activation_backward(extent),
        *column_backward(extent, up),
        *norm_backward(extent, "feed-forward norm"),
        *residual_gradient(extent, "feed-forward"),
    )


def _attention_backward(extent: Extent) -> Operations:
    qkv, out, _, _ = _linears(extent)
    return (
        *residual_backward(extent, "attention"),
        *row_backward(extent, out),
        *context_copy(extent, "context layout backward"),
        *attention_backward(extent),
        *layout_backward(extent),
        *column_backward(extent, qkv),
        *norm_backward(extent, "attention norm"),
        *residual_gradient(extent, "attention"),
    )


def _linears(extent: Extent) -> tuple[Linear, Linear, Linear, Linear]:
    """QKV, attention output, feed-forward up (with gate) and down."""
    hidden = (extent.hidden,)
    return (
        linear(extent, "qkv", extent.hidden, extent.qkv_widths),
        linear(extent, "attention output", extent.query_width, hidden),
        linear(extent, "feed-forward up", extent.hidden, extent.ffn_widths),
        linear(extent, "feed-forward down", extent.ffn, hidden),
    )
