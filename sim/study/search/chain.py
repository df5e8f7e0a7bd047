"""One pipeline of a job: the first rank of every stage, with the groups that it is in.

What its groups reach with the network to themselves, nobody reaches with others beside them. So the times
that follow from a chain are bounds from below for the job, at a small part of the work of building it.

Public: `Chain`, `alone`, `build_chain`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.cluster.cluster import Cluster
from sim.engine.chains import Alone
from sim.engine.ranks import CATEGORY, FlowClass, Job, Known, Profile, RankClass, group_of
from sim.graph.operation import Shard
from sim.plan.flows import FlowSet, collective_flows, send_flows
from sim.plan.grid import RankGrid, build_grid
from sim.plan.pieces import Sequence
from sim.plan.plan import CutModel, job_groups
from sim.spec.records import Experiment
from sim.spec.setup import Setup


@dataclass(frozen=True)
class Chain:
    """The ranks of one pipeline, by stage, and the flows that they use, each alone on its links; `grid`: all ranks."""

    grid: RankGrid
    ranks: tuple[RankClass, ...]
    flows: tuple[FlowClass, ...]

    def job(self, other: Job, experiment: Experiment, shard: Shard, cut: CutModel) -> Job:
        """A job that has just this chain, good for asking what things cost; the rest is borrowed from `other`."""
        setup = Setup(experiment)
        plan = replace(
            other.plan,
            experiment=experiment,
            software=setup.software,
            grid=self.grid,
            shard=shard,
            microbatches=setup.microbatches,
            architecture=cut.architecture,
            chunks=cut.chunks,
        )
        return replace(other, plan=plan, ranks=self.ranks, flows=self.flows, known=Known())


def alone(job: Job, rank: RankClass, sequence: Sequence) -> Alone:
    """A block pass with nothing beside it."""
    return job.alone(rank, [(sequence, 1)])


def build_chain(experiment: Experiment, cluster: Cluster) -> Chain:
    """The pipeline of rank 0 of a valid plan."""
    setup = Setup(experiment)
    grid = build_grid(setup.parallelism, setup.data, cluster, experiment.seed)
    column = grid.groups("pipeline")[0]
    sets = []
    for kind, (groups, key) in job_groups(experiment, setup.workload, grid).items():
        mine = np.flatnonzero(np.isin(groups, column).any(axis=1))
        sets.append(collective_flows(kind, grid, cluster, groups[mine], key, mine)[0])
    if setup.parallelism.pipeline > 1:
        after = grid.shifted("pipeline", 1)[column]
        sets.append(send_flows("forward", grid, cluster, column, after, 10)[0])
        sets.append(send_flows("backward", grid, cluster, after, column, 11)[0])
    flows, used = _flows(sets, {int(rank): stage for stage, rank in enumerate(column)}, cluster)
    return Chain(
        grid,
        tuple(
            _rank(stage, int(rank), mine, flows, float(cluster.speed[grid.accelerator[rank]]))
            for stage, (rank, mine) in enumerate(zip(column, used, strict=True))
        ),
        tuple(flows),
    )


def _flows(
    sets: list[FlowSet], stage_of: dict[int, int], cluster: Cluster
) -> tuple[list[FlowClass], list[dict[str, int]]]:
    """One class per flow; and for each stage the flows by the role that they have for it."""
    flows: list[FlowClass] = []
    used: list[dict[str, int]] = [{} for _ in stage_of]
    for flow_set in sets:
        role = f"{flow_set.kind} out" if flow_set.ordered else flow_set.kind
        for number, members in enumerate(flow_set.members.tolist()):
            group = group_of(flow_set, number, cluster)
            known = members[:1] if flow_set.ordered else [rank for rank in members if rank in stage_of]
            stages = tuple(stage_of[rank] for rank in known)
            for stage in stages:
                used[stage][role] = len(flows)
            ends = (stages[0], stages[0]) if flow_set.ordered else (-1, -1)
            flows.append(FlowClass(flow_set.kind, group, group.rate, stages, *ends))
    return flows, used


def _rank(stage: int, rank: int, mine: dict[str, int], flows: list[FlowClass], speed: float) -> RankClass:
    inner = tuple((kind, flows[mine[kind]].group, flows[mine[kind]].rate) for kind in CATEGORY if kind in mine)
    return RankClass(stage, rank, stage, 1, speed, mine, Profile(speed, inner))
