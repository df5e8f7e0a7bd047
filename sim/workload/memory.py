"""Device memory of one rank of a pipeline stage, by part.

State: Rajbhandari 2020 (ZeRO, arXiv 1910.02054) section 3; activations: Korthikanti 2022
section 4, in `activations.py`. With 16-bit weights and 32-bit accumulated gradients the state
takes 18 B per parameter: 2 weights, 4 gradients, 4 master weights, 8 moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import add, mul

from sim.spec.records import Parallelism, Software, Training, Transformer
from sim.workload.activations import core_bytes, kept_by_embedding, kept_by_head, kept_by_layer
from sim.workload.ends import LOSSES
from sim.workload.extent import Extent, element_bytes, extent_of, weight_bytes
from sim.workload.operation import Shard
from sim.workload.parameters import embedding_parameters, layer_parameters, rank_parameters, trained_parameters

WHOLE_BYTES = 4  # of a 32-bit weight
REMAINDER_BYTES = 2  # what a 16-bit weight lacks of it


@dataclass(frozen=True)
class _Stage:
    """One rank's part of one pipeline stage and how its state is sharded."""

    extent: Extent
    training: Training
    parallelism: Parallelism
    software: Software
    layers: int
    first: bool
    last: bool

    @property
    def model(self) -> Transformer:
        return self.extent.model

    @property
    def shard(self) -> Shard:
        return self.extent.shard

    @cached_property
    def parameters(self) -> int:
        return rank_parameters(
            self.model,
            self.shard.tensor,
            self.layers,
            first=self.first,
            last=self.last,
            sequence_length=self.shard.sequence_length,
        )

    @cached_property
    def trained(self) -> int:
        """Parameters with gradients and optimizer state."""
        return trained_parameters(self.model, self.shard.lora, self.shard.tensor, self.layers, self.parameters)

    def shards(self, zero_stage: int) -> int:
        """Ranks that share what ZeRO `zero_stage` shards; 1 if the plan does not shard it."""
        return shard_ranks(self.parallelism) if self.parallelism.zero_stage >= zero_stage else 1


class StageMemory:
    """Memory of the stages of one plan; what stages have in common is counted once.

    `parallelism.data` must be known.
    """

    def __init__(
        self, model: Transformer, shard: Shard, training: Training, parallelism: Parallelism, software: Software
    ) -> None:
        extent = extent_of(model, shard)
        self.plan = extent, training, parallelism, software
        self.layer_bytes = kept_by_layer(extent)
        self.layer_working_set = _layer_working_set(extent, self.layer_bytes)
        self.known: dict[tuple[int, bool, bool], tuple[_Stage, dict[str, float]]] = {}

    def at(self, layers: Sequence[int], held: Sequence[Sequence[int]], first: bool, last: bool) -> dict[str, float]:
        """Peak bytes per accelerator of a stage, by part.

        layers: of each chunk of the stage, in model order. held: microbatches of each chunk at the moments that may be
        the fullest, (moments, chunks) (`Schedule.held`). first, last: whether its first chunk begins the model, and
        its last one ends it. Parts: weights, gradients, optimizer, activations (layers), ends (embedding and head
        activations), temporary (the largest working set).
        """
        key = sum(layers), first, last
        if key not in self.known:
            part = _Stage(*self.plan, *key)
            self.known[key] = part, _whatever_is_in_flight(part, self.layer_working_set)
        part, parts = self.known[key]
        kept = [count * self.layer_bytes for count in layers]
        ends = [0.0] * len(layers)
        ends[0] += kept_by_embedding(part.extent) if first else 0.0
        ends[-1] += kept_by_head(part.extent) if last else 0.0
        whole = list(map(add, kept, ends))
        fullest = max(held, key=lambda counts: _sum(counts, whole))
        return {**parts, "activations": _sum(fullest, kept), "ends": _sum(fullest, ends)}


def _whatever_is_in_flight(part: _Stage, layer: float) -> dict[str, float]:
    """All parts; those that depend on the chunks in flight are still empty.

    Temporary is the largest set of tensors that live inside one backward pass: of a `layer`, or of the head.
    """
    return {
        "weights": _weights(part),
        "gradients": part.trained * part.software.gradient_bytes / part.shards(2),
        "optimizer": part.trained * stored_bytes(part.training.precision, part.software)[1] / part.shards(1),
        "activations": 0.0,
        "ends": 0.0,
        "temporary": max(layer, _head_working_set(part) if part.last else 0.0) + _gathered(part),
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


def shard_ranks(parallelism: Parallelism) -> int:
    """Ranks that share one sharded copy: `shard_group`, or all data and context ranks."""
    return parallelism.shard_group or (parallelism.data or 1) * parallelism.context


def _weights(part: _Stage) -> float:
    """As stored; 32-bit weights without a copy are sharded with the optimizer, and the whole ones kept in 16 bit."""
    precision, lora, zero = part.training.precision, part.shard.lora, part.parallelism.zero_stage
    frozen = part.parameters * weight_bytes(precision, lora) if lora else 0
    trained = part.trained * stored_bytes(precision, part.software)[0]
    if part.software.master_weights != "sole":
        return (frozen + trained) / part.shards(3)
    whole = part.trained * element_bytes(precision) if zero in (1, 2) else 0
    return frozen / part.shards(3) + trained / part.shards(1) + whole


def _layer_working_set(extent: Extent, kept: float) -> float:
    """What recomputation brings back beside the bytes kept, the widest gradients, a gathered input, score gradients."""
    whole = replace(extent, shard=replace(extent.shard, recompute="none"))
    again = kept_by_layer(whole) - kept
    wide = extent.element * extent.tokens * extent.ffn * (len(extent.ffn_widths) + 1)
    gathered = extent.hidden_bytes if extent.splits_sequence else 0.0
    scores = 0.0 if extent.flash else min(core_bytes(extent), extent.element * extent.scores)
    return again + max(wide + gathered, scores) + extent.hidden_bytes


def _head_working_set(part: _Stage) -> float:
    """Copies of the logits beside those that are kept, and the gathered input."""
    extent = part.extent
    return LOSSES[part.shard.cross_entropy].working * float(extent.tokens * extent.vocab) + extent.hidden_bytes


def _gathered(part: _Stage) -> float:
    """Whole weights (ZeRO-3) and whole gradients (ZeRO-2 and 3) of the layers at work.

    Two layers of weights when the next is gathered ahead; the token table if it is larger. The root, if there
    is one, stays, and its gradients wait in 16 bit for the end of the backward pass.
    """
    if part.shards(2) == 1:
        return 0.0
    tensor, lora = part.shard.tensor, part.shard.lora
    element = weight_bytes(part.training.precision, lora)
    layer = layer_parameters(part.model, tensor).total
    root = part.parameters - part.layers * layer if part.software.root_unit and part.shards(3) > 1 else 0
    table = embedding_parameters(part.model, tensor) if (part.first or part.last) and not root else 0
    unit = max(layer, table)
    weights = unit * element * (1 + part.software.parameter_prefetch) + root * element if part.shards(3) > 1 else 0.0
    trained = trained_parameters(part.model, lora, tensor, 1, unit)
    waiting = 0 if lora else root * element
    return weights + trained * part.software.gradient_bytes + waiting
