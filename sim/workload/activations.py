"""Bytes that a layer's forward pass leaves for its backward pass, for one microbatch and rank.

Korthikanti 2022 (arXiv 2205.05198) section 4, term by term, generalised from GPT in 16 bit:
s b h (10 + 24/t + 5 a s/(h t)) without recomputation, 34/t with sequence parallelism and
selective recomputation. Mask bytes appear with dropout, the score term without flash attention.
"""

from __future__ import annotations

from sim.spec.records import Transformer
from sim.workload.ends import LOSSES
from sim.workload.extent import Extent, extent_of
from sim.workload.lora import adapted_sizes
from sim.workload.operation import Shard


def layer_activation_bytes(model: Transformer, shard: Shard) -> float:
    """What one layer keeps from forward to backward under `shard.recompute` [B]."""
    return kept_by_layer(extent_of(model, shard))


def kept_by_layer(extent: Extent) -> float:
    """The same of a model seen through its shard."""
    match extent.shard.recompute:
        case "full":
            return input_bytes(extent)
        case "selective":
            return _outside_core(extent)
        case "keep_qkv":
            return input_bytes(extent) + extent.element * extent.tokens * sum(extent.qkv_widths)
        case "alternate":
            return _alternate(extent) + core_bytes(extent)
        case _:
            return _outside_core(extent) + core_bytes(extent)


def kept_by_embedding(extent: Extent) -> float:
    """The mask of the embedding dropout, one byte per element [B] (section 4.3)."""
    return float(extent.rows * extent.hidden * extent.model.dropout)


def kept_by_head(extent: Extent) -> float:
    """Inputs of final norm and output product, and what the loss keeps, 32-bit logits in Megatron [B] (4.3)."""
    normed = extent.hidden_bytes if extent.shard.keeps_gathered else input_bytes(extent)
    return input_bytes(extent) + normed + LOSSES[extent.shard.cross_entropy].kept * float(extent.tokens * extent.vocab)


def stage_message_bytes(model: Transformer, shard: Shard) -> float:
    """The hidden state one rank hands to the next stage [B]: its share under sequence parallelism."""
    return input_bytes(extent_of(model, shard))


def input_bytes(extent: Extent) -> float:
    """The hidden state at the border of a layer, as one rank keeps it [B]: 2 s b h."""
    return float(extent.element * extent.rows * extent.hidden)


def core_bytes(extent: Extent) -> float:
    """Softmax output, and with dropout its mask and output: 5 a s^2 b / t [B].

    Flash attention keeps one 32-bit normaliser per row and head instead.
    """
    if extent.flash:
        return 4.0 * extent.tokens * extent.heads
    return extent.scores * (extent.element + extent.model.dropout * (extent.element + 1))


def _outside_core(extent: Extent) -> float:
    return _replicated(extent) + _split(extent) + _adapters(extent)


def _alternate(extent: Extent) -> float:
    """Input, what is kept of the products (query, value, gate, down), attention output and its sum over ranks [B]."""
    summed = 2 + extent.splits_sequence
    columns = 2 * extent.query_width + extent.key_width + extent.ffn
    return float(extent.element * (summed * extent.rows * extent.hidden + extent.tokens * columns))


def _replicated(extent: Extent) -> float:
    """Inputs and outputs of both norms, two dropout masks: 10 s b h, over t if the sequence is split [B].

    The output of a norm is kept for the weight gradient of the matrix behind it, in fp8 if the product is, or of
    its adapter.
    """
    outputs = sum(not extent.frozen or extent.adapts(target) for target in ("qkv", "feed_forward_up"))
    rows = extent.tokens if extent.shard.keeps_gathered else extent.rows
    inside = extent.rows * (2 * extent.element + 2 * extent.model.dropout) + rows * outputs * extent.kept_input
    return float(extent.hidden * inside)


def _keeps_output(extent: Extent) -> bool:
    """Whether the attention output is kept in 16 bit: for the kernel that made it, a product or an adapter."""
    product = not extent.frozen and extent.kept_input == extent.element
    return extent.flash or product or extent.adapts("attention_output")


def _adapters(extent: Extent) -> float:
    """The small inner product of each adapter, and with dropout its input and mask [B]."""
    lora = extent.shard.lora
    if lora is None:
        return 0.0
    sizes = adapted_sizes(extent.model, extent.shard.tensor)
    inputs = sum(sizes[target][0] for target in lora.targets) * (extent.element + 1) * lora.dropout
    return float(extent.tokens * (extent.element * lora.rank * len(lora.targets) + inputs))


def _split(extent: Extent) -> float:
    """Queries, keys and values as attention reads them, its output, feed-forward intermediates: 24 s b h / t [B].

    The feed-forward block keeps the inputs and the output of its activation; an eager gate also
    keeps the activated factor. Frozen, it keeps no output. Inputs of fp8 products are kept in fp8, that of the
    attention output beside the 16-bit one that fused attention keeps.
    """
    output = not extent.frozen or extent.adapts("feed_forward_down")
    inner = len(extent.ffn_widths) + (extent.gated and not extent.fused)
    columns = (1 + _keeps_output(extent)) * extent.query_width + 2 * extent.held_key_width + inner * extent.ffn
    cast = extent.query_width * (extent.kept_input < extent.element) + extent.ffn * output
    return float(extent.tokens * (extent.element * columns + extent.kept_input * cast))
