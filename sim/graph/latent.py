"""Multi-head latent attention, expanded for training: keys have a part of each head and a rotated one of all heads.

DeepSeek-AI 2024 (DeepSeek-V2, arXiv 2405.04434), section 2.1.
"""

from __future__ import annotations

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Tensor
from sim.graph.work import Writer


class Join(Operator):
    """Two tensors side by side, as `columns`; a part that all heads share is copied to each."""

    __slots__ = ()

    def __init__(self, name: str, left: Tensor, right: Tensor, columns: Axis) -> None:
        super().__init__(name, (left, right), (Tensor(f"{name} output", (*left.axes[:-1], columns), left.width),))

    @override
    def forward(self, work: Writer) -> None:
        """Read both parts, write the whole."""
        work.memory(self.name, self._traffic(work))

    @override
    def backward(self, work: Writer) -> None:
        """Read the gradient, write those of both parts, that of a shared one summed over heads."""
        work.memory(f"{self.name} backward", self._traffic(work))

    def _traffic(self, work: Writer) -> int:
        return sum(map(work.bytes, (*self.reads, *self.writes)))


class HeadNorm(Operator):
    """RMS norm of each head of queries or keys, with one scale for all heads."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor) -> None:
        scale = Tensor(name, ("width",), role="weight")
        super().__init__(name, (x,), (Tensor(f"{name} output", x.axes, x.width),), (scale,))

    @override
    def forward(self, work: Writer) -> None:
        """Read x, write y."""
        work.memory(self.name, 2 * work.bytes(self.reads[0]))

    @override
    def backward(self, work: Writer) -> None:
        """Read x and dy, write dx; read both once more for the weight gradient, unless it is frozen."""
        trains = not work.frozen
        work.memory(f"{self.name} backward", (3 + 2 * trains) * work.bytes(self.reads[0]), 1 + trains)

    @override
    def needs(self, work: Writer) -> tuple[Tensor, ...]:
        return self.reads
