"""`topology`: as `pack`, and several nodes in the fewest units of the network, the fullest units that fit."""

from __future__ import annotations

from collections.abc import Sequence

from sim.fleet.boards import Boards, nodes_in
from sim.fleet.placements.pack import Pack


class Topology(Pack):
    """Nodes under one leaf if there is one with enough of them; else one pod; else the emptiest units first."""

    def in_order(self, boards: Boards, empty: int, wanted: int) -> list[int]:
        """See `Pack`; the smallest unit that holds them all, of equal ones that with the least room."""
        for level, units in enumerate(self.units):
            rooms = [(unit & empty).bit_count() for unit in units]
            fitting = [(room, number) for number, room in enumerate(rooms) if room >= wanted]
            if fitting:
                return self._within(empty & units[min(fitting)[1]], wanted, level)
        return self._within(empty, wanted, len(self.units))

    def _within(self, empty: int, wanted: int, level: int) -> list[int]:
        """Nodes of a mask, units of the level below one after the other, those with most room first."""
        if level == 0:
            return [node for node, _ in zip(nodes_in(empty), range(wanted), strict=False)]
        found: list[int] = []
        for unit in _emptiest_first(self.units[level - 1], empty):
            found += self._within(empty & unit, wanted - len(found), level - 1)
            if len(found) >= wanted:
                break
        return found


def _emptiest_first(units: Sequence[int], empty: int) -> list[int]:
    rooms = [((unit & empty).bit_count(), -number) for number, unit in enumerate(units)]
    return [units[-number] for room, number in sorted(rooms, reverse=True) if room]
