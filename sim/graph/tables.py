"""Embedding bags of recommenders: rows that are looked up, summed and sent to the ranks whose samples asked for them.

Tables lie on other ranks than the samples, so indices go there and vectors come back, in both passes (Naumov 2019,
arXiv 1906.00091; Mudigere 2021, arXiv 2104.05158). Rows are updated by the backward pass itself (FBGEMM, table batched
embeddings): no gradient of a table's size is ever made.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import expm1, log1p
from typing import NamedTuple

from typing_extensions import override

from sim.graph.graph import Operator, Step, Tensor
from sim.graph.operation import CollectiveKind
from sim.graph.pointwise import Activation
from sim.graph.products import hide
from sim.graph.work import Writer

INDEX = 8  # bytes of an index
LOAD = 8  # vectors that a load of a tensor core takes
SORTED = 4 * 2 * (8 + 8)  # bytes per lookup to sort indices with their places: four passes of a radix sort
CACHE = 32 * 2**20  # assumption: bytes of a table that stay in the second-level cache for a whole pass


class Table(NamedTuple):
    """Rows that a rank holds of a table, how many a sample looks up there, and columns of a row."""

    rows: int
    lookups: float
    columns: int


class TableShare(NamedTuple):
    """What the fullest rank does for all samples of the exchange.

    tables: its tables. width, state: bytes of an element, and of optimizer state per row. vectors: columns that it
    sends for each sample, `summed` where they are parts of sums over ranks.
    """

    tables: tuple[Table, ...]
    width: int
    state: int
    vectors: float
    summed: bool


class EmbeddingBags(Operator):
    """Sums of rows, for the samples of all `ranks`; the update of these rows. A sample has `every` lookups in all."""

    __slots__ = ("every", "ranks", "rows")

    def __init__(self, name: str, indices: Tensor, rows: TableShare, every: float, ranks: int, y: Tensor) -> None:
        tables = [Tensor(name, (each.rows, each.columns), rows.width, "table") for each in rows.tables]
        states = [Tensor(f"{name} state", (each.rows, rows.state), 1, "state") for each in rows.tables if rows.state]
        super().__init__(name, (indices,), (y,), (*tables, *states))
        self.rows, self.every, self.ranks = rows, every, ranks

    @override
    def forward(self, work: Writer) -> None:
        """Indices arrive, rows are read, vectors written."""
        samples, rows = self._samples(work), self.rows
        if self.ranks > 1:
            arriving = max(work.graph.sizes["samples"] * self.every, samples * self._lookups)
            work.collective(f"{self.name} indices", "all_to_all", INDEX * arriving, "expert")
        read = sum(_read(each, samples, rows.width) for each in rows.tables)
        work.memory(f"{self.name} lookup", read + samples * (INDEX * self._lookups + work.element * rows.vectors))

    @override
    def backward(self, work: Writer) -> None:
        """Sort the indices; read a gradient for each; read and write each row that was touched once, and its state."""
        samples, rows = self._samples(work), self.rows
        work.memory(f"{self.name} sort", SORTED * samples * self._lookups, 8)
        vectors = work.element * samples * sum(each.lookups * each.columns for each in rows.tables)
        touched = sum(_touched(each, samples) * (each.columns * rows.width + rows.state) for each in rows.tables)
        work.memory(f"{self.name} update", vectors + 2 * touched)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Indices that arrived, and the places they came from."""
        return (Tensor(f"{self.name} indices", (int(self._samples(work) * self._lookups), 2), INDEX),)

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        """Tables get no gradients."""
        kept = tuple(self.needs(work))
        return (Step(self.reads, (*self.writes, *kept), kept),)

    @property
    def _lookups(self) -> float:
        return sum(each.lookups for each in self.rows.tables)

    def _samples(self, work: Writer) -> int:
        return work.graph.sizes["samples"] * self.ranks


class SentVectors(Operator):
    """Vectors leave for the ranks of their samples; backward, their gradients are there.

    message: bytes for a sample of this rank. summed: each rank has a part of every vector.
    """

    __slots__ = ("message", "summed")

    def __init__(self, name: str, x: Tensor, y: Tensor, message: float, *, summed: bool) -> None:
        super().__init__(name, (x,), (y,))
        self.message, self.summed = message, summed

    @override
    def forward(self, work: Writer) -> None:
        self.issue(work, self.name, "reduce_scatter" if self.summed else "all_to_all")

    @override
    def backward(self, work: Writer) -> None:
        """They are waited for."""
        wait_here(work, f"{self.name} gradients")

    def issue(self, work: Writer, name: str, kind: CollectiveKind) -> None:
        """The exchange itself, if there is anybody else."""
        if self.message:
            work.collective(name, kind, self.message * work.graph.sizes["samples"], "expert")


class ArrivedVectors(Operator):
    """What was computed while vectors travelled ends here; backward, their gradients leave here."""

    __slots__ = ("sent",)

    in_place = True

    def __init__(self, sent: SentVectors) -> None:
        x = sent.result
        super().__init__(f"{sent.name} arrived", (x,), (Tensor(f"{x.name} here", x.axes, x.width),))
        self.sent = sent

    @override
    def forward(self, work: Writer) -> None:
        wait_here(work, self.sent.name)

    @override
    def backward(self, work: Writer) -> None:
        self.sent.issue(work, f"{self.sent.name} gradients", "all_gather" if self.sent.summed else "all_to_all")

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return (Step(self.reads, self.writes, (), alias=True),)


class DotInteraction(Operator):
    """Products of all pairs of a sample's vectors, beside its first (Naumov 2019, section 2).

    Kernels pad vectors and result to loads. Fused, a sample's vectors are read once each way (DeepLearningExamples,
    dotBasedInteract; HugeCTR, InteractionLayer); else products, a copy of pairs, and sums go through memory.
    """

    __slots__ = ("vectors", "width")

    def __init__(self, name: str, first: Tensor, others: Tensor, vectors: int, width: int) -> None:
        """`vectors` of `width` columns, the first included."""
        columns = padded(width + vectors * (vectors - 1) // 2)
        super().__init__(name, (first, others), (Tensor(f"{name} output", ("samples", columns), first.width),))
        self.vectors, self.width = vectors, width

    @override
    def forward(self, work: Writer) -> None:
        self._batched(work, self.name, self._square, self._square, self.width)
        if work.fused:
            self._read_once(work, 1)
        else:
            work.memory(f"{self.name} pairs", 2 * work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """Pairs back into a square, the gradients of both operands, which are the same vectors, and their sum."""
        if not work.fused:
            work.memory(f"{self.name} pairs backward", 2 * work.bytes(self.result))
        self._batched(work, f"{self.name} gradient", self._square, self.width, self._square)
        if work.fused:
            self._read_once(work, 2)
        else:
            self._batched(work, f"{self.name} gradient", self._square, self.width, self._square)
            work.memory(f"{self.name} gradient sum", 3 * sum(map(work.bytes, self.reads)))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads

    @override
    def products(self, work: Writer) -> float:
        return 2.0 * work.graph.sizes["samples"] * self.vectors**2 * self.width

    @property
    def _square(self) -> int:
        return padded(self.vectors)

    def _batched(self, work: Writer, name: str, m: int, n: int, k: int) -> None:
        work.product(name, (m, n, k), work.graph.sizes["samples"])

    def _read_once(self, work: Writer, times: int) -> None:
        """The last product does the work of so many, and moves vectors as often, and pairs once."""
        each = work.operations[-1]
        moved = times * sum(map(work.bytes, self.reads)) + work.bytes(self.result)
        work.operations[-1] = each._replace(flops=times * each.flops, bytes_moved=float(moved))


class DenseRectifier(Activation):
    """A rectifier behind a product, in whose epilogue it is done where the stack fuses so far: a mask of a bit is left.

    Backward likewise, with the gradient of the bias (cuBLASLt, epilogues RELU_AUX_BIAS and DRELU_BGRAD).
    """

    __slots__ = ()

    def __init__(self, name: str, x: Tensor) -> None:
        super().__init__(name, (x,), "relu", bias=True)

    @override
    def forward(self, work: Writer) -> None:
        if work.shard.fusion == "epilogue":
            work.memory(self.name, work.elements(self.result) / 8, 0)
        else:
            super().forward(work)

    @override
    def backward(self, work: Writer) -> None:
        if work.shard.fusion == "epilogue":
            work.memory(f"{self.name} backward", work.elements(self.result) / 8, 0)
        else:
            super().backward(work)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its result: the next product keeps that anyway."""
        return self.writes


class CrossSum(Operator):
    """x + x0 * (what the low-rank products of a cross layer made of x) (Wang 2020, DCN V2, arXiv 2008.13535)."""

    __slots__ = ()

    def __init__(self, name: str, product: Tensor, x: Tensor, first: Tensor) -> None:
        super().__init__(name, (product, x, first), (Tensor(f"{name} output", x.axes, x.width),))

    @override
    def forward(self, work: Writer) -> None:
        """Read three, write one; eager code multiplies and adds apart."""
        kernels = 1 if work.fused else 2
        work.memory(self.name, (4 if work.fused else 6) * work.bytes(self.result), kernels)

    @override
    def backward(self, work: Writer) -> None:
        """Read the gradient, x0 and the product; write the gradients of these two."""
        kernels = 1 if work.fused else 2
        work.memory(f"{self.name} backward", (5 if work.fused else 6) * work.bytes(self.result), kernels)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        product, _, first = self.reads
        return product, first


def padded(columns: int) -> int:
    """Up to whole loads."""
    return -(-columns // LOAD) * LOAD


def wait_here(work: Writer, name: str) -> None:
    """Let the last collective of that name run beside all that was written after it."""
    for at in range(len(work.operations) - 1, -1, -1):
        if work.operations[at].name == name:
            hide(work, at)
            return


def _touched(table: Table, samples: int) -> float:
    """Rows that are looked up at least once, each row being as likely as the others."""
    draws = samples * table.lookups
    return float(table.rows) if table.rows <= 1 else -table.rows * expm1(draws * log1p(-1 / table.rows))


def _read(table: Table, samples: int, width: int) -> float:
    """Bytes that lookups read from memory: each row once where the table stays in the cache."""
    row = table.columns * width
    rows = _touched(table, samples) if table.rows * row <= CACHE else samples * table.lookups
    return rows * row
