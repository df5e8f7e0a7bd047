"""Cables of a node under construction, one per direction, and their way into arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.cluster.cluster import Ints, Links


@dataclass(frozen=True)
class Cable:
    """From one local vertex to another: payload rate [B/s] and latency [s]."""

    source: int
    target: int
    capacity: float
    latency: float


def as_links(cables: Sequence[Cable]) -> Links:
    """The same as arrays."""
    return Links(
        np.array([cable.capacity for cable in cables], np.float64),
        np.array([cable.latency for cable in cables], np.float64),
        np.array([cable.source for cable in cables], np.int64),
        np.array([cable.target for cable in cables], np.int64),
    )


def link_table(paths: Sequence[Sequence[int]]) -> Ints:
    """Paths as rows of link numbers, (n, longest), -1 where shorter."""
    table = np.full((len(paths), max(map(len, paths), default=0)), -1, np.int64)
    for row, path in zip(table, paths, strict=True):
        row[: len(path)] = path
    return table
