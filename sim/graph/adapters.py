"""Low-rank adapters beside frozen matrices (Hu 2021, arXiv 2106.09685): y = W x + B A x.

A is (rank x inputs), B is (outputs x rank). Under tensor parallelism the adapter is split as its
matrix is: of a column-parallel matrix A yields a share of the rank, gathered before B; of a
row-parallel matrix A yields partial sums, added up before B (NeMo, ParallelLinearAdapter).
The adapter computes in the 16-bit format also where its matrix is fp8.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field
from typing_extensions import override

from sim.graph.graph import Step, Tensor
from sim.graph.operation import CollectiveKind
from sim.graph.products import Linear, Serving
from sim.graph.work import Writer
from sim.record import Record
from sim.units import Count

WIDE = 4  # bytes of a 32-bit number


class LowRank(Record):
    """Low-rank adaptation (LoRA): all weights are frozen, small matrices beside some of them are trained."""

    rank: Count = Field(ge=1, le=10_000_000, description="inner width of an adapter")
    targets: tuple[Literal["qkv", "attention_output", "feed_forward_up", "feed_forward_down"], ...] = Field(
        default=("qkv", "attention_output"), min_length=1, description="matrices of each layer that get an adapter"
    )
    dropout: bool = Field(default=False, description="dropout on the input of an adapter")
    base: Literal["int8", "nf4"] | None = Field(
        default=None,
        description="format in which the frozen matrices of layers are stored (QLoRA), each made 16 bit for every use: "
        "8-bit integers with a scale for each row, or 4 bit with an 8-bit scale for each 64 of them and a 32-bit one "
        "for 256 scales; as products take them if absent",
    )
    wide: bool = Field(
        default=False, description="adapters and their inputs are in 32 bit (PEFT's default beside 16-bit weights)"
    )


# Bytes of a stored weight: scales of rows are left out; Dettmers 2023 (QLoRA, arXiv 2305.14314), section 3
BASE_BYTES = {"int8": 1.0, "nf4": 0.5 + (1 + 4 / 256) / 64}


class Dequantization(Serving):
    """The matrices of a product, which are stored in few bits, made 16 bit by a kernel each for every use of them."""

    __slots__ = ("stored",)

    def __init__(self, product: Linear, base: str) -> None:
        super().__init__(f"{product.name} dequantization", (), (), product)
        self.stored = BASE_BYTES[base]

    @override
    def forward(self, work: Writer) -> None:
        assert self.product
        matrices = [each for each in self.product.weights if len(each.axes) > 1]
        elements = sum(map(work.graph.elements, matrices))
        work.memory(self.name, (self.stored + work.element) * elements, len(matrices))

    @override
    def backward(self, work: Writer) -> None:
        """For the gradient of the input."""
        self.forward(work)


class Adapter(Serving):
    """Two small products beside `product`, the only trained ones; `column` says how that is split."""

    __slots__ = ("column", "lora")

    in_place = True

    def __init__(self, target: str, product: Linear, lora: LowRank, *, column: bool) -> None:
        super().__init__(f"{target} adapter", (), (), product)
        self.lora, self.column = lora, column

    @override
    def forward(self, work: Writer) -> None:
        """Dropout of the input, both small products, and the sum with the frozen product."""
        tokens, inputs, outputs = self._sizes(work)
        inner, rows, kind = self._split(work)
        if self.lora.dropout:
            traffic = (2 * work.element + 1) * tokens * inputs
            work.memory(f"{self.name} dropout", traffic, random=tokens * inputs)
        work.product(f"{self.name} down", (tokens, inner, inputs))
        self._exchange(work, kind)
        work.product(f"{self.name} up", (rows, outputs, self.lora.rank))
        work.memory(f"{self.name} sum", 3 * work.element * rows * outputs)

    def backward_beside(self, work: Writer) -> None:
        """Gradients of both small matrices and of the input, added to that of the frozen product."""
        tokens, inputs, outputs = self._sizes(work)
        inner, rows, kind = self._split(work)
        rank, name = self.lora.rank, self.name
        work.product(f"{name} up input gradient", (rows, rank, outputs))
        work.weight_gradient(f"{name} up", rank, outputs, rows)
        self._exchange(work, DUAL[kind])
        work.product(f"{name} down input gradient", (tokens, inputs, inner))
        work.weight_gradient(f"{name} down", inputs, inner, tokens)
        if self.lora.dropout:
            work.memory(f"{name} backward dropout", (2 * work.element + 1) * tokens * inputs)
        work.memory(f"{name} gradient sum", 3 * work.element * tokens * inputs)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """The small inner product, and with dropout the input that it left, and its mask.

        A 32-bit adapter casts the input of each matrix (PEFT, tuners/lora/layer.py, _cast_input_dtype).
        """
        assert self.product
        read = self.product.reads[0]
        wide = WIDE if self.lora.wide else work.element
        inner = Tensor(f"{self.name} inner", (*read.axes[:-1], self.lora.rank), wide)
        copies = len(self.product.widths(work)) if self.lora.wide else 0
        inputs = tuple(Tensor(f"{self.name} input {number}", read.axes, wide) for number in range(copies))
        if not self.lora.dropout:
            return (inner, *inputs)
        dropped = Tensor(f"{self.name} dropped", read.axes, wide)
        return inner, *inputs, dropped, Tensor(f"{self.name} mask", read.axes, 1)

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        """Its result is added to that of the product, which is counted there."""
        assert self.product
        needed = tuple(self.needs(work))
        trained = Tensor(f"{self.name} weights", (self.parameters(work),), WIDE if self.lora.wide else work.element)
        return (Step(self.product.reads, needed, needed, (trained,)),)

    def parameters(self, work: Writer) -> int:
        """Trained parameters on one rank: rank x (inputs + outputs); of a split matrix A has a share of the rank."""
        _, inputs, outputs = self._sizes(work)
        inner, _, _ = self._split(work)
        return inner * inputs + self.lora.rank * outputs

    @override
    def products(self, work: Writer) -> float:
        tokens, _, _ = self._sizes(work)
        return 2.0 * tokens * self.parameters(work)

    def _sizes(self, work: Writer) -> tuple[int, int, int]:
        """Rows, inputs and outputs of the product."""
        assert self.product
        count = work.graph.count
        return work.graph.rows(self.product.reads[0]), count(self.product.inputs), sum(map(count, self.product.columns))

    def _split(self, work: Writer) -> tuple[int, int, CollectiveKind]:
        """Columns of A's product, rows of B's, and what happens between them, on one rank."""
        assert self.product
        rank, tensor, tokens = self.lora.rank, work.shard.tensor, work.graph.rows(self.product.reads[0])
        if self.column:
            return -(-rank // tensor), tokens, "all_gather"
        leave = self.product.leave
        rows = work.graph.rows(leave.result) if leave else tokens
        return rank, rows, "reduce_scatter" if work.splits else "all_reduce"

    def _exchange(self, work: Writer, kind: CollectiveKind) -> None:
        if work.shard.tensor > 1:
            tokens, _, _ = self._sizes(work)
            work.collective(f"{self.name} exchange", kind, work.element * tokens * self.lora.rank)


DUAL: dict[CollectiveKind, CollectiveKind] = {
    "all_gather": "reduce_scatter",
    "reduce_scatter": "all_gather",
    "all_reduce": "all_reduce",
}
