"""Many plans as arrays, one row each, built axis by axis; what a rule forbids never grows.

Public: `PlanTable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.ask.plan.axes import PlanAxis
from sim.inputs.setup import Setup
from sim.ragged import ranges

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
LARGEST = 2**62  # number that a group may have


@dataclass(frozen=True)
class PlanTable:
    """Plans as columns of value numbers.

    column[key]: (n,) index into values[key], of the smallest unsigned type that holds it.
    """

    values: dict[str, tuple[Any, ...]]
    column: dict[str, NDArray[np.unsignedinteger[Any]]]

    @property
    def n(self) -> int:
        """Rows."""
        return len(next(iter(self.column.values()))) if self.column else 1

    def choice(self, row: int) -> dict[str, Any]:
        """Key path to value of one plan."""
        return {key: self.values[key][int(column[row])] for key, column in self.column.items()}

    def take(self, rows: Ints | Mask) -> PlanTable:
        """The plans at `rows`."""
        return PlanTable(self.values, {key: column[rows] for key, column in self.column.items()})

    def array(self, key: str) -> NDArray[Any]:
        """The values of one axis, (n,)."""
        values: NDArray[Any] = np.array(self.values[key])[self.column[key]]
        return values

    def key(self, row: int, keys: Iterable[str]) -> tuple[Any, ...]:
        """The values of one plan for `keys`."""
        return tuple(self.values[key][int(self.column[key][row])] for key in keys)

    def groups(self, keys: Iterable[str]) -> Iterator[Ints]:
        """Rows that agree in `keys`, group by group."""
        if not self.n:
            return
        mixed, span = np.zeros(self.n, dtype=np.int64), 1
        for key in keys:
            if span * len(self.values[key]) > LARGEST:
                known, mixed = np.unique(mixed, return_inverse=True)
                span = len(known)
            mixed = mixed * len(self.values[key]) + self.column[key]
            span *= len(self.values[key])
        order = np.argsort(mixed, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(mixed[order])) + 1)

    def with_axis(self, axis: PlanAxis, base: Setup) -> PlanTable:
        """Each plan once for each of the values that `axis` has for it."""
        options, which = self._options(axis, base)
        known = tuple(dict.fromkeys(value for option in options for value in option))
        place = {value: index for index, value in enumerate(known)}
        sizes = np.array([len(option) for option in options], dtype=np.int64)[which]
        flat = np.array([place[value] for option in options for value in option], np.min_scalar_type(len(known)))
        first = np.cumsum([0, *(len(option) for option in options)])[:-1]
        grown = {key: np.repeat(column, sizes) for key, column in self.column.items()}
        grown[axis.key] = flat[ranges(first[which], sizes)]
        return PlanTable(self.values | {axis.key: known}, grown)

    def sizes(self, axis: PlanAxis, base: Setup) -> Ints:
        """How many values `axis` has for each plan, (n,)."""
        options, which = self._options(axis, base)
        return np.array([len(option) for option in options], dtype=np.int64)[which]

    def _options(self, axis: PlanAxis, base: Setup) -> tuple[list[tuple[Any, ...]], Ints]:
        """The distinct lists of values of an axis, and which of them each plan has."""
        which, options = np.zeros(self.n, dtype=np.int64), []
        for number, rows in enumerate(self.groups(key for key in axis.depends if key in self.column)):
            which[rows] = number
            options.append(axis.values(base, self.choice(int(rows[0]))))
        return options, which
