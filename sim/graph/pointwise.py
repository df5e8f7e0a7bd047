"""Pointwise functions, memory-bound: bytes read and written per element, e bytes each.

Fused kernels move each operand once; the others are the separate kernels of an eager framework,
whose intermediates go through memory. Masks take 1 B, 32-bit intermediates 4 B.
"""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Operator, Step, Tensor
from sim.graph.work import Writer

GATED = ("swiglu", "geglu")
# Passes over the elements and kernels of a GELU that is written out, one term per kernel as reads + writes. Forward:
# cube, times, plus, times, tanh, plus, half, times. Backward: two of the last product, half, tanh, times, times, cube
# (square, times, times), and the sums of three gradients.
WRITTEN_OUT = (2 + 2 + 3 + 2 + 2 + 2 + 2 + 3, 8)
WRITTEN_OUT_BACKWARD = (2 * 3 + 2 + 3 + 2 + 2 + (2 + 2 + 3) + 2 * 3, 11)


class ResidualSum(Operator):
    """Bias and dropout of a branch, added to the residual stream."""

    __slots__ = ("bias", "dropout")

    def __init__(self, name: str, branch: Tensor, stream: Tensor, *, bias: bool, dropout: bool) -> None:
        super().__init__(f"{name} residual", (branch, stream), (Tensor(f"{name} stream", stream.axes, stream.width),))
        self.bias, self.dropout = bias, dropout

    @override
    def forward(self, work: Writer) -> None:
        """Read branch and stream, write the sum and the mask."""
        e, elements = work.element, work.elements(self.result)
        wide = 2 * (work.bytes(self.result) - e * elements)  # of a stream in 32 bit, read and written
        separate = 0 if work.fused else 2 * e * self.bias + 2 * e * self.dropout
        traffic = (3 * e + self.dropout + separate) * elements + wide
        kernels = 1 if work.fused else 1 + self.bias + self.dropout
        work.memory(self.name, traffic, kernels, random=elements * self.dropout)

    @override
    def backward(self, work: Writer) -> None:
        """Dropout: read dy and mask, write dx. Bias: read dy once more."""
        bias, e = self.bias and not work.frozen, work.element
        if self.dropout or bias:
            traffic = ((2 * e + 1) * self.dropout + e * bias) * work.elements(self.result)
            work.memory(f"{self.name} backward", traffic, self.dropout + bias)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return (mask_of(self),) if self.dropout else ()

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        """Without dropout both gradients are that of the sum."""
        return (Step(self.reads, self.writes, tuple(self.needs(work)), alias=not self.dropout),)


class Activation(Operator):
    """Bias and activation between two products; a gate multiplies the activated by a plain projection."""

    __slots__ = ("bias", "form")

    def __init__(self, name: str, inputs: tuple[Tensor, ...], form: str, *, bias: bool) -> None:
        x = inputs[0]
        super().__init__(name, inputs, (Tensor(f"{name} output", x.axes, x.width),))
        self.form, self.bias = form, bias

    @property
    def gated(self) -> bool:
        """Whether it multiplies two inputs."""
        return self.form in GATED

    @override
    def forward(self, work: Writer) -> None:
        """Read the products (two if gated), write one."""
        e, gated, elements = work.element, self.gated, work.elements(self.result)
        if work.fused:
            work.memory(self.name, (3 if gated else 2) * e * elements)
            return
        if self._written_out(work):
            moved, kernels = WRITTEN_OUT
            work.memory(self.name, (moved + 2 * self.bias) * e * elements, kernels + self.bias)
            return
        steps = 2 if gated or self.form == "squared_relu" else 1
        per_element = 2 * e + (3 if gated else 2) * e * (steps - 1) + 2 * e * self.bias * (1 + gated)
        work.memory(self.name, per_element * elements, steps + self.bias)

    @override
    def backward(self, work: Writer) -> None:
        """Read dy and the inputs, write their gradients; the bias gradient reads these once more."""
        e, gated, elements = work.element, self.gated, work.elements(self.result)
        trains = self.bias and not work.frozen
        bias, name = e * trains * (1 + gated), f"{self.name} backward"
        if work.fused:
            work.memory(name, ((5 if gated else 3) * e + bias) * elements, 1 + trains)
            return
        if self._written_out(work):
            moved, kernels = WRITTEN_OUT_BACKWARD
            work.memory(name, (moved * e + bias) * elements, kernels + trains)
            return
        steps = 3 if gated else 1 + (self.form == "squared_relu")
        work.memory(name, (3 * e * steps + bias) * elements, steps + trains)

    def _written_out(self, work: Writer) -> bool:
        return self.form == "gelu" and work.shard.pointwise == "written_out"

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its inputs; an eager gate also the activated factor, and a GELU written out three factors of its formula."""
        if self.gated and not work.fused:
            return (*self.reads, self._factor("factor"))
        if self.form == "gelu" and work.shard.pointwise == "written_out":
            return (*self.reads, *map(self._factor, ("half", "tanh", "one plus tanh")))
        return self.reads

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        """An eager gate is two."""
        if work.fused or not self.gated:
            kept = tuple(self.needs(work))
            return (Step(self.reads, (*self.writes, *kept[len(self.reads) :]), kept),)
        gate, up, factor = self.needs(work)
        return Step((gate,), (factor,), (gate,)), Step((factor, up), self.writes, (factor, up))

    def _factor(self, what: str) -> Tensor:
        return Tensor(f"{self.name} {what}", self.result.axes, self.result.width)


class Dropout(Operator):
    """Dropout by a kernel of its own: read x, write y and the mask."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, region: str = "") -> None:
        super().__init__(name, (x,), (Tensor(f"{name} output", x.axes, x.width),), region=region)

    @override
    def forward(self, work: Writer) -> None:
        elements = work.elements(self.result)
        work.memory(self.name, (2 * work.element + 1) * elements, random=elements)

    @override
    def backward(self, work: Writer) -> None:
        """Read dy and the mask, write dx."""
        work.memory(f"{self.name} backward", (2 * work.element + 1) * work.elements(self.result))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return (mask_of(self),)


class Positions(Operator):
    """Adds the rows of a learned table; its gradient is that of the sum."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, table: Tensor) -> None:
        super().__init__(name, (x,), (Tensor(f"{name} output", x.axes, x.width),), (table,))

    @override
    def forward(self, work: Writer) -> None:
        work.memory(self.name, 3 * work.element * work.elements(self.result))


class Rotation(Operator):
    """Rotary positions of queries and keys, in place."""

    __slots__ = ()

    in_place = True

    def __init__(self, queries: Tensor, keys: Tensor) -> None:
        super().__init__("rotary", (queries, keys), ())

    @override
    def forward(self, work: Writer) -> None:
        self._rotate(work, self.name)

    @override
    def backward(self, work: Writer) -> None:
        self._rotate(work, f"{self.name} backward")

    def _rotate(self, work: Writer, name: str) -> None:
        """Read and written; eager code multiplies 32-bit complex numbers."""
        per_element = 2 * work.element + (0 if work.fused else 16)
        work.memory(name, per_element * sum(map(work.elements, self.reads)), 1 if work.fused else 6)


class ProductBias(Operator):
    """The bias of a product, which its epilogue adds; its gradient is one more read."""

    __slots__ = ()

    in_place = True

    def __init__(self, name: str, results: tuple[Tensor, ...]) -> None:
        super().__init__(name, results, ())

    @override
    def backward(self, work: Writer) -> None:
        if not work.frozen:
            work.memory(f"{self.name} gradient", work.element * sum(map(work.elements, self.reads)))


class JoinedColumns(Operator):
    """Columns of several tensors side by side: read and written, either way."""

    __slots__ = ()

    def __init__(self, name: str, parts: tuple[Tensor, ...]) -> None:
        first, *others = parts
        columns = sum(each.axes[-1] for each in parts if isinstance(each.axes[-1], int))
        super().__init__(name, (first, *others), (Tensor(f"{name} output", (*first.axes[:-1], columns), first.width),))

    @override
    def forward(self, work: Writer) -> None:
        work.memory(self.name, 2 * work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        work.memory(f"{self.name} backward", 2 * work.bytes(self.result))


def mask_of(operator: Operator) -> Tensor:
    """The mask that dropout keeps, 1 B per element."""
    return Tensor(f"{operator.name} mask", operator.result.axes, 1)
