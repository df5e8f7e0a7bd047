"""Gradient compression: what a sum over ranks becomes on the network, and what it costs a rank in kernels and memory.

Kernels are passes over gradients in device memory and run where the backward pass runs, as hooks of PyTorch do: beside
it they would contend for the same processors (Agarwal 2022, MLSys, arXiv 2103.00543). What comes in is unpacked when
all of it is there; kernels between the collectives of one sum count with those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from typing_extensions import override

from sim.graph.operation import Operation, Phase
from sim.inputs.compression import Compression
from sim.record import NARROW

SCALE = 4 / 256  # bytes of a 32-bit scale for each block of 256, per element (bitsandbytes, ZeRO++)
INDEX = 4  # bytes of the place of a gradient
SECTOR = 32  # bytes that the least access to device memory moves
RADIX_BITS = 8  # of the value, that one pass of a radix selection sorts out (PyTorch, topk)
WORTH = 2  # PowerSGD: least factor by which factors of a matrix are smaller (PyTorch, min_compression_rate)

Matrix = tuple[int, int, int]  # rows, columns, how many


class Gradients(NamedTuple):
    """Gradients of one rank that are summed together.

    width: bytes of each as it is kept; sent: as the stack sends it; matrices: those among them; precision: of products.
    """

    elements: float
    width: int = 4
    sent: int = 4
    matrices: tuple[Matrix, ...] = ()
    precision: str = "bf16"


class Compressor(ABC):
    """A way to compress. residue: whether what is lost is kept and added to the next gradients of the rank."""

    residue = False

    @abstractmethod
    def collectives(self, kind: str) -> tuple[str, ...]:
        """What runs in place of an all-reduce or a reduce-scatter, one after the other."""

    @abstractmethod
    def wire(self, gradients: Gradients, ranks: int) -> tuple[float, ...]:
        """Messages of the collectives of an all-reduce, in the convention of nccl-tests [B]."""

    @abstractmethod
    def pack(self, gradients: Gradients) -> tuple[Operation, ...]:
        """Kernels before the first of them."""

    @abstractmethod
    def unpack(self, gradients: Gradients, ranks: int, kind: str) -> tuple[Operation, ...]:
        """Kernels after it, of what has become of the sum `kind`."""

    def residue_bytes(self, width: int) -> float:
        """Memory between two steps, per gradient."""
        return float(width) if self.residue else 0.0


class SummedFormat(Compressor):
    """Gradients in a format in which they add up (PyTorch, fp16_compress_hook; Peng 2023, arXiv 2310.18313)."""

    def __init__(self, width: int) -> None:
        self.width = width

    @override
    def collectives(self, kind: str) -> tuple[str, ...]:
        return (kind,)

    @override
    def wire(self, gradients: Gradients, ranks: int) -> tuple[float, ...]:
        return (gradients.elements * self.width,)

    @override
    def pack(self, gradients: Gradients) -> tuple[Operation, ...]:
        return (_memory("cast gradients", gradients.elements * (gradients.width + self.width)),)

    @override
    def unpack(self, gradients: Gradients, ranks: int, kind: str) -> tuple[Operation, ...]:
        kept = gradients.elements / (ranks if kind == "reduce_scatter" else 1)
        return (_memory("cast sums", kept * (gradients.width + self.width)),)


class ExchangedBlocks(Compressor):
    """Integers with a scale a block, which cannot be added up on the way.

    Each rank gets its share of all others (all-to-all), adds it up, and hands the sum, compressed again, to all
    (Tang 2021, 1-bit Adam, arXiv 2102.02888, section 5; Wang 2023, ZeRO++, arXiv 2306.10209, qgZ, of gradients).
    """

    def __init__(self, width: float, residue: bool) -> None:
        self.width, self.residue = width, residue

    @override
    def collectives(self, kind: str) -> tuple[str, ...]:
        return ("all_to_all",) if kind == "reduce_scatter" else ("all_to_all", "all_gather")

    @override
    def wire(self, gradients: Gradients, ranks: int) -> tuple[float, ...]:
        return (gradients.elements * self.width,) * 2

    @override
    def pack(self, gradients: Gradients) -> tuple[Operation, ...]:
        return self._quantized("gradients", gradients.elements, gradients.width)

    @override
    def unpack(self, gradients: Gradients, ranks: int, kind: str) -> tuple[Operation, ...]:
        count, share = gradients.elements, gradients.elements / ranks
        added = _memory("add shares up", count * self.width + share * gradients.width)
        if kind == "reduce_scatter":
            return (added,)
        again = self._quantized("sums", share, gradients.width)
        return (added, *again, _memory("unpack sums", count * (self.width + gradients.width)))

    def _quantized(self, what: str, count: float, width: int) -> tuple[Operation, ...]:
        """With a residue: it is added and the mean size taken; then signs and the new residue are written."""
        if not self.residue:
            return (_memory(f"quantize {what}", count * (width + self.width)),)
        return (
            _memory(f"add residue to {what}", count * 3 * width),
            _memory(f"quantize {what}", count * (2 * width + self.width)),
        )


class LargestOnly(Compressor):
    """The largest gradients of each rank with their places (Lin 2018, Deep Gradient Compression, arXiv 1712.01887).

    Ranks choose different ones, so all of them go to all: bytes grow with the ranks.
    """

    residue = True

    def __init__(self, share: float) -> None:
        self.share = share

    @override
    def collectives(self, kind: str) -> tuple[str, ...]:
        return ("all_gather",)

    @override
    def wire(self, gradients: Gradients, ranks: int) -> tuple[float, ...]:
        return (ranks * self._chosen(gradients) * (gradients.sent + INDEX),)

    @override
    def pack(self, gradients: Gradients) -> tuple[Operation, ...]:
        count, width, chosen = gradients.elements, gradients.width, self._chosen(gradients)
        passes = ceil(8 * width / RADIX_BITS)
        return (
            _memory("add residue to gradients", count * 3 * width),
            _memory("select the largest", count * width * passes, passes),
            _memory("gather the chosen", count * width + chosen * (gradients.sent + INDEX + SECTOR)),
        )

    @override
    def unpack(self, gradients: Gradients, ranks: int, kind: str) -> tuple[Operation, ...]:
        """Each gradient that came is added in its place: a sector is read and written."""
        came = ranks * self._chosen(gradients)
        return (
            _memory("clear gradients", gradients.elements * gradients.width),
            _memory("scatter what came", came * (gradients.sent + INDEX + 2 * SECTOR), ranks),
        )

    def _chosen(self, gradients: Gradients) -> float:
        return ceil(self.share * gradients.elements)


class PowerSgd(Compressor):
    """Two factors of each matrix, by one step of a power iteration that begins with the last (Vogels 2019, arXiv
    1905.13727, algorithm 1; PyTorch, powerSGD_hook)."""

    residue = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    @override
    def collectives(self, kind: str) -> tuple[str, ...]:
        return (kind, kind)

    @override
    def wire(self, gradients: Gradients, ranks: int) -> tuple[float, ...]:
        thin = self._thin(gradients)
        whole = gradients.elements - sum(rows * columns * count for rows, columns, count in thin)
        left, right = (self.rank * sum(each[side] * each[2] for each in thin) for side in (0, 1))
        return ((whole + left) * gradients.sent, right * gradients.sent)

    @override
    def pack(self, gradients: Gradients) -> tuple[Operation, ...]:
        thin = self._thin(gradients)
        count = sum(rows * columns * number for rows, columns, number in thin)
        added = _memory("add residue to gradients", count * 3 * gradients.width, max(1, len(thin)))
        return (added, *(self._product("left factor", gradients, each, (each[0], self.rank, each[1])) for each in thin))

    @override
    def unpack(self, gradients: Gradients, ranks: int, kind: str) -> tuple[Operation, ...]:
        operations = []
        for each in self._thin(gradients):
            rows, columns, number = each
            column = rows * number * gradients.sent  # Gram-Schmidt: each column is taken from all behind it
            operations += [
                _memory("orthogonalize", column * self.rank * (self.rank + 1), 2 * self.rank * number),
                self._product("right factor", gradients, each, (columns, self.rank, rows)),
                self._product("product of factors", gradients, each, (rows, columns, self.rank)),
                _memory("new residue", 3 * gradients.width * rows * columns * number, number),
            ]
        return tuple(operations)

    def _thin(self, gradients: Gradients) -> list[Matrix]:
        """Matrices whose factors are smaller enough."""
        return [
            (rows, columns, count)
            for rows, columns, count in gradients.matrices
            if WORTH * self.rank * (rows + columns) < rows * columns
        ]

    def _product(self, name: str, gradients: Gradients, matrix: Matrix, shape: tuple[int, int, int]) -> Operation:
        """Bound by memory: the matrix is read or written once, and the factors."""
        rows, columns, count = matrix
        m, n, k = shape
        size = rows * columns * gradients.width + self.rank * (rows + columns) * gradients.sent
        return Operation(
            name,
            "matmul",
            flops=2.0 * m * n * k * count,
            bytes_moved=float(size * count),
            precision="bf16" if gradients.precision in NARROW else gradients.precision,
            batch=count,
            m=m,
            n=n,
            k=k,
            kernels=count,
            output_bytes=gradients.width,
            phase=Phase.OPTIMIZER,
        )


COMPRESSORS: dict[str, Callable[[Compression], Compressor]] = {
    "fp16": lambda asked: SummedFormat(2),
    "fp8": lambda asked: SummedFormat(1),
    "int8": lambda asked: ExchangedBlocks(1 + SCALE, residue=False),
    "one_bit": lambda asked: ExchangedBlocks(1 / 8, residue=True),
    "top_k": lambda asked: LargestOnly(asked.share),
    "power_sgd": lambda asked: PowerSgd(asked.rank),
}


def compressor_of(compression: Compression) -> Compressor | None:
    """The way that a training compresses, None if it does not."""
    return COMPRESSORS[compression.kind](compression) if compression.kind != "none" else None


def _memory(name: str, traffic: float, kernels: int = 1) -> Operation:
    return Operation(name, "elementwise", bytes_moved=traffic, precision="fp32", kernels=kernels, phase=Phase.OPTIMIZER)
