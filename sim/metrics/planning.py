"""What a search for the best parallel plan found.

Public: `PlanSearch`, `FoundPlan`, `Alternative`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FoundPlan:
    """One simulated plan: its values by key path, its worth by objective, and where its step goes."""

    values: dict[str, Any]
    worth: dict[str, float]  # time [s], energy [kWh], cost [USD], all of one step
    bound_s: float  # the step time that was proven before it was simulated
    step_s: float
    mfu: float
    memory_bytes: float  # of the fullest accelerator
    breakdown_s: dict[str, float]
    accelerators_idle: int = 0
    samples_per_s: float = 0.0
    tokens_per_s: float | None = None  # None: samples have no tokens
    time_to_train_s: float | None = None  # without faults and saves; None: no length of the training is known
    usd: float | None = None  # of that training, or of one step; None: no prices
    twins: tuple[dict[str, Any], ...] = ()  # values in which plans of the same worth differ from this one


@dataclass(frozen=True)
class Alternative:
    """The best that another value of one key can do, everything else free."""

    key: str
    value: Any
    worth: float  # by the one objective, as in `FoundPlan.worth`
    proven: bool  # a bound from below, not a simulated value


@dataclass(frozen=True)
class PlanSearch:
    """Plans by what became of them, and the best of them."""

    name: str
    description: str
    accelerators: int
    objectives: tuple[str, ...]
    space: dict[str, tuple[Any, ...]]  # values by key
    enumerated: int
    forbidden: dict[str, int]  # what a rule demands -> plans that do not meet it
    no_fit: int  # plans that need more memory than there is
    lacking_bytes: float  # how much an accelerator lacks at least for the one of them that comes nearest to fitting
    bounded: int  # plans whose bound is above the best
    failed: dict[str, int]  # reason -> plans that could not be simulated
    simulated: int
    plans: tuple[FoundPlan, ...]  # best first; with several objectives those that nothing dominates
    alternatives: tuple[Alternative, ...]  # to the best plan, with one objective
    capacity_bytes: float
    complete: bool  # False: interrupted, `untried` plans might be better
    untried: int
    wall_s: float
    choice: int = 0  # of `plans`: with one objective, among those near the best the one with most memory to spare

    def to_json(self) -> dict[str, Any]:
        """The search as plain data."""
        return asdict(self)
