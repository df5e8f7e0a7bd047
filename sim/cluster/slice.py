"""A torus of accelerators inside a node: the cables to the neighbours in its grid."""

from __future__ import annotations

import numpy as np

from sim.cluster.cables import Cable
from sim.inputs.records import LocalNetwork


def torus_cables(local: LocalNetwork, n: int, rate: float) -> list[Cable]:
    """One cable each way between neighbours; the two ports of each dimension share `rate` [B/s] evenly with all others.

    Accelerators are numbered row by row. In a twisted torus a short dimension closes half of the first long one further
    along, which halves the longest way along it (Camara and others, IEEE TPDS 21, 2010). Even places prefer the
    forward cable of a tie, odd ones the other, so that both directions carry the same.
    """
    shape, wrap = local.shape, local.wrap or (True,) * len(local.shape)
    port = rate / (2 * len(shape))
    places = np.stack(np.unravel_index(np.arange(n), shape), axis=1)
    cables: list[Cable] = []
    for here, place in enumerate(places.tolist()):
        for dimension, closes in enumerate(wrap):
            steps = [step for step in (1, -1) if closes or 0 <= place[dimension] + step < shape[dimension]]
            targets = [_neighbour(local, place, dimension, step) for step in steps]
            for there in sorted(set(targets) - {here}, key=targets.index, reverse=place[dimension] % 2 == 1):
                cables.append(Cable(here, there, port * targets.count(there), local.latency))
    return cables


def _neighbour(local: LocalNetwork, place: list[int], dimension: int, step: int) -> int:
    shape, there = local.shape, list(place)
    there[dimension] += step
    if local.twisted and shape[dimension] == min(shape) and not 0 <= there[dimension] < shape[dimension]:
        longest = shape.index(max(shape))
        there[longest] += shape[longest] // 2
    return int(np.ravel_multi_index(there, shape, mode="wrap"))
