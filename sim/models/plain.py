"""Plain networks of dense layers (multilayer perceptrons): a product and an activation each. Samples are vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.ends import CrossEntropy
from sim.graph.graph import Graph, Tensor
from sim.graph.operation import Shard
from sim.graph.pointwise import Activation, Dropout, ProductBias
from sim.graph.products import Linear
from sim.graph.squared_error import SquaredError
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload
from sim.record import Name
from sim.units import Count


class PlainNetwork(Workload):
    """A plain network of dense layers over vectors of numbers."""

    kind: Literal["mlp"]
    name: Name = Field(default="inline", description="the name it is found by")
    inputs: Count = Field(ge=1, le=1_000_000_000, description="numbers of a sample")
    hidden: tuple[Count, ...] = Field(
        min_length=1, max_length=10_000, description="columns of each hidden layer, in order"
    )
    outputs: Count = Field(
        ge=1, le=1_000_000_000, description="classes that are told apart, or numbers that are predicted"
    )
    activation: Literal["relu", "gelu", "tanh", "sigmoid"] = Field(
        default="relu", description="what each hidden layer ends with"
    )
    bias: bool = Field(default=True, description="layers have a bias")
    dropout: bool = Field(default=False, description="dropout behind each hidden layer")
    loss: Literal["cross_entropy", "squared_error"] = Field(
        default="cross_entropy", description="of classes, or of numbers"
    )
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    tokens: ClassVar[bool] = False

    @property
    @override
    def layers(self) -> int:
        return len(self.hidden)

    @property
    @override
    def widths(self) -> tuple[int, int]:
        return max(self.hidden), 0

    @property
    @override
    def line(self) -> str:
        each = " ".join(map(str, self.hidden)) if len(self.hidden) <= 8 else f"{len(self.hidden)} layers"
        return f"plain network, {self.inputs} inputs, {each}, {self.outputs} outputs, {self.activation}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Hidden layers, of which equal ones are one graph but for the first, whose input is data; the output."""
        equal = cache(lambda inputs, columns: _layer(self, shard, inputs, columns))  # what is equal is one graph
        others = [equal(inputs, columns) for inputs, columns in pairwise(self.hidden)]
        return Pieces(
            None, (_layer(self, shard, self.inputs, self.hidden[0], data=True), *others), _output(self, shard)
        )

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[PlainNetwork, Divided, Trained], Iterator[Problem]]


def check_layers_are_whole(model: PlainNetwork, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are replicated, sharded or put in stages, but their matrices are not split."""
    for name in ("tensor", "context"):
        count = getattr(plan, name)
        if count > 1:
            message = f"{name} {count}: {model.name} runs data and pipeline parallel only"
            yield finding(f"parallelism.{name}", message, f"set {name} to 1")


def check_discipline(model: PlainNetwork, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are recomputed whole, or not."""
    if training.recompute not in ("none", "full"):
        yield finding(
            "training.recompute", f"{training.recompute} recomputation is one of transformers", "use none or full"
        )


def check_no_adapters(model: PlainNetwork, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Adapters have targets in transformers only."""
    if training.lora:
        yield finding("training.lora", f"{model.name} has none of the matrices that adapters name", "leave it out")


RULES: tuple[Rule, ...] = (check_layers_are_whole, check_discipline, check_no_adapters)


def _layer(model: PlainNetwork, shard: Shard, inputs: int, columns: int, *, data: bool = False) -> Graph:
    role: Literal["index", "activation"] = "index" if data else "activation"
    x = Tensor("layer input", ("samples", inputs), element_bytes(shard.precision), role)
    graph = Graph("layer", x, {"samples": shard.microbatch}, repeated=not data)
    product = graph.add(Linear("layer", x, (columns,), bias=model.bias))
    y = graph.add(Activation("activation", product.writes, model.activation, bias=model.bias)).result
    if model.dropout:
        graph.add(Dropout("dropout", y))
    return graph


def _output(model: PlainNetwork, shard: Shard) -> Graph:
    x = Tensor("last hidden", ("samples", model.hidden[-1]), element_bytes(shard.precision))
    graph = Graph("output", x, {"samples": shard.microbatch})
    product = graph.add(Linear("output", x, (model.outputs,), bias=model.bias, wide=True))
    if model.bias:
        graph.add(ProductBias("output bias", product.writes))
    if model.loss == "cross_entropy":
        graph.add(CrossEntropy(product.result, rows=None))
    else:
        graph.add(SquaredError(product.result))
    return graph
