"""The energy of a run, for the report: parts, phases, power by level, carbon, and TDP accounting.

Public: `Consumption`, `energy_result`, `power_levels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.inputs.carbon import Grid, grid_of
from sim.inputs.energy import Embodied, Site
from sim.life.life_inputs import Span
from sim.metrics.energy_curve import Floats, power_curves
from sim.metrics.energy_plant import Plant
from sim.metrics.energy_run import Levels, SpanEnergy, run_curve, span_energy
from sim.metrics.energy_step import Activity, step_energy
from sim.metrics.result import EnergyResult, PowerLevel
from sim.units import ENERGY

KWH = ENERGY.units["kWh"]


@dataclass(frozen=True)
class Consumption:
    """What a job draws in all its states; made once for a simulated step."""

    levels: Levels
    grid: Grid | None
    tdp: float  # of the accelerators of the job [W]

    @property
    def ranks(self) -> int:
        """Accelerators of the job."""
        return self.levels.step.ranks

    def whole(self, seconds: float) -> tuple[Span, ...]:
        """Spans of a run without faults."""
        return (self.levels.whole(seconds),)

    def embodied(self, seconds: float) -> float | None:
        """Carbon of making the job's hardware that falls on `seconds` of use [kg]; None if the site does not tell."""
        site = self.levels.plant.site
        if site is None or site.embodied is None:
            return None
        return embodied_carbon(site.embodied, self.ranks, self.levels.nodes, seconds)

    def spend(self, spans: Sequence[Span]) -> SpanEnergy:
        """Energy and carbon of spans."""
        return span_energy(spans, self.levels, self.grid)


def consumption(activity: Activity, site: Site | None) -> Consumption:
    """What the job of a simulated step draws. Raises ConfigError if the grid's file cannot be read."""
    job, cluster = activity.job, activity.job.plan.cluster
    placed = job.plan.grid.accelerator
    used = np.unique(cluster.node_of(placed))
    ranks = np.bincount(cluster.kind_of(placed), minlength=len(cluster.kinds))
    nodes = np.bincount(cluster.servers.kind[used], minlength=len(cluster.kinds))
    boards = nodes * np.array([kind.node.accelerators for kind in cluster.kinds])
    idle, waiting = (np.array([getattr(board, name) for board in job.boards]) for name in ("idle", "waiting"))
    levels = Levels(
        plant=Plant(cluster, site, tuple(nodes.tolist())),
        step=step_energy(activity),
        nodes=len(used),
        idle=float(ranks @ idle) / len(placed),
        waiting=float(ranks @ waiting) / len(placed),
        spare=float((boards - ranks) @ idle),
    )
    tdp = float(ranks @ np.array([kind.accelerator.power.tdp for kind in cluster.kinds]))
    return Consumption(levels, grid_of(site) if site else None, tdp)


def energy_result(used: Consumption, spent: SpanEnergy, tokens: float, power: dict[str, PowerLevel]) -> EnergyResult:
    """What was spent while `tokens` were trained. power: over time, by level."""
    step = used.spend(used.whole(used.levels.step.seconds))
    accelerator_hours = used.ranks * spent.seconds / 3600
    return EnergyResult(
        total_kwh=spent.joules / KWH,
        parts_kwh={name: joules / KWH for name, joules in spent.parts.items()},
        tdp_kwh=tdp_energy(used.tdp, spent.seconds) / KWH,
        mean_power_w=spent.joules / spent.seconds,
        tokens_per_joule=tokens / spent.joules,
        carbon_kg=spent.carbon,
        embodied_kg=used.embodied(spent.seconds),
        phases_kwh={name: joules / KWH for name, joules in spent.phases.items()},
        step_kwh=step.joules / KWH,
        kwh_per_billion_tokens=1e9 * spent.joules / KWH / tokens if tokens else None,
        accelerator_hours=accelerator_hours,
        accelerator_power_w=used.levels.step.watts / used.ranks,
        node_power_w=node_power(used.levels),
        states_w=spent.states,
        power=power,
    )


def tdp_energy(tdp: float, seconds: float) -> float:
    """What model cards print: board limits times time [J], without nodes, network and cooling."""
    return tdp * seconds


def embodied_carbon(embodied: Embodied, accelerators: int, nodes: int, seconds: float) -> float:
    """Share of the carbon of making hardware that falls on its use for `seconds` [kg] (Luccioni 2022, section 4.1)."""
    made = accelerators * embodied.accelerator + nodes * embodied.node
    return made * seconds / (embodied.life * embodied.use)


def node_power(levels: Levels) -> float:
    """Mean power of a node of the job in a step, at its plug [W]."""
    plant = levels.plant
    output = sum(levels.accelerators("training", levels.nodes).values()) / levels.nodes + plant.base(True)
    return output / plant.efficiency(output)


def power_levels(activity: Activity, used: Consumption, rank: int) -> dict[str, PowerLevel]:
    """Power over one step of an accelerator of class `rank`, its node, the job's nodes and the whole site."""
    job, levels, plant = activity.job, used.levels, used.levels.plant
    place, classes = plant.cluster.node_of(job.plan.grid.accelerator), job.plan.partition.rank
    mine = int(place[job.ranks[rank].representative])
    here = place == mine
    if rank not in activity.curves:
        weights = np.zeros((3, len(job.ranks)))
        weights[0, rank] = 1.0
        weights[1] = np.bincount(classes[here], minlength=len(job.ranks))
        weights[2] = np.bincount(classes, minlength=len(job.ranks))
        activity.curves[rank] = power_curves(activity, weights)
    one, node, all_ranks = activity.curves[rank]
    kind = job.ranks[rank].kind
    spare = (int(plant.cluster.places.sizes[mine]) - int(here.sum())) * job.boards[kind].idle
    return _levels(levels, one, node + spare + plant.base(True, kind), all_ranks)


def run_level(used: Consumption, spans: Sequence[Span]) -> PowerLevel:
    """Power of the site over a run."""
    curve, width = run_curve(spans, used.levels)
    return _power_levels(curve[None], width)[0]


def _levels(levels: Levels, one: Floats, node: Floats, all_ranks: Floats) -> dict[str, PowerLevel]:
    """Curves at the plug: supplies and cooling follow the accelerators in proportion."""
    plant = levels.plant
    fixed = levels.spare + levels.nodes * plant.base(True)
    mean = float(all_ranks.mean()) + fixed
    supplied = plant.efficiency(mean / levels.nodes)
    server = node / supplied
    job = (all_ranks + fixed) / supplied
    overhead = 1 + plant.cooling(1.0) - plant.cooling(0.0)
    whole = span_energy([levels.whole(levels.step.seconds)], levels)
    site = whole.joules / whole.seconds + overhead * (job - mean / supplied)
    found = _power_levels(np.stack([one, server, job, site]), levels.step.seconds / len(one))
    return dict(zip(("accelerator", "node", "job", "site"), found, strict=True))


def _power_levels(curves: Floats, width: float) -> list[PowerLevel]:
    """What each of some curves comes to, (n, samples) [W]; samples are `width` long [s]."""
    columns = (curves.mean(axis=1), curves.max(axis=1), curves.min(axis=1), curves)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [PowerLevel(mean, peak, least, width, tuple(samples)) for mean, peak, least, samples in rows]
