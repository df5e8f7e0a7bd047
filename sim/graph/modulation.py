"""Operators of diffusion transformers: rows put together, norms and sums under a modulation, norms of heads.

A modulation is a shift, a scale and a gate for each column, made once for each sample (Peebles 2022, arXiv 2212.09748,
section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Step, Tensor
from sim.graph.work import Writer


class Parts(Operator):
    """Views of the rows of a tensor, by kind; nothing moves."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, rows: tuple[Axis, ...]) -> None:
        super().__init__(name, (x,), tuple(Tensor(f"{name} {row}", (row, *x.axes[1:]), x.width) for row in rows))

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return (Step(self.reads, self.writes, (), alias=True),)


class Whole(Operator):
    """Parts of the rows as they were; nothing moves."""

    __slots__ = ()

    def __init__(self, name: str, parts: tuple[Tensor, ...], rows: Axis) -> None:
        super().__init__(name, parts, (Tensor(name, (rows, *parts[0].axes[1:]), parts[0].width),))

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return (Step(self.reads, self.writes, (), alias=True),)


class Joined(Operator):
    """A copy of several tensors side by side, along an axis of the result."""

    __slots__ = ()

    def __init__(self, name: str, parts: tuple[Tensor, ...], axes: tuple[Axis, ...]) -> None:
        super().__init__(name, parts, (Tensor(name, axes, parts[0].width),))

    @override
    def forward(self, work: Writer) -> None:
        """Read all, write one."""
        work.memory(self.name, 2 * work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """Parts of the gradient are views that products read."""


class AdaptiveNorm(Operator):
    """A layer norm without weights, then scale and shift of the sample's modulation."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, modulation: Tensor) -> None:
        super().__init__(name, (x, modulation), (Tensor(f"{name} output", x.axes, x.width),))

    @override
    def forward(self, work: Writer) -> None:
        """Read x, write y; eager code norms, scales and shifts one after the other."""
        work.memory(self.name, (2 if work.fused else 6) * work.bytes(self.result), 1 if work.fused else 3)

    @override
    def backward(self, work: Writer) -> None:
        """Read x and dy, write dx; read both once more for the sums of scale and shift. Eager code step by step."""
        passes, kernels = (5, 2) if work.fused else (3 + 5 + 3, 5)
        work.memory(f"{self.name} backward", passes * work.bytes(self.result), kernels)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its input; eager code also what it normed."""
        x = self.reads[0]
        return (x,) if work.fused else (x, Tensor(f"{self.name} normed", x.axes, x.width))


class GatedSum(Operator):
    """A branch times the gate of the sample's modulation, added to the residual stream."""

    __slots__ = ()

    def __init__(self, name: str, branch: Tensor, stream: Tensor, modulation: Tensor) -> None:
        output = Tensor(f"{name} stream", stream.axes, stream.width)
        super().__init__(f"{name} gated sum", (branch, stream, modulation), (output,))

    @override
    def forward(self, work: Writer) -> None:
        """Read branch and stream, write the sum; eager code has the product apart."""
        work.memory(self.name, (3 if work.fused else 5) * work.bytes(self.result), 1 if work.fused else 2)

    @override
    def backward(self, work: Writer) -> None:
        """Read dy, write that of the branch; read dy and branch for the sum of the gate."""
        work.memory(f"{self.name} backward", 4 * work.bytes(self.result), 2)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads[:1]


class QueryKeyNorm(Operator):
    """RMS norms of the queries and keys of each head, with a scale for each column of a head."""

    __slots__ = ()

    def __init__(self, name: str, queries: Tensor, keys: Tensor) -> None:
        weights = tuple(Tensor(f"{name} {each}", ("width",), queries.width, "weight") for each in ("query", "key"))
        results = tuple(Tensor(f"normed {each.name}", each.axes, each.width) for each in (queries, keys))
        super().__init__(name, (queries, keys), results, weights)

    @override
    def forward(self, work: Writer) -> None:
        """Read and write both; eager code casts, squares, averages, scales and weighs (as `Norm`)."""
        elements = sum(map(work.elements, self.reads))
        work.memory(
            self.name, (2 * work.element if work.fused else 4 * work.element + 24) * elements, 2 if work.fused else 12
        )

    @override
    def backward(self, work: Writer) -> None:
        """Read x and dy, write dx; read both once more for the scales."""
        elements = sum(map(work.elements, self.reads))
        per_element = 5 * work.element if work.fused else 8 * work.element + 48
        work.memory(f"{self.name} backward", per_element * elements, 4 if work.fused else 24)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads
