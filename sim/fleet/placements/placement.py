"""What a placement is: where a gang goes, or that it cannot.

Public: `Placement`, `take_all`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim.fleet.boards import Boards
from sim.fleet.jobs import JobRequest, Places
from sim.rng import Generator


@dataclass(frozen=True)
class Placement:
    """A rule for places. units: masks of nodes near one another, level by level, smallest first.

    by_count: whether a gang fits wherever so many boards are free.
    """

    units: Sequence[Sequence[int]] = ()
    random: Generator | None = None
    by_count = False

    def find(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> Places | None:
        """Places of `gpus` free boards on allowed nodes, all or nothing."""
        raise NotImplementedError


def take_all(boards: Boards, nodes: Iterable[int], gpus: int) -> Places | None:
    """Free boards of nodes in that order until there are enough; None if there are not."""
    places = []
    for node in nodes:
        part = min(gpus, boards.free[node])
        if part:
            places.append((node, part))
            gpus -= part
        if not gpus:
            return tuple(places)
    return None
