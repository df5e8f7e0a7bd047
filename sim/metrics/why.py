"""What explains a run: its critical path, slack, hidden communication, worth of resources, ideas.

Public: `Why`, `Idea`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sim.metrics.critical_path import Overlap, PathPart, Slack
from sim.metrics.result import Result
from sim.metrics.sensitivity import Sensitivity


@dataclass(frozen=True)
class Idea:
    """A change of the input that was simulated: relative gain in tokens per second."""

    words: str
    changes: dict[str, Any]  # dotted key of the experiment to its new value
    gain: float
    step_s: float


@dataclass(frozen=True)
class Why:
    """The explanation of a run. `path` sums to the step without input stall."""

    result: Result
    path: tuple[PathPart, ...]
    slack: tuple[Slack, ...]
    overlaps: tuple[Overlap, ...]
    resources: tuple[Sensitivity, ...]  # what `by` more of each buys, most first
    by: float
    ideas: tuple[Idea, ...]  # best first
    tried: int  # changes that were simulated to find them

    def to_json(self) -> dict[str, Any]:
        """The explanation as plain data, without the result."""
        return {key: value for key, value in asdict(self).items() if key != "result"} | {
            "name": self.result.name,
            "step_s": self.result.step.time_s,
        }
