"""Links that can never be a bottleneck: left out of rate sharing, exactly.

Whatever crosses a link in the middle of its paths also crosses the first and the last link of those
paths. If the first links together (or the last ones) cannot deliver more than the link can carry,
the link never holds anybody back, in any max-min allocation: where it is full, so are they. A full
fat-tree keeps its adapters and loses most of its middle this way. Bytes over such links are still
counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Routes

Index = NDArray[np.int32]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
AnyInt = TypeVar("AnyInt", np.int32, np.int64, np.uint64)
SLACK = 1e-12  # relative; a bound equal to the capacity is no bottleneck


@dataclass(frozen=True)
class Covers:
    """What lies between the ends of a set of paths.

    ends: (n_ends,) first and last links. link, first, last: (n,) a middle link with the ends of a path
    over it; share: (n,) the part of the path's bytes that crosses it, or None if all do.
    """

    ends: Index
    link: Index
    first: Index
    last: Index
    share: Floats | None


def distinct(values: NDArray[AnyInt]) -> NDArray[AnyInt]:
    """Sorted distinct values; by sorting, since numpy's hashing is slow on millions."""
    values = np.sort(values)
    return values[np.flatnonzero(np.diff(values, prepend=values[:1] - 1))]


def covers_of(routes: Routes) -> Covers:
    """Ends of all paths, and the ends behind each middle link."""
    length = np.diff(routes.start)
    walked = length > 0
    link = routes.link.astype(np.int32)
    first = link[routes.start[:-1][walked]]
    last = link[routes.start[1:][walked] - 1]
    path = np.repeat(np.arange(len(first), dtype=np.int32), length[walked])
    middle = (link != first[path]) & (link != last[path])
    path, share = path[middle], routes.share[middle]
    return Covers(
        distinct(np.concatenate([first, last])),
        link[middle],
        first[path],
        last[path],
        None if (share == 1).all() else share,
    )


def no_middle(link: Index) -> Covers:
    """Covers under which any of the links may hold its flows back, as where several paths end in different places."""
    none = np.zeros(0, dtype=np.int32)
    return Covers(distinct(link), none, none, none, None)


def never_full(covers: list[Covers], capacity: Floats) -> Mask:
    """Links whose feeding (or draining) ends cannot fill them, (n_links,)."""
    n_links = len(capacity)
    if not covers:
        return np.zeros(n_links, dtype=bool)
    bound = np.minimum(*(_bound(covers, side, capacity) for side in ("first", "last")))
    middle = bound > 0
    for each in covers:
        middle[each.ends] = False
    return middle & (bound <= capacity * (1 + SLACK))


def _bound(covers: list[Covers], side: str, capacity: Floats) -> Floats:
    """What the distinct ends on one side can put on each link at most, (n_links,) B/s."""
    n_links = len(capacity)
    pairs = [each.link.astype(np.int64) * n_links + getattr(each, side) for each in covers]
    if all(each.share is None for each in covers):
        pair = distinct(np.concatenate(pairs))
        return np.bincount(pair // n_links, capacity[pair % n_links], n_links).astype(np.float64)
    pair, inverse = np.unique(np.concatenate(pairs), return_inverse=True)
    share = np.zeros(len(pair))
    parts = [np.ones(len(each.link)) if each.share is None else each.share for each in covers]
    np.maximum.at(share, inverse, np.concatenate(parts))
    return np.bincount(pair // n_links, share * capacity[pair % n_links], n_links).astype(np.float64)
