"""Matrix products, with what tensor parallelism and 8-bit formats put around them.

Shoeybi 2019; Korthikanti 2022, section 4. Where a tensor enters the region of split axes each rank needs every row
(`Enter`), where it leaves it each rank holds a partial sum (`Leave`). Under sequence parallelism all-reduces become a
reduce-scatter and an all-gather, and the backward pass gathers the input once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Step, Tensor
from sim.graph.operation import Phase
from sim.graph.work import SPARSE, Writer

if TYPE_CHECKING:
    from sim.graph.adapters import Adapter

SPLITS = 4  # parts in which the result of a product leaves


class Linear(Operator):
    """Matrices that share an input: (rows x inputs) by (inputs x columns) each, as one product if the stack joins them.

    What passes put around it: `cast` of its input to 8 bit, `enter` that gathers its rows, whether its input gradient
    is `summed` over ranks, `leave` that sums its result, an `adapter`. It stays in 16 bit if it is `wide`.
    """

    __slots__ = ("adapter", "cast", "columns", "enter", "inputs", "leave", "summed", "wide")

    def __init__(
        self, name: str, x: Tensor, columns: tuple[Axis, ...], *, bias: bool = False, wide: bool = False
    ) -> None:
        inputs = x.axes[-1]
        matrices = tuple(Tensor(name, (column, inputs), x.width, "weight") for column in columns)
        biases = tuple(Tensor(f"{name} bias", (column,), x.width, "weight") for column in columns) if bias else ()
        results = tuple(Tensor(f"{name} output", (*x.axes[:-1], column), x.width) for column in columns)
        super().__init__(name, (x,), results, matrices + biases)
        self.inputs, self.columns, self.wide, self.summed = inputs, columns, wide, False
        self.cast: Cast | None = None
        self.enter: Enter | None = None
        self.leave: Leave | None = None
        self.adapter: Adapter | None = None

    def narrowed(self, numbers: tuple[int, ...]) -> Linear:
        """The same product with some of its matrices."""
        part = Linear(self.name, self.reads[0], tuple(self.columns[number] for number in numbers), wide=self.wide)
        part.cast, part.enter, part.writes = self.cast, self.enter, tuple(self.writes[number] for number in numbers)
        return part

    def widths(self, work: Writer) -> tuple[int, ...]:
        """Columns of each product that runs."""
        each = tuple(map(work.graph.count, self.columns))
        return each if self.apart(work) else (sum(each),)

    def apart(self, work: Writer) -> bool:
        """Whether its matrices are products of their own."""
        return len(self.columns) > 1 and not work.shard.joins_matrices

    @property
    def of_data(self) -> bool:
        """Whether it multiplies data, which have no gradient."""
        return self.reads[0].role == "index"

    @property
    def precision(self) -> str | None:
        """Format of the operands, if not that of activations."""
        return self.cast.format if self.cast else None

    @override
    def forward(self, work: Writer) -> None:
        """Multiply; beside traffic in parts: one for each rank whose rows arrive, or for each that leaves.

        Rows arrive one rank at a time (Transformer Engine user buffers, ring exchange; PyTorch,
        fused_all_gather_matmul). They leave in four parts, as user buffers do by default (method pipeline, num_splits).
        """
        hidden, parts, widths = work.hidden("forward"), 1, self.widths(work)
        if hidden and self.leave:
            parts = SPLITS
            self.leave.early(work, len(widths))
        elif hidden and self.enter:
            parts = work.shard.tensor
        rows, inputs, sparse = work.graph.rows(self.reads[0]), work.graph.count(self.inputs), self.is_sparse(work)
        if sparse and work.phase is Phase.FORWARD:
            kept = 2 * SPARSE * work.element  # as they are, and transposed for the gradient of the input
            work.memory(f"{self.name} pruning", (work.element + kept) * inputs * sum(widths), len(widths))
        for width in widths:
            work.product(self.name, (rows, width, inputs), precision=self.precision, parts=parts, sparse=sparse)

    def is_sparse(self, work: Writer) -> bool:
        """Whether two of four of its weights are left out: those of layers."""
        return work.shard.sparse_gain > 0 and work.graph.repeated and not self.wide

    @override
    def backward(self, work: Writer) -> None:
        """Input gradients beside the second gather, or that of the gradient; weight gradients beside the sum."""
        if self.leave:
            self._gather_gradient(work)
        else:
            self._gather_again(work)
        if self.adapter:
            self.adapter.backward_beside(work)
        self._lay_out_again(work)
        self._weight_gradients(work)

    def _gather_gradient(self, work: Writer) -> None:
        """Input gradients of rows that arrive. A gradient in 8 bit is cast before it is gathered."""
        assert self.leave
        name, elements = f"{self.name} gradient", work.elements(self.leave.partial)
        if work.splits:
            self.cast_gradient(work, work.elements(self.leave.result), transposed=False)
        else:
            self.cast_gradient(work, elements, transposed=True)
        self.cast_weights(work)
        full = work.shard.tensor_overlap == "full"
        at = len(work.operations)
        if work.splits:
            message = (1 if self.cast else work.element) * elements
            work.along_sequence(f"{name} gather", "all_gather", message, laid_out=full)
        self._input_gradients(work, work.shard.tensor if full and work.splits else 1)
        if full and work.splits:
            hide(work, at)
        if work.splits:
            self._transpose(work, name, elements)

    def _gather_again(self, work: Writer) -> None:
        """Input gradients beside the second gather of the input, which weight gradients need."""
        turned = self.cast is not None and self.cast.turns
        elements = work.graph.rows(self.reads[0]) * sum(map(work.graph.count, self.columns))
        if turned:
            self.cast_gradient(work, elements, transposed=True)
        self.cast_weights(work)
        at, hidden, again = len(work.operations), work.hidden("backward"), self._gathers_again(work)
        if again and self.enter:
            message = work.bytes(self.enter.result)
            work.along_sequence(f"{self.name} gather again", "all_gather", message, laid_out=hidden)
        if not turned:
            self.cast_gradient(work, elements, transposed=True)
        self._input_gradients(work)
        if not turned:
            self._transpose(work, f"{self.name} input", work.elements(self.reads[0]))
        if again and hidden:
            hide(work, at)

    def _gathers_again(self, work: Writer) -> bool:
        read = not work.frozen or self.adapter is not None
        return self.enter is not None and read and not work.shard.keeps_gathered

    def _input_gradients(self, work: Writer, parts: int = 1) -> None:
        """The products (rows x width) by (width x inputs); gradients are summed by twos, or all at once.

        Data have no gradient.
        """
        if self.of_data:
            return
        rows, inputs, widths = work.graph.rows(self.reads[0]), work.graph.count(self.inputs), self.widths(work)
        for width in widths:
            name = f"{self.name} input gradient"
            sparse = self.is_sparse(work)
            work.product(name, (rows, inputs, width), precision=self.precision, parts=parts, sparse=sparse)
        more = len(widths) - 1
        if more:
            passes, kernels = (more + 2, 1) if work.fused else (3 * more, more)
            work.memory(f"{self.name} gradient sum", passes * work.element * rows * inputs, kernels)

    def _weight_gradients(self, work: Writer) -> None:
        """The products (width x rows) by (rows x inputs), beside the sum of the input gradient; none if frozen.

        PyTorch runs that sum beside a product only if it is the sum of that product, not of several
        (micro_pipeline_tp.py, fuse_matmul_reduce_scatter).
        """
        rows, inputs, widths = work.graph.rows(self.reads[0]), work.graph.count(self.inputs), self.widths(work)
        several, at = len(widths) > 1, len(work.operations)
        beside = work.hidden("backward") and not (several and work.shard.sums_partials)
        message = work.element * rows * inputs
        if self.summed:
            laid_out = work.fused and several  # by the kernel that sums the gradients
            sum_over_ranks(work, f"{self.name} gradient reduce", message, laid_out=beside or laid_out)
        for width in widths if not work.frozen else ():
            work.weight_gradient(self.name, inputs, width, rows, self.precision)
        if self.summed and beside:
            hide(work, at)
            sum_partials(work, f"{self.name} gradient reduce", message)

    def _lay_out_again(self, work: Writer) -> None:
        """What arrived beside a product lies sequence first; weight gradients need it as their other operand lies.

        PyTorch, distributed/_symmetric_memory, fused_all_gather_matmul. The transposed copy in fp8 sees to it.
        """
        arrived = work.splits and work.shard.tensor_overlap == "full" and (self.leave or self.enter)
        as_needed = work.shard.microbatch == 1 or self.cast or not work.shard.batch_first
        if arrived and not as_needed and not work.frozen:
            what, tensor = ("gradient", self.leave.partial) if self.leave else ("input", self.reads[0])
            work.memory(f"{self.name} {what} copy", 2 * work.element * work.elements(tensor))

    def cast_gradient(self, work: Writer, elements: int, *, transposed: bool) -> None:
        """The gradient of the result to 8 bit."""
        if self.cast:
            cast_to_8_bit(work, f"{self.name} gradient", elements, transposed=transposed)

    def cast_weights(self, work: Writer) -> None:
        """Dynamic scaling casts weights at each use (torchao); else they are cast once per step, with the optimizer."""
        if not self.cast or work.frozen or work.shard.fp8_scaling != "dynamic":
            return
        widths = self.widths(work)
        for _ in widths:
            common_scale(work, f"{self.name} weight")
        work.memory(f"{self.name} weight cast", 5 * work.graph.count(self.inputs) * sum(widths), 2)

    def _transpose(self, work: Writer, name: str, elements: int) -> None:
        """The transposed copy of what was gathered, or kept, in 8 bit: read and write 1 B."""
        if self.cast and not work.frozen:
            work.memory(f"{name} transpose", 2 * elements)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its input for weight gradients, or for its adapter.

        Transformer Engine (pytorch/module/linear.py) keeps what it has cast to fp8; torchao, which casts again in
        the backward pass, and adapters keep 16 bit. Gathered rows are kept, or gathered again.
        """
        if work.frozen and not self.adapter:
            return ()
        whole = self.enter is not None and work.shard.keeps_gathered
        x = self.reads[0]
        if x.width > work.element:  # autocast: each product casts its own input
            return tuple(self._narrow(x, work, number) for number in range(len(self.widths(work))))
        if self.cast is None:
            return (self.reads[0] if self.enter is None or whole else self.enter.reads[0],)
        if self.keeps_cast(work):
            return (self.reads[0] if whole else self.cast.result,)
        return (self.enter.writes[-1] if self.enter and whole else self.cast.reads[0],)

    def keeps_cast(self, work: Writer) -> bool:
        """Whether the input is kept as it was cast to 8 bit."""
        return self.cast is not None and not work.frozen and work.shard.fp8_scaling != "dynamic"

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        """One for each matrix, if they are apart."""
        kept, own = tuple(self.needs(work)), () if work.frozen else self.weights
        again = self.enter is not None and not work.shard.keeps_gathered and bool(kept)
        brought = self.reads if again else ()
        x, apart = self.reads[0], self.apart(work)
        matrices = len(self.columns) if apart else 1
        steps: tuple[Step, ...] = ()
        for number in range(matrices):
            weights, writes = own[number::matrices], self.writes[number : number + 1] if apart else self.writes
            if x.width > work.element:
                narrow = kept[number] if kept else self._narrow(x, work, number)
                steps += Step((x,), (narrow,), ()), Step((narrow,), writes, kept[number : number + 1], weights)
            else:
                steps += (Step(self.reads, writes, kept, weights, brought=brought),)
        return steps

    def _narrow(self, x: Tensor, work: Writer, number: int) -> Tensor:
        """Its input as autocast hands it to a product."""
        return Tensor(f"{self.name} input {number} in 16 bit", x.axes, work.element)

    @override
    def products(self, work: Writer) -> float:
        columns = sum(map(work.graph.count, self.columns))
        return 2.0 * work.graph.rows(self.reads[0]) * work.graph.count(self.inputs) * columns

    @override
    def trained_passes(self, work: Writer) -> int:
        return 3 - work.frozen - self.of_data


class Serving(Operator):
    """What runs before or after a product, for it; `product` is None where it is repeated without."""

    __slots__ = ("product",)

    def __init__(
        self, name: str, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...], product: Linear | None
    ) -> None:
        super().__init__(name, reads, writes)
        self.product = product


class Enter(Serving):
    """The all-gather along the sequence before a product."""

    __slots__ = ()

    def beside(self, product: Linear | None) -> Enter:
        """The same gather beside another product, or beside none."""
        return Enter(self.name, self.reads, self.writes, product)

    @override
    def forward(self, work: Writer) -> None:
        """In fp8 if the product is."""
        message = work.bytes(self.result)
        if self.product and work.hidden("forward"):
            work.collective(self.name, "all_gather", message, hidden_by=len(self.product.widths(work)))
        else:
            work.along_sequence(self.name, "all_gather", message)


class Leave(Serving):
    """The sum of a partial result over tensor ranks."""

    __slots__ = ()

    @property
    def partial(self) -> Tensor:
        """What each rank holds before."""
        return self.reads[0]

    def early(self, work: Writer, products: int) -> None:
        """What leaves beside the `products` that make it."""
        message = work.element * work.elements(self.partial)
        work.collective(self.name, _sum_kind(work), message * (1 - 1 / SPLITS), hidden_by=products)

    @override
    def forward(self, work: Writer) -> None:
        message = work.element * work.elements(self.partial)
        if self.product and work.hidden("forward"):  # the last part
            work.collective(self.name, _sum_kind(work), message / SPLITS)
            sum_partials(work, self.name, message)
        else:
            sum_over_ranks(work, self.name, message)


class Cast(Serving):
    """The input of a product to 8 bit: by the `norm` that makes it, or by a kernel that also writes it transposed.

    A norm that does not know the scale finds the largest value, and a kernel of its own casts what it wrote
    (Transformer Engine, csrc/extensions/normalization.cpp, FUSED_NORM_AMAX_FP8; Inductor fuses the same).
    """

    __slots__ = ("format", "turns")

    def __init__(self, product: Linear, x: Tensor, format: str, *, normed: bool) -> None:
        super().__init__(f"{product.name} input", (x,), (Tensor(f"{x.name} in 8 bit", x.axes, 1, x.role),), product)
        self.format, self.turns = format, not normed

    @override
    def forward(self, work: Writer) -> None:
        elements = work.elements(self.result)
        if self.turns:
            cast_to_8_bit(work, self.name, elements, transposed=True)
        elif work.shard.fp8_scaling != "delayed":
            common_scale(work, self.name)
            work.memory(f"{self.name} cast", (2 + work.narrow) * elements)


class WeightCast(Serving):
    """The weights of a product to 8 bit, where they are cast at each use."""

    __slots__ = ()

    def __init__(self, product: Linear) -> None:
        super().__init__(f"{product.name} weight", (), (), product)

    @override
    def forward(self, work: Writer) -> None:
        assert self.product
        self.product.cast_weights(work)


def cast_to_8_bit(work: Writer, name: str, elements: int, *, transposed: bool) -> None:
    """Read 2 B, write one narrow element, and one more for the transposed copy that weight gradients need.

    Hopper multiplies fp8 operands in one layout only (Transformer Engine, cast_transpose); blocks lie along the sum,
    so a product and its weight gradient scale the same tensor in different blocks. Delayed scaling takes the scale
    from earlier steps, and a block finds its own on the way; the others read the tensor once more to find it.
    """
    finds = work.shard.fp8_scaling != "delayed"
    copies = 1 + (transposed and not work.frozen)
    common_scale(work, name)
    work.memory(f"{name} cast", (2 + copies * work.narrow + 2 * finds) * elements, 1 + finds)


def common_scale(work: Writer, name: str) -> None:
    """The largest value of a tensor over all tensor ranks, if it is found in the tensor (torchao, tensor_to_amax)."""
    if work.shard.tensor > 1 and work.shard.fp8_scaling == "dynamic":
        work.collective(f"{name} maximum", "all_reduce", 4)


def sum_over_ranks(work: Writer, name: str, message: float, *, laid_out: bool = False) -> None:
    """The sum of `message` bytes that each tensor rank holds, of which each gets its rows, or all."""
    work.along_sequence(name, _sum_kind(work), message, laid_out=laid_out)


def sum_partials(work: Writer, name: str, message: float) -> None:
    """Read the partial results of all ranks for the own rows, write their sum.

    PyTorch, distributed/_symmetric_memory: fused_matmul_reduce_scatter stacks what copies bring and reduces
    it when all is there.
    """
    if work.shard.sums_partials and work.splits:
        work.memory(f"{name} sum", message * (1 + 1 / work.shard.tensor))


def hide(work: Writer, at: int) -> None:
    """Let the collective at `at` run beside all that was written after it."""
    work.operations[at] = work.operations[at]._replace(hidden_by=len(work.operations) - at - 1)


def _sum_kind(work: Writer) -> Literal["reduce_scatter", "all_reduce"]:
    return "reduce_scatter" if work.splits else "all_reduce"
