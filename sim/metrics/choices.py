"""What a library chose for collectives, beside what the model of a platform chooses.

Public: `NcclChoice`, `ComparedChoice`, `ChoiceComparison`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class NcclChoice:
    """What NCCL said of a collective. seconds: that it expects; None if it does not say. channels: that it uses."""

    collective: str
    bytes: int
    ranks: int
    nodes: int
    algorithm: str  # as NCCL calls it
    protocol: str
    channels: int | None = None
    seconds: float | None = None
    count: int = 1  # times it was said


@dataclass(frozen=True)
class ComparedChoice:
    """A choice beside ours: name of the pattern, and seconds."""

    said: NcclChoice
    ours: str
    seconds: float
    agrees: bool


@dataclass(frozen=True)
class ChoiceComparison:
    """All choices in a log, by collective, ranks and size. channels: of the communicator, with which ranks."""

    platform: str
    choices: tuple[ComparedChoice, ...]
    remarks: tuple[str, ...] = ()

    @property
    def agreeing(self) -> float:
        """Share of the collectives for which both choose alike."""
        total = sum(each.said.count for each in self.choices)
        return sum(each.said.count for each in self.choices if each.agrees) / total

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self) | {"agreeing": self.agreeing}
