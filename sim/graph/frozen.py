"""Models that are not trained and run forward before one that is: encoders of text, teachers."""

from __future__ import annotations

from typing_extensions import override

from sim.graph.graph import Graph, Operator, Step, Tensor
from sim.graph.operation import Shard
from sim.graph.work import Writer


class FrozenLayers(Operator):
    """`count` equal layers of a transformed graph, forward alone; what they make is data to what follows."""

    __slots__ = ("count", "layer", "shard")

    def __init__(self, name: str, x: Tensor, result: Tensor, layer: Graph, count: int, shard: Shard) -> None:
        weights = Tensor(name, (count * layer.parameters(),), result.width, "frozen")
        super().__init__(name, (x,), (result,), (weights,))
        self.layer, self.count, self.shard = layer, count, shard

    @override
    def forward(self, work: Writer) -> None:
        inner = self._inner(work)
        for operator in self.layer.operators:
            operator.forward(inner)
        work.operations += inner.operations * self.count

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return (Step(self.reads, self.writes, ()),)

    @override
    def products(self, work: Writer) -> float:
        inner = self._inner(work)
        return self.count * sum(operator.products(inner) for operator in self.layer.operators)

    @override
    def trained_passes(self, work: Writer) -> int:
        return 1

    def _inner(self, work: Writer) -> Writer:
        inner = Writer(self.layer, self.shard)
        inner.phase = work.phase
        return inner
