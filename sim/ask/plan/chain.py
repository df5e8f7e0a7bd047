"""One pipeline of a job: the first rank of every stage, with the groups that it is in.

What its groups reach with the network to themselves, nobody reaches with others beside them. So the times
that follow from a chain are bounds from below for the job, at a small part of the work of building it.

Public: `Chain`, `alone`, `build_chain`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.cluster.cluster import Cluster
from sim.comm.pattern import RING
from sim.graph.operation import Shard
from sim.inputs.records import Experiment
from sim.layout.flows import FlowSet, send_flows
from sim.layout.grid import RankGrid, build_grid
from sim.layout.pieces import Sequence
from sim.layout.plan import CutModel, group_flows, job_groups, job_sends
from sim.programs.chains import Alone
from sim.programs.ranks import FlowClass, Job, Known, Profile, RankClass, groups_of, inner_of
from sim.schedule.course import Sends


@dataclass(frozen=True)
class Chain:
    """The ranks of one pipeline, by stage, and the flows that they use, each alone on its links; `grid`: all ranks."""

    grid: RankGrid
    ranks: tuple[RankClass, ...]
    flows: tuple[FlowClass, ...]

    def job(self, other: Job, experiment: Experiment, shard: Shard, cut: CutModel) -> Job:
        """A job that has just this chain, good for asking what things cost; the rest is borrowed from `other`."""
        setup = experiment.setup
        plan = replace(
            other.plan,
            experiment=experiment,
            software=setup.software,
            grid=self.grid,
            shard=shard,
            microbatches=setup.microbatches_by_replica,
            architecture=cut.architecture,
            chunks=cut.chunks,
        )
        return replace(other, plan=plan, ranks=self.ranks, flows=self.flows, known=Known())


def alone(job: Job, rank: RankClass, sequence: Sequence) -> Alone:
    """A block pass with nothing beside it."""
    return job.alone(rank, [(sequence, 1)])


def build_chain(experiment: Experiment, cluster: Cluster, sends: Sends) -> Chain:
    """The pipeline of rank 0 of a valid plan, with all these sends."""
    setup = experiment.setup
    grid = build_grid(setup.parallelism, setup.data, cluster, experiment.seed, setup.expert)
    column = grid.groups("pipeline")[0]
    sets = []
    for kind, (groups, key) in job_groups(experiment, setup.workload, grid).items():
        mine = np.flatnonzero(np.isin(groups, column).any(axis=1))
        laid = group_flows(kind, grid, cluster, groups[mine], key, mine, compression=setup.training.compression)
        sets += [flow_set for flow_set, _ in laid]
    for kind, sender, receiver, key in job_sends(sends, grid):
        own = np.isin(sender, column)
        sets.append(send_flows(kind, grid, cluster, sender[own], receiver[own], key)[0])
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
    """One class per flow; and for each stage the flows of its groups, and of what it sends, by kind."""
    flows: list[FlowClass] = []
    used: list[dict[str, int]] = [{} for _ in stage_of]
    for flow_set in sets:
        alike = [other for other in sets if other.kind == flow_set.kind]
        begin = len(flows)
        groups = groups_of(alike, np.arange(flow_set.n), cluster)
        for number, (members, group) in enumerate(zip(flow_set.members.tolist(), groups, strict=True)):
            known = members[:1] if flow_set.ordered else [rank for rank in members if rank in stage_of]
            stages = tuple(stage_of[rank] for rank in known)
            for stage in stages:
                used[stage][flow_set.key] = len(flows)
            ends = (stages[0], stages[0]) if flow_set.ordered else (-1, -1)
            ways = enumerate(alike if flow_set.carrier == RING else ())
            others = [(each.carrier, begin + k * flow_set.n + number) for k, each in ways if k]
            rate = group.rate_of(flow_set.carrier)
            flows.append(
                FlowClass(flow_set.kind, group, rate, stages, *ends, carrier=flow_set.carrier, others=tuple(others))
            )
    return flows, used


def _rank(stage: int, rank: int, mine: dict[str, int], flows: list[FlowClass], speed: float) -> RankClass:
    return RankClass(stage, rank, stage, 1, speed, mine, Profile(speed, inner_of(mine, flows)))
