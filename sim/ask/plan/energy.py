"""A lower bound on the energy of one step, proven and without simulating.

A step takes D + W t on its accelerators (`metrics/energy_step.py`): D is what its operations add to waiting
power, whenever they run, W the waiting power of its ranks, and t at least the bound on its time. What a plan
computes is known exactly; of the bytes that it sends those of the group of each kind that sends fewest are
taken for all. The rest of the site follows in line (`metrics/energy_plant.py`), with supplies at their best.

Public: `Crew`, `Meter`, `build_crew`, `step_joules`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.comm.pattern import Group
from sim.comm.tuner import cost_of
from sim.devices.power import Board
from sim.graph.operation import Operation, TokenRouting
from sim.inputs.energy import Site, Supply
from sim.inputs.records import Experiment
from sim.layout.grid import RankGrid
from sim.layout.pieces import Sequence
from sim.layout.plan import group_flows, job_groups
from sim.metrics.energy_plant import Plant
from sim.programs.ranks import groups_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Crew:
    """All ranks of a job: the speeds of their accelerators, and the groups they are in by kind, equal ones once."""

    nodes: int
    speeds: tuple[float, ...]
    groups: dict[str, tuple[Group, ...]]


def build_crew(experiment: Experiment, cluster: Cluster, grid: RankGrid) -> Crew:
    """The crew of a valid plan whose ranks are placed as `grid` says."""
    groups = {}
    for kind, (ranks, key) in job_groups(experiment, experiment.setup.workload, grid).items():
        compression = experiment.training.compression
        sets = [flow_set for flow_set, _ in group_flows(kind, grid, cluster, ranks, key, compression=compression)]
        groups[kind] = tuple(dict.fromkeys(groups_of(sets, np.arange(len(ranks)), cluster)))
    nodes = len(np.unique(cluster.node_of(grid.accelerator)))
    return Crew(nodes, tuple(np.unique(cluster.speed[grid.accelerator]).tolist()), groups)


class Meter:
    """What work adds at least to the waiting power of each rank that takes part [J]."""

    def __init__(self, crew: Crew, board: Board, cluster: Cluster) -> None:
        self.crew, self.board, self.node = crew, board, cluster.node
        self.waiting, self.kept = least_waiting(board), least_kept(board)

    def sequence(self, sequence: Sequence) -> float:
        """Operations of one rank in a row, its collectives too."""
        sent = sum(self._collective(each) for each in sequence.operations if each.kind == "collective")
        return sent + min(self._computation(sequence, speed) for speed in self.crew.speeds)

    def _computation(self, sequence: Sequence, speed: float) -> float:
        work = [self.board.run(each, speed) for each in sequence.operations if each.kind != "collective"]
        return sum(self.kept * each.joules - self.waiting * each.seconds for each in work)

    def _collective(self, operation: Operation) -> float:
        group = operation.group or ""
        return self.collective(group, operation.collective or "", operation.message, operation.routing)

    def collective(self, role: str, kind: str, message: float, routing: TokenRouting | None = None) -> float:
        """A collective in the group of that role."""
        groups = self.crew.groups.get(role, ())
        sizes = [cost_of(kind, message, group, (self.node,), routing).size for group in groups]
        return self.send(min(sizes, default=0.0))

    def send(self, message: float) -> float:
        """Bytes that leave one rank and arrive at another."""
        return message * self.board.per_byte_sent


def least_waiting(board: Board) -> float:
    """Waiting power that is sure [W]. Under a limit a step may keep room for transfers: then nothing is."""
    return board.waiting if board.setting.limit is None else 0.0


def least_kept(board: Board) -> float:
    """Share of the energy of an operation that is sure: with room for transfers it takes longer at less power."""
    limit = board.setting.limit
    return 1.0 if limit is None else max(0.0, 1.0 - board.sends * board.per_byte_sent / limit)


def step_joules(cluster: Cluster, site: Site | None, board: Board, crew: Crew, ranks: int) -> Callable[..., Floats]:
    """A function of the joules that work adds and of seconds, (n,) each: the least energy of the whole site [J]."""
    power = cluster.node.power
    best = power.model_copy(update={"supply": _at_best(power.supply)})
    kind = replace(cluster.kinds[0], node=cluster.node.model_copy(update={"power": best}))
    plant = Plant(replace(cluster, kinds=(kind,)), site)
    idle = cluster.places.on(crew.nodes) - ranks

    def watts(accelerators: float) -> float:
        return sum(plant.draw(accelerators, crew.nodes, cluster.n_nodes - crew.nodes).values())

    base = watts(ranks * least_waiting(board) + idle * cluster.accelerator.power.idle)
    slope = watts(1.0) - watts(0.0)

    def joules(added: Floats, seconds: Floats) -> Floats:
        return base * seconds + slope * added

    return joules


def _at_best(supply: Supply) -> Supply:
    """Supplies that lose no more at any load than these lose at their best."""
    points = (supply.at_50,) if supply.rated is None else (supply.at_10, supply.at_20, supply.at_50, supply.at_100)
    return Supply(at_50=max(points))
