"""Builders of single operations: a matrix product, a pass over memory, a collective."""

from __future__ import annotations

from dataclasses import replace

from sim.workload.extent import Extent
from sim.workload.operation import CollectiveKind, GroupKind, Operation, Phase

Operations = tuple[Operation, ...]
RANDOM_NUMBER_FLOPS = 2 * 40
SPLITS = 4  # parts in which the result of a product leaves


def matmul(name: str, shape: tuple[int, int, int], precision: str, element: int, batch: int = 1) -> Operation:
    """`batch` products (m x k) by (k x n), `shape` = (m, n, k); each operand crosses memory once.

    `element` is the size of an output element [B]; fp8 operands have 1 B.
    """
    m, n, k = shape
    operand = 1 if precision == "fp8" else element
    return Operation(
        name=name,
        kind="matmul",
        flops=2.0 * batch * m * n * k,
        bytes_moved=float(batch * (operand * (m * k + k * n) + element * m * n)),
        precision=precision,
        batch=batch,
        m=m,
        n=n,
        k=k,
    )


def elementwise(extent: Extent, name: str, bytes_moved: float, kernels: int = 1) -> Operation:
    """A memory-bound pass of `bytes_moved` [B], read plus written."""
    return Operation(
        name=name, kind="elementwise", bytes_moved=float(bytes_moved), precision=extent.precision, kernels=kernels
    )


def unit_copy(extent: Extent, what: str, traffic: float, matrices: int = 1) -> Operations:
    """Copies between the buffer of a collective and the tensors of a sharded unit (ZeRO-3), or casts of autocast [B].

    Autocast has a kernel for each of the `matrices`.
    """
    kernels = matrices if extent.shard.autocast else 1
    return (elementwise(extent, f"{what} copied", traffic, kernels),) if traffic else ()


def with_random_numbers(operation: Operation, count: float) -> Operation:
    """`operation` drawing `count` random numbers, which the forward pass of dropout does.

    Philox 4x32-10 takes about 25 integer operations per number (Salmon 2011, SC11), and comparing,
    scaling and packing the mask about 15 more. An integer operation takes the slot of a fused
    multiply-add, which counts as two FLOPs of the 32-bit vector rate (NVIDIA A100 whitepaper, table 4).
    """
    return replace(operation, flops=operation.flops + RANDOM_NUMBER_FLOPS * count, precision="fp32")


def collective(name: str, kind: CollectiveKind, group: GroupKind, message: float) -> Operation:
    """A collective over `group`; `message` [B] as in `Operation`."""
    return Operation(name=name, kind="collective", kernels=1, collective=kind, group=group, message=float(message))


def weight_gradient(extent: Extent, name: str, shape: tuple[int, int, int], precision: str) -> Operations:
    """The gradient of a matrix, added to what earlier microbatches left; `shape` = (inputs, outputs, tokens).

    Fused kernels accumulate in the product (read and write `gradient_bytes` per element); others
    write the product first and add it in a second kernel.
    """
    inputs, outputs, tokens = shape
    product = replace(
        matmul(f"{name} weight gradient", (outputs, inputs, tokens), precision, extent.element),
        phase=Phase.WEIGHT_GRADIENT,
    )
    weights = inputs * outputs
    if extent.shard.fused_accumulation:
        traffic = product.bytes_moved + weights * (2 * extent.gradient_bytes - extent.element)
        return (replace(product, bytes_moved=traffic, output_bytes=extent.gradient_bytes),)
    add = elementwise(extent, f"{name} gradient accumulation", weights * (extent.element + 2 * extent.gradient_bytes))
    return product, replace(add, phase=Phase.WEIGHT_GRADIENT)


def in_phase(phase: Phase, operations: Operations) -> Operations:
    """`operations` for `phase`; what computes a gradient of weights is told already, and stays so."""
    return tuple(each if each.phase is Phase.WEIGHT_GRADIENT else replace(each, phase=phase) for each in operations)


def tensor_collective(extent: Extent, name: str, kind: CollectiveKind) -> Operations:
    """A tensor-parallel collective of the whole hidden state; nothing on one rank."""
    if extent.shard.tensor == 1:
        return ()
    return (collective(name, kind, "tensor", extent.hidden_bytes),)


def along_sequence(extent: Extent, traffic: Operations, hidden: bool) -> Operations:
    """Collectives along the sequence, with the copy around each where the batch is the first dimension.

    NCCL gathers and scatters along the first dimension only (PyTorch, _functional_collectives.py, all_gather_tensor and
    reduce_scatter_tensor: parts are joined along the other one after or before). What runs beside products
    is laid out by the kernels around it.
    """
    if hidden or not extent.shard.batch_first:
        return traffic
    out: list[Operation] = []
    for each in traffic:
        copy = elementwise(extent, f"{each.name} copy", 2 * each.message)
        out += {"all_gather": (each, copy), "reduce_scatter": (copy, each)}.get(each.collective or "", (each,))
    return tuple(out)


def before(traffic: Operations, work: Operations, hidden: bool) -> Operations:
    """Traffic then work; when `hidden` the traffic, which the work does not need, runs beside all of it."""
    return (*(_beside(traffic, work) if hidden else traffic), *work)


def arriving(extent: Extent, traffic: Operations, work: Operations, hidden: bool) -> Operations:
    """Traffic then work on what it brings; when `hidden`, products begin with the rank's own rows.

    The rows of the others arrive one rank at a time (Transformer Engine user buffers, ring exchange;
    PyTorch, fused_all_gather_matmul), so each product has a part for each rank.
    """
    return before(traffic, _in_parts(work, extent.shard.tensor) if hidden and traffic else work, hidden)


def leaving(work: Operations, traffic: Operations, hidden: bool) -> Operations:
    """Work then the traffic of its result; when `hidden` it leaves part by part, the last after the work.

    Four parts are what Transformer Engine user buffers take by default (method pipeline, num_splits).
    """
    if not (hidden and traffic):
        return (*work, *traffic)
    early = tuple(replace(each, message=each.message * (1 - 1 / SPLITS)) for each in traffic)
    last = tuple(replace(each, message=each.message / SPLITS) for each in traffic)
    return (*_beside(early, work), *_in_parts(work, SPLITS), *last)


def _in_parts(work: Operations, parts: int) -> Operations:
    """Products in `parts` kernels along m."""
    return tuple(replace(each, parts=parts, kernels=parts) if each.kind == "matmul" else each for each in work)


def _beside(traffic: Operations, work: Operations) -> Operations:
    return tuple(replace(operation, hidden_by=len(work)) for operation in traffic)
