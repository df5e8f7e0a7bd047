"""The mean of squared differences from a target of the same shape."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Operator, Tensor
from sim.graph.work import Writer


class SquaredError(Operator):
    """Loss of a prediction against data as large as it is."""

    __slots__ = ()

    def __init__(self, prediction: Tensor) -> None:
        super().__init__("squared error", (prediction,), (Tensor("loss", (), 4),))

    @override
    def forward(self, work: Writer) -> None:
        """Read prediction and target."""
        work.memory(self.name, 2 * work.bytes(self.reads[0]))

    @override
    def backward(self, work: Writer) -> None:
        """Read both, write the gradient."""
        work.memory(f"{self.name} backward", 3 * work.bytes(self.reads[0]))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads
