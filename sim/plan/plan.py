"""Who does what in which order: the value that crosses from the plan to the engine. No time in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.graph.operation import Shard
from sim.models.family import Architecture, Workload
from sim.plan.flows import FlowSet, collective_flows, send_flows
from sim.plan.fold import Partition, Structure, build_structure, identity_partition, refine
from sim.plan.grid import RankGrid, build_grid
from sim.plan.pieces import Chunks, build_chunks
from sim.plan.prune import Covers, never_full
from sim.plan.schedule import Order, stage_order
from sim.spec.records import Experiment, Software
from sim.spec.setup import Setup

Ints = NDArray[np.int64]
JobFlows = dict[str, tuple[FlowSet, Covers]]  # by kind of group


@dataclass(frozen=True)
class Layout:
    """Where ranks sit and which links their groups load, folded: the part of a plan that knows no work.

    Fields as in `Plan`.
    """

    grid: RankGrid
    structure: Structure
    flows: tuple[FlowSet, ...]
    apart: tuple[bool, ...]
    flow_sets: dict[str, int]
    links: Ints
    partition: Partition


@dataclass(frozen=True)
class CutModel:
    """A model as one rank runs it, and its chunks."""

    architecture: Architecture
    chunks: Chunks


@dataclass(frozen=True)
class Plan:
    """A placed, scheduled and folded job.

    chunks[stage][virtual]: the model chunks. orders[stage]: passes in order. flow_sets: index of
    each kind of group in flows ("tensor", "context", "gradient", "replica", "forward",
    "backward", "embedding"). structure: what can hold the job back; links: (n,) cluster link behind each of its
    links. flows: one FlowSet per kind, over all links; apart: for each of them, whether none of its flows
    shares a link that can be full.
    """

    experiment: Experiment
    cluster: Cluster
    model: Workload
    architecture: Architecture
    software: Software
    shard: Shard
    grid: RankGrid
    microbatches: int
    chunks: Chunks
    orders: tuple[Order, ...]
    structure: Structure
    flows: tuple[FlowSet, ...]
    apart: tuple[bool, ...]
    flow_sets: dict[str, int]
    links: Ints
    partition: Partition

    def stage_of(self, rank: int) -> int:
        """Pipeline stage of a rank."""
        return int(self.grid.coordinate["pipeline"][rank])

    def flow_classes(self, kind: str, column: int | None = None) -> Ints:
        """Flow class of each rank's group of `kind` (as `column` of an ordered set), (n_ranks,); -1 if none."""
        classes = np.full(self.grid.n_ranks, -1)
        if kind in self.flow_sets:
            number = self.flow_sets[kind]
            members = self.flows[number].members
            chosen = members if column is None else members[:, column : column + 1]
            classes[chosen] = self.partition.flow[number][:, None]
        return classes


def lay_out(experiment: Experiment, cluster: Cluster) -> Layout:
    """Place ranks, load links, fold. `experiment` is resolved and checked. Follows from `layout_key` alone."""
    setup, options = Setup(experiment), experiment.simulation
    grid = build_grid(setup.parallelism, setup.data, cluster, experiment.seed)
    flows = job_flows(experiment, setup.workload, grid, cluster)
    structure, links, apart = fold_structure(grid, cluster, flows, options.prune == "auto")
    return Layout(
        grid=grid,
        structure=structure,
        flows=tuple(flow_set for flow_set, _ in flows.values()),
        apart=apart,
        flow_sets={kind: number for number, kind in enumerate(flows)},
        links=links,
        partition=refine(structure) if options.fold == "auto" else identity_partition(structure),
    )


def layout_key(experiment: Experiment) -> tuple[object, ...]:
    """All that `lay_out` reads of an experiment beside its cluster: equal keys have equal layouts."""
    setup, options = Setup(experiment), experiment.simulation
    plan, ties = setup.parallelism, ties_embeddings(experiment, setup.workload)
    size = plan.tensor, plan.context, plan.expert, plan.pipeline, setup.data
    groups = plan.virtual_stages > 1, plan.shard_group, ties
    place = plan.order, plan.placement, experiment.seed if plan.placement == "random" else None
    return size, place, groups, options.prune, options.fold


def build_plan(
    experiment: Experiment, cluster: Cluster, layout: Layout | None = None, cut: CutModel | None = None
) -> Plan:
    """Order the passes, lay out the ranks and cut the model unless that is given.

    `experiment` is resolved and checked.
    """
    setup = Setup(experiment)
    parallelism = setup.parallelism
    stages, virtual = parallelism.pipeline, parallelism.virtual_stages
    layout, cut = layout or lay_out(experiment, cluster), cut or cut_model(setup)
    return Plan(
        experiment=experiment,
        cluster=cluster,
        model=setup.workload,
        architecture=cut.architecture,
        software=setup.software,
        shard=cut.architecture.shard,
        grid=layout.grid,
        microbatches=setup.microbatches,
        chunks=cut.chunks,
        orders=tuple(stage_order(parallelism.schedule, stages, virtual, s, setup.microbatches) for s in range(stages)),
        structure=layout.structure,
        flows=layout.flows,
        apart=layout.apart,
        flow_sets=layout.flow_sets,
        links=layout.links,
        partition=layout.partition,
    )


def cut_model(setup: Setup) -> CutModel:
    """The model of a setup, split over ranks and cut into chunks."""
    architecture = Architecture(setup.workload, setup.shard)
    return CutModel(architecture, build_chunks(architecture, setup.software, setup.parallelism))


def job_flows(experiment: Experiment, model: Workload, grid: RankGrid, cluster: Cluster) -> JobFlows:
    """Everything of the job that communicates, by kind."""
    flows = {
        kind: collective_flows(kind, grid, cluster, ranks, key)
        for kind, (ranks, key) in job_groups(experiment, model, grid).items()
    }
    if experiment.parallelism.pipeline > 1:
        flows |= _stage_flows(grid, cluster, wrap=experiment.parallelism.virtual_stages > 1)
    return flows


def job_groups(experiment: Experiment, model: Workload, grid: RankGrid) -> dict[str, tuple[Ints, int]]:
    """Ranks that run collectives together, by kind: (n_groups, size), and the key of their hashed paths."""
    parallelism = experiment.parallelism
    kinds: dict[str, Ints] = {
        "tensor": grid.groups("tensor"),
        "context": grid.groups("context"),
        **_gradient_groups(grid, parallelism.shard_group),
    }
    groups = {kind: (ranks, key) for key, (kind, ranks) in enumerate(kinds.items()) if ranks.shape[1] > 1}
    if ties_embeddings(experiment, model):
        groups["embedding"] = (grid.groups("pipeline")[:, [0, -1]], 12)
    return groups


def ties_embeddings(experiment: Experiment, model: Workload) -> bool:
    """Whether the first and the last stage sum the gradients of one embedding."""
    return experiment.parallelism.pipeline > 1 and model.ties and experiment.training.lora is None


def _gradient_groups(grid: RankGrid, shard_group: int | None) -> dict[str, Ints]:
    """Ranks that reduce gradients together: one group, or sharded groups and their replicas (HSDP)."""
    ranks = grid.groups("context", "data")
    if shard_group is None or shard_group >= ranks.shape[1]:
        return {"gradient": ranks}
    split = ranks.reshape(len(ranks), -1, shard_group)
    return {
        "gradient": split.reshape(-1, shard_group),
        "replica": split.transpose(0, 2, 1).reshape(-1, split.shape[1]),
    }


def _stage_flows(grid: RankGrid, cluster: Cluster, wrap: bool) -> JobFlows:
    """Sends between neighbouring stages, both directions; round the end too if chunks interleave."""
    stage = grid.coordinate["pipeline"]
    sender = np.arange(grid.n_ranks) if wrap else np.flatnonzero(stage < grid.size["pipeline"] - 1)
    receiver = grid.shifted("pipeline", 1)[sender]
    return {
        "forward": send_flows("forward", grid, cluster, sender, receiver, 10),
        "backward": send_flows("backward", grid, cluster, receiver, sender, 11),
    }


def fold_structure(
    grid: RankGrid, cluster: Cluster, flows: JobFlows, prune: bool
) -> tuple[Structure, Ints, tuple[bool, ...]]:
    """What tells ranks apart: their stage and speed, and flows over the links that can hold them back.

    Also the (n,) cluster link behind each link of the structure, and which flow sets share no link that
    can be full: a property of the job, whatever is folded or pruned.
    """
    users = np.zeros(cluster.links.n, dtype=np.int64)
    for flow_set, _ in flows.values():
        users += np.bincount(flow_set.link, minlength=cluster.links.n)
    can_fill = (users > 0) & ~never_full([covers for _, covers in flows.values()], cluster.links.capacity)
    crowded = can_fill & (users > 1)
    apart = tuple(not crowded[flow_set.link].any() for flow_set, _ in flows.values())
    used = can_fill if prune else users > 0
    links = np.flatnonzero(used)
    number = np.where(used, np.cumsum(used) - 1, -1)
    speeds, speed = np.unique(cluster.speed[grid.accelerator], return_inverse=True)
    label = grid.coordinate["pipeline"] * len(speeds) + speed
    sets = [flow_set for flow_set, _ in flows.values()]
    return build_structure(label, cluster.links.capacity[links], sets, number), links, apart
