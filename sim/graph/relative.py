"""A bias for each score by the distance of its positions, as T5 has it (Raffel 2019, arXiv 1910.10683, section 2.1)."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Tensor
from sim.graph.work import Writer

WIDE = 4  # bytes of a 32-bit number


class RelativeBias(Operator):
    """The bias of all scores of a stack, looked up once and kept for all its layers."""

    __slots__ = ()

    def __init__(self, name: str, positions: Axis, buckets: Axis, width: int) -> None:
        distances = Tensor(f"{name} distances", (positions,), 8, "index")
        bias = Tensor(name, ("heads", positions, positions), width)
        super().__init__(name, (distances,), (bias,), (Tensor(f"{name} table", ("heads", buckets), width, "weight"),))

    @override
    def forward(self, work: Writer) -> None:
        """Write it."""
        work.memory(self.name, work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """Read its gradient, which layers added up in 32 bit."""
        work.memory(f"{self.name} backward", WIDE * work.elements(self.result))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.writes
