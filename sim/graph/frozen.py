"""Parts of a model that are not trained: they run forward and keep nothing, and their weights lie there.

Encoders of text and teachers before a model that is (`FrozenLayers`); the first operators of a network (`Frozen`).
"""

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


class Frozen(Operator):
    """An operator of a network that is not trained here: it runs forward, keeps nothing, and its weights lie there."""

    __slots__ = ("inner",)

    in_place = True  # what it reads gets no gradient

    def __init__(self, inner: Operator) -> None:
        weights = tuple(Tensor(each.name, each.axes, inner.result.width, "state") for each in inner.weights)
        super().__init__(inner.name, inner.reads, inner.writes, weights, inner.region)
        self.inner = inner

    @override
    def forward(self, work: Writer) -> None:
        self.inner.forward(work)

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return (Step(self.reads, self.writes, (), ends=True),)

    @override
    def products(self, work: Writer) -> float:
        return self.inner.products(work)

    @override
    def trained_passes(self, work: Writer) -> int:
        return 1


def freeze(operators: list[Operator]) -> list[Operator]:
    """Operators as parts of a network that is not trained."""
    return [Frozen(each) for each in operators]


def given_by(graph: Graph) -> Tensor:
    """What a frozen piece hands on: nothing before it is trained, so it needs no gradient."""
    y = graph.output
    return Tensor(y.name, y.axes, y.width, "index")
