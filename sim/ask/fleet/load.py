"""A fleet file, loaded and checked: the jobs, the nodes and the rules, ready to live.

Public: `LoadedFleet`, `LoadedPart`, `load_fleet`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from sim.ask.fleet.arrivals import drawn_jobs
from sim.ask.fleet.training import LoadedTraining, load_training
from sim.errors import ConfigError, Problem
from sim.fleet.boards import NodeSort, unit_masks
from sim.fleet.jobs import JobRequest
from sim.fleet.policies.catalogue import policy_called
from sim.fleet.policies.policy import Policy
from sim.inputs.energy import Prices, Site
from sim.inputs.fleet import Arrivals, BareCluster, FleetPart, FleetSpec, JobEntry, JobFile
from sim.inputs.job_log import LoggedJob, read_job_log
from sim.inputs.load import open_definition, with_file_paths
from sim.inputs.overrides import Override, apply_overrides
from sim.inputs.problems import decode, mark_at
from sim.inputs.reader import SourceNode
from sim.inputs.records import Accelerator, ClusterSpec, DragonflyFabric, FatTreeFabric, Node, TorusFabric
from sim.inputs.reliability import Failures
from sim.inputs.resolve import Resolver


@dataclass(frozen=True)
class LoadedPart:
    """Equal nodes: the cluster that they are, how many, from which number on, boards of each, speed of logs."""

    kind: str
    cluster: ClusterSpec | BareCluster
    nodes: int
    first: int
    boards: int
    speed: float

    @property
    def profile(self) -> Node | None:
        """What is known of a server, if anything."""
        return (
            self.cluster.node if isinstance(self.cluster, ClusterSpec) and isinstance(self.cluster.node, Node) else None
        )

    @property
    def board(self) -> Accelerator | None:
        """What is known of a board, if anything."""
        node = self.profile
        return node.accelerator if node and isinstance(node.accelerator, Accelerator) else None

    @property
    def levels(self) -> tuple[int, ...]:
        """Nodes in a unit of the network, level by level, smallest first: what nodes near one another are."""
        fabric = self.cluster.fabric if isinstance(self.cluster, ClusterSpec) else None
        match fabric:
            case FatTreeFabric():
                leaf = fabric.nodes_per_unit
                return (leaf, leaf * fabric.units_per_pod) if fabric.tiers == 3 else (leaf,)
            case DragonflyFabric():
                return fabric.nodes_per_router, fabric.nodes_per_router * fabric.routers_per_group
            case TorusFabric(shape=shape) if len(shape) > 1:
                return shape[-1], *([shape[-1] * shape[-2]] if len(shape) == 3 else [])
        return ()

    @property
    def sort(self) -> NodeSort:
        """The same for the fleet."""
        if isinstance(self.cluster, BareCluster):
            memory, cores = self.cluster.node.memory, self.cluster.node.cores
        else:
            memory, cores = self.board.memory.capacity if self.board else 0.0, None
        return NodeSort(self.kind, self.nodes, self.boards, memory or inf, self.speed, cores or inf)


@dataclass(frozen=True)
class LoadedFleet:
    """A checked fleet file. trainings: of jobs that are experiments, by name of the job."""

    spec: FleetSpec
    path: Path | None
    parts: tuple[LoadedPart, ...]
    jobs: tuple[JobRequest, ...]
    trainings: Mapping[str, LoadedTraining]
    policy: type[Policy]
    speeds: Path | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name in reports."""
        return self.spec.name

    @property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """Masks of nodes near one another, level by level, over all parts."""
        depth = max((len(part.levels) for part in self.parts), default=0)
        return tuple(
            tuple(
                mask for part in self.parts if level < len(part.levels)
                for mask in unit_masks(part.levels[level], part.first, part.nodes)
            )
            for level in range(depth)
        )  # fmt: skip

    @property
    def site(self) -> Site | None:
        """Where it stands."""
        return self.spec.site if isinstance(self.spec.site, Site) else None

    @property
    def prices(self) -> Prices | None:
        """What boards cost: as the file says, else the cluster where there is one."""
        said = self.spec.prices or _own_prices(self.parts)
        return said if isinstance(said, Prices) else None

    @property
    def failures(self) -> Failures | None:
        """What fails."""
        return self.spec.failures if isinstance(self.spec.failures, Failures) else None


def load_fleet(source: str | Path | Mapping[str, Any], overrides: Sequence[Override] = ()) -> LoadedFleet:
    """The fleet that `source`, a name, a path or a mapping, says. Raises ConfigError with all problems found."""
    resolver = Resolver()
    source = Path(source) if isinstance(source, str) and source.endswith((".yaml", ".yml")) else source
    root, path = open_definition(resolver, "fleet", source)
    if path is not None and "name" not in root.value:
        root = SourceNode({"name": SourceNode(path.stem, root.mark), **root.value}, root.mark)
    root = apply_overrides(resolver, root, "fleet", overrides)
    root = with_file_paths(resolver, _with_parts(resolver, resolver.resolve("fleet", root)))
    spec = decode(FleetSpec, root)
    if isinstance(spec, list) or resolver.problems:
        raise ConfigError([*dict.fromkeys(resolver.problems), *(spec if isinstance(spec, list) else [])])
    try:
        return _loaded(spec, path, path.parent if path else Path())
    except ConfigError as error:
        raise ConfigError([_placed(problem, root) for problem in error.problems]) from None


def _with_parts(resolver: Resolver, root: SourceNode) -> SourceNode:
    """`root` with the clusters of its parts looked up, and file names of these from here."""
    parts = root.value.get("parts")
    if parts is None or not isinstance(parts.value, list):
        return root
    entries = []
    for number, part in enumerate(parts.value):
        if isinstance(part.value, dict) and "cluster" in part.value:
            cluster = resolver.resolve("cluster", part.value["cluster"], f"parts.{number}.cluster")
            part = with_file_paths(resolver, SourceNode(part.value | {"cluster": cluster}, part.mark))
        entries.append(part)
    return SourceNode(root.value | {"parts": SourceNode(entries, parts.mark)}, root.mark)


def _placed(problem: Problem, root: SourceNode) -> Problem:
    if problem.where:
        return problem
    keys = [int(part) if part.isdecimal() else part for part in problem.key.split(".")]
    return replace(problem, where=str(mark_at(root, keys)))


def _loaded(spec: FleetSpec, path: Path | None, home: Path) -> LoadedFleet:
    parts = _parts(spec)
    jobs, trainings, notes = _jobs(spec, parts, home)
    if not spec.parts and any(job.kinds for job in jobs if job.name not in trainings):
        jobs = [job if job.name in trainings else replace(job, kinds=()) for job in jobs]
        notes = [*notes, "kinds of nodes that jobs ask for do not count: the fleet has one kind"]
    policy = policy_called(spec.scheduler.policy)
    problems = [problem for check in (_check_jobs, _check_power) for problem in check(spec, parts, jobs)]
    if problems:
        raise ConfigError(problems)
    ordered = tuple(sorted(jobs, key=lambda job: job.submit))
    speeds = home / spec.speeds if spec.speeds else None
    idle = [f"scheduler.{key} is without effect for {spec.scheduler.policy}" for key in _unheeded(spec, policy)]
    own = _own_prices(parts) if spec.prices is None else None
    paid = [f"prices are those of the cluster, as none are named: {own.name}, of {own.as_of}"] if own else []
    return LoadedFleet(spec, path, parts, ordered, trainings, policy, speeds, (*notes, *idle, *paid))


def _own_prices(parts: Sequence[LoadedPart]) -> Prices | None:
    """What the cluster says that it costs, where all boards are of one."""
    own = parts[0].cluster.prices if len(parts) == 1 and isinstance(parts[0].cluster, ClusterSpec) else None
    return own if isinstance(own, Prices) else None


def _unheeded(spec: FleetSpec, policy: type[Policy]) -> Iterator[str]:
    """Keys of the scheduler that were written and that this policy does not read."""
    always = {"policy", "placement", "reserve", "migrate", "carbon"}
    own = policy.__module__.startswith("sim.")
    yield from sorted(spec.scheduler.model_fields_set - always - set(policy.wants) if own else ())


def _parts(spec: FleetSpec) -> tuple[LoadedPart, ...]:
    """The nodes, numbered one part after the other. Raises ConfigError."""
    if (spec.cluster is None) == (not spec.parts):
        raise ConfigError(Problem("", "cluster", "a fleet has one of cluster and parts", "write cluster: NAME"))
    asked = spec.parts or (FleetPart.model_construct(kind="", cluster=spec.cluster, nodes=spec.nodes, speed=1.0),)
    if spec.parts and spec.nodes:
        raise ConfigError(Problem("", "nodes", "there are several parts", "give each its nodes"))
    found, first = list[LoadedPart](), 0
    for number, part in enumerate(each for several in asked for each in _by_kind(several)):
        cluster = part.cluster
        assert isinstance(cluster, ClusterSpec | BareCluster), "resolved"
        nodes = part.nodes or cluster.nodes
        if isinstance(cluster, ClusterSpec):
            cluster = cluster.resized(nodes)
            assert isinstance(cluster.node, Node), "resolved"
            boards = cluster.node.accelerators
        else:
            boards = cluster.node.accelerators
        kind = part.kind or (cluster.name if isinstance(cluster, ClusterSpec) else "nodes")
        if any(kind == other.kind for other in found):
            raise ConfigError(Problem("", f"parts.{number}.kind", f"{kind!r} is also another part", "names are unique"))
        found.append(LoadedPart(kind, cluster, nodes, first, boards, part.speed))
        first += nodes
    return tuple(found)


def _by_kind(part: FleetPart) -> Iterator[FleetPart]:
    """A part for each kind of node of its cluster, called as these are; the part itself where there is one kind."""
    cluster = part.cluster
    if not isinstance(cluster, ClusterSpec) or not isinstance(cluster.node, tuple):
        yield part
        return
    for group in cluster.resized(part.nodes or cluster.nodes).groups:
        assert isinstance(group.node, Node), "resolved"
        own = {"node": group.node, "nodes": group.nodes, "prices": group.prices or cluster.prices}
        kind = f"{part.kind}-{group.node.name}" if part.kind else group.node.name
        changed = {"kind": kind, "cluster": cluster.model_copy(update=own), "nodes": group.nodes}
        yield part.model_copy(update=changed)


def _jobs(
    spec: FleetSpec, parts: Sequence[LoadedPart], home: Path
) -> tuple[list[JobRequest], dict[str, LoadedTraining], list[str]]:
    match spec.jobs:
        case str():
            return _of_log(read_job_log(JobFile(file=spec.jobs), home / spec.jobs)), {}, []
        case JobFile():
            return _of_log(read_job_log(spec.jobs, home / spec.jobs.file)), {}, []
        case Arrivals():
            _check_sizes(spec.jobs)
            like = spec.jobs.like
            known = read_job_log(like, home / like.file) if like else []
            return _of_log(drawn_jobs(spec.jobs, known, spec.seed)), {}, []
    return _of_entries(spec.jobs, parts, home)


def _check_sizes(asked: Arrivals) -> None:
    """Raise ConfigError unless sizes are numbers of boards, and some are asked for."""
    for size, weight in asked.gpus.items():
        if not size.isdecimal() or not int(size) or weight < 0:
            way_out = "write gpus: {1: 0.5, 8: 0.5}"
            raise ConfigError(Problem("", f"jobs.gpus.{size}", "is no number of boards with its weight", way_out))
    if not sum(asked.gpus.values()):
        raise ConfigError(Problem("", "jobs.gpus", "no size has a weight above 0"))


def _of_log(rows: Sequence[LoggedJob]) -> list[JobRequest]:
    return [
        JobRequest(
            name=row.name, submit=row.submit, work=row.duration, gpus=row.gpus, user=row.user, group=row.group,
            queue=row.queue, priority=row.priority, kinds=row.kinds, model=row.model,
            deadline=inf if row.deadline is None else row.deadline, estimate=row.estimate, share=row.share,
            least=row.least, most=row.most, cores=row.cores,
        )
        for row in rows
    ]  # fmt: skip


def _of_entries(
    entries: Sequence[JobEntry], parts: Sequence[LoadedPart], home: Path
) -> tuple[list[JobRequest], dict[str, LoadedTraining], list[str]]:
    jobs: list[JobRequest] = []
    trainings: dict[str, LoadedTraining] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    for number, entry in enumerate(entries):
        try:
            training = load_training(entry, parts, home) if entry.experiment is not None else None
            if training is None and entry.duration is None:
                raise ConfigError(Problem("", "duration", "a job has a duration, or an experiment"))
        except ConfigError as error:
            problems += [_inside(problem, f"jobs.{number}") for problem in error.problems]
            continue
        for copy in range(entry.copies):
            name = entry.name or f"job{number}"
            name = f"{name}-{copy + 1}" if entry.copies > 1 else name
            if training is not None:
                trainings[name] = training
            jobs.append(_of_entry(entry, training, name, entry.submit + copy * entry.every))
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1}) if trainings else []
    if twice:
        problems.append(Problem("", "jobs", f"two jobs are called {twice[0]!r}", "names are unique"))
    if not jobs and not problems:
        problems.append(Problem("", "jobs", "there is no job"))
    if problems:
        raise ConfigError(problems)
    for training in dict.fromkeys(trainings.values()):
        notes += training.notes
    return jobs, trainings, notes


def _inside(problem: Problem, key: str) -> Problem:
    return problem if problem.where else replace(problem, key=f"{key}.{problem.key}".rstrip("."))


def _of_entry(entry: JobEntry, training: LoadedTraining | None, name: str, submit: float) -> JobRequest:
    work = training.work if training else entry.duration or 0.0
    gpus = training.gpus if training else entry.gpus
    return JobRequest(
        name=name, submit=submit, work=work, gpus=gpus, user=entry.user, group=entry.group, queue=entry.queue,
        priority=entry.priority, kinds=entry.kinds or (training.kinds if training else ()), model=entry.model,
        deadline=entry.deadline or inf, estimate=entry.estimate, share=entry.share, memory=entry.memory,
        least=entry.min_gpus or 0, most=entry.max_gpus or 0, cores=entry.cores,
    )  # fmt: skip


# --- checks -----------------------------------------------------------------------------------


def _check_jobs(spec: FleetSpec, parts: Sequence[LoadedPart], jobs: Sequence[JobRequest]) -> Iterator[Problem]:
    """Kinds that jobs ask for exist, where the fleet has kinds at all."""
    known = {part.kind for part in parts}
    for job in jobs:
        unknown = [kind for kind in job.kinds if kind not in known]
        if unknown and spec.parts and len(unknown) == len(job.kinds):
            yield Problem(
                "", "parts", f"job {job.name} asks for {unknown[0]!r}", f"kinds are {', '.join(sorted(known))}"
            )
            return
        if job.share < 1 and job.gpus > 1:
            yield Problem("", "jobs", f"job {job.name} wants a share of each of {job.gpus} boards", "a share is of one")
            return
        if job.least and not job.least <= job.gpus <= (job.most or job.gpus):
            message = f"job {job.name} wants {job.gpus} boards, which is not between {job.least} and {job.most}"
            yield Problem("", "jobs", message, "min_gpus <= gpus <= max_gpus")
            return


def _check_power(spec: FleetSpec, parts: Sequence[LoadedPart], jobs: Sequence[JobRequest]) -> Iterator[Problem]:
    """What needs watts has them."""
    known = spec.power is not None or all(part.board is not None for part in parts)
    for key in ("power_cap", "site") if not known else ():
        if getattr(spec, key) is not None:
            way_out = "write power: {busy: 400 W, idle: 60 W}, or name a cluster of the catalogue"
            yield Problem("", key, "nothing is known of the power of these nodes", way_out)
    if spec.scheduler.carbon is not None and spec.site is None:
        yield Problem("", "scheduler.carbon", "nothing is known of the grid", "name a site with carbon_file")
