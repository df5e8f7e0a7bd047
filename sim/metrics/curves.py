"""Predicted collectives beside measured ones: errors over message size, by curve and by platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SATURATED = 2**30  # bytes from which on the largest message of a curve tells the saturated bandwidth


def bus_factor(collective: str, ranks: int) -> float:
    """Bus bandwidth over message size per time (nccl-tests, doc/PERFORMANCE.md)."""
    return (2 if collective == "all_reduce" else 1) * (ranks - 1) / ranks


@dataclass(frozen=True)
class CurvePoint:
    """One message size: times in seconds."""

    size: int
    measured: float
    predicted: float
    algorithm: str

    @property
    def error(self) -> float:
        """Of the time: positive is too slow."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class CurveScore:
    """One curve, predicted."""

    name: str
    table: str
    platform: str
    collective: str
    ranks: int
    nodes: int
    source: str
    assumed: str
    points: tuple[CurvePoint, ...]

    @property
    def mean_error(self) -> float:
        """Mean size of the error of the time over the whole curve."""
        return sum(abs(point.error) for point in self.points) / len(self.points)

    @property
    def largest(self) -> CurvePoint:
        """The point of the largest message."""
        return max(self.points, key=lambda point: point.size)

    @property
    def saturated_error(self) -> float | None:
        """Error of the bus bandwidth at the largest message, where that is saturated."""
        point = self.largest
        return point.measured / point.predicted - 1 if point.size >= SATURATED else None

    def bus_bandwidth(self, seconds: float, size: int) -> float:
        """Bus bandwidth in B/s."""
        return bus_factor(self.collective, self.ranks) * size / seconds


@dataclass(frozen=True)
class PlatformScore:
    """All curves of a platform: how many there are, mean sizes of their errors, the worst of each."""

    curves: int
    points: int
    saturated: float | None
    worst_saturated: float | None  # signed
    mean: float
    worst: float


@dataclass(frozen=True)
class CurveValidation:
    """All curves in the order of their files, and those that could not be read."""

    scores: tuple[CurveScore, ...]

    @property
    def platforms(self) -> dict[str, PlatformScore]:
        """Scores by platform, in the order of appearance."""
        names = dict.fromkeys(score.platform for score in self.scores)
        return {name: platform_score([s for s in self.scores if s.platform == name]) for name in names}

    @property
    def total(self) -> PlatformScore:
        """The score of all curves, each with the same weight."""
        return platform_score(self.scores)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "total": asdict(self.total),
            "platforms": {name: asdict(score) for name, score in self.platforms.items()},
            "curves": [
                {**asdict(score), "mean_error": score.mean_error, "saturated_error": score.saturated_error}
                for score in self.scores
            ],
        }


def platform_score(scores: Sequence[CurveScore]) -> PlatformScore:
    """Means over curves, each with the same weight; `scores` must not be empty."""
    ends = [score.saturated_error for score in scores if score.saturated_error is not None]
    means = [score.mean_error for score in scores]
    return PlatformScore(
        curves=len(scores),
        points=sum(len(score.points) for score in scores),
        saturated=sum(map(abs, ends)) / len(ends) if ends else None,
        worst_saturated=max(ends, key=abs) if ends else None,
        mean=sum(means) / len(means),
        worst=max(means),
    )
