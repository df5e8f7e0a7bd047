"""What a plan is good for: time, energy and cost of one step, and what each of them is at least.

Public: `OBJECTIVES`, `PlanObjective`, `objectives_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sim.ask.plan.bound import Floats, Least
from sim.errors import ConfigError, Problem
from sim.inputs.problems import near
from sim.inputs.setup import Setup
from sim.metrics.cost import hardware_cost
from sim.units import ENERGY

KWH = ENERGY.units["kWh"]


@dataclass(frozen=True)
class PlanObjective:
    """Less is better. `field` of a flattened result holds it; `floor` bounds it from below, (n,)."""

    name: str
    unit: str
    field: str
    floor: Callable[[Setup, Least], Floats]
    needs_energy: Callable[[Setup], bool] = lambda setup: False  # whether `floor` takes joules


def _time(setup: Setup, least: Least) -> Floats:
    return least.seconds


def _energy(setup: Setup, least: Least) -> Floats:
    return least.joules / KWH


def _cost(setup: Setup, least: Least) -> Floats:
    """Rent, or write-off, upkeep and electricity, of the whole cluster."""
    cost = least.joules * _electricity(setup)
    if setup.prices is not None:
        a_second = hardware_cost(setup.prices, 1.0, (setup.cluster.nodes, setup.accelerators))
        cost = cost + sum(a_second.values()) * least.seconds
    return cost


def _electricity(setup: Setup) -> float:
    """What a joule costs those who pay for it [USD]; it is in the rent."""
    owned = setup.prices is None or setup.prices.pay == "purchase"
    price = setup.site.electricity if owned and setup.site is not None else None
    return price or 0.0


OBJECTIVES: Mapping[str, PlanObjective] = {
    "time": PlanObjective("time", "s", "step.time_s", _time),
    "energy": PlanObjective("energy", "kWh", "energy.total_kwh", _energy, lambda setup: True),
    "cost": PlanObjective("cost", "USD", "cost.usd.total", _cost, lambda setup: _electricity(setup) > 0),
}


def objectives_of(names: Sequence[str], setup: Setup) -> tuple[PlanObjective, ...]:
    """The objectives of these names; raises ConfigError if one is unknown or its inputs are missing."""
    for name in names:
        if name not in OBJECTIVES:
            raise ConfigError(Problem("--objective", name, "is no objective", near(name, list(OBJECTIVES))))
    if "cost" in names and setup.prices is None and not _electricity(setup):
        raise ConfigError(
            Problem("--objective", "cost", "nothing has a price", "give the experiment `prices`, or a site")
        )
    return tuple(OBJECTIVES[name] for name in dict.fromkeys(names))
