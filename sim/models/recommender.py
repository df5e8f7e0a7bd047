"""Recommenders: embedding tables spread over all ranks, dense layers on each (DLRM, Naumov 2019, arXiv 1906.00091;
DCNv2, Wang 2020, arXiv 2008.13535). Samples are rows of a click log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.ends import CrossEntropy
from sim.graph.graph import Graph, Tensor
from sim.graph.operation import Shard
from sim.graph.pointwise import JoinedColumns
from sim.graph.products import Linear
from sim.graph.tables import (
    ArrivedVectors,
    CrossSum,
    DenseRectifier,
    DotInteraction,
    EmbeddingBags,
    SentVectors,
    Table,
    TableShare,
)
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload, share
from sim.record import NARROW, Name
from sim.units import Count

WIDE = 4  # bytes of a 32-bit number


class Recommender(Workload):
    """Embedding tables spread over all ranks, and dense layers on each. Samples are rows of a click log."""

    kind: Literal["recommender"]
    name: Name = Field(default="inline", description="the name it is found by")
    rows: tuple[Count, ...] = Field(min_length=1, description="rows of each embedding table")
    hotness: tuple[Count, ...] | None = Field(
        default=None, description="rows of each table that a sample looks up and sums; 1 if absent"
    )
    columns: Count = Field(default=128, ge=1, le=100_000, description="width of an embedding")
    placement: Literal["table", "row", "column", "balanced"] = Field(
        default="table",
        description="over ranks: whole tables, longest lookups first; rows of each table; columns of each; or tables "
        "cut so that all ranks look up and hold the same (hybrid plans of HugeCTR and TorchRec)",
    )
    table_bytes: Literal[2, 4] = Field(default=4, description="bytes of an element of a table")
    table_optimizer: Literal["sgd", "rowwise_adagrad", "adagrad"] = Field(
        default="rowwise_adagrad",
        description="updates rows in the backward pass; it keeps nothing, 4 B a row or 4 B an element",
    )
    dense_features: Count = Field(default=13, ge=1, le=1_000_000, description="numbers of a sample beside its indices")
    bottom: tuple[Count, ...] = Field(default=(512, 256, 128), min_length=1, description="widths of layers over these")
    interaction: Literal["dot", "cross"] = Field(
        default="dot", description="of the vectors of a sample: products of all pairs, or low-rank cross layers"
    )
    cross_layers: Count = Field(default=3, ge=1, le=1000, description="cross layers")
    cross_rank: Count = Field(default=512, ge=1, le=1_000_000, description="inner width of a cross layer")
    top: tuple[Count, ...] = Field(
        default=(1024, 1024, 512, 256, 1), min_length=2, description="widths of the last layers"
    )
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to its source")

    spreads: ClassVar[bool] = True
    tokens: ClassVar[bool] = False

    @property
    @override
    def layers(self) -> int:
        return len(self.top) - 1 + (self.interaction == "cross")

    @property
    def lookups(self) -> tuple[int, ...]:
        """Rows that a sample looks up in each table."""
        return self.hotness or (1,) * len(self.rows)

    @property
    @override
    def line(self) -> str:
        return (
            f"{len(self.rows)} tables of {sum(self.rows):,} rows x {self.columns}, {sum(self.lookups)} lookups a sample"
        )

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Tables and bottom layers; cross layers as one, and top layers one by one; the last product with its loss."""
        first, x = _vectors(self, shard)
        layers = []
        if self.interaction == "cross":
            layers.append(_cross(self, shard, x))
            x = layers[-1].output
        for number, width in enumerate(self.top[:-1]):
            layers.append(graph := _piece("layer", x, shard))
            x = _dense(graph, f"top {number}", graph.source, width)
        head = _piece("head", x, shard)
        head.add(CrossEntropy(head.add(Linear("click", head.source, (self.top[-1],), bias=True)).result))
        return Pieces(first, layers, head)

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[Recommender, Divided, Trained], Iterator[Problem]]


def check_one_stage(model: Recommender, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Dense layers run data parallel; tables lie on all ranks without being asked for."""
    for name in ("tensor", "context", "pipeline"):
        count = getattr(plan, name)
        if count > 1:
            message = f"{name} {count}: {model.name} runs data parallel, with its tables spread over all ranks"
            yield finding(f"parallelism.{name}", message, f"set {name} to 1")


def check_rows_are_kept(model: Recommender, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Nothing is computed again, and nothing is in 8 bit or adapted."""
    if training.recompute != "none":
        yield finding("training.recompute", f"layers of {model.name} are not recomputed", "set it to none")
    if training.precision in NARROW:
        yield finding("training.precision", f"{model.name} in fp8 is not modelled", "use bf16, fp16 or tf32")
    if training.lora:
        yield finding("training.lora", f"{model.name} has no matrices to adapt", "leave it out")


def check_tables(model: Recommender, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Each table has a hotness, and the dense features become a vector of their own."""
    if model.hotness and len(model.hotness) != len(model.rows):
        message = f"hotness has {len(model.hotness)} entries for {len(model.rows)} tables"
        yield finding("workload.hotness", message, "give one for each table")
    if model.bottom[-1] != model.columns:
        message = f"the last of bottom makes {model.bottom[-1]} columns, an embedding has {model.columns}"
        yield finding("workload.bottom", message, "make them equal: it is one vector more")


RULES: tuple[Rule, ...] = (check_one_stage, check_rows_are_kept, check_tables)


def _vectors(model: Recommender, shard: Shard) -> tuple[Graph, Tensor]:
    """Tables with the exchange of their vectors, bottom layers beside it, and what the top layers read."""
    width, columns = element_bytes(shard.precision), model.columns
    graph = _piece("tables", Tensor("dense features", ("samples", model.dense_features), width, "index"), shard)
    rows, tables = fullest(model, shard.expert), len(model.rows)
    indices = Tensor("indices", ("samples", sum(model.lookups)), 8, "index")
    pooled = Tensor("pooled rows", ("samples", int(rows.vectors * shard.expert)), width)
    graph.add(EmbeddingBags("embeddings", indices, rows, sum(model.lookups), shard.expert, pooled))
    mine = Tensor("vectors", ("samples", tables * columns), width)
    message = width * rows.vectors * shard.expert if shard.expert > 1 else 0.0
    sent = graph.add(SentVectors("vectors", pooled, mine, message, summed=rows.summed))
    x = graph.source
    for number, each in enumerate(model.bottom):
        x = _dense(graph, f"bottom {number}", x, each)
    vectors = graph.add(ArrivedVectors(sent)).result
    if model.interaction == "dot":
        return graph, graph.add(DotInteraction("interaction", x, vectors, tables + 1, columns)).result
    return graph, graph.add(JoinedColumns("features", (x, vectors))).result


def _cross(model: Recommender, shard: Shard, x: Tensor) -> Graph:
    graph = _piece("cross layers", x, shard)
    first = x = graph.source
    for number in range(model.cross_layers):
        inner = graph.add(Linear(f"cross {number} down", x, (model.cross_rank,))).result
        product = graph.add(Linear(f"cross {number} up", inner, (first.axes[-1],), bias=True)).result
        x = graph.add(CrossSum(f"cross {number}", product, x, first)).result
    return graph


def _piece(name: str, x: Tensor, shard: Shard) -> Graph:
    return Graph(name, Tensor(x.name, x.axes, x.width, x.role), {"samples": shard.microbatch})


def _dense(graph: Graph, name: str, x: Tensor, columns: int) -> Tensor:
    y = graph.add(Linear(name, x, (columns,), bias=True)).result
    return graph.add(DenseRectifier(f"{name} activation", y)).result


def fullest(model: Recommender, ranks: int) -> TableShare:
    """What the fullest of `ranks` ranks holds and looks up, by `placement`."""
    state = {"sgd": 0, "rowwise_adagrad": WIDE, "adagrad": WIDE * model.columns}[model.table_optimizer]
    every = [Table(rows, hot, model.columns) for rows, hot in zip(model.rows, model.lookups, strict=False)]
    whole = float(len(every) * model.columns)
    if model.placement == "table":
        mine = max(_by_lookups(every, ranks), key=lambda tables: sum(each.lookups for each in tables))
        vectors = max(len(tables) for tables in _by_lookups(every, ranks)) * model.columns
        return TableShare(tuple(mine), model.table_bytes, state, float(vectors), summed=False)
    if model.placement == "column":
        columns = share(model.columns, ranks)
        mine = [each._replace(columns=columns) for each in every]
        return TableShare(tuple(mine), model.table_bytes, state, float(columns * len(every)), summed=False)
    mine = [each._replace(rows=share(each.rows, ranks), lookups=each.lookups / ranks) for each in every]
    summed = model.placement == "row"
    return TableShare(tuple(mine), model.table_bytes, state, whole if summed else whole / ranks, summed=summed)


def _by_lookups(tables: list[Table], ranks: int) -> list[list[Table]]:
    """Whole tables on ranks: the one with most lookups first, to the rank that has fewest."""
    on: list[list[Table]] = [[] for _ in range(ranks)]
    for table in sorted(tables, key=lambda each: (each.lookups, each.rows), reverse=True):
        min(on, key=lambda mine: (sum(each.lookups for each in mine), sum(each.rows for each in mine))).append(table)
    return on
