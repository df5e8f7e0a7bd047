"""Who does what in which order: the value that crosses from the plan to the engine. No time in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.comm.tuner import carriers_on
from sim.graph.operation import Shard
from sim.inputs.compression import Compression
from sim.inputs.named_files import recorded_content
from sim.inputs.records import Experiment, Software
from sim.inputs.setup import Setup
from sim.layout.flows import FlowSet, collective_flows, send_flows
from sim.layout.fold import Partition, Structure, build_structure, identity_partition, refine
from sim.layout.grid import SEEDED, RankGrid, build_grid
from sim.layout.host import host_flows
from sim.layout.pieces import Chunks, build_chunks
from sim.layout.prune import Covers, distinct, never_full
from sim.layout.recorded import assignment_of, meet_once, recorded_flows
from sim.layout.rows import Mask, Rows, first_rows, least_rates, rates_alone, whole_rows
from sim.models.family import Architecture, Workload
from sim.phase import Phase
from sim.schedule.catalogue import SCHEDULES, course_of, schedule_of
from sim.schedule.course import Course, Sends
from sim.schedule.table import Schedule
from sim.transforms.reduction import GROUPS
from sim.workload.compression import compressor_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SEND_KINDS = {1: "forward", -1: "backward"}
SEND_KEY = 1_000_000  # of hashed paths, beyond those of groups and of sends to neighbours
SEND_KEYS = {1: 10, -1: 11}
PROVED_RANKS = 512  # up to so many are folded over all links that can fill: that costs less than a proof
FOLDED = 0.5  # more classes than this share of the ranks are not worth another proof
JobFlows = dict[str, tuple[FlowSet, Covers]]  # by kind of group, with the carrier where that is not the ring
COLLECTIVES: dict[str, tuple[str, ...]] = {  # that groups of a kind may run
    "tensor": ("all_reduce", "all_gather", "reduce_scatter"),
    "context": ("send", "all_gather", "reduce_scatter"),
    "ulysses": ("all_to_all",),
    "gradient": ("all_reduce", "all_gather", "reduce_scatter"),
    "replica": ("all_reduce",),
    "second_copy": ("all_gather",),
    "embedding": ("all_reduce",),
    "expert": ("all_to_all", "deduplicated"),
    "expert_tensor": ("all_reduce", "all_gather", "reduce_scatter"),
    "expert_gradient": ("all_reduce", "all_gather", "reduce_scatter"),
}


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
    rows: Rows | None


@dataclass(frozen=True)
class CutModel:
    """A model as one rank runs it, and its chunks."""

    architecture: Architecture
    chunks: Chunks


@dataclass(frozen=True)
class Plan:
    """A placed, scheduled and folded job.

    chunks: in model order. flow_sets: index of each kind of group in flows ("tensor", "context", "gradient", "replica",
    "second_copy", "embedding", "expert", "expert_tensor", "expert_gradient", and sends by `send_kind`), with its
    carrier where that is not the ring. structure: what can hold the job back; links: (n,) cluster link behind each of
    its links. flows: one FlowSet per kind and carrier, over all links; apart: for each of them, whether none of its
    groups shares a link that can be full with another. rows: what counts of links in the structure; None: all of every
    link that can fill, so that no step needs to be checked against the others.
    """

    experiment: Experiment
    cluster: Cluster
    model: Workload
    architecture: Architecture
    software: Software
    shard: Shard
    grid: RankGrid
    microbatches: tuple[int, ...]  # of each replica, or one number for all
    chunks: Chunks
    structure: Structure
    flows: tuple[FlowSet, ...]
    apart: tuple[bool, ...]
    flow_sets: dict[str, int]
    links: Ints
    partition: Partition
    rows: Rows | None = None

    @property
    def course(self) -> Course:
        """Which stage has each chunk."""
        return course_of_job(self.experiment)

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """Which stage does what when, for each number of microbatches that replicas have, the largest first."""
        plan = self.experiment.parallelism
        counts = sorted(set(self.microbatches), reverse=True)
        return tuple(schedule_of(plan.schedule, plan.pipeline, plan.virtual_stages, count) for count in counts)

    @property
    def schedule(self) -> Schedule:
        """That of the replicas with most microbatches."""
        return self.schedules[0]

    def own_microbatches(self, rank: int) -> int:
        """Microbatches that a rank runs in a step where replicas have different numbers of them, else 0."""
        return self.microbatches[int(self.grid.coordinate["data"][rank])] if len(self.microbatches) > 1 else 0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Phases that are tasks of the schedule."""
        return SCHEDULES[self.experiment.parallelism.schedule].phases

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
    """Place ranks, load links, fold. `experiment` is resolved and checked. Follows from `layout_key` alone.

    Many ranks are folded over a part of the links, and what their step does is checked against the others.
    """
    setup, options = experiment.setup, experiment.simulation
    grid = build_grid(setup.parallelism, setup.data, cluster, experiment.seed, setup.expert)
    flows = job_flows(experiment, setup.workload, grid, cluster)
    sets = tuple(flow_set for flow_set, _ in flows.values())
    can_fill, apart = links_that_fill(cluster, flows, options.prune == "auto")
    rows, fold = None, options.fold == "auto" and (setup.workload.replay is None or meet_once(sets))
    if fold and options.prune == "auto" and grid.n_ranks > PROVED_RANKS:
        rows = first_rows(sets, cluster, can_fill)
        rows = rows if rows.left_out(sets).any() else None
    label, counting = rank_labels(experiment, grid), rows or whole_rows(sets, can_fill)
    structure, links = structure_of(label, grid.accelerator, cluster, sets, counting, rows is None)
    return Layout(
        grid=grid,
        structure=structure,
        flows=sets,
        apart=apart,
        flow_sets={kind: number for number, kind in enumerate(flows)},
        links=links,
        partition=refine(structure) if fold else identity_partition(structure),
        rows=rows,
    )


def rank_labels(experiment: Experiment, grid: RankGrid) -> Ints:
    """What tells ranks apart before any link is looked at, (n_ranks,).

    Their stage and how many microbatches their replica has, or what was recorded of them.
    """
    assignment = assignment_of(experiment)
    if assignment is not None:
        return assignment.programs
    stage, counts = grid.coordinate["pipeline"], experiment.setup.microbatches_by_replica
    if len(counts) == 1:
        return stage
    number = np.unique(counts, return_inverse=True)[1]
    labels: Ints = number[grid.coordinate["data"]] * grid.size["pipeline"] + stage
    return labels


def loose_layouts(experiment: Experiment, cluster: Cluster) -> Iterator[tuple[Layout, Floats]]:
    """Ranks folded as if no two flows ever met, and the rate of each flow class, (n,) [B/s]: two layouts alike.

    In the first flows have their rates alone and the least latency of their like, in the second the least rates that
    sharing can give them, and the most latency.
    """
    setup = experiment.setup
    grid = build_grid(setup.parallelism, setup.data, cluster, experiment.seed, setup.expert)
    flows = job_flows(experiment, setup.workload, grid, cluster)
    sets = tuple(flow_set for flow_set, _ in flows.values())
    stage = rank_labels(experiment, grid)
    rows = Rows(tuple(np.zeros(len(each.link), dtype=bool) for each in sets), np.zeros(cluster.links.n, dtype=bool))
    numbers = {kind: number for number, kind in enumerate(flows)}
    rates = least_rates(sets, cluster)
    for which, extreme in enumerate((np.minimum, np.maximum)):
        alike = tuple(_with_latency(flow_set, stage, extreme) for flow_set in sets)
        structure, links = structure_of(stage, grid.accelerator, cluster, alike, rows, False)
        partition = refine(structure)
        n_flows = 1 + max((int(classes.max()) for classes in partition.flow), default=-1)
        rate = np.full(n_flows, np.inf if which else 0.0)
        for classes, of_set in zip(partition.flow, rates, strict=True):
            (np.minimum if which else np.maximum).at(rate, classes, of_set[which])
        yield Layout(grid, structure, alike, (True,) * len(sets), numbers, links, partition, None), rate


def _with_latency(flow_set: FlowSet, stage: Ints, extreme: np.ufunc) -> FlowSet:
    """A set in which all flows of a stage over as many nodes have the least or the most latency of them."""
    key = stage[flow_set.members[:, 0]] * (1 + int(flow_set.nodes.max(initial=0))) + flow_set.nodes
    known, like = np.unique(key, return_inverse=True)
    latency = np.full(len(known), -np.inf if extreme is np.maximum else np.inf)
    extreme.at(latency, like, flow_set.latency)
    return replace(flow_set, latency=latency[like])


def with_rows(plan: Plan, more: tuple[Mask, ...]) -> Layout:
    """The layout of a plan with `more` coefficients that count, (nnz,) of each flow set.

    All of them count, and nothing is left to be checked, where ranks hardly fold any more.
    """
    assert plan.rows is not None
    place = rank_labels(plan.experiment, plan.grid), plan.grid.accelerator, plan.cluster, plan.flows
    rows: Rows | None = plan.rows.joined(more)
    structure, links = structure_of(*place, plan.rows.joined(more), False)
    partition = refine(structure)
    if len(partition.representatives()) > plan.grid.n_ranks * FOLDED:
        rows = None
        structure, links = structure_of(*place, whole_rows(plan.flows, plan.rows.can_fill), True)
        partition = refine(structure)
    return Layout(plan.grid, structure, plan.flows, plan.apart, plan.flow_sets, links, partition, rows)


def layout_key(experiment: Experiment) -> tuple[object, ...]:
    """All that `lay_out` reads of an experiment beside its cluster: equal keys have equal layouts."""
    setup, options = experiment.setup, experiment.simulation
    plan, ties = setup.parallelism, ties_embeddings(experiment, setup.workload)
    size = (
        plan.tensor,
        plan.context,
        plan.pipeline,
        setup.data,
        setup.expert,
        plan.expert_tensor,
        setup.workload.experts > 0,
    )
    course = course_of_job(experiment)
    among = plan.shard_group, plan.second_copy, setup.workers
    groups = tuple(course.sends.items()), course.ends if ties else None, among
    place = plan.order, plan.placement, plan.on_nodes, experiment.seed if plan.placement in SEEDED else None
    patterns = tuple(kind.node.collectives.patterns for kind in setup.kinds)
    runs = patterns, collectives_of("gradient", setup.training.compression)
    counts = setup.microbatches_by_replica if len(setup.microbatches_by_replica) > 1 else ()
    recorded = recorded_content(setup)
    return size, place, groups, runs, counts, setup.training.offload, recorded, options.prune, options.fold


def build_plan(
    experiment: Experiment, cluster: Cluster, layout: Layout | None = None, cut: CutModel | None = None
) -> Plan:
    """Order the passes, lay out the ranks and cut the model unless that is given.

    `experiment` is resolved and checked.
    """
    setup = experiment.setup
    layout, cut = layout or lay_out(experiment, cluster), cut or cut_model(setup)
    return Plan(
        experiment=experiment,
        cluster=cluster,
        model=setup.workload,
        architecture=cut.architecture,
        software=setup.software,
        shard=cut.architecture.shard,
        grid=layout.grid,
        microbatches=setup.microbatches_by_replica,
        chunks=cut.chunks,
        structure=layout.structure,
        flows=layout.flows,
        apart=layout.apart,
        flow_sets=layout.flow_sets,
        links=layout.links,
        partition=layout.partition,
        rows=layout.rows,
    )


def cut_model(setup: Setup) -> CutModel:
    """The model of a setup, split over ranks and cut into chunks."""
    architecture = Architecture(setup.workload, setup.shard)
    return CutModel(architecture, build_chunks(architecture, setup.software, setup.parallelism))


def job_flows(experiment: Experiment, model: Workload, grid: RankGrid, cluster: Cluster) -> JobFlows:
    """Everything of the job that communicates, by kind."""
    if (assignment := assignment_of(experiment)) is not None:
        return recorded_flows(assignment, grid, cluster)
    flows: JobFlows = {}
    for kind, (ranks, key) in job_groups(experiment, model, grid).items():
        sets = group_flows(kind, grid, cluster, ranks, key, compression=experiment.training.compression)
        flows |= {flow_set.key: (flow_set, covers) for flow_set, covers in sets}
    for kind, sender, receiver, key in job_sends(course_of_job(experiment).sends, grid):
        flows[kind] = send_flows(kind, grid, cluster, sender, receiver, key)
    return flows | host_flows(experiment.training.offload, grid, cluster)


def group_flows(
    kind: str,
    grid: RankGrid,
    cluster: Cluster,
    ranks: Ints,
    key: int,
    number: Ints | None = None,
    *,
    compression: Compression,
) -> list[tuple[FlowSet, Covers]]:
    """Flows of groups of one kind on every carrier that their collectives may need, the ring first."""
    nodes = [each.node for each in cluster.kinds]
    names = carriers_on(collectives_of(kind, compression), nodes, ranks.shape[1])
    return [collective_flows(kind, grid, cluster, ranks, key, number, name) for name in names]


def collectives_of(kind: str, compression: Compression) -> tuple[str, ...]:
    """Collectives that groups of a kind may run, those that compressed gradients need among them."""
    compressor = compressor_of(compression) if kind in GROUPS else None
    added = compressor.collectives("all_reduce") if compressor else ()
    return tuple(dict.fromkeys((*COLLECTIVES[kind], *added)))


def job_groups(experiment: Experiment, model: Workload, grid: RankGrid) -> dict[str, tuple[Ints, int]]:
    """Ranks that run collectives together, by kind: (n_groups, size), and the key of their hashed paths."""
    parallelism = experiment.parallelism
    rings, exchanges = _context_groups(grid, parallelism.ulysses)
    kinds: dict[str, Ints] = {
        "tensor": grid.groups("tensor"),
        "context": rings,
        **_gradient_groups(grid, parallelism.shard_group, experiment.setup.workers),
        **(_expert_groups(grid, experiment.setup.workers) if divides_experts(experiment, model) else {}),
        "ulysses": exchanges,  # after the others, since the keys of hashed paths follow the order
        "second_copy": grid.groups(*GROUPS["gradient"]).reshape(-1, parallelism.second_copy or 1),
    }
    groups = {kind: (ranks, key) for key, (kind, ranks) in enumerate(kinds.items()) if ranks.shape[1] > 1}
    if ties_embeddings(experiment, model):
        groups["embedding"] = (grid.groups("pipeline")[:, list(course_of_job(experiment).ends)], 12)
    return groups


def _context_groups(grid: RankGrid, ulysses: int) -> tuple[Ints, Ints]:
    """Rings of context ranks, and the ranks that exchange positions for heads: neighbours, as these send more."""
    groups = grid.groups("context")
    exchanges = groups.reshape(-1, ulysses)
    rings = exchanges.reshape(len(groups), -1, ulysses).swapaxes(1, 2).reshape(-1, groups.shape[1] // ulysses)
    return rings, exchanges


def divides_experts(experiment: Experiment, model: Workload) -> bool:
    """Whether experts lie on ranks in a way of their own."""
    return experiment.setup.expert > 1 or (model.experts > 0 and experiment.setup.shard.divides_experts)


def ties_embeddings(experiment: Experiment, model: Workload) -> bool:
    """Whether two stages, with the first and the last chunk, sum the gradients of one embedding."""
    first, last = course_of_job(experiment).ends
    return first != last and model.ties and experiment.training.lora is None


def course_of_job(experiment: Experiment) -> Course:
    """Which stage has each chunk of the model."""
    plan = experiment.parallelism
    return course_of(plan.schedule, plan.pipeline, plan.virtual_stages)


def workers_of(ranks: Ints, workers: int) -> Ints:
    """Groups (n, size) that exchange gradients, cut where ranks belong to another worker, (n * workers, part)."""
    return ranks.reshape(len(ranks) * workers, -1)


def _expert_groups(grid: RankGrid, workers: int) -> dict[str, Ints]:
    """Ranks among which tokens go to their experts, which share the matrices of an expert, and which hold the same."""
    return {
        "expert": grid.groups("expert"),
        "expert_tensor": grid.groups("expert_tensor"),
        "expert_gradient": workers_of(grid.groups(*GROUPS["expert_gradient"]), workers),
    }


def _gradient_groups(grid: RankGrid, shard_group: int | None, workers: int) -> dict[str, Ints]:
    """Ranks of a worker that reduce gradients together: one group, or sharded groups and their replicas (HSDP)."""
    ranks = workers_of(grid.groups(*GROUPS["gradient"]), workers)
    if shard_group is None or shard_group >= ranks.shape[1]:
        return {"gradient": ranks}
    split = ranks.reshape(len(ranks), -1, shard_group)
    return {
        "gradient": split.reshape(-1, shard_group),
        "replica": split.transpose(0, 2, 1).reshape(-1, split.shape[1]),
    }


def job_sends(sends: Sends, grid: RankGrid) -> Iterator[tuple[str, Ints, Ints, int]]:
    """Sends between stages by kind: senders and receivers, (n,) each, and the key of their hashed paths."""
    for hop, stages in sends.items():
        sender = np.flatnonzero(np.isin(grid.coordinate["pipeline"], stages))
        yield send_kind(hop), sender, grid.shifted("pipeline", hop)[sender], SEND_KEYS.get(hop, SEND_KEY + hop)


def send_kind(hop: int) -> str:
    """The kind of flow to a stage that is `hop` stages further on."""
    return SEND_KINDS.get(hop) or f"{hop:+d} stages"


def fold_structure(
    stage: Ints, accelerator: Ints, cluster: Cluster, flows: JobFlows, prune: bool
) -> tuple[Structure, Ints, tuple[bool, ...]]:
    """What tells ranks apart: their stage and speed, and flows over the links that can hold them back.

    Also the (n,) cluster link behind each link of the structure, and which flow sets share no link that
    can be full: a property of the job, whatever is folded or pruned.
    """
    sets = tuple(flow_set for flow_set, _ in flows.values())
    can_fill, apart = links_that_fill(cluster, flows, prune)
    return *structure_of(stage, accelerator, cluster, sets, whole_rows(sets, can_fill), True), apart


def links_that_fill(cluster: Cluster, flows: JobFlows, prune: bool) -> tuple[Mask, tuple[bool, ...]]:
    """Links that can hold flows back, (n_links,), all in use without `prune`; and which sets share none that can."""
    sets = [flow_set for flow_set, _ in flows.values()]
    users = np.zeros(cluster.links.n, dtype=np.int64)
    for alike in _by_kind(sets):
        users += _groups_on(alike, cluster.links.n)
    can_fill = (users > 0) & ~never_full([covers for _, covers in flows.values()], cluster.links.capacity)
    crowded = can_fill & (users > 1)
    busy = {alike[0].kind: any(crowded[each.link].any() for each in alike) for alike in _by_kind(sets)}
    apart = tuple(not busy[flow_set.kind] for flow_set in sets)
    return (can_fill if prune else users > 0), apart


def structure_of(
    stage: Ints, accelerator: Ints, cluster: Cluster, sets: tuple[FlowSet, ...], rows: Rows, whole: bool
) -> tuple[Structure, Ints]:
    """Ranks by stage, kind of node and speed, and flows over rows; with the (n,) cluster link behind each of these.

    Unless all links are `whole`, flows are told apart by their rates alone, which rows do not give away.
    """
    used = np.zeros(cluster.links.n, dtype=bool)
    for flow_set, counts in zip(sets, rows.counts, strict=True):
        used[flow_set.link[counts]] = True
    links = np.flatnonzero(used)
    number = np.where(used, np.cumsum(used) - 1, -1)
    speeds, speed = np.unique(cluster.speed[accelerator], return_inverse=True)
    label = (stage * len(cluster.kinds) + cluster.kind_of(accelerator)) * len(speeds) + speed
    alone = None if whole else [rates_alone(flow_set, cluster) for flow_set in sets]
    return build_structure(label, cluster.links.capacity[links], list(sets), number, rows.counts, alone), links


def _by_kind(sets: list[FlowSet]) -> list[list[FlowSet]]:
    """Sets that carry the same groups, together."""
    kinds: dict[str, list[FlowSet]] = {}
    for flow_set in sets:
        kinds.setdefault(flow_set.kind, []).append(flow_set)
    return list(kinds.values())


def _groups_on(alike: list[FlowSet], n_links: int) -> Ints:
    """How many groups cross each link, on whichever carrier, (n_links,)."""
    if len(alike) == 1:
        return np.bincount(alike[0].link, minlength=n_links)
    pairs = [flow_set.owner * n_links + flow_set.link for flow_set in alike]
    return np.bincount(distinct(np.concatenate(pairs)) % n_links, minlength=n_links)
