"""The points of a study: combinations of axes, in full or sampled.

Public: `Point`, `grid`, `sample`, `count_grid`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sim.ask.sweep.axes import Change, Level, Varying
from sim.inputs.expression import Lookup
from sim.inputs.study import Sampling


@dataclass(frozen=True)
class Point:
    """One combination of levels."""

    levels: tuple[Level, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """What it changes in the base, in the order of the axes."""
        return tuple(change for level in self.levels for change in level.changes)

    @property
    def shown(self) -> dict[str, Any]:
        """Key path to value, for a table."""
        return {key: value for level in self.levels for key, value in level.shown.items()}

    def allows(self, axis: Varying, base: Lookup) -> bool:
        """Whether `axis` varies beside the levels chosen so far."""
        if axis.when is None:
            return True
        shown = self.shown
        return axis.when.holds(lambda name: shown[name] if name in shown else base(name))

    def with_level(self, level: Level) -> Point:
        """This point and one level more."""
        return Point((*self.levels, level))


def grid(axes: Sequence[Varying], base: Lookup, start: Point | None = None) -> Iterator[Point]:
    """All combinations, the last axis fastest; an axis whose `when` does not hold is left out."""
    start = start or Point()
    if not axes:
        yield start
        return
    first, *rest = axes
    levels = [start.with_level(level) for level in first.levels] if start.allows(first, base) else [start]
    for chosen in levels:
        yield from grid(rest, base, chosen)


def count_grid(axes: Sequence[Varying], base: Lookup) -> int:
    """How many points `grid` yields; quick where nothing is conditional."""
    if any(axis.when for axis in axes):
        return sum(1 for _ in grid(axes, base))
    number = 1
    for axis in axes:
        number *= len(axis.levels)
    return number


def sample(axes: Sequence[Varying], base: Lookup, sampling: Sampling) -> Iterator[Point]:
    """Of `sampling.points` combinations, each axis drawn from the unit interval, those that differ."""
    drawn = (chosen(axes, base, row) for row in _unit_points(sampling, len(axes)))
    yield from {str(point.shown): point for point in drawn}.values()


def chosen(axes: Sequence[Varying], base: Lookup, shares: Sequence[float]) -> Point:
    """The point at the given share of each axis."""
    point = Point()
    for axis, share in zip(axes, shares, strict=True):
        if point.allows(axis, base):
            point = point.with_level(axis.at(share))
    return point


def _unit_points(sampling: Sampling, dimensions: int) -> Any:
    """Array (points, dimensions) in [0, 1)."""
    from sim.rng import stream  # here: a full grid needs no numbers

    number, random = sampling.points or 0, stream(sampling.seed, f"sampling/{sampling.method}")
    if sampling.method == "random" or not dimensions:
        return random.random((number, dimensions)).tolist()
    from scipy.stats import qmc

    if sampling.method == "latin_hypercube":
        return qmc.LatinHypercube(dimensions, rng=random).random(number).tolist()
    sobol = qmc.Sobol(dimensions, rng=random)
    return sobol.random_base2(max(0, number - 1).bit_length())[:number].tolist()
