"""Axes of ranks: a group is what varies over a set of axes while the others stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Mesh:
    """Ranks on named axes.

    size: ranks along each axis, the one that varies fastest first. ranks: (n_ranks,) the rank at each place, places
    being numbered along the axes.
    """

    size: dict[str, int]
    ranks: Ints

    @property
    def stride(self) -> dict[str, int]:
        """Distance in places of neighbours along each axis."""
        strides = np.cumprod([1, *self.size.values()])
        return dict(zip(self.size, strides.tolist(), strict=False))

    @cached_property  # (n_ranks,) for each axis, read by flows, sends and state
    def coordinate(self) -> dict[str, Ints]:
        """Position of each rank along each axis, (n_ranks,)."""
        place = np.empty_like(self.ranks)
        place[self.ranks] = np.arange(len(self.ranks))
        return {axis: place // self.stride[axis] % size for axis, size in self.size.items()}

    def groups(self, *axes: str) -> Ints:
        """Ranks that differ only along `axes`: (n_groups, group size), first axis fastest."""
        place = np.arange(len(self.ranks))
        origin = np.all([place // self.stride[axis] % self.size[axis] == 0 for axis in axes], axis=0)
        offset = np.zeros(1, dtype=np.int64)
        for axis in axes:
            steps = np.arange(self.size[axis]) * self.stride[axis]
            offset = (steps[:, None] + offset[None, :]).ravel()
        members: Ints = self.ranks[place[origin][:, None] + offset[None, :]]
        return members

    def shifted(self, axis: str, by: int) -> Ints:
        """For each rank the rank `by` further along `axis`, wrapping round, (n_ranks,)."""
        along = self.groups(axis)
        there = np.empty_like(self.ranks)
        there[along] = np.roll(along, -by, axis=1)
        return there

    def view(self, axes: tuple[str, ...], others: dict[str, int]) -> Mesh:
        """The same ranks with `others` in place of `axes`, which hold as many; both count ranks from the lowest on."""
        rows = np.sort(self.groups(*axes), axis=1)
        kept = {axis: size for axis, size in self.size.items() if axis not in axes}
        return Mesh(others | kept, rows.ravel())


def build_mesh(size: dict[str, int]) -> Mesh:
    """Ranks numbered along the axes, the first of them fastest."""
    return Mesh(size, np.arange(int(np.prod(list(size.values()), dtype=np.int64))))
