"""Several jobs on one cluster: their flows are laid out and folded as one, and each job gets a view of its own.

In its view a job has its ranks from 0 on, its own flows, and those of the others as flows of the kind "foreign" without
members. So whatever a job decides by who shares its links, like what may be one event, heeds the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.engine.network import FlowTable
from sim.engine.parts import apart_from
from sim.engine.program import Program
from sim.errors import PlanError, Problem
from sim.inputs.records import Experiment
from sim.layout.flows import FlowSet
from sim.layout.fold import Partition, Structure, identity_partition, refine
from sim.layout.grid import RankGrid, build_grid
from sim.layout.plan import JobFlows, Layout, build_plan, fold_structure, job_flows, rank_labels
from sim.layout.recorded import meet_once
from sim.programs.ranks import FlowClass, Job, flow_classes, flow_table, job_of, quotient

Ints = NDArray[np.int64]
FOREIGN = "foreign"  # kind of the flows of another job


@dataclass(frozen=True)
class Tenants:
    """Jobs that share a cluster, each in its own view, and the table of all their flows."""

    cluster: Cluster
    jobs: tuple[Job, ...]
    table: FlowTable

    def own_parts(self, number: int, program: Program) -> Program:
        """A program of job `number` of which only parts that meet no other job may repeat by themselves."""
        flows = self.jobs[number].flows
        foreign = frozenset(flow for flow, each in enumerate(flows) if each.kind == FOREIGN)
        parts = apart_from(program, foreign, self.table.sharing)
        return replace(program, script=replace(program.script, parts=parts))


def settle(experiments: Sequence[Experiment], priorities: Sequence[int] = ()) -> Tenants:
    """The jobs of resolved and checked experiments that name one cluster, and each its accelerators.

    priorities: of the flows of each job, those of lower numbers first; all alike if absent. Raises PlanError.
    """
    if problems := [problem for each in experiments for problem in _alone(each)]:
        raise PlanError(problems)
    cluster = _common_cluster(experiments)
    common, layouts = _lay_out(experiments, cluster)
    plans = [build_plan(each, cluster, layout) for each, layout in zip(experiments, layouts, strict=True)]
    table = flow_table(replace(plans[0], flows=common.flows, partition=common.partition))
    classes = [flow_classes(plan, table) for plan in plans]
    every = [(each, whose) for whose, mine in enumerate(classes) for each in mine]
    if priorities:
        table = replace(table, priority=tuple(priorities[whose] for _, whose in every))
    jobs = []
    for number, plan in enumerate(plans):
        flows = tuple(each if whose == number else _foreign(each) for each, whose in every)
        jobs.append(job_of(plan, quotient(plan, table, flows)))
    return Tenants(cluster, tuple(jobs), table)


def _alone(experiment: Experiment) -> Iterator[Problem]:
    """What is only known of a job that has the cluster to itself."""
    kinds = {
        "synchronization": (experiment.synchronization, "workers that take steps of their own"),
        "teacher": (experiment.teacher, "passes of a teacher"),
        "training.evaluation": (experiment.training.evaluation, "evaluations"),
        "preparation": (experiment.preparation, "steps of a preparation of data"),
    }
    for key, (given, what) in kinds.items():
        if given is not None:
            message = f"{what}, as in {experiment.name}, are not modelled beside other jobs"
            yield Problem("", key, message, "leave it out")


def _foreign(flow: FlowClass) -> FlowClass:
    """A flow class as other jobs see it."""
    return replace(flow, kind=FOREIGN, members=(), sender=-1, receiver=-1)


def _common_cluster(experiments: Sequence[Experiment]) -> Cluster:
    """The cluster that all name, with everything that is slow for one of them. Raises PlanError."""
    spec = experiments[0].setup.cluster
    for other in experiments[1:]:
        if other.setup.cluster != spec:
            message = f"{other.name} is on another cluster than {experiments[0].name}"
            raise PlanError(Problem("", "cluster", message, "jobs that run together name one cluster of one size"))
    slow = dict.fromkeys(part for experiment in experiments for part in experiment.degradations)
    merge = all(experiment.simulation.prune == "auto" for experiment in experiments)
    return build_cluster(spec, tuple(slow), merge_sprayed=merge)


class Common(NamedTuple):
    """What all jobs have together: fields as in `Plan`, with the ranks and flows of one job after those of another."""

    structure: Structure
    flows: tuple[FlowSet, ...]
    apart: tuple[bool, ...]
    links: Ints
    partition: Partition


def _lay_out(experiments: Sequence[Experiment], cluster: Cluster) -> tuple[Common, list[Layout]]:
    """All jobs laid out as one, and the layout of each with its part of the common classes. Raises PlanError."""
    setups = [experiment.setup for experiment in experiments]
    grids = [
        build_grid(setup.parallelism, setup.data, cluster, setup.experiment.seed, setup.expert) for setup in setups
    ]
    _check_apart(experiments, grids, cluster)
    pairs = zip(setups, grids, strict=True)
    flows = [job_flows(setup.experiment, setup.workload, grid, cluster) for setup, grid in pairs]
    options = [experiment.simulation for experiment in experiments]
    prune, fold = (all(getattr(each, name) == "auto" for each in options) for name in ("prune", "fold"))
    replayed = (own for setup, own in zip(setups, flows, strict=True) if setup.workload.replay)
    fold &= all(meet_once(flow_set for flow_set, _ in own.values()) for own in replayed)
    labels = [rank_labels(experiment, grid) for experiment, grid in zip(experiments, grids, strict=True)]
    common = _joined(grids, labels, flows, cluster, prune, fold)
    ranks, sets, layouts = 0, 0, []
    for grid, own in zip(grids, flows, strict=True):
        layouts.append(_part(common, grid, own, slice(ranks, ranks + grid.n_ranks), slice(sets, sets + len(own))))
        ranks, sets = ranks + grid.n_ranks, sets + len(own)
    return common, layouts


def _joined(
    grids: Sequence[RankGrid],
    labels: Sequence[Ints],
    flows: Sequence[JobFlows],
    cluster: Cluster,
    prune: bool,
    fold: bool,
) -> Common:
    """The jobs as one. Ranks have labels of their own: equal jobs, folded, would be in phase for ever."""
    joint: JobFlows = {}
    every, ranks, known = list[Ints](), 0, 0
    for number, (grid, label, own) in enumerate(zip(grids, labels, flows, strict=True)):
        for kind, (flow_set, covers) in own.items():
            moved = replace(flow_set, kind=f"{number} {flow_set.kind}", members=flow_set.members + np.int32(ranks))
            joint[f"{number} {kind}"] = moved, covers
        every.append(label + known)
        ranks, known = ranks + grid.n_ranks, known + 1 + int(label.max())
    accelerator = np.concatenate([grid.accelerator for grid in grids])
    structure, links, apart = fold_structure(np.concatenate(every), accelerator, cluster, joint, prune)
    partition = refine(structure) if fold else identity_partition(structure)
    return Common(structure, tuple(flow_set for flow_set, _ in joint.values()), apart, links, partition)


def _part(common: Common, grid: RankGrid, own: JobFlows, ranks: slice, sets: slice) -> Layout:
    """The layout of one job: its rank classes from 0 on, its flows in the classes of all."""
    rank = np.unique(common.partition.rank[ranks], return_inverse=True)[1]
    return Layout(
        grid=grid,
        structure=common.structure,
        flows=tuple(flow_set for flow_set, _ in own.values()),
        apart=common.apart[sets],
        flow_sets={kind: place for place, kind in enumerate(own)},
        links=common.links,
        partition=Partition(rank, common.partition.link, common.partition.flow[sets]),
        rows=None,
    )


def _check_apart(experiments: Sequence[Experiment], grids: Sequence[RankGrid], cluster: Cluster) -> None:
    """Raise PlanError if two jobs want one accelerator."""
    user: dict[int, str] = {}
    for experiment, grid in zip(experiments, grids, strict=True):
        wanted = grid.accelerator.tolist()
        for accelerator in wanted:
            if accelerator in user:
                message = f"{experiment.name} wants {cluster.vertex_name(accelerator)}, which {user[accelerator]} has"
                raise PlanError(Problem("", "parallelism.placement", message, "give each job accelerators of its own"))
        user |= dict.fromkeys(wanted, experiment.name)
