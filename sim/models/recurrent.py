"""Recurrent networks: encoder and decoder stacks of LSTM or GRU layers, joined by attention or as a transducer.

Translation: Wu 2016, GNMT (arXiv 1609.08144), as NVIDIA and MLPerf train it. Speech: Graves 2012 (arXiv 1211.3711), He
2018 (arXiv 1811.06621), RNN-T as MLPerf trains it. A sample is a pair of source and target; its length is the source's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.ends import CrossEntropy, Lookup
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.operation import Shard
from sim.graph.pointwise import Dropout, JoinedColumns, ResidualSum
from sim.graph.products import Linear
from sim.graph.recurrent import (
    GATES,
    AdditiveAttention,
    Recurrence,
    StackedFrames,
    TransducerJoint,
    TransducerLoss,
)
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload, share
from sim.record import NARROW, Name, Record
from sim.units import Count


class Cells(Record):
    """A recurrent layer."""

    hidden: Count = Field(ge=1, le=1_000_000, description="width of its state")
    directions: Literal[1, 2] = Field(default=1, description="2: forward and backward in time, side by side")
    residual: bool = Field(default=False, description="its input is added to its result")
    stack: Count = Field(default=1, ge=1, le=1000, description="steps that are joined to one before it")


class Recurrent(Workload):
    """A recurrent encoder and decoder, joined by attention (translation) or as a transducer (speech)."""

    kind: Literal["recurrent"]
    name: Name = Field(default="inline", description="the name it is found by")
    cell: Literal["lstm", "gru"] = Field(default="lstm", description="kind of layer")
    features: Count | None = Field(
        default=None, ge=1, le=1_000_000, description="numbers of a source step; absent where the source is tokens"
    )
    encoder: tuple[Cells, ...] = Field(min_length=1, description="layers over the source")
    decoder: tuple[Cells, ...] = Field(min_length=1, description="layers over the target")
    embedding: Count = Field(ge=1, le=1_000_000, description="width of a token, of one table for both sides")
    vocab: Count = Field(ge=1, le=1_000_000_000, description="tokens that are told apart")
    attention: Count | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="width of additive attention behind the first decoder layer, whose result all others read too",
    )
    joint: Count | None = Field(
        default=None, ge=1, le=1_000_000, description="width in which a transducer adds each source to each target step"
    )
    target_ratio: float = Field(default=1.0, gt=0, le=100, description="steps of the target over those of the source")
    dropout: bool = Field(default=False, description="dropout before each layer")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to its source")

    @property
    @override
    def layers(self) -> int:
        return len(self.encoder) + len(self.decoder)

    @property
    @override
    def line(self) -> str:
        hidden = max(each.hidden for each in (*self.encoder, *self.decoder))
        joined = "transducer" if self.joint else "attention"
        sides = f"{len(self.encoder)} + {len(self.decoder)} {self.cell.upper()} layers"
        return f"{sides}, hidden {hidden}, {joined}, vocabulary {self.vocab}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Tables, layers one by one, and what joins both sides with its loss."""
        return _Sides(self, shard).pieces()

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[Recurrent, Divided, Trained], Iterator[Problem]]


def check_replicas_only(model: Recurrent, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A recurrent network runs data parallel only."""
    for name in ("tensor", "context", "pipeline"):
        count = getattr(plan, name)
        if count > 1:
            message = f"{name} {count}: {model.name} runs data parallel only"
            yield finding(f"parallelism.{name}", message, f"set {name} to 1")


def check_states_are_kept(model: Recurrent, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are recomputed whole, or not; nothing is in 8 bit, adapted or packed."""
    if training.recompute not in ("none", "full"):
        message = f"{training.recompute} recomputation is one of transformers"
        yield finding("training.recompute", message, "use none or full")
    if training.precision in NARROW:
        yield finding("training.precision", "recurrent layers in fp8 are not modelled", "use bf16 or fp16")
    if training.lora:
        yield finding("training.lora", f"{model.name} has no matrices to adapt", "leave it out")
    if training.document_length is not None:
        yield finding("training.document_length", f"{model.name} has no documents to pack", "leave it out")


def check_sides_meet(model: Recurrent, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Attention or a joint joins the sides, and residual layers keep the width."""
    if (model.attention is None) == (model.joint is None):
        yield finding("workload.attention", "the sides meet in attention or in a joint", "give one of attention, joint")


RULES: tuple[Rule, ...] = (check_replicas_only, check_states_are_kept, check_sides_meet)


class _Sides:
    """Writes the graphs of both sides."""

    def __init__(self, model: Recurrent, shard: Shard) -> None:
        self.model, self.width = model, element_bytes(shard.precision)
        self.sizes: Sizes = {"samples": shard.microbatch, "source": shard.sequence_length, "hidden": model.embedding}
        for number, each in enumerate(model.encoder):
            self.sizes[f"source {number}"] = share(self.sizes[self.steps(number - 1)], each.stack)
        self.sizes["target"] = max(1, round(model.target_ratio * shard.sequence_length))
        self.sizes["grid"] = self.sizes[self.steps(len(model.encoder) - 1)] * (self.sizes["target"] + 1)

    def steps(self, number: int) -> str:
        """The axis of steps behind an encoder layer."""
        stacked = [place for place in range(number + 1) if self.model.encoder[place].stack > 1]
        return f"source {stacked[-1]}" if stacked else "source"

    def pieces(self) -> Pieces:
        """All of them."""
        model = self.model
        first, x, y = self.tables()
        layers = []
        for number, each in enumerate(model.encoder):
            graph, x = self.layer(f"encoder {number}", x, each, self.steps(number))
            layers.append(graph)
        attended = None
        for number, each in enumerate(model.decoder):
            graph, y = self.layer(f"decoder {number}", y, each, "target", attended)
            layers.append(graph)
            if model.attention and not number:
                attended = graph.add(AdditiveAttention("attention", y, x, model.attention)).result
        return Pieces(first, layers, self.translated(y) if model.attention else self.transduced(x, y))

    def tables(self) -> tuple[Graph, Tensor, Tensor]:
        """What both sides begin with: rows of one table, or the features of the source."""
        model, columns = self.model, self.model.embedding
        table = Tensor("token table", (model.vocab, columns), self.width, "weight")
        tokens = [Tensor(f"{side} tokens", (side, "samples"), 8, "index") for side in ("source", "target")]
        graph = Graph("embedding", tokens[1 if model.features else 0], self.sizes)
        if model.features:
            x = Tensor("features", ("source", "samples", model.features), self.width, "index")
        else:
            x = graph.add(Lookup("source embedding", tokens[0], table)).result
        return graph, x, graph.add(Lookup("target embedding", tokens[1], table)).result

    def layer(
        self, name: str, x: Tensor, cells: Cells, steps: str, attended: Tensor | None = None
    ) -> tuple[Graph, Tensor]:
        """A layer, and its result; `attended` stands beside its input."""
        source = x = Tensor(x.name, x.axes, x.width, x.role)
        graph = Graph("layer", source, self.sizes, repeated=True)
        if cells.stack > 1:
            x = graph.add(StackedFrames(f"{name} frames", x, steps, cells.stack)).result
        stream = x
        if attended is not None:
            x = graph.add(JoinedColumns(f"{name} input", (x, attended))).result
        if self.model.dropout:
            x = graph.add(Dropout(f"{name} dropout", x)).result
        y = graph.add(Recurrence(name, x, cells.hidden, GATES[self.model.cell], cells.directions)).result
        if cells.residual and y.axes == stream.axes:
            y = graph.add(ResidualSum(name, y, stream, bias=False, dropout=False)).result
        return graph, y

    def translated(self, y: Tensor) -> Graph:
        """The next token at each target step."""
        graph = Graph("head", Tensor(y.name, y.axes, y.width), self.sizes)
        graph.add(CrossEntropy(graph.add(Linear("head", graph.source, (self.model.vocab,), bias=True)).result))
        return graph

    def transduced(self, x: Tensor, y: Tensor) -> Graph:
        """The next token, or a blank, at each pair of a source and a target step."""
        graph, joint = Graph("head", Tensor(y.name, y.axes, y.width), self.sizes), self.model.joint or 1
        target = graph.add(Linear("joint target", graph.source, (joint,), bias=True)).result
        source = graph.add(Linear("joint source", Tensor(x.name, x.axes, x.width), (joint,), bias=True)).result
        both = graph.add(TransducerJoint("joint", source, target)).result
        graph.add(TransducerLoss(graph.add(Linear("head", both, (self.model.vocab,), bias=True)).result))
        return graph
