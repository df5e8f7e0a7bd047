"""Device memory of one rank of a pipeline stage, at the moments of a step that may be the fullest.

State: Rajbhandari 2020 (ZeRO, arXiv 1910.02054) section 3; activations: Korthikanti 2022 section 4, as graphs say; what
passes need beside: liveness of tensors (`graph/liveness.py`). With 16-bit weights and 32-bit accumulated gradients the
state takes 18 B per parameter: 2 weights, 4 gradients, 4 master weights, 8 moments.

Memory is linear in the number of the layer at work, so these moments are enough: the loss, when no gradient of the
microbatch exists; the first layers or the head of the backward pass, with all activations; its last layers or the
embedding, with all gradients; the optimizer step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import add, mul
from typing import Literal

from sim.graph.adapters import LowRank
from sim.graph.graph import Graph
from sim.graph.liveness import Moments
from sim.graph.operation import Shard
from sim.graph.work import element_bytes
from sim.inputs.records import Parallelism, Software, Training
from sim.models.family import NOTHING, Architecture, Held
from sim.record import NARROW, narrow_bytes
from sim.workload.compression import Compressor, Gradients, compressor_of
from sim.workload.optimizer import OptimizerKind, optimizer_of

WHOLE_BYTES = 4  # of a 32-bit weight
WHOLE_SHARE = 1.03  # of what tensors need, where no unit is gathered and freed (rasbt/LLMs-from-scratch: 1.02 to 1.05)
REMAINDER_BYTES = 2  # what a 16-bit weight lacks of it
MOMENTS = ("loss", "early backward", "late backward", "optimizer step")
ON_THE_BOARD = 2  # layers whose activations are on their way, where others lie in host memory
HOST_GRADIENT = 4  # bytes of a gradient beside the state on the host
Parts = dict[str, float]


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
    def runs(self) -> list[tuple[Graph, int]]:
        """Equal layers in a row, and how many."""
        return [run for part in self.layers for run in self.architecture.runs(part)]

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The kinds of layers."""
        return tuple({id(graph): graph for graph, _ in self.runs}.values())

    @cached_property  # read at each moment of a stage
    def kind(self) -> OptimizerKind:
        """The optimizer."""
        return optimizer_of(self.software, self.training.optimizer)

    @cached_property  # read at each moment of a stage
    def compressor(self) -> Compressor | None:
        """How gradients are compressed before they are summed, if there is somebody to sum them with."""
        plan = self.parallelism
        return compressor_of(self.training.compression) if (plan.data or 1) * plan.context > 1 else None

    @cached_property  # read at each moment of a stage
    def head(self) -> Graph | None:
        """The last piece of the model, if it is here."""
        return self.architecture.last if self.last else None

    def shards(self, zero_stage: int) -> int:
        """Ranks that share what ZeRO `zero_stage` shards; 1 if the plan does not shard it."""
        return shard_ranks(self.parallelism) if self.parallelism.zero_stage >= zero_stage else 1

    def share(self, zero_stage: int, held: Held | None = None) -> float:
        """Trained parameters of a rank under ZeRO `zero_stage`: replicas of experts share these, all others the rest.

        Of `held`, or of the whole stage.
        """
        held = held or self.held
        experts = held.experts if held.trained == held.parameters else 0
        if not experts:
            return held.trained / self.shards(zero_stage)
        sharers = expert_replicas(self.parallelism) if self.parallelism.zero_stage >= zero_stage else 1
        return (held.trained - experts) / self.shards(zero_stage) + experts / sharers

    # --- what passes hold -------------------------------------------------------------------------

    @cached_property  # read at each moment of a stage
    def element(self) -> float:
        """Bytes of a weight as products are given it."""
        precision = self.training.precision
        return WHOLE_BYTES if self.shard.autocast else weight_bytes(precision, self.shard.lora)

    @cached_property  # read at each moment of a stage
    def made(self) -> int:
        """Bytes per element of a weight's gradient as a product makes it; 0 where it is added to the buffer at once."""
        if self.software.gradient_buffer and self.software.fused_accumulation and self.shards(2) == 1:
            return 0
        return WHOLE_BYTES if self.shard.autocast else element_bytes(self.training.precision)

    def moments(self, graph: Graph) -> Moments:
        """Of a piece."""
        return self.architecture.moments(graph, self.made)

    def gathered(self, graph: Graph | None) -> float:
        """A whole unit of sharded weights; the root, if there is one, is counted apart."""
        if graph is None or self.shards(3) == 1 or (self.root and not graph.repeated):
            return 0.0
        table = self.architecture.table.parameters if graph is self.head and self.architecture.tied else 0
        narrowed = self.architecture.narrowed(graph, gathered=True)
        return self.element * float(self.architecture.held(graph).shared - narrowed + table)

    def reduced(self, graph: Graph) -> float:
        """Whole gradients of a unit on their way to the ranks that keep them."""
        if self.shards(2) == 1 or self.whole_gradients:
            return 0.0
        return self.software.gradient_comm_bytes * float(self.architecture.held(graph).trained)

    @cached_property  # read at each moment of a stage
    def root(self) -> int:
        """Parameters that stay gathered from the first pass to the last, since no layer has them."""
        sharded = self.software.root_unit and self.shards(3) > 1
        return self.held.shared - self.inner.shared if sharded else 0

    @property
    def root_gradients(self) -> int:
        """Bytes of the root's gradients that wait for the end of the backward pass."""
        return 0 if self.shard.lora else element_bytes(self.training.precision) * self.root

    @cached_property  # read at each moment of a stage
    def several(self) -> bool:
        """Whether gradients of earlier microbatches are there."""
        plan, training = self.parallelism, self.training
        return training.global_batch > (plan.data or 1) * training.microbatch

    @cached_property  # read at each moment of a stage
    def whole_gradients(self) -> bool:
        """Whether gradients wait whole for the last microbatch."""
        return self.software.accumulates_whole and self.several and self.shards(2) > 1

    @cached_property  # read at each moment of a stage
    def cast_weights(self) -> float:
        """16-bit copies that autocast makes of whole weights, once for all microbatches of a forward pass."""
        if not self.shard.autocast or self.shards(3) > 1:
            return 0.0
        head = self.architecture.held(self.head).shared
        return float(element_bytes(self.training.precision) * (self.inner.shared + head))


class StageMemory:
    """Memory of the stages of one plan; what stages have in common is counted once.

    `parallelism.data` must be known.
    """

    def __init__(
        self, architecture: Architecture, training: Training, parallelism: Parallelism, software: Software
    ) -> None:
        self.plan = architecture, training, parallelism, software
        self.known: dict[object, tuple[_Stage, Parts, dict[str, list[Parts]]]] = {}  # stages in the middle are alike

    def at(
        self, layers: tuple[range, ...], held: Sequence[Sequence[int]], *, first: bool, last: bool
    ) -> dict[str, Parts]:
        """Bytes per accelerator of a stage by part, at each of `MOMENTS`.

        layers: of each chunk of the stage, in model order. held: microbatches of each chunk at the moments that may be
        the fullest, (moments, chunks) (`Schedule.held`). first, last: whether its first chunk begins the model, and
        its last one ends it. Parts: weights, gradients, optimizer, activations (layers), ends (embedding and head
        activations), temporary (what lives inside one pass), allocator (what it cannot fill).
        """
        architecture, *_ = self.plan
        part, state, passes = self._stage(layers, first, last)
        on_host = part.training.offload.activations
        kept = [0.0 if on_host else float(architecture.stage(each, first=False, last=False).kept) for each in layers]
        start = [0.0] * len(layers)
        start[0] += architecture.held(architecture.first).kept if first else 0.0
        end = float(architecture.held(architecture.last).kept) if last else 0.0
        whole = list(map(add, kept, start))
        whole[-1] += end
        fullest = max(held, key=lambda counts: _sum(counts, whole))
        activations, starts = _sum(fullest, kept), _sum(fullest, start) + max(0, fullest[-1] - 1) * end
        done = kept[0] * min(1, fullest[0])  # by the end of the backward pass of the first chunk
        there = {
            "loss": (activations, starts),
            "early backward": (activations, starts),
            "late backward": (activations - done, starts),
            "optimizer step": (0.0, 0.0),
        }
        found: dict[str, Parts] = {}
        for moment, (inner, outer) in there.items():
            ways = [
                _allocated(part, {**state, "ends": outer, **_more(each, inner, outer + end * min(1, fullest[-1]))})
                for each in passes[moment]
            ]
            found[moment] = max(ways, key=lambda parts: sum(parts.values()))
        return found

    def host_bytes(self, layers: tuple[range, ...], held: Sequence[Sequence[int]], *, first: bool, last: bool) -> float:
        """Bytes of host memory for a rank of a stage, of what does not lie on its accelerator; as `at`."""
        part, _, _ = self._stage(layers, first, last)
        offload, size = part.training.offload, 0.0
        if (offload.optimizer and not offload.drives) or part.kind.paged:
            size += optimizer_bytes(part)
        if offload.optimizer:
            size += HOST_GRADIENT * part.share(1)
        if offload.parameters and part.shards(3) > 1:
            size += _weights(part)
        if offload.activations:
            kept = [float(part.architecture.stage(each, first=False, last=False).kept) for each in layers]
            size += max(_sum(counts, kept) for counts in held)
        return size

    def trained(self, layers: tuple[range, ...], *, first: bool, last: bool) -> int:
        """Trained parameters that a rank of a stage computes with; as `at`."""
        return self._stage(layers, first, last)[0].held.trained

    def _stage(
        self, layers: tuple[range, ...], first: bool, last: bool
    ) -> tuple[_Stage, Parts, dict[str, list[Parts]]]:
        architecture, *_ = self.plan
        runs = tuple((id(graph), count) for part in layers for graph, count in architecture.runs(part))
        key = runs, first, last
        if key not in self.known:
            part = _Stage(*self.plan, layers, first, last)
            self.known[key] = part, _state(part), _passes(part)
        return self.known[key]


def _more(parts: Parts, activations: float, ends: float) -> Parts:
    """`parts` of a moment, where those of the head come to the activations."""
    kept = {key: size for key, size in parts.items() if key != "head"}
    if "head" in parts:
        kept["ends"] = ends
    kept["activations"] = activations + kept.get("activations", 0.0)
    return kept


def _state(part: _Stage) -> Parts:
    """What is there at every moment."""
    offload = part.training.offload
    trained, software = part.held.trained, part.software
    weights, optimizer = _weights(part), optimizer_bytes(part)
    if offload.parameters and part.shards(3) > 1:
        weights = 0.0
    gradients = part.share(2) * software.gradient_bytes if software.gradient_buffer else 0.0
    if software.bucket_copy and (part.parallelism.data or 1) > 1:
        gradients += trained * software.gradient_bytes
    on_board = 0.0 if offload.optimizer or part.kind.paged else optimizer
    return {
        "weights": weights,
        "gradients": (0.0 if offload.optimizer and part.shards(2) > 1 else gradients) + _residue(part),
        "optimizer": on_board,
        "activations": 0.0,
        "ends": 0.0,
        "temporary": 0.0,
    }


def _residue(part: _Stage) -> float:
    """What compression has lost of gradients, and adds to the next."""
    compressor = part.compressor
    return compressor.residue_bytes(part.software.gradient_bytes) * part.held.trained if compressor else 0.0


def _came(part: _Stage) -> float:
    """Compressed sums of a stage, which are unpacked before the optimizer; of every microbatch at once where needed."""
    if part.compressor is None or part.shards(2) > 1:
        return 0.0
    software = part.software
    gradients = Gradients(part.held.trained, software.gradient_bytes, software.gradient_comm_bytes)
    ranks = (part.parallelism.data or 1) * part.parallelism.context
    return part.compressor.wire(gradients, ranks)[-1] if part.training.compression.kind != "power_sgd" else 0.0


def optimizer_bytes(part: _Stage) -> float:
    """Optimizer state and master weights of a rank, wherever they lie."""
    return part.share(1) * state_bytes(part.training, part.software)[1]


def _passes(part: _Stage) -> dict[str, list[Parts]]:
    """What each moment has beside the state and what is kept: several ways where either may be the fullest."""
    between = [{**_there(part, part.held.trained), "temporary": _always(part, "late")}]  # where no layer is
    return {
        "loss": _loss(part) or between,
        "early backward": _early(part) or between,
        "late backward": _late(part) or between,
        "optimizer step": [_step(part)],
    }


def _gradients(part: _Stage, made: float) -> Parts:
    """Gradients when those of `made` parameters of this microbatch have come."""
    trained, software = part.held.trained, part.software
    state = _state(part)["gradients"]
    if part.whole_gradients:
        return {"gradients": state + WHOLE_BYTES * trained}
    if software.gradient_buffer:
        return {}
    if part.training.offload.optimizer and part.shards(2) > 1:
        return {}
    there = 1.0 if part.several else made / max(1, trained)
    return {"gradients": state + there * part.share(2) * software.gradient_bytes}


def _always(part: _Stage, moment: Literal["forward", "early", "late"]) -> float:
    """What lies beside passes: the root unit, buckets, gathered weights that are kept, what the caller holds."""
    element, root, software = part.element, part.root, part.software
    always = float(element * root) + software.bucket_memory * (part.parallelism.data != 1)
    if part.shards(3) > 1:
        always += element * min(software.live_parameters, part.held.shared)
    if part.shard.lora and part.shard.lora.base:  # the matrix at work
        always += element * max((part.architecture.largest_weight(graph) for graph in part.graphs), default=0)
    if part.training.offload.activations:
        always += ON_THE_BOARD * max((part.architecture.held(graph).kept for graph in part.graphs), default=0)
    if moment != "forward":
        always += part.architecture.held_by_caller if part.last else 0
        always += part.root_gradients
    return always


def _there(part: _Stage, made: float) -> Parts:
    """Gradients, and the weights that are whole until the backward pass of their unit is over."""
    return {**_gradients(part, made), "weights": _state(part)["weights"] + _whole_weights(part)}


def _loss(part: _Stage) -> list[Parts]:
    """The forward pass of a layer when all others are over, or of the head."""
    ahead = 1 + part.software.parameter_prefetch
    always = _always(part, "forward") + part.cast_weights
    ways = []
    for graph in part.graphs:
        moments = part.moments(graph)
        size = moments.forward - moments.kept + ahead * part.gathered(graph)
        ways.append({**_there(part, 0), "temporary": always + size})
    if part.head:
        moments = part.moments(part.head)
        size = moments.forward - moments.kept + ahead * part.gathered(part.head)
        ways.append({**_there(part, 0), "temporary": always + size, "head": 0.0})
    return ways


def _early(part: _Stage) -> list[Parts]:
    """The backward pass of the head, or of the last layer."""
    ways, always = [], _always(part, "early")
    cast = part.cast_weights if part.shard.recompute == "none" else 0.0
    made = part.architecture.held(part.head).trained
    for graph in part.graphs:
        moments, unit = part.moments(graph), part.gathered(graph)
        size = moments.backward - moments.kept + unit * (1 + part.software.parameter_prefetch)
        ways.append({**_there(part, made), "temporary": always + cast + size})
    if part.head:
        moments = part.moments(part.head)
        counted = part.architecture.held_by_caller + part.root_gradients  # the head makes them here
        size = moments.backward - moments.kept - counted + part.gathered(part.head)
        ways.append({**_there(part, 0), "temporary": always + cast + size, "head": 0.0})
    return ways


def _late(part: _Stage) -> list[Parts]:
    """The backward pass of the first or second layer beside the reduction of the one behind, or of the embedding."""
    architecture, always = part.architecture, _always(part, "late")
    embedding = architecture.first if part.first else None
    ways: list[Parts] = []
    for graph in part.graphs:
        moments, own = part.moments(graph), architecture.held(graph).trained
        unit, behind, trained = part.gathered(graph), part.reduced(graph), part.held.trained
        size = always + moments.backward + unit + behind
        ways.append({**_gradients(part, trained - own), "temporary": size + part.gathered(embedding)})
        if sum(map(len, part.layers)) > 1:
            second = size + unit * part.software.parameter_prefetch
            ways.append({**_gradients(part, trained - 2 * own), "activations": moments.kept, "temporary": second})
        if embedding and not part.shard.lora:
            table = float(architecture.held(embedding).trained)
            there = _gradients(part, trained - (0 if architecture.tied else table))
            size = always + moments.input + part.made * table + part.gathered(embedding) + behind
            ways.append({**there, "temporary": size})
    if part.root and not part.shard.lora:
        size = part.element * part.root + part.root_gradients + part.software.gradient_comm_bytes * part.root
        ways.append({**_gradients(part, part.held.trained), "temporary": float(size)})
    return ways


def _step(part: _Stage) -> Parts:
    """Copies that the optimizer makes, of what a rank updates."""
    trained, software, kind = part.share(1), part.software, part.kind
    if part.training.offload.optimizer:
        return {"temporary": _came(part)}
    moment = software.moment_bytes
    largest = max((part.architecture.largest_weight(graph) for graph in part.graphs), default=0) / part.shards(3)
    at_once = min(software.step_group, trained) if software.step_group else trained
    copies = moment * (kind.copies * trained + kind.largest * largest) + software.step_copy_bytes * at_once
    gradients = {} if software.gradient_buffer else {"gradients": _state(part)["gradients"] + _reduced_gradients(part)}
    return {**gradients, "temporary": max(copies, _came(part))}


def _reduced_gradients(part: _Stage) -> float:
    return part.share(2) * part.software.gradient_bytes


def _allocated(part: _Stage, parts: Parts) -> Parts:
    """With what the allocator takes beside tensors that come and go."""
    moving = parts["activations"] + parts["ends"] + parts["temporary"]
    share = part.software.allocator_share
    share = share if part.shards(3) > 1 else min(share, WHOLE_SHARE)
    return {**parts, "allocator": (share - 1) * moving}


def state_bytes(training: Training, software: Software) -> tuple[float, float]:
    """Bytes per trained parameter between two steps: of weights, of optimizer state (moments and master weights)."""
    weights, adam = stored_bytes(training.precision, software)
    kind, moment = optimizer_of(software, training.optimizer), software.moment_bytes
    return weights, adam - 2 * moment + kind.moments * moment + kind.small


def stored_bytes(precision: str, software: Software) -> tuple[int, int]:
    """Bytes per trained parameter between two steps: of weights, of Adam's state (moments and master weights).

    Weights that are as wide as the moments are their own master (Apex, DistributedFusedAdam, store_params); fp8
    weights with their transposed copy take 2 B, but are not.
    """
    weights, moment = element_bytes(precision), software.moment_bytes
    if software.master_weights == "sole":
        return WHOLE_BYTES, 2 * moment
    if weights >= moment and precision not in NARROW:
        return weights, 2 * moment
    lacking = software.master_weights == "remainder" and precision == "bf16"
    return weights, 2 * moment + (REMAINDER_BYTES if lacking else moment)


def _sum(counts: Sequence[int], sizes: Sequence[float]) -> float:
    return sum(map(mul, counts, sizes), 0.0)


def weight_bytes(precision: str, lora: LowRank | None) -> float:
    """Bytes of a stored weight; frozen weights in a narrow format need no 16-bit copy."""
    return narrow_bytes(precision) if lora and precision in NARROW else element_bytes(precision)


def shard_ranks(parallelism: Parallelism) -> int:
    """Ranks that share one sharded copy: `shard_group`, or all data and context ranks."""
    return parallelism.shard_group or (parallelism.data or 1) * parallelism.context


def expert_replicas(parallelism: Parallelism) -> int:
    """Ranks that hold the same experts."""
    ranks = (parallelism.data or 1) * parallelism.context * parallelism.tensor
    return max(1, ranks // (parallelism.expert * parallelism.expert_tensor))


def _weights(part: _Stage) -> float:
    """As stored, and the second copy of ZeRO++; 32-bit weights without a copy are sharded with the optimizer."""
    precision, lora = part.training.precision, part.shard.lora
    held = part.held
    narrowed = sum(part.architecture.narrowed(graph, gathered=False) * count for graph, count in part.runs)
    frozen = (held.parameters - narrowed - held.tables - (0 if lora else held.trained)) * weight_bytes(precision, lora)
    trained = part.share(1 if part.software.master_weights == "sole" else 3) * stored_bytes(precision, part.software)[0]
    again = part.element * held.shared / part.parallelism.second_copy if part.parallelism.second_copy else 0.0
    return frozen / part.shards(3) + trained + held.table_bytes + again


def _whole_weights(part: _Stage) -> float:
    """Weights that are sharded with the optimizer (`sole`) but not gathered unit by unit are whole in 16 bit."""
    whole = part.software.master_weights == "sole" and part.parallelism.zero_stage in (1, 2)
    return float(part.held.trained * element_bytes(part.training.precision)) if whole else 0.0
