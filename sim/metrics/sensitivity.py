"""What a little more of a resource is worth.

Public: `Sensitivity`, `SensitivityReport`, `QUANTITIES`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

QUANTITIES = {
    "step_time": "step.time_s",
    "time_to_train": "run.time_to_train_s.mean",
    "energy": "energy.total_kwh",
    "cost": "cost.usd.total",
    "memory": "memory.share",  # peak over capacity
}
"""What is looked at, and the field of a flattened result that holds it; those that a run does not have are left out."""


@dataclass(frozen=True)
class Sensitivity:
    """The effect of one resource: relative change of each quantity, and the same per change of the resource."""

    resource: str
    keys: tuple[str, ...]  # that were changed
    change: dict[str, float]
    elasticity: dict[str, float]
    problem: str = ""  # why there is no effect to show


@dataclass(frozen=True)
class SensitivityReport:
    """All resources of one experiment, the most valuable first."""

    name: str
    description: str
    by: float  # relative change of each resource
    base: dict[str, float]  # quantities as they are
    resources: tuple[Sensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)
