"""How long matrix products take: tiles, waves and alignment.

A product runs in waves of output tiles, one tile per processor. A wave takes the arithmetic of a
tile and then writes it: the processors finish together, so writing is not hidden by the arithmetic
of the same wave. Short inner dimensions therefore cost efficiency. The library picks the fastest
tile: smaller ones leave less of the last wave idle, but read their operands more often (NVIDIA,
Matrix Multiplication Background User's Guide, sections 2.3 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from sim.spec.records import Accelerator, MatrixUnit
from sim.workload.operation import Operation

STREAMS = 3  # parts of a product that run at a time (Transformer Engine, NVTE_COMM_OVERLAP_MAX_STREAMS)
ALIGNMENT = 8  # 16-bit elements that a tensor core loads at once (16 B)
OPERAND_SHARE = 0.2  # assumption: share of the time of the largest tile that grows with operand bytes per FLOP
HALVES = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5))  # of the largest tile


def matmul_time(operation: Operation, accelerator: Accelerator, rate: float, bandwidth: float) -> tuple[float, float]:
    """Seconds of arithmetic at `rate` [FLOP/s] when all processors are busy, and of writing at `bandwidth` [B/s]."""
    if is_misaligned(operation) and accelerator.vector.fp32:
        return operation.flops / (accelerator.vector.fp32 * accelerator.matrix.efficiency), 0.0
    full = operation.flops / rate
    writing = operation.output_bytes * operation.m * operation.n * operation.batch / bandwidth
    tilings = _tilings(operation, accelerator.matrix)
    return min(((full * work / busy, writing / busy) for work, busy in tilings), key=sum)


def is_misaligned(operation: Operation) -> bool:
    """Whether tensor cores cannot load the operands of a batched product.

    In the products of attention each head starts where the one before ends. Tensor cores load
    addresses that are multiples of 16 B (the same guide, section 2.2); else cuBLAS takes kernels on
    the 32-bit vector units.
    """
    return operation.batch > 1 and any(size % ALIGNMENT for size in (operation.m, operation.n, operation.k))


def _tilings(operation: Operation, matrix: MatrixUnit) -> Iterator[tuple[float, float]]:
    """For each tile: arithmetic time relative to the largest, share of processors busy with real work."""
    outputs = operation.m * operation.n * operation.batch
    largest = 1 / matrix.tile[0] + 1 / matrix.tile[1]
    for rows, columns in _tiles(matrix):
        tiles = ceil(operation.m / operation.parts / rows) * ceil(operation.n / columns) * operation.batch
        slots = _waves(tiles, operation.parts, matrix.compute_units) * matrix.compute_units * rows * columns
        operands = (1 / rows + 1 / columns) / largest
        yield 1.0 + OPERAND_SHARE * (operands - 1.0), max(outputs / slots, matrix.quantization_floor)


def _waves(tiles: int, parts: int, processors: int) -> int:
    """Waves of `parts` kernels of `tiles` each: streams fill each other's last waves, but keep their own order."""
    in_turn = ceil(parts / STREAMS) * ceil(tiles / processors)
    return max(ceil(parts * tiles / processors), in_turn if parts > 1 else 0)


def _tiles(matrix: MatrixUnit) -> Iterator[tuple[float, float]]:
    for by_rows, by_columns in HALVES if matrix.halves_tiles else HALVES[:1]:
        yield matrix.tile[0] * by_rows, matrix.tile[1] * by_columns
        yield matrix.tile[1] * by_columns, matrix.tile[0] * by_rows
