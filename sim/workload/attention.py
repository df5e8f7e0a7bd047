"""The attention core of one rank: scores, softmax, dropout and context, or one fused kernel.

Context parallelism is ring attention with zig-zag halves, so every rank has the same causal
work. Keys and values travel as one all-gather over the context group, which moves what the ring
moves; all but the last block of attention runs beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from sim.workload.extent import Extent
from sim.workload.kernels import Operations, collective, elementwise, in_phase, matmul, with_random_numbers
from sim.workload.operation import Operation, Phase

FLASH_TILE = 128  # positions; assumption: a causal kernel computes the tiles on the diagonal in full


class Merge(NamedTuple):
    """Bytes per element of the queries and kernels for each block of ring attention after the first."""

    forward: int
    backward: int
    kernels: int


# One term per kernel as read + write (PyTorch, distributed/tensor/experimental/_attention.py, _SDPAMerger and
# _templated_ring_attention_backward). Keys and values count as wide as the queries.
MERGES = {
    "fused": Merge(0, 0, 0),
    # keys and values into one buffer; cast, subtract, scale, subtract; backward: the same; add to 32-bit gradients of
    # q, k and v; k and v into one buffer. The number of kernels is an assumption
    "separate": Merge(2 * 4 + 6 + 12 + 8 + 12, 2 * 4 + 10 + 2 * 10 + 2 * 8, 8),
    # read block and sum, write the sum; backward: add to 32-bit gradients of q, and of k and v as they go on
    "compiled": Merge(10, 10 + 2 * 10, 3),
}
GRADIENT = 4  # bytes; gradients of keys and values are added up and sent in 32 bit
# A call of Philox with 7 rounds of 10 integer operations draws 16 numbers of 8 bit; comparing and selecting take 4 more
# (flash-attention, csrc/flash_attn/src/philox.cuh and dropout.h). Integer operations count as in `with_random_numbers`.
FUSED_RANDOM_FLOPS = 2 * (7 * 10 / 16 + 4)
FLASH_BACKWARD = 2.5  # five products, scores computed again, against two forward (Dao 2023, section 3)


def attention_forward(extent: Extent) -> Operations:
    """Exchange of keys and values, then the core."""
    if extent.flash:
        forward = MERGES[extent.shard.ring_attention].forward
        return (*_ring(extent, _flash_forward(extent), extent.element, forward), *_flash_dropout(extent, "attention"))
    return (*_gather_keys(extent, "attention", extent.element), *core_forward(extent))


def attention_backward(extent: Extent) -> Operations:
    """The exchange again, with the gradients of keys and values, and the core backward."""
    return in_phase(Phase.INPUT_GRADIENT, _attention_backward(extent))


def _attention_backward(extent: Extent) -> Operations:
    if not extent.flash:
        return (*_gather_keys(extent, "attention backward", 2 * extent.element), *core_backward(extent))
    dropout = _flash_dropout(extent, "attention backward")
    if extent.shard.ring_attention == "fused":
        return (*_ring(extent, _flash_backward(extent), 2 * extent.element, 0), *dropout)
    return (
        *_ring(
            extent,
            _flash_backward(extent),
            extent.element + GRADIENT,
            MERGES[extent.shard.ring_attention].backward,
        ),
        *_last_turn(extent),
        *dropout,
    )


def core_recompute(extent: Extent) -> Operations:
    """Selective recomputation (Korthikanti 2022, section 5).

    Flash attention does this inside its backward kernel, so nothing is added.
    """
    return () if extent.flash else attention_forward(extent)


def core_forward(extent: Extent) -> Operations:
    """Unfused attention; softmax reads and writes scores, dropout writes a mask too."""
    e = extent.element
    shape = (extent.queries, extent.keys, extent.head_dim)
    return (
        _batched(extent, "scores", shape),
        _softmax(extent, "softmax", 2),
        *(with_random_numbers(mask, extent.scores) for mask in _dropout(extent, "attention dropout")),
        _batched(extent, "context", (extent.queries, extent.head_dim, extent.keys)),
    )


def core_backward(extent: Extent) -> Operations:
    """Two products for each forward product; softmax reads dy and y and writes dx."""
    q, k, d = extent.queries, extent.keys, extent.head_dim
    return (
        _batched(extent, "context score gradient", (q, k, d)),
        _batched(extent, "context value gradient", (k, d, q)),
        *_dropout(extent, "attention dropout backward"),
        _softmax(extent, "softmax backward", 3),
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


def _softmax(extent: Extent, name: str, passes: int) -> Operation:
    """Kernels apart scale and mask too; autocast has softmax in 32 bit, so eager code casts to it and back."""
    apart, cast = (0, 0) if extent.fused else (2 + 2, extent.shard.autocast)
    traffic = (passes + apart) * extent.element + cast * (2 * (2 + 4) + 2 * passes)
    return _scores(extent, name, traffic, 1 if extent.fused else 3 + 2 * cast)


def _flash_dropout(extent: Extent, name: str) -> Operations:
    """Numbers are drawn for each score, and drawn again backward; the tensor cores wait meanwhile."""
    if not extent.model.dropout:
        return ()
    flops = FUSED_RANDOM_FLOPS * extent.scores * causal_share(extent)
    return (Operation(f"{name} dropout", "elementwise", flops, precision="fp32", kernels=0),)


def _dropout(extent: Extent, name: str) -> Operations:
    return (_scores(extent, name, 2 * extent.element + 1),) if extent.model.dropout else ()


def _flash_forward(extent: Extent) -> Operation:
    """Reads q, k, v; writes the output and a 32-bit normaliser per row and head."""
    columns = 2 * extent.query_width + 2 * extent.held_key_width
    traffic = extent.tokens * (extent.element * columns + 4 * extent.heads)
    return _flash(extent, "attention", 1.0, traffic, 1)


def _flash_backward(extent: Extent) -> Operation:
    """Reads q, k, v, output and its gradient; writes three gradients, that of q through 32 bit."""
    columns = 4 * extent.query_width + 4 * extent.held_key_width
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


def _gather_keys(extent: Extent, name: str, per_element: int, hidden_by: int = 0) -> Operations:
    """`per_element` bytes of keys and values of the whole sequence, as held after an all-gather."""
    if extent.shard.context == 1:
        return ()
    exchange = collective(f"{name} ring exchange", "all_gather", "context", per_element * _key_elements(extent))
    return (replace(exchange, hidden_by=hidden_by),)


def _key_elements(extent: Extent) -> float:
    """Elements of the keys and values of the whole sequence."""
    return 2.0 * extent.batch * extent.keys * extent.held_key_width


def _ring(extent: Extent, whole: Operation, per_element: int, merge: int) -> Operations:
    """The fused kernel once per block of the ring: the last waits for the exchange. Only the own block has a mask.

    Separate kernels add each block after the first to the result: `merge` bytes per element of the queries.
    A compiler waits for each collective where it is issued (PyTorch, _functional_collectives.py, _maybe_wrap_tensor).
    """
    ranks = extent.shard.context
    if ranks == 1:
        return (whole,)
    beside, last = _part(whole, ranks - 1, ranks, masked=1 / (ranks - 1)), _part(whole, 1, ranks, masked=0.0)
    hidden_by = 0 if extent.shard.ring_attention == "compiled" else 1
    work = (*_gather_keys(extent, whole.name, per_element, hidden_by), beside)
    work = (*work, replace(last, name=f"{whole.name} last block"))
    if extent.shard.ring_attention == "fused":
        return work
    kernels = MERGES[extent.shard.ring_attention].kernels
    traffic = (ranks - 1) * merge * extent.tokens * extent.query_width
    return (*work, elementwise(extent, f"{whole.name} merge", traffic, kernels * (ranks - 1)))


def _last_turn(extent: Extent) -> Operations:
    """Gradients of keys and values go home when the last block has been added: one more turn, beside nothing.

    An all-gather moves the share of one rank n-1 times; this moves it once.
    """
    ranks = extent.shard.context
    if ranks == 1:
        return ()
    share = GRADIENT * _key_elements(extent) / (ranks - 1)
    return (collective("attention backward last turn", "all_gather", "context", share),)


def _part(whole: Operation, blocks: int, ranks: int, masked: float) -> Operation:
    """`blocks` of `ranks` blocks; queries and output cross memory again for each block."""
    return replace(
        whole,
        flops=whole.flops * blocks / ranks,
        bytes_moved=whole.bytes_moved * blocks,
        n=whole.n * blocks // ranks,
        kernels=whole.kernels * blocks,
        parts=blocks,
        masked=masked,
    )
