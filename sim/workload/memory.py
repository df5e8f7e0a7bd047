"""Device memory of one rank of a pipeline stage, by part.

State: Rajbhandari 2020 (ZeRO, arXiv 1910.02054) section 3; activations: Korthikanti 2022
section 4, as graphs say. With 16-bit weights and 32-bit accumulated gradients the state
takes 18 B per parameter: 2 weights, 4 gradients, 4 master weights, 8 moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import add, mul

from sim.graph.adapters import LowRank
from sim.graph.graph import Graph
from sim.graph.operation import Shard
from sim.graph.work import element_bytes
from sim.inputs.records import Parallelism, Software, Training
from sim.models.family import NOTHING, Architecture, Held

WHOLE_BYTES = 4  # of a 32-bit weight
REMAINDER_BYTES = 2  # what a 16-bit weight lacks of it


@dataclass(frozen=True)
class _Stage:
    """One rank's part of one pipeline stage and how its state is sharded."""

    architecture: Architecture
    training: Training
    parallelism: Parallelism
    software: Software
    layers: tuple[range, ...]
    first: bool
    last: bool

    @property
    def shard(self) -> Shard:
        return self.architecture.shard

    @property
    def inner(self) -> Held:
        """What the rank holds of layers."""
        return sum((self.architecture.stage(part, first=False, last=False) for part in self.layers), NOTHING)

    @cached_property  # asked for by each part of the sum
    def held(self) -> Held:
        """What the rank holds: parameters, and those with gradients and optimizer state."""
        return self.inner + self.architecture.stage(range(0), first=self.first, last=self.last)

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The kinds of layers."""
        return tuple(graph for part in self.layers for graph, _ in self.architecture.runs(part))

    def shards(self, zero_stage: int) -> int:
        """Ranks that share what ZeRO `zero_stage` shards; 1 if the plan does not shard it."""
        return shard_ranks(self.parallelism) if self.parallelism.zero_stage >= zero_stage else 1


class StageMemory:
    """Memory of the stages of one plan; what stages have in common is counted once.

    `parallelism.data` must be known.
    """

    def __init__(
        self, architecture: Architecture, training: Training, parallelism: Parallelism, software: Software
    ) -> None:
        self.plan = architecture, training, parallelism, software
        self.known: dict[object, tuple[_Stage, dict[str, float]]] = {}  # stages in the middle of a model are alike

    def at(
        self, layers: tuple[range, ...], held: Sequence[Sequence[int]], *, first: bool, last: bool
    ) -> dict[str, float]:
        """Peak bytes per accelerator of a stage, by part.

        layers: of each chunk of the stage, in model order. held: microbatches of each chunk at the moments that may be
        the fullest, (moments, chunks) (`Schedule.held`). first, last: whether its first chunk begins the model, and
        its last one ends it. Parts: weights, gradients, optimizer, activations (layers), ends (embedding and head
        activations), temporary (the largest working set).
        """
        architecture, *_ = self.plan
        runs = tuple((id(graph), count) for part in layers for graph, count in architecture.runs(part))
        key = runs, first, last
        if key not in self.known:
            part = _Stage(*self.plan, layers, first, last)
            self.known[key] = part, _whatever_is_in_flight(part)
        part, parts = self.known[key]
        kept = [float(architecture.stage(each, first=False, last=False).kept) for each in layers]
        ends = [0.0] * len(layers)
        ends[0] += architecture.held(architecture.first).kept if first else 0.0
        ends[-1] += architecture.held(architecture.last).kept if last else 0.0
        whole = list(map(add, kept, ends))
        fullest = max(held, key=lambda counts: _sum(counts, whole))
        return {**parts, "activations": _sum(fullest, kept), "ends": _sum(fullest, ends)}


def _whatever_is_in_flight(part: _Stage) -> dict[str, float]:
    """All parts; those that depend on the chunks in flight are still empty.

    Temporary is the largest set of tensors that live inside one backward pass: of a layer, or of the last piece.
    """
    ends = [part.architecture.last] if part.last and part.architecture.last else []
    working = [part.architecture.working_bytes(graph) for graph in (*part.graphs, *ends)]
    return {
        "weights": _weights(part),
        "gradients": part.held.trained * part.software.gradient_bytes / part.shards(2),
        "optimizer": part.held.trained * stored_bytes(part.training.precision, part.software)[1] / part.shards(1),
        "activations": 0.0,
        "ends": 0.0,
        "temporary": max(working) + _gathered(part),
    }


def stored_bytes(precision: str, software: Software) -> tuple[int, int]:
    """Bytes per trained parameter between two steps: of weights, of Adam's state (moments and master weights).

    Weights that are as wide as the moments are their own master (Apex, DistributedFusedAdam, store_params); fp8
    weights with their transposed copy take 2 B, but are not.
    """
    weights, moment = element_bytes(precision), software.moment_bytes
    if software.master_weights == "sole":
        return WHOLE_BYTES, 2 * moment
    if weights >= moment and precision != "fp8":
        return weights, 2 * moment
    lacking = software.master_weights == "remainder" and precision == "bf16"
    return weights, 2 * moment + (REMAINDER_BYTES if lacking else moment)


def _sum(counts: Sequence[int], sizes: Sequence[float]) -> float:
    return sum(map(mul, counts, sizes), 0.0)


def weight_bytes(precision: str, lora: LowRank | None) -> int:
    """Bytes of a stored weight; frozen weights under fp8 need no 16-bit copy."""
    return 1 if lora and precision == "fp8" else element_bytes(precision)


def shard_ranks(parallelism: Parallelism) -> int:
    """Ranks that share one sharded copy: `shard_group`, or all data and context ranks."""
    return parallelism.shard_group or (parallelism.data or 1) * parallelism.context


def _weights(part: _Stage) -> float:
    """As stored; 32-bit weights without a copy are sharded with the optimizer, and the whole ones kept in 16 bit."""
    precision, lora, zero = part.training.precision, part.shard.lora, part.parallelism.zero_stage
    frozen = part.held.parameters * weight_bytes(precision, lora) if lora else 0
    trained = part.held.trained * stored_bytes(precision, part.software)[0]
    if part.software.master_weights != "sole":
        return (frozen + trained) / part.shards(3)
    whole = part.held.trained * element_bytes(precision) if zero in (1, 2) else 0
    return frozen / part.shards(3) + trained / part.shards(1) + whole


def _gathered(part: _Stage) -> float:
    """Whole weights (ZeRO-3) and whole gradients (ZeRO-2 and 3) of the layers at work.

    Two layers of weights when the next is gathered ahead; the token table if it is larger. The root, if there
    is one, stays, and its gradients wait in 16 bit for the end of the backward pass.
    """
    if part.shards(2) == 1:
        return 0.0
    lora, model = part.shard.lora, part.architecture
    element = weight_bytes(part.training.precision, lora)
    layer = max((model.held(graph) for graph in part.graphs), key=lambda held: held.parameters)
    root = part.held.parameters - part.inner.parameters if part.software.root_unit and part.shards(3) > 1 else 0
    table = model.table if (part.first or part.last) and not root else NOTHING
    unit = max(layer, table, key=lambda held: held.parameters)
    weights = (
        unit.parameters * element * (1 + part.software.parameter_prefetch) + root * element
        if part.shards(3) > 1
        else 0.0
    )
    waiting = 0 if lora else root * element
    return weights + unit.trained * part.software.gradient_bytes + waiting
