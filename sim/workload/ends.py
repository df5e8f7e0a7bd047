"""The two ends of the model: token embedding, and output head with its loss.

The vocabulary is split over tensor ranks; the head stays in 16 bit under fp8.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.workload.elementwise import norm_backward, norm_forward
from sim.workload.extent import Extent
from sim.workload.kernels import (
    Operations,
    along_sequence,
    collective,
    elementwise,
    tensor_collective,
    with_random_numbers,
)
from sim.workload.linear import Linear, column_backward, column_forward
from sim.workload.operation import CollectiveKind


class Loss(NamedTuple):
    """Memory traffic per logit [B] and kernels of both passes of the cross-entropy, and the memory they take [B].

    `kept` for the backward pass, `working` beside it at the fullest moment.
    """

    forward: int
    backward: int
    forward_kernels: int
    backward_kernels: int
    kept: int
    working: int


# 16-bit logits, 32-bit arithmetic, one term per kernel as read + write.
LOSSES = {
    # Megatron Core, tensor_parallel/cross_entropy.py: cast, maximum, subtract, exponential, sum, divide;
    # backward: scale, cast. Softmax is kept in 32 bit, logits and gradients are 16 bit
    "vocabulary_parallel": Loss(6 + 4 + 8 + 8 + 4 + 8, 8 + 6, 6, 3, 4, 2),
    # PyTorch: cast, log-softmax, loss; backward: scattered zeros, log-softmax, cast. The log-softmax is kept, its
    # gradient and that of its input meet it
    "eager": Loss(6 + 8, 4 + 12 + 6, 3, 3, 4, 4 + 4),
    # PyTorch on 16-bit logits without a cast: log-softmax and loss; backward: scattered zeros and log-softmax
    "eager_16bit": Loss(4, 2 + 6, 2, 2, 2, 2 + 2),
    # one pass for the normaliser, one that reads the 16-bit logits and writes gradients
    "compiled": Loss(2, 4, 1, 1, 2, 2),
    # LLM Foundry, models/mpt/modeling_mpt.py: flash-attn's kernel each way (fused_crossentropy). After the backward
    # pass (Composer, _train_microbatch) two metrics, LanguageCrossEntropy and LanguagePerplexity, each PyTorch's
    # forward
    "with_metrics": Loss(2, 4 + 2 * (6 + 8), 1, 1 + 2 * 3, 2, 2),
}


# Reads more in each pass [B] where rows of 16-bit logits do not start at loads of 16 B: PyTorch then keeps no row in
# shared memory, and reads it for its maximum, its sum and the result, and backward for a sum and the result (PyTorch,
# aten/src/ATen/native/cuda/SoftMax.cu, can_use_smem).
READ_AGAIN = 2 + 2
LOAD = 8  # logits


def embedding_forward(extent: Extent) -> Operations:
    """Look up (read and write a row per token), sum over ranks, add positions, drop out."""
    kind: CollectiveKind = "reduce_scatter" if extent.splits_sequence else "all_reduce"
    return (
        elementwise(extent, "embedding lookup", 2 * extent.hidden_bytes),
        *along_sequence(extent, tensor_collective(extent, "embedding reduce", kind), hidden=False),
        *_positions(extent),
        *(with_random_numbers(mask, extent.rows * extent.hidden) for mask in _dropout(extent, "embedding dropout")),
    )


def embedding_backward(extent: Extent) -> Operations:
    """Gather the gradient (sequence parallelism only) and add its rows to the table's gradient.

    A frozen table needs no gradient, so the backward pass ends before it.
    """
    if extent.frozen:
        return ()
    gather = tensor_collective(extent, "embedding gradient gather", "all_gather")
    return (
        *_dropout(extent, "embedding dropout backward"),
        *(along_sequence(extent, gather, hidden=False) if extent.splits_sequence else ()),
        elementwise(extent, "embedding gradient", extent.hidden_bytes + _table_traffic(extent), 3),
    )


def head_forward(extent: Extent) -> Operations:
    """Final norm, logits, loss."""
    loss = LOSSES[extent.shard.cross_entropy]
    return (
        *norm_forward(extent, "final norm"),
        *column_forward(extent, _head(extent)),
        elementwise(extent, "cross-entropy", (loss.forward + _again(extent)) * _logits(extent), loss.forward_kernels),
        *_loss_reductions(extent),
    )


def head_backward(extent: Extent) -> Operations:
    """Softmax minus one-hot, then both gradients of the product."""
    loss = LOSSES[extent.shard.cross_entropy]
    traffic = (loss.backward + _again(extent)) * _logits(extent)
    return (
        elementwise(extent, "cross-entropy backward", traffic, loss.backward_kernels),
        *column_backward(extent, _head(extent)),
        *norm_backward(extent, "final norm"),
    )


def _head(extent: Extent) -> Linear:
    return Linear("head", extent.hidden, (extent.vocab,), extent.precision)


def _again(extent: Extent) -> int:
    """Bytes a logit that each pass reads more."""
    return READ_AGAIN if extent.shard.cross_entropy == "eager_16bit" and extent.vocab % LOAD else 0


def _logits(extent: Extent) -> float:
    return float(extent.tokens * extent.vocab)


def _loss_reductions(extent: Extent) -> Operations:
    """Largest logit, predicted logit and sum of exponentials, 4 B per token each."""
    if extent.shard.tensor == 1:
        return ()
    names = ("loss maximum", "loss predicted logit", "loss sum")
    return tuple(collective(name, "all_reduce", "tensor", 4 * extent.tokens) for name in names)


def _positions(extent: Extent) -> Operations:
    if extent.model.positions != "learned":
        return ()
    return (elementwise(extent, "positions", 3 * extent.element * extent.rows * extent.hidden),)


def _dropout(extent: Extent, name: str) -> Operations:
    if not extent.model.dropout:
        return ()
    return (elementwise(extent, name, (2 * extent.element + 1) * extent.rows * extent.hidden),)


def _table_traffic(extent: Extent) -> float:
    """A dense gradient is cleared, filled and added: write e, read e and g, write g per weight [B]."""
    return float(extent.vocab * extent.hidden * 2 * (extent.element + extent.gradient_bytes))
