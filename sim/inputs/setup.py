"""An experiment whose definitions are all at hand, with their types.

Public: `Setup`, which `Experiment.setup` gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from sim.errors import ConfigError, Problem
from sim.graph.kernels import ExpertKernels
from sim.graph.operation import ScalingKind, Shard
from sim.inputs.synchronization import LocalSteps, ParameterServers
from sim.record import NARROW, Record

if TYPE_CHECKING:  # records import this file
    from sim.inputs.energy import Prices, Site
    from sim.inputs.records import (
        Accelerator,
        ClusterSpec,
        Experiment,
        Node,
        NodeGroup,
        Parallelism,
        Software,
        Training,
    )
    from sim.inputs.storage import Storage
    from sim.models.family import Workload

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True)
class Setup:
    """A resolved experiment: `cluster`, `node` and the others are records, not names."""

    experiment: Experiment

    @property
    def cluster(self) -> ClusterSpec:
        """The cluster, at the size that the experiment asks for."""
        return _inline(self.experiment.cluster, "cluster")

    @property
    def groups(self) -> tuple[NodeGroup, ...]:
        """Nodes by kind, as many as the experiment asks for."""
        return self.cluster.resized(self.experiment.nodes or self.cluster.nodes).groups

    @property
    def kinds(self) -> tuple[Setup, ...]:
        """The same job as nodes of each kind see it, as if all of its cluster were of that kind; one for each group."""
        if not isinstance(self.cluster.node, tuple):
            return (self,)
        return tuple(self._on(group) for group in self.groups)

    @property
    def node(self) -> Node:
        """The kind of server; where there are several, the first (`kinds` has them all)."""
        return _inline(self.cluster.groups[0].node, "cluster.node")

    @property
    def storage(self) -> Storage | None:
        """The cluster's storage, if it has any."""
        storage = self.cluster.storage
        return None if storage is None else _inline(storage, "cluster.storage")

    @property
    def accelerator(self) -> Accelerator:
        """The kind of accelerator; where there are several, the first."""
        return _inline(self.node.accelerator, "cluster.node.accelerator")

    @property
    def workload(self) -> Workload:
        """The model."""
        return _inline(self.experiment.workload, "workload")

    @property
    def software(self) -> Software:
        """The software stack."""
        return _inline(self.experiment.software, "software")

    @property
    def site(self) -> Site | None:
        """Where the cluster stands, if that is said."""
        site = self.experiment.site
        return None if site is None else _inline(site, "site")

    @property
    def prices(self) -> Prices | None:
        """What the accelerators cost: as the experiment says, else the cluster, if either does."""
        if self.experiment.prices is not None:
            return _inline(self.experiment.prices, "prices")
        return None if self.cluster.prices is None else _inline(self.cluster.prices, "cluster.prices")

    @property
    def parallelism(self) -> Parallelism:
        """How the work is divided."""
        return self.experiment.parallelism

    @property
    def training(self) -> Training:
        """What is trained."""
        return self.experiment.training

    @property
    def shard(self) -> Shard:
        """What one rank holds of the model and of a microbatch.

        Autocast casts each weight once a pass (read 4 B, write 2), and its gradient back.
        """
        parallelism, training, software = self.parallelism, self.training, self.software
        cast = 6.0 if software.autocast else 0.0
        sharers = parallelism.shard_group or self.data * parallelism.context
        copies = [
            software.gather_copy_bytes + self._quantizing(ranks) if parallelism.zero_stage == 3 else cast
            for ranks in (sharers, parallelism.second_copy or sharers)
        ]
        return Shard(
            tensor=parallelism.tensor,
            context=parallelism.context,
            ulysses=parallelism.ulysses,
            expert=self.expert,
            expert_tensor=parallelism.expert_tensor,
            sequence_parallel=parallelism.sequence_parallel,
            microbatch=training.microbatch,
            sequence_length=training.sequence_length or 1,
            document_length=training.document_length,
            precision=training.precision,
            recompute=training.recompute,
            tensor_overlap=software.tensor_overlap,
            sums_partials=software.sums_partials,
            fused_kernels=software.fused_kernels,
            casts_weights=software.autocast and parallelism.zero_stage < 3,
            autocast=software.autocast and training.precision in ("fp16", "bf16"),
            pointwise=software.pointwise,
            pads_vocabulary=software.pads_vocabulary,
            fused_accumulation=software.fused_accumulation,
            lora=training.lora,
            sparse_gain=training.pruning.gain if training.pruning.kind == "2:4" else 0.0,
            pruned=training.pruning.share if training.pruning.kind == "columns" else 0.0,
            fp8_scaling=_scaling(training.precision, software.fp8_scaling),
            cross_entropy=software.cross_entropy,
            loss_chunks=software.loss_chunks if software.cross_entropy in ("chunked", "liger") else 1,
            joins_matrices=software.joins_matrices,
            batch_first=software.batch_first,
            keeps_gathered=software.keeps_gathered,
            stops_recompute=software.stops_recompute,
            fusion=software.fusion,
            channels_first=training.precision in software.channels_first,
            recurrence=software.recurrence,
            repeats_keys=software.repeats_keys,
            ring_attention=software.ring_attention,
            gather_copy=copies[0],
            gather_copy_again=copies[1],
            quantizes_gathers=parallelism.quantized_gathers,
            gathers_narrow=software.gathers_narrow and parallelism.zero_stage == 3,
            reduce_copy=software.reduce_copy_bytes if parallelism.zero_stage == 3 else cast,
            experts=self.expert_kernels,
        )

    def _quantizing(self, ranks: int) -> float:
        """Traffic for each weight gathered in 8 bit among ranks: the own share read and written, then the whole [B]."""
        return 3.0 * (1 + 1 / ranks) if self.parallelism.quantized_gathers else 0.0

    @property
    def expert_kernels(self) -> ExpertKernels:
        """How layers of experts run: as the stack does it, but for what the plan says."""
        plan = {"dispatcher": self.parallelism.dispatcher, "overlap": self.parallelism.expert_overlap}
        said = {key: value for key, value in plan.items() if value is not None}
        return self.software.experts.model_copy(update=said) if said else self.software.experts

    @property
    def accelerators(self) -> int:
        """Accelerators of the cluster."""
        return sum(nodes * size for size, nodes in self._sizes)

    @property
    def node_sizes(self) -> list[int]:
        """Accelerators of each node, in the order of their numbers."""
        return list(chain.from_iterable([size] * nodes for size, nodes in self._sizes))

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        """Accelerators of a node, and nodes, of each kind."""
        return [(_inline(group.node, "cluster.node").accelerators, group.nodes) for group in self.groups]

    @property
    def data(self) -> int:
        """Data-parallel replicas: as given, else what the accelerators allow, at least 1."""
        return self.parallelism.data or max(1, self.accelerators // self.ranks_per_replica)

    @property
    def ranks_per_replica(self) -> int:
        """Ranks that hold one copy of the model: tensor * pipeline * context."""
        return self.parallelism.tensor * self.parallelism.pipeline * self.parallelism.context

    @property
    def ranks(self) -> int:
        """Ranks of the job."""
        return self.ranks_per_replica * self.data

    @property
    def has_servers(self) -> bool:
        """Whether parameter servers keep weights and optimizer."""
        return isinstance(self.experiment.synchronization, ParameterServers)

    @property
    def taught(self) -> Setup:
        """The teacher in place of the student: forward alone, with nothing else around it."""
        changes = {"evaluation": None, "recompute": "none", "lora": None}
        others = dict.fromkeys(("teacher", "synchronization", "preparation", "input", "checkpoint"))
        alike = {
            "workload": self.experiment.teacher,
            "training": self.training.model_copy(update=changes),
            "parallelism": self.parallelism.model_copy(update={"layers_per_stage": None, "data": self.data}),
        }
        return Setup(self.experiment.model_copy(update=alike | others))

    @property
    def workers(self) -> int:
        """Groups of neighbouring replicas that take steps of their own; 1 in lock-step."""
        way = self.experiment.synchronization
        return way.workers if isinstance(way, LocalSteps) else self.data if way else 1

    @property
    def expert(self) -> int:
        """Ranks over which experts are divided, or tables that are spread: these lie on all of them."""
        return self.ranks if self.workload.spreads else self.parallelism.expert

    @property
    def data_is_known(self) -> bool:
        """Whether `data` is given, or follows from a shape that divides the accelerators."""
        return self.parallelism.data is not None or self.ranks == self.accelerators

    @property
    def step_tokens(self) -> int:
        """Tokens of one step over all replicas; 0 where samples have none."""
        return self.training.global_batch * (self.training.sequence_length or 0)

    @property
    def target_steps(self) -> int | None:
        """Steps of the whole training, if its tokens or samples are said."""
        if self.training.samples is not None:
            return math.ceil(self.training.samples / self.training.global_batch)
        return None if self.training.tokens is None else math.ceil(self.training.tokens / self.step_tokens)

    @property
    def microbatches(self) -> int:
        """Microbatches that one replica runs in a step; where they differ and are known, the one with most."""
        return max(self.microbatches_by_replica)

    @property
    def microbatches_by_replica(self) -> tuple[int, ...]:
        """Microbatches of each replica in a step; one number where all have as many, or no proportion is known yet."""
        if isinstance(self.parallelism.microbatches, tuple) and self.parallelism.microbatches:
            return self.parallelism.microbatches
        return (self.training.global_batch // (self.data * self.training.microbatch),)

    def _on(self, group: NodeGroup) -> Setup:
        """The same job on the nodes of a group alone, with as many replicas."""
        own = {"node": group.node, "nodes": group.nodes, "prices": group.prices or self.cluster.prices}
        changed = {
            "cluster": self.cluster.model_copy(update=own),
            "nodes": None,
            "parallelism": self.parallelism.model_copy(update={"data": self.data}),
        }
        return Setup(self.experiment.model_copy(update=changed))


def _scaling(precision: str, stack: ScalingKind) -> ScalingKind:
    """How scales of a format are found: as the stack does it, but blocks have their own, and some need the tensor's."""
    narrow = NARROW.get(precision)
    if narrow is None or stack == "dynamic" or not (narrow.block or narrow.whole):
        return stack
    return "current" if narrow.whole else "delayed"


def _inline(reference: str | RecordT, key: str) -> RecordT:
    if isinstance(reference, str):
        raise ConfigError(Problem("", key, f"{reference!r} is a name that was not resolved", "use load_experiment"))
    return reference
