"""Power, site and prices: what the watts depend on, and what energy and time cost.

Public: `AcceleratorPower`, `NodePower`, `ClusterPower`, `PowerSetting`, `Site`, `Prices`.
"""

from __future__ import annotations

from pydantic import Field

from sim.spec.record import Name, Record
from sim.units import Watts


class AcceleratorPower(Record):
    """Board power."""

    tdp: Watts = Field(gt=0, description="board limit")
    idle: Watts = Field(default=0.0, ge=0, description="powered, nothing running")


class NodePower(Record):
    """Power of a server without its accelerators."""

    idle: Watts = Field(default=0.0, ge=0, description="processors, memory, fans and adapters, nothing running")


class ClusterPower(Record):
    """Power of the network between nodes."""

    switch: Watts = Field(default=0.0, ge=0, description="one switch without optics")


class PowerSetting(Record):
    """Limits that the operator sets."""

    limit: Watts | None = Field(default=None, gt=0, description="power limit of one accelerator; its tdp if absent")


class Site(Record):
    """Where the cluster stands: cooling, grid, price of electricity."""

    name: Name = Field(description="the name it is found by")
    description: str = Field(default="", description="one line for people")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")


class Prices(Record):
    """What accelerators cost, rented or bought."""

    name: Name = Field(description="the name it is found by")
    description: str = Field(default="", description="one line for people")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")
