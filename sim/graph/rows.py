"""Rows taken from a tensor or put before it, and inputs that a model holds once for many layers."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Tensor
from sim.graph.products import Linear
from sim.graph.work import Writer


class SelectedRows(Operator):
    """A copy of some rows by their index: masked positions, the first of each sequence."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, rows: Axis) -> None:
        super().__init__(name, (x,), (Tensor(f"{name} output", (rows, *x.axes[1:]), x.width),))

    @override
    def forward(self, work: Writer) -> None:
        """Read and write the rows."""
        work.memory(self.name, 2 * work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """Clear a gradient of all rows, read and add those that were taken."""
        work.memory(f"{self.name} backward", work.bytes(self.reads[0]) + 2 * work.bytes(self.result), 2)


class FirstRow(Operator):
    """A trained row before those of each sample, such as a class token."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, rows: Axis) -> None:
        weight = Tensor(name, x.axes[-1:], x.width, "weight")
        super().__init__(name, (x,), (Tensor(f"{name} output", (rows, *x.axes[1:]), x.width),), (weight,))

    @override
    def forward(self, work: Writer) -> None:
        """Read the rows, write one more for each sample."""
        work.memory(self.name, work.bytes(self.reads[0]) + work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """The same the other way."""
        work.memory(f"{self.name} backward", work.bytes(self.reads[0]) + work.bytes(self.result))


class SharedInput(Linear):
    """A product of what many layers read: kept once, by who made it, and its gradient added to that of the others."""

    __slots__ = ()

    @override
    def backward(self, work: Writer) -> None:
        """As of any product; read and add what later layers left, read and write the sum."""
        super().backward(work)
        work.memory(f"{self.name} gradient sum over layers", 3 * work.bytes(self.reads[0]))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Nothing but what autocast made of it for this product."""
        return super().needs(work) if self.reads[0].width > work.element else ()
