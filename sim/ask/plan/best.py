"""The best plans so far, and whether a plan that is bounded from below can still be among them.

Public: `Best`, `TopPlans`, `ParetoFront`, `best_of`.
"""

from __future__ import annotations

from bisect import insort
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
TWINS = 1e-9  # relative difference below which two plans are worth the same: rounding


class Best(Protocol):
    """What a search keeps."""

    def beats(self, bounds: Floats) -> Mask:
        """Which plans, worth `bounds` (n, objectives) at least, cannot be kept any more, (n,)."""

    def add(self, row: int, worth: Floats) -> None:
        """A simulated plan."""

    @property
    def rows(self) -> list[int]:
        """Rows of the plans kept, best first; of equal ones the first enumerated."""


class TopPlans:
    """The `count` best by one objective; plans of one worth are twins, and count once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept: list[tuple[float, int]] = []

    def beats(self, bounds: Floats) -> Mask:
        """Those than which enough plans are better."""
        firsts = self._firsts()
        worst = self.kept[firsts[-1]][0] if len(firsts) == self.count else np.inf
        return worst < bounds[:, 0]

    def add(self, row: int, worth: Floats) -> None:
        """Keep what is good enough."""
        insort(self.kept, (float(worth[0]), row))
        firsts = self._firsts()
        if len(firsts) > self.count:
            del self.kept[firsts[self.count] :]

    def _firsts(self) -> list[int]:
        """Where plans of another worth begin."""
        worths = [worth for worth, _ in self.kept]
        return [place for place, worth in enumerate(worths) if not place or worth > worths[place - 1] * (1 + TWINS)]

    @property
    def rows(self) -> list[int]:
        """Best first, twins after one another."""
        return [row for _, row in self.kept]


class ParetoFront:
    """Plans that no other is better than in one objective and at least as good as in all."""

    def __init__(self) -> None:
        self.kept: list[tuple[tuple[float, ...], int]] = []

    def beats(self, bounds: Floats) -> Mask:
        """Those than which a plan that is kept is at least as good in all objectives and better in one."""
        beaten = np.zeros(len(bounds), dtype=bool)
        for worth, _ in self.kept:
            beaten |= _dominates(np.array(worth), bounds)
        return beaten

    def add(self, row: int, worth: Floats) -> None:
        """Keep what is not dominated; drop what it dominates."""
        if self.beats(worth[None])[0]:
            return
        self.kept = [each for each in self.kept if not _dominates(worth, np.array(each[:1]))[0]]
        insort(self.kept, (tuple(worth.tolist()), row))

    @property
    def rows(self) -> list[int]:
        """Best in the first objective first."""
        return [row for _, row in self.kept]


def _dominates(one: Floats, others: Floats) -> Mask:
    dominated: Mask = np.all(one <= others, axis=1) & np.any(one < others, axis=1)
    return dominated


def best_of(objectives: int, count: int) -> Best:
    """What a search for so many objectives keeps."""
    return TopPlans(count) if objectives == 1 else ParetoFront()
