"""The two ends of the model: token embedding, and output head with its loss.

The vocabulary is split over tensor ranks; the head stays in 16 bit under fp8.
"""

from __future__ import annotations

from sim.workload.elementwise import norm_backward, norm_forward
from sim.workload.extent import Extent
from sim.workload.kernels import Operations, collective, elementwise, tensor_collective, with_random_numbers
from sim.workload.linear import Linear, column_backward, column_forward
from sim.workload.operation import CollectiveKind


def embedding_forward(extent: Extent) -> Operations:
    """Look up (read and write a row per token), sum over ranks, add positions, drop out."""
    kind: CollectiveKind = "reduce_scatter" if extent.splits_sequence else "all_reduce"
    return (
        elementwise(extent, "embedding lookup", 2 * extent.hidden_bytes),
        *tensor_collective(extent, "embedding reduce", kind),
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
        *(gather if extent.splits_sequence else ()),
        elementwise(extent, "embedding gradient", extent.hidden_bytes + _table_traffic(extent), 3),
    )


def head_forward(extent: Extent) -> Operations:
    """Final norm, logits, loss."""
    return (
        *norm_forward(extent, "final norm"),
        *column_forward(extent, _head(extent)),
        elementwise(extent, "cross-entropy", (16 + extent.element) * _logits(extent), 5),
        *_loss_reductions(extent),
    )


def head_backward(extent: Extent) -> Operations:
    """Softmax minus one-hot in 32 bit, cast down, then both gradients of the product."""
    return (
        elementwise(extent, "cross-entropy backward", (8 + extent.element) * _logits(extent), 2),
        *column_backward(extent, _head(extent)),
        *norm_backward(extent, "final norm"),
    )


def _head(extent: Extent) -> Linear:
    return Linear("head", extent.hidden, (extent.vocab,), extent.precision)


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
