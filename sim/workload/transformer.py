"""A transformer layer, its embedding and its head as operations of one rank and one microbatch.

`model_flops` counts matrix products with full (not causal) attention, as Megatron does
(Narayanan 2021, appendix; Korthikanti 2022, appendix A), two products backward for each forward
one, or one for a frozen matrix; `Operation.flops` counts what runs.
"""

from __future__ import annotations

from dataclasses import replace

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
from sim.workload.kernels import Operations, in_phase, unit_copy
from sim.workload.linear import (
    Linear,
    column_backward,
    column_forward,
    gathered_input,
    input_cast,
    linear,
    products,
    row_backward,
    row_forward,
    weight_cast,
)
from sim.workload.lora import adapter_parameters
from sim.workload.operation import Block, Phase, Shard
from sim.workload.parameters import PASSES, embedding_parameters, head_parameters, layer_parameters, passes_of_weights


def layer_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """One transformer layer; `gradient_bytes` [B] per element of the accumulated weight gradient."""
    extent = extent_of(model, shard, gradient_bytes)
    parameters = layer_parameters(model, shard.tensor).total
    matrices = len(extent.qkv_widths) + 1 + len(extent.ffn_widths) + 1
    gathered = unit_copy(extent, "weights", shard.gather_copy * parameters, matrices)
    return Block(
        name="layer",
        forward=(*gathered, *_layer_forward(extent)),
        recompute=in_phase(Phase.RECOMPUTE, (*gathered, *_layer_recompute(extent))),
        backward=in_phase(
            Phase.INPUT_GRADIENT,
            (
                *_feed_forward_backward(extent),
                *_attention_backward(extent),
                *unit_copy(extent, "gradients", shard.reduce_copy * parameters, matrices),
            ),
        ),
        model_flops=_layer_flops(extent),
    )


def embedding_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """Token lookup, learned positions and dropout; no matrix product, so no model FLOPs."""
    extent = extent_of(model, shard, gradient_bytes)
    parameters = embedding_parameters(model, shard.tensor)
    gathered = unit_copy(extent, "weights", shard.gather_copy * parameters)
    reduced = unit_copy(extent, "gradients", shard.reduce_copy * parameters)
    backward = in_phase(Phase.INPUT_GRADIENT, (*embedding_backward(extent), *reduced))
    return Block("embedding", (*gathered, *embedding_forward(extent)), (), backward, 0.0)


def head_block(model: Transformer, shard: Shard, *, gradient_bytes: int = 4) -> Block:
    """Final norm, output product and vocabulary-parallel cross-entropy."""
    extent = extent_of(model, shard, gradient_bytes)
    product = 2.0 * extent.tokens * extent.hidden * extent.vocab
    flops = passes_of_weights(shard.lora) * product
    parameters = head_parameters(model, shard.tensor)
    gathered = unit_copy(extent, "weights", shard.gather_copy * parameters)
    reduced = unit_copy(extent, "gradients", shard.reduce_copy * parameters)
    backward = in_phase(Phase.INPUT_GRADIENT, (*head_backward(extent), *reduced))
    return Block("head", (*gathered, *head_forward(extent)), (), backward, flops)


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
    """Full recomputation repeats the forward pass with its collectives, the others parts of it."""
    match extent.shard.recompute:
        case "full" | "keep_qkv":
            return _layer_again(extent)
        case "selective":
            return core_recompute(extent)
        case "alternate":
            return _alternate_recompute(extent)
        case _:
            return ()


def _layer_again(extent: Extent) -> Operations:
    """The forward pass of a layer, maybe without its first products.

    The last product is not repeated where nothing behind it is needed; the mask of a dropout behind it is.
    """
    qkv, _, up, down = _linears(extent)
    kept = extent.shard.recompute == "keep_qkv"
    begun = (
        *norm_forward(extent, "attention norm"),
        *(gathered_input(extent, qkv) if kept else column_forward(extent, qkv)),
        *_attended(extent),
    )
    if not extent.shard.stops_recompute or extent.model.dropout:
        return (*begun, *_feed_forward_forward(extent))
    return (
        *begun,
        *norm_forward(extent, "feed-forward norm"),
        *column_forward(extent, up),
        *activation_forward(extent),
        *input_cast(extent, down),
    )


def _alternate_recompute(extent: Extent) -> Operations:
    """Everything but the attention core, sums over ranks and every other product.

    In issue order (query, key, value, output, gate, up, down) the first product and every second one
    after it are kept (TorchTitan, activation checkpointing, selective_ac_option "op"); what follows
    the last kept tensor is not needed.
    """
    qkv, out, up, down = _linears(extent)
    key = replace(qkv, widths=(extent.key_width,))
    second = column_forward(extent, replace(up, widths=(extent.ffn,))) if extent.gated else ()
    return (
        *norm_forward(extent, "attention norm"),
        *column_forward(extent, key),
        *layout_forward(extent),
        *input_cast(extent, out),
        *weight_cast(extent, out),
        *products(extent, out),
        *residual_forward(extent, "attention"),
        *norm_forward(extent, "feed-forward norm"),
        *second,
        *activation_forward(extent),
        *input_cast(extent, down),
    )


def _attention_forward(extent: Extent) -> Operations:
    qkv, _, _, _ = _linears(extent)
    return (*norm_forward(extent, "attention norm"), *column_forward(extent, qkv), *_attended(extent))


def _attended(extent: Extent) -> Operations:
    """Attention and what follows, up to the residual."""
    _, out, _, _ = _linears(extent)
    return (
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
