"""The attention core of one rank: scores, softmax, dropout and context, or one fused kernel.

Context parallelism is ring attention with zig-zag halves, so every rank has the same causal
work. Keys and values travel as one all-gather over the context group, which moves what the ring
moves; all but the last block of attention runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.workload.extent import Extent
from sim.workload.kernels import Operations, collective, elementwise, matmul, with_random_numbers
from sim.workload.operation import Operation

FLASH_TILE = 128  # positions; assumption: a causal kernel computes the tiles on the diagonal in full
FLASH_BACKWARD = 2.5  # five products, scores computed again, against two forward (Dao 2023, section 3)


def attention_forward(extent: Extent) -> Operations:
    """Exchange of keys and values, then the core."""
    if extent.flash:
        return _ring(extent, "attention", 1, _flash_forward)
    return (*_gather_keys(extent, "attention", 1), *core_forward(extent))


def attention_backward(extent: Extent) -> Operations:
    """The exchange again, with the gradients of keys and values, and the core backward."""
    if extent.flash:
        return _ring(extent, "attention backward", 2, _flash_backward)
    return (*_gather_keys(extent, "attention backward", 2), *core_backward(extent))


def core_recompute(extent: Extent) -> Operations:
    """Selective recomputation (Korthikanti 2022, section 5).

    Flash attention does this inside its backward kernel, so nothing is added.
    """
    return () if extent.flash else attention_forward(extent)


def core_forward(extent: Extent) -> Operations:
    """Unfused attention; softmax reads and writes scores, dropout writes a mask too."""
    e = extent.element
    shape = (extent.queries, extent.keys, extent.head_dim)
    mask = 0 if extent.fused else 2 * e
    return (
        _batched(extent, "scores", shape),
        _scores(extent, "softmax", 2 * e + mask, 1 if extent.fused else 2),
        *(with_random_numbers(mask, extent.scores) for mask in _dropout(extent, "attention dropout")),
        _batched(extent, "context", (extent.queries, extent.head_dim, extent.keys)),
    )


def core_backward(extent: Extent) -> Operations:
    """Two products for each forward product; softmax reads dy and y and writes dx."""
    q, k, d = extent.queries, extent.keys, extent.head_dim
    mask = 0 if extent.fused else 2 * extent.element
    return (
        _batched(extent, "context score gradient", (q, k, d)),
        _batched(extent, "context value gradient", (k, d, q)),
        *_dropout(extent, "attention dropout backward"),
        _scores(extent, "softmax backward", 3 * extent.element + mask, 1 if extent.fused else 2),
        _batched(extent, "scores query gradient", (q, d, k)),
        _batched(extent, "scores key gradient", (k, d, q)),
    )


def causal_share(extent: Extent) -> float:
    """Part of the full score matrix that a causal fused kernel computes."""
    return min(1.0, 0.5 * (1 + FLASH_TILE / extent.keys))


def _batched(extent: Extent, name: str, shape: tuple[int, int, int]) -> Operation:
    return matmul(name, shape, extent.precision, extent.element, batch=extent.batch * extent.heads)


def _scores(extent: Extent, name: str, per_score: float, kernels: int = 1) -> Operation:
    return elementwise(extent, name, per_score * extent.scores, kernels)


def _dropout(extent: Extent, name: str) -> Operations:
    return (_scores(extent, name, 2 * extent.element + 1),) if extent.model.dropout else ()


def _flash_forward(extent: Extent) -> Operation:
    """Reads q, k, v; writes the output and a 32-bit normaliser per row and head."""
    columns = 2 * extent.query_width + 2 * extent.key_width
    traffic = extent.tokens * (extent.element * columns + 4 * extent.heads)
    return _flash(extent, "attention", 1.0, traffic, 1)


def _flash_backward(extent: Extent) -> Operation:
    """Reads q, k, v, output and its gradient; writes three gradients, that of q through 32 bit."""
    columns = 4 * extent.query_width + 4 * extent.key_width
    traffic = extent.tokens * (extent.element * columns + 8 * extent.query_width + 4 * extent.heads)
    return _flash(extent, "attention backward", FLASH_BACKWARD, traffic, 3)


def _flash(extent: Extent, name: str, factor: float, traffic: float, kernels: int) -> Operation:
    flops = 4.0 * extent.scores * extent.head_dim * causal_share(extent) * factor
    return Operation(
        name=name,
        kind="attention",
        flops=flops,
        bytes_moved=float(traffic),
        precision=extent.precision,
        batch=extent.batch * extent.heads,
        m=extent.queries,
        n=extent.keys,
        k=extent.head_dim,
        kernels=kernels,
    )


def _gather_keys(extent: Extent, name: str, tensors: int, hidden_by: int = 0) -> Operations:
    """`tensors` x (keys and values) of the whole sequence, as held after an all-gather."""
    if extent.shard.context == 1:
        return ()
    message = tensors * 2 * extent.element * extent.batch * extent.keys * extent.key_width
    exchange = collective(f"{name} ring exchange", "all_gather", "context", message)
    return (replace(exchange, hidden_by=hidden_by),)


def _ring(extent: Extent, name: str, tensors: int, core: Callable[[Extent], Operation]) -> Operations:
    """The fused kernel once per block of the ring: the last block waits for the exchange."""
    whole, ranks = core(extent), extent.shard.context
    if ranks == 1:
        return (whole,)
    beside, last = _part(whole, ranks - 1, ranks), _part(whole, 1, ranks)
    return (*_gather_keys(extent, name, tensors, hidden_by=1), beside, replace(last, name=f"{name} last block"))


def _part(whole: Operation, blocks: int, ranks: int) -> Operation:
    """`blocks` of `ranks` blocks; queries and output cross memory again for each block."""
    return replace(
        whole,
        flops=whole.flops * blocks / ranks,
        bytes_moved=whole.bytes_moved * blocks,
        n=whole.n * blocks // ranks,
        kernels=whole.kernels * blocks,
    )
