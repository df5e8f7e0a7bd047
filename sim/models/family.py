"""What a family of models tells: its record in the file format, and the graphs of its pieces.

A family is one file of this folder with one `Workload`; nothing else knows it by name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from sim.errors import Problem
from sim.graph.adapters import BASE_BYTES, LowRank
from sim.graph.ends import CHUNKED, CrossEntropy
from sim.graph.graph import Graph
from sim.graph.liveness import Moments, moments_of
from sim.graph.operation import Shard
from sim.graph.products import Linear
from sim.graph.work import Writer
from sim.record import NARROW, Record, narrow_bytes
from sim.transforms.derive import kept_bytes, model_flops, repeated_flops, trained_parameters, transform
from sim.transforms.recompute import kept, repeated
from sim.transforms.reduction import gradient_group

# of a weight with its share of a 32-bit scale (Wang 2023, arXiv 2306.10209, section 3.1; group size: assumption)
QUANTIZED_BYTES = 1 + 4 / 2048


class Divided(Protocol):
    """The part of a plan that families look at (`Parallelism`)."""

    @property
    def tensor(self) -> int:
        """Ranks that share each matrix."""

    @property
    def pipeline(self) -> int:
        """Pipeline stages."""

    @property
    def context(self) -> int:
        """Ranks that share each sequence."""

    @property
    def ulysses(self) -> int:
        """Of these, ranks that exchange positions for heads."""

    @property
    def expert(self) -> int:
        """Ranks that share experts."""

    @property
    def expert_tensor(self) -> int:
        """Ranks that share each matrix of an expert."""

    @property
    def sequence_parallel(self) -> bool:
        """Whether tensor ranks have rows of their own outside products."""

    @property
    def shard_group(self) -> int | None:
        """Ranks that share one sharded copy, if not all."""


class Trained(Protocol):
    """The part of a training that families look at (`Training`)."""

    @property
    def sequence_length(self) -> int | None:
        """Tokens per sequence."""

    @property
    def document_length(self) -> int | None:
        """Tokens that attention sees, if not all."""

    @property
    def precision(self) -> str:
        """Number format of matrix products."""

    @property
    def recompute(self) -> str | tuple[str, ...]:
        """Discipline of recomputation, or the parts of a layer that are computed again."""

    @property
    def lora(self) -> LowRank | None:
        """Adapters, if only they are trained."""


class Replay(NamedTuple):
    """A recorded step that is run again: the file that holds it, and what shall be other than it was."""

    recording: str
    ranks: int  # of the job that was recorded
    recorded_on: str | None  # accelerator
    collectives: Literal["recorded", "modelled"]
    kernels: Literal["recorded", "rescaled"]
    stragglers: Literal["kept", "removed"]
    host: float  # time between calls over what it was


class Workload(Record):
    """The base of the records of all families."""

    notes: tuple[str, ...] = Field(
        default=(), description="what a reader of results should know of this model, such as what is left out of it"
    )

    if TYPE_CHECKING:  # fields of every family

        @property
        def kind(self) -> str:
            """Name of the family in the file format."""

        @property
        def name(self) -> str:
            """The name it is found by."""

        @property
        def layers(self) -> int:
            """Pieces between which a pipeline may be cut."""

    @property
    def ties(self) -> bool:
        """Whether the last piece multiplies by the table of the first."""
        return False

    @property
    def replay(self) -> Replay | None:
        """What to run instead of pieces, if a step was recorded."""
        return None

    @property
    def experts(self) -> int:
        """Experts of a layer, 0 if there are none."""
        return 0

    @property
    def resting_share(self) -> float:
        """Part of the weights of experts that one token does not meet."""
        return 0.0

    @property
    def imbalance(self) -> float:
        """Rows of the fullest rank of experts over the mean."""
        return 1.0

    @property
    def fuses_attention(self) -> bool | None:
        """Whether attention is one kernel; None where there is no attention."""
        return None

    spreads: ClassVar[bool] = False  # tables of it are divided over all ranks, which exchange rows as experts do tokens
    tokens: ClassVar[bool] = True  # a sample is a sequence of tokens, and the training says how long it is

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of the residual stream and of a head, 0 where there is no such thing."""
        return 0, 0

    @property
    @abstractmethod
    def line(self) -> str:
        """What it is, in one line for people."""

    @abstractmethod
    def pieces(self, shard: Shard) -> Pieces:
        """The graphs of one rank and one microbatch, as they are written before any pass."""

    @property
    @abstractmethod
    def rules(self) -> Sequence[Callable[[Any, Divided, Trained], Iterator[Problem]]]:
        """What a plan has to meet to suit the model, one small function of model, plan and training for each rule."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What comes before the layers, the layers one by one (equal ones are one graph), what comes after."""

    first: Graph | None
    layers: Sequence[Graph]
    last: Graph | None


class Architecture:
    """A model as one rank runs it, and what follows from its graphs. Made once for a job."""

    def __init__(self, model: Workload, shard: Shard) -> None:
        pieces = model.pieces(shard)
        self.model, self.shard, self.tied = model, shard, model.ties
        self.first, self.layers, self.last = pieces.first, tuple(pieces.layers), pieces.last
        self._alike = len(set(map(id, self.layers))) == 1
        for graph in self.graphs:
            transform(graph, shard)
        self._known: dict[int, Held] = {}  # layers are alike; asked for by chunks, memory and state
        self._moments: dict[tuple[int, int | None], Moments] = {}  # as above

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """Each kind of piece once, in the order in which they first come."""
        every = [graph for graph in (self.first, *self.layers, self.last) if graph]
        return tuple({id(graph): graph for graph in every}.values())

    def held(self, graph: Graph | None) -> Held:
        """What a rank holds of a piece, nothing of none."""
        if graph is None:
            return NOTHING
        if id(graph) not in self._known:
            work = Writer(graph, self.shard)
            rows = graph.tables()
            tables = sum(graph.elements(each) for each in rows if each.role == "table"), sum(map(graph.bytes, rows))
            experts = expert_parameters(graph) if self.shard.divides_experts else 0
            held = (graph.parameters(), trained_parameters(work), kept_bytes(work))
            self._known[id(graph)] = Held(*held, *tables, experts)
        return self._known[id(graph)]

    def moments(self, graph: Graph, gradient: int | None = None) -> Moments:
        """What passes through a piece take; `gradient` [B] per element of a weight's, as it is made."""
        key = id(graph), gradient
        if key not in self._moments:
            work = Writer(graph, self.shard)
            again = repeated(work) or (self.shard.cross_entropy in CHUNKED and graph is self.last)
            self._moments[key] = moments_of(graph, work, kept(work) if again else None, gradient=gradient)
        return self._moments[key]

    @cached_property  # a model of its own, asked for by state and reports
    def held_by_caller(self) -> int:
        """What the code around the model does not let go before the backward pass is over [B]."""
        losses = [each for each in (self.last.operators if self.last else ()) if isinstance(each, CrossEntropy)]
        return sum(each.held_bytes(Writer(self.last, self.shard)) for each in losses) if self.last else 0

    def largest_weight(self, graph: Graph) -> int:
        """Parameters of the largest matrix of a piece that may be trained."""
        return max((graph.elements(each) for each in graph.weights() if each.role != "frozen"), default=0)

    def narrowed(self, graph: Graph | None, *, gathered: bool) -> int:
        """What few bits save of a piece, counted in 16-bit weights: as stored (a base), or as `gathered`."""
        shard = self.shard
        if graph is None or not graph.repeated:
            return 0
        products = [each for each in graph.operators if isinstance(each, Linear)]
        if shard.lora is not None and shard.lora.base is not None:
            return _saved(graph, products, BASE_BYTES[shard.lora.base] / Writer(graph, shard).element)
        if gathered and shard.gathers_narrow and shard.precision in NARROW:
            return _saved(graph, [each for each in products if each.cast], narrow_bytes(shard.precision) / 2)
        return 0

    def quantized(self, graph: Graph | None) -> int:
        """What 8-bit integers save of a piece on its way to other ranks, counted in 16-bit weights."""
        if graph is None or not graph.repeated or not self.shard.quantizes_gathers:
            return 0
        products = [each for each in graph.operators if isinstance(each, Linear)]
        return _saved(graph, products, QUANTIZED_BYTES / Writer(graph, self.shard).element)

    def stage(self, layers: range, *, first: bool, last: bool, table: bool | None = None) -> Held:
        """What a rank holds of some layers and of the ends.

        A last stage that is not the first has its own copy of a tied `table` (Narayanan 2021, 2.2).
        """
        table = not first if table is None else table
        parts = [self.held(graph).times(count) for graph, count in self.runs(layers)]
        if first:
            parts.append(self.held(self.first))
        if last:
            parts.append(self.held(self.last))
            if self.tied and table:
                parts.append(self.table)
        return sum(parts, NOTHING)

    def runs(self, layers: range) -> list[tuple[Graph, int]]:
        """Equal layers in a row, and how many."""
        if self._alike:
            return [(self.layers[0], len(layers))] if layers else []
        alike = groupby((self.layers[number] for number in layers), key=id)
        return [(each[0], len(each)) for each in (list(group) for _, group in alike)]

    @property
    def table(self) -> Held:
        """The table that both ends multiply by."""
        table = next(self.first.weights()) if self.first else None
        count = self.first.elements(table) if self.first and table else 0
        return Held(count, 0 if self.shard.lora else count, 0)

    @cached_property  # as dear as the model itself, asked for by MFU and checkpoints
    def undivided(self) -> Architecture:
        """The model as one rank alone would run a microbatch of one sample."""
        alone = replace(self.shard, tensor=1, context=1, expert=1, expert_tensor=1, sequence_parallel=False)
        return Architecture(self.model, replace(alone, microbatch=1))

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets, of what a rank of a job without stages holds."""
        experts = sum(count * expert_parameters(graph) for graph, count in self._counted())
        return self.whole.parameters - round(experts * self.model.resting_share)

    @property
    def whole(self) -> Held:
        """What a rank of a job without stages holds."""
        return self.stage(range(len(self.layers)), first=True, last=True)

    @property
    def message_bytes(self) -> float:
        """What one rank hands to the next stage [B], the most of all layers; its share under sequence parallelism."""
        layers = {id(graph): graph for graph in self.layers if graph.source.role != "index"}.values()
        return float(max((sum(map(graph.bytes, (graph.source, *graph.carried))) for graph in layers), default=0))

    @cached_property  # a walk over all operations; the model is shared by points of a sweep
    def flops(self) -> tuple[float, float]:
        """FLOPs of one microbatch on one rank: of the model, and with what is computed again [FLOP]."""
        counts = [(Writer(graph, self.shard), count) for graph, count in self._counted()]
        model = sum(count * model_flops(work) for work, count in counts)
        return model, model + sum(count * repeated_flops(work) for work, count in counts)

    def _counted(self) -> list[tuple[Graph, int]]:
        ends = [(graph, 1) for graph in (self.first, self.last) if graph]
        return [*self.runs(range(len(self.layers))), *ends]


@dataclass(frozen=True, slots=True)
class Held:
    """Parameters of a piece on one rank, those with gradients, and bytes it keeps for the backward pass.

    tables: parameters in tables whose rows the backward pass updates; table_bytes: with what their optimizer keeps.
    experts: those of the parameters whose gradients the replicas of experts exchange.
    """

    parameters: int
    trained: int
    kept: int
    tables: int = 0
    table_bytes: int = 0
    experts: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(*(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)))

    def times(self, count: int) -> Held:
        """The same of `count` equal pieces."""
        return Held(*(each * count for each in self.counts))

    @property
    def shared(self) -> int:
        """Parameters that data-parallel ranks may shard and gather: all but those in tables."""
        return self.parameters - self.tables

    @property
    def counts(self) -> tuple[int, ...]:
        """All of them."""
        return self.parameters, self.trained, self.kept, self.tables, self.table_bytes, self.experts


NOTHING = Held(0, 0, 0)


def _saved(graph: Graph, products: list[Linear], left: float) -> int:
    """Weights that matrices of products save of which a share is left."""
    matrices = (each for product in products for each in product.weights if len(each.axes) > 1)
    return round((1 - left) * sum(map(graph.elements, matrices)))


def expert_parameters(graph: Graph) -> int:
    """Weights of a piece on one rank that belong to experts: those summed over the replicas of experts alone."""
    mine = (weight for weight in graph.weights() if gradient_group(graph, weight) == "expert_gradient")
    return sum(map(graph.elements, mine))


def share(count: int, ranks: int) -> int:
    """Part of `count` on the fullest of `ranks` ranks."""
    return -(-count // ranks)
