"""Models whose operators were recorded from a program (`clustersim import torch`) and not written by a family.

Sizes grow with the samples of a microbatch: each number is a pair, what is there without samples and what each adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.convolution import DEPTHWISE
from sim.graph.graph import Graph, Operator, Tensor
from sim.graph.operation import Operation, Shard
from sim.graph.work import Writer, element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload
from sim.record import Name, Record
from sim.units import Count

Pair = Annotated[tuple[Count, ...], Field(min_length=2, max_length=2)]
ATTENTION_BACKWARD = 2.5  # products of the backward kernel over those forward: scores are made again (Dao 2022)


class TracedOperator(Record):
    """Equal operators of a pass: `count` kernels, each `batch` products (m x k) by (k x n), or bytes alone."""

    kind: Literal["matmul", "convolution", "attention", "memory", "lookup"] = Field(
        description="what runs it: a product, or a pass over memory"
    )
    name: str = Field(max_length=200, description="module and operator, of the first of them")
    count: Count = Field(default=1, ge=1, description="how many of them there are")
    bytes: Pair = Field(description="memory that each reads and writes: fixed, and for each sample")
    batch: Pair = Field(default=(0, 0), description="products at once; of attention, heads")
    m: Pair = Field(default=(0, 0), description="rows of a product; of attention, queries")
    n: Pair = Field(default=(0, 0), description="columns of a product; of attention, keys")
    k: Pair = Field(default=(0, 0), description="what a product sums over; of attention, width of a head")
    causal: bool = Field(default=False, description="attention sees what came before only")

    def shape(self, samples: int) -> tuple[int, int, int, int]:
        """Products at once, rows, columns, inner size."""
        batch, m, n, k = (at(pair, samples) for pair in (self.batch, self.m, self.n, self.k))
        return batch, m, n, k

    def flops(self, samples: int) -> float:
        """FLOPs of the products of one of them as a model counts them, attention in full; the same either way."""
        batch, m, n, k = self.shape(samples)
        return (2.0 if self.kind == "attention" else 1.0) * 2.0 * batch * m * n * k


class TracedPiece(Record):
    """What runs in a row: a layer, or what comes before or after the layers."""

    module: str = Field(default="", max_length=500, description="path of the first module of it")
    repeat: Count = Field(default=1, ge=1, le=100_000, description="how many equal ones follow each other")
    parameters: Count = Field(ge=0, description="weights that are trained")
    frozen: Count = Field(default=0, ge=0, description="weights that are not")
    output: Pair = Field(description="bytes that it hands on: fixed, and for each sample")
    kept: Pair = Field(description="bytes that it keeps for the backward pass: fixed, and for each sample")
    forward: tuple[TracedOperator, ...] = Field(description="operators of the forward pass")
    backward: tuple[TracedOperator, ...] = Field(description="operators of the backward pass")


class Imported(Workload):
    """A model as it was traced."""

    kind: Literal["graph"]
    name: Name = Field(default="inline", description="the name it is found by")
    source: str = Field(default="", max_length=500, description="what was traced, with what")
    element: Literal[2, 4] = Field(default=4, description="bytes of a number of the traced model")
    input: Pair = Field(description="bytes of the data: fixed, and for each sample")
    first: TracedPiece | None = Field(default=None, description="what comes before the layers")
    body: tuple[TracedPiece, ...] = Field(min_length=1, max_length=10_000, description="the layers in order")
    last: TracedPiece | None = Field(default=None, description="what comes after the layers")
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    tokens: ClassVar[bool] = False

    @property
    @override
    def layers(self) -> int:
        return sum(each.repeat for each in self.body)

    @property
    @override
    def line(self) -> str:
        return f"traced from {self.source or 'a program'}, {self.layers} layers"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """A graph for each piece; equal ones that follow each other are one."""
        pair, data = self.input, True
        graphs: list[Graph] = []
        layers: list[Graph] = []
        for piece in filter(None, (self.first, *self.body, self.last)):
            graph = self._graph(piece, shard, pair, data=data)
            repeated = self._graph(piece, shard, piece.output, data=False) if data and piece.repeat > 1 else graph
            graphs.append(graph)
            if piece is not self.first and piece is not self.last:
                layers += [graph, *[repeated] * (piece.repeat - 1)]
            pair, data = piece.output, False
        return Pieces(graphs[0] if self.first else None, tuple(layers), graphs[-1] if self.last else None)

    def _graph(self, piece: TracedPiece, shard: Shard, arrives: Pair, *, data: bool) -> Graph:
        samples, scale = shard.microbatch, element_bytes(shard.precision) / self.element
        x = _bytes("input", arrives, samples, 1.0 if data else scale, "index" if data else "activation")
        name = "layer" if piece in self.body else "stem" if piece is self.first else "head"
        graph = Graph(name, x, {"samples": samples}, repeated=piece in self.body and not data)
        graph.add(Traced(piece, x, samples, scale, element_bytes(shard.precision)))
        return graph

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[Imported, Divided, Trained], Iterator[Problem]]


class Traced(Operator):
    """All operators of a piece in the order in which they ran, equal ones together.

    Traffic and what is kept are those of the traced format, scaled to the width of the trained one.
    """

    __slots__ = ("kept", "piece", "samples", "scale")

    def __init__(self, piece: TracedPiece, x: Tensor, samples: int, scale: float, width: int) -> None:
        weights = (Tensor("weights", (1, piece.parameters), width, "weight"),) if piece.parameters else ()
        frozen = (Tensor("frozen weights", (1, piece.frozen), width, "frozen"),) if piece.frozen else ()
        y = _bytes("output", piece.output, samples, scale, "activation")
        super().__init__(piece.module or "traced", (x,), (y,), weights + frozen)
        self.kept = _bytes("kept", piece.kept, samples, scale, "activation")
        self.piece, self.samples, self.scale = piece, samples, scale

    @override
    def forward(self, work: Writer) -> None:
        for each in self.piece.forward:
            self._write(work, each, 1.0)

    @override
    def backward(self, work: Writer) -> None:
        """As recorded, and the gradients of weights added to what earlier microbatches left, which no trace shows."""
        for each in self.piece.backward:
            self._write(work, each, ATTENTION_BACKWARD)
        if self.piece.parameters:
            moved = self.piece.parameters * (work.element + 2 * work.gradient_bytes)
            work.memory(f"{self.name} gradient accumulation", moved)

    def _write(self, work: Writer, each: TracedOperator, attention: float) -> None:
        traffic = each.count * self.scale * at(each.bytes, self.samples)
        if each.kind in ("memory", "lookup"):
            work.memory(each.name, traffic, each.count)
            return
        batch, m, n, k = each.shape(self.samples)
        flops = each.count * each.flops(self.samples)
        if each.kind == "convolution" and batch > 1 and 1 in (m, n, k):  # depthwise, on the vector units
            done = Operation(
                each.name,
                "elementwise",
                flops / DEPTHWISE,
                float(traffic),
                "fp32",
                kernels=each.count,
                phase=work.phase,
            )
            work.operations.append(done)
            return
        fused = each.kind == "attention"
        if fused:
            flops *= attention * ((n + 1) / (2 * n) if each.causal else 1.0)
        work.operations.append(
            Operation(
                each.name,
                "attention" if fused else "matmul",
                flops,
                float(traffic),
                work.precision,
                batch * (each.count if fused else 1),
                m,
                n,
                k,
                kernels=each.count,
                masked=1.0 if fused and each.causal else 0.0 if fused else 1.0,
                phase=work.phase,
            )
        )

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return (self.kept,)

    @override
    def products(self, work: Writer) -> float:
        return sum(each.count * each.flops(self.samples) for each in self.piece.forward)

    @override
    def trained_passes(self, work: Writer) -> float:
        """From the recorded backward pass, in which data and what is frozen have no products; attention has two."""
        forward = self.products(work)
        backward = sum(
            each.count * each.flops(self.samples) * (2 if each.kind == "attention" else 1)
            for each in self.piece.backward
        )
        return 1 + backward / forward if forward else 0


def at(pair: tuple[int, ...], samples: int) -> int:
    """The number that `pair` stands for."""
    return pair[0] + pair[1] * samples


def _bytes(name: str, pair: Pair, samples: int, scale: float, role: Literal["index", "activation"]) -> Tensor:
    """A tensor of single bytes, as many for each sample."""
    return Tensor(name, ("samples", -(-round(scale * at(pair, samples)) // samples)), 1, role)


def check_only_data_is_split(model: Imported, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A trace says what one device runs, and not which matrices could be split."""
    for name in ("tensor", "pipeline", "context", "expert", "expert_tensor"):
        count = getattr(plan, name)
        if count > 1:
            message = f"{name} {count}: a traced model runs data parallel only, replicated or sharded (FSDP)"
            yield finding(f"parallelism.{name}", message, f"set {name} to 1, or write the model as one of a family")


def check_traced_discipline(model: Imported, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are recomputed whole, or not."""
    if training.recompute not in ("none", "full"):
        message = f"{training.recompute} recomputation is one of transformers"
        yield finding("training.recompute", message, "use none or full")


def check_traced_whole(model: Imported, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Which matrices adapters change is not in a trace."""
    if training.lora:
        yield finding("training.lora", f"{model.name} has none of the matrices that adapters name", "leave it out")


RULES: tuple[Rule, ...] = (check_only_data_is_split, check_traced_discipline, check_traced_whole)
