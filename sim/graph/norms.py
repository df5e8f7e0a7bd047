"""Normalisation: bytes read and written per element, e bytes each."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Operator, Step, Tensor
from sim.graph.work import Writer

# Passes over the elements and kernels of a layer norm that is written out, one term per kernel as reads + writes.
# Forward: mean, variance, difference, quotient, scale, shift, and two kernels of a value a row. Backward: shift; scale
# (2 kernels and a sum), quotient (3 and a sum), difference, variance (2), mean, and the sums of three gradients.
WRITTEN_OUT = (1 + 1 + 2 + 2 + 2 + 2, 8)
WRITTEN_OUT_BACKWARD = (1 + (2 + 3 + 1) + (2 + 3 + 1) + 1 + (2 + 2) + 1 + 2 * 3, 20)
WIDE = 4  # bytes of a 32-bit number


class Norm(Operator):
    """Layer norm (scale and shift) or RMS norm (scale) over the last axis."""

    __slots__ = ("form",)

    def __init__(self, name: str, x: Tensor, form: str) -> None:
        vectors = 2 if form == "layernorm" else 1
        weights = tuple(Tensor(name, x.axes[-1:], role="weight") for _ in range(vectors))
        super().__init__(name, (x,), (Tensor(f"{name} output", x.axes, x.width),), weights)
        self.form = form

    @override
    def forward(self, work: Writer) -> None:
        """Read x, write y. An eager RMS norm casts up, squares, averages, scales, casts down, weighs."""
        elements, (moved, kernels) = work.elements(self.reads[0]), WRITTEN_OUT
        if self._eager_rms(work):
            work.memory(self.name, (4 * work.element + 24) * elements, 6)
        elif self._written_out(work):
            work.memory(self.name, moved * work.element * elements, kernels)
        else:
            work.memory(self.name, work.bytes(self.reads[0]) + work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """Read x and dy, write dx; read x and dy once more for the weight gradient, unless it is frozen."""
        elements, name = work.elements(self.reads[0]), f"{self.name} backward"
        if work.frozen:
            work.memory(name, 3 * work.element * elements)
        elif self._eager_rms(work):
            work.memory(name, (8 * work.element + 48) * elements, 12)
        elif self._written_out(work):
            moved, kernels = WRITTEN_OUT_BACKWARD
            work.memory(name, moved * work.element * elements, kernels)
        else:
            work.memory(name, 3 * work.bytes(self.reads[0]) + 2 * work.bytes(self.result), 2)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its input; written out in Python also what it centred and scaled, an RMS norm of Transformers in 32 bit."""
        (x,) = self.reads
        how = work.shard.pointwise
        if how == "native" or (how == "transformers" and self.form != "rmsnorm"):
            return self.reads
        if how == "written_out" and self.form == "layernorm":
            return x, self._copy("centred", x.width), self._copy("scaled", x.width)
        return (x if x.width == WIDE else self._copy("in 32 bit", WIDE)), self._copy("scaled", x.width)

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        """A statistic of 4 B a row is kept beside the input; written out, one operator after the other."""
        (x,), weights = self.reads, () if work.frozen else self.weights
        statistic = Tensor(f"{self.name} statistic", x.axes[:-1], WIDE)
        first, *others = self.needs(work)
        if not others:
            return (Step(self.reads, (*self.writes, statistic), (x, statistic), weights),)
        made = () if first is x else (Step((x,), (first,), ()),)
        before = first
        for each in others:
            made = (*made, Step((before,), (each,), (before,)))
            before = each
        return (*made, Step((before,), self.writes, (before, statistic), weights))

    def _copy(self, what: str, width: int) -> Tensor:
        return Tensor(f"{self.name} {what}", self.reads[0].axes, width)

    def _written_out(self, work: Writer) -> bool:
        return self.form == "layernorm" and work.shard.pointwise == "written_out"

    def _eager_rms(self, work: Writer) -> bool:
        return self.form == "rmsnorm" and not work.fused
