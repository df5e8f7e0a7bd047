"""What a plan is good for: time, energy and cost of one step, and what each of them is at least.

Public: `OBJECTIVES`, `Objective`, `objectives_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.errors import ConfigError, Problem
from sim.metrics.cost import hardware_cost
from sim.spec.problems import near
from sim.spec.setup import Setup
from sim.units import ENERGY

Floats = NDArray[np.float64]
KWH = ENERGY.units["kWh"]


@dataclass(frozen=True)
class Objective:
    """Less is better. `field` of a flattened result holds it; `floor(setup, seconds, ranks)` bounds it from below."""

    name: str
    unit: str
    field: str
    floor: Callable[[Setup, Floats, Floats], Floats]


def _time(setup: Setup, seconds: Floats, ranks: Floats) -> Floats:
    return seconds


def _energy(setup: Setup, seconds: Floats, ranks: Floats) -> Floats:
    """Every accelerator of the job draws its idle power at least, whatever else does."""
    return ranks * setup.accelerator.power.idle * seconds / KWH


def _cost(setup: Setup, seconds: Floats, ranks: Floats) -> Floats:
    """Rent or write-off of the whole cluster; electricity comes on top."""
    if setup.experiment.prices is None or isinstance(setup.experiment.prices, str):
        return np.zeros_like(seconds)
    a_second = hardware_cost(setup.experiment.prices, 1.0, (setup.cluster.nodes, setup.accelerators))
    return sum(a_second.values()) * seconds


OBJECTIVES: Mapping[str, Objective] = {
    "time": Objective("time", "s", "step.time_s", _time),
    "energy": Objective("energy", "kWh", "energy.total_kwh", _energy),
    "cost": Objective("cost", "USD", "cost.usd.total", _cost),
}


def objectives_of(names: Sequence[str], setup: Setup) -> tuple[Objective, ...]:
    """The objectives of these names; raises ConfigError if one is unknown or its inputs are missing."""
    for name in names:
        if name not in OBJECTIVES:
            raise ConfigError(Problem("--objective", name, "is no objective", near(name, list(OBJECTIVES))))
    site = setup.experiment.site
    priced = setup.experiment.prices is not None or getattr(site, "electricity", None) is not None
    if "cost" in names and not priced:
        raise ConfigError(
            Problem("--objective", "cost", "nothing has a price", "give the experiment `prices`, or a site")
        )
    return tuple(OBJECTIVES[name] for name in dict.fromkeys(names))
