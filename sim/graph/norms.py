"""Normalisation: bytes read and written per element, e bytes each."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Operator, Step, Tensor
from sim.graph.work import Writer

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
        elements = work.elements(self.reads[0])
        if self._eager_rms(work):
            work.memory(self.name, (4 * work.element + 24) * elements, 6)
        else:
            work.memory(self.name, 2 * work.element * elements)

    @override
    def backward(self, work: Writer) -> None:
        """Read x and dy, write dx; read x and dy once more for the weight gradient, unless it is frozen."""
        elements, name = work.elements(self.reads[0]), f"{self.name} backward"
        if work.frozen:
            work.memory(name, 3 * work.element * elements)
        elif self._eager_rms(work):
            work.memory(name, (8 * work.element + 48) * elements, 12)
        else:
            work.memory(name, 5 * work.element * elements, 2)

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

    def _eager_rms(self, work: Writer) -> bool:
        return self.form == "rmsnorm" and not work.fused
