"""Processors shared by computation and the collectives that run beside it.

A collective kernel occupies some processors: while one runs beside it, computation is slower by a
fixed share. Data-parallel collectives also slow the collectives inside layers, which take processors
too; so a chain of operations slows down as a whole, however finely it is cut.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sim.engine.category import Category
from sim.engine.program import Action

if TYPE_CHECKING:
    from sim.engine.executor import Runner


class Processors:
    """Speeds of work by rank class, and who works there."""

    def __init__(self, slowdown: float, runners: list[Runner]) -> None:
        self.share = 1.0 - slowdown
        self.outer = Counter[int]()  # rank class -> data-parallel collectives running
        self.inner = Counter[int]()  # rank class -> collectives of layers running beside computation
        self.running = 0  # collectives that run beside work, over all ranks
        self.workers: dict[int, list[Runner]] = {}  # rank class -> streams that may work on it
        for runner in runners:
            for rank in dict.fromkeys(rank for head in runner.heads for rank in head.action.ranks):
                self.workers.setdefault(rank, []).append(runner)

    def steal(self, action: Action, change: int, now: float) -> list[tuple[Runner, float]]:
        """A collective starts (+1) or ends (-1) beside the work of `action.steals`.

        Returns the streams whose work goes on at another speed, with the seconds that it still takes.
        """
        load = self.outer if action.category == Category.DATA_COMM else self.inner
        self.running += change
        for rank in action.steals:
            load[rank] += change
        changed = []
        for runner in dict.fromkeys(runner for rank in action.steals for runner in self.workers.get(rank, ())):
            if runner.is_working and (speed := self.speed(runner.head.action)) != runner.speed:
                left = max(runner.rings_at - now, 0.0) * runner.speed
                runner.speed = speed
                changed.append((runner, left / speed))
        return changed

    def speed(self, action: Action) -> float:
        """Speed of an action now, 1 with nothing beside it. What moves bytes is not slowed."""
        if not self.running:
            return 1.0
        beside_outer = any(self.outer[rank] for rank in action.ranks)
        beside_inner = action.is_computation and any(self.inner[rank] for rank in action.ranks)
        return (self.share if beside_outer else 1.0) * (self.share if beside_inner else 1.0)
