"""Matrix products on many processors: tiles, waves and alignment.

A product runs in waves of output tiles, one tile per processor. A wave takes the arithmetic of a
tile and then writes it: the processors finish together, so writing is not hidden by the arithmetic
of the same wave. Short inner dimensions therefore cost efficiency. The library picks the fastest
tile: smaller ones leave less of the last wave idle, but read their operands more often (NVIDIA,
Matrix Multiplication Background User's Guide, sections 2.3 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil

from typing_extensions import override

from sim.devices.device import Device
from sim.graph.operation import Operation, Phase
from sim.inputs.board import streaming_rate
from sim.inputs.records import Accelerator
from sim.record import NARROW

STREAMS = 3  # parts of a product that run at a time (Transformer Engine, NVTE_COMM_OVERLAP_MAX_STREAMS)
LOAD = {"fp16": 8, "bf16": 8, "tf32": 4} | {
    name: 16 * 8 // (4 if each.bits == 4 else 8)
    for name, each in NARROW.items()  # 6 bits lie in bytes
}  # elements that a tensor core loads at once (16 B)
LINE = 8  # loads in a line of the cache (128 B)
UNALIGNED = 0.5  # rate where rows start between loads
OFF_LINE = 0.9  # assumption: rate where they start at loads, but inside a line
OPERAND_SHARE = 0.2  # assumption: share of the time of the largest tile that grows with operand bytes per FLOP
Shape = tuple[int, int, int, int]  # of a product: m, n, batch, parts
Unit = tuple[tuple[int, int], bool, int, float]  # tile, whether it is halved, processors, least share of them
HALVES = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5))  # of the largest tile


class Gpu(Device):
    """Products in tiles of `matrix.tile` over `matrix.compute_units` processors."""

    @override
    def product(self, operation: Operation, accelerator: Accelerator, rate: float) -> tuple[float, float]:
        if is_misaligned(operation) and accelerator.vector.fp32:
            return operation.flops / (accelerator.vector.fp32 * accelerator.matrix.efficiency), 0.0
        full = operation.flops / (rate * alignment_share(operation))
        written = operation.output_bytes * operation.m * operation.n * operation.batch
        writing = written / streaming_rate(accelerator)
        matrix, shape = accelerator.matrix, (operation.m, operation.n, operation.batch, operation.parts)
        tilings = _tilings(shape, (matrix.tile, matrix.halves_tiles, matrix.compute_units, matrix.quantization_floor))
        return min([(full * work / busy, writing / busy) for work, busy in tilings], key=sum)


def is_misaligned(operation: Operation) -> bool:
    """Whether tensor cores cannot load the operands of a batched product.

    In the products of attention each head starts where the one before ends. Tensor cores load
    addresses that are multiples of 16 B (the same guide, section 2.2); else cuBLAS takes kernels on
    the 32-bit vector units.
    """
    return operation.batch > 1 and any(size % LOAD["bf16"] for size in (operation.m, operation.n, operation.k))


def alignment_share(operation: Operation) -> float:
    """Share of the rate that is left where rows of an operand or of the result do not start at whole loads.

    Tensor cores load rows that start at multiples of 16 B, best of 128 B (the same guide, section 2.2). Else kernels of
    one element a load run, at 0.69 of the rate on an RTX 4090 (pytorch/pytorch, issue 181718: 112 for 165 TFLOP/s), and
    at half of it on an A100, by the head of GPT-2 with 50,257 and 50,304 words (LLMs-from-scratch, ch05/10).
    """
    load = LOAD.get(operation.precision)
    if load is None:
        return 1.0
    rows = (operation.m, operation.n) if operation.phase is Phase.WEIGHT_GRADIENT else (operation.k, operation.n)
    if any(size % load for size in rows):
        return UNALIGNED
    return OFF_LINE if any(size % (load * LINE) for size in rows) else 1.0


@lru_cache(maxsize=4096)  # a product is priced anew for each board of a sweep
def _tilings(shape: Shape, unit: Unit) -> tuple[tuple[float, float], ...]:
    """For each tile: arithmetic time relative to the largest, share of processors busy with real work."""
    (m, n, batch, parts), (tile, halves, processors, floor) = shape, unit
    largest = 1 / tile[0] + 1 / tile[1]
    found = []
    for rows, columns in _tiles(tile, halves):
        tiles = ceil(m / parts / rows) * ceil(n / columns) * batch
        slots = _waves(tiles, parts, processors) * processors * rows * columns
        operands = (1 / rows + 1 / columns) / largest
        found.append((1.0 + OPERAND_SHARE * (operands - 1.0), max(m * n * batch / slots, floor)))
    return tuple(found)


def _waves(tiles: int, parts: int, processors: int) -> int:
    """Waves of `parts` kernels of `tiles` each: streams fill each other's last waves, but keep their own order."""
    in_turn = ceil(parts / STREAMS) * ceil(tiles / processors)
    return max(ceil(parts * tiles / processors), in_turn if parts > 1 else 0)


def _tiles(tile: tuple[int, int], halves: bool) -> Iterator[tuple[float, float]]:
    for by_rows, by_columns in HALVES if halves else HALVES[:1]:
        yield tile[0] * by_rows, tile[1] * by_columns
        yield tile[1] * by_columns, tile[0] * by_rows
