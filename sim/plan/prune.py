"""Links that can never be a bottleneck: left out of rate sharing, exactly.

Whatever crosses a link in the middle of its paths also crosses the first and the last link of those
paths. If the first links together (or the last ones) cannot deliver more than the link can carry,
the link never holds anybody back, in any max-min allocation: where it is full, so are they. A full
fat-tree keeps its adapters and loses most of its middle this way. Bytes over such links are still
counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Routes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
SLACK = 1e-12  # relative; a bound equal to the capacity is no bottleneck


@dataclass(frozen=True)
class Covers:
    """For a set of paths: their end links, and which ends feed the links between.

    ends: (n_ends,) first and last links. link, cover, share: (n,) a middle link, the first (then, in
    the second triple, the last) link of paths over it, and the largest share of such a path.
    """

    ends: Ints
    fed: tuple[Ints, Ints, Floats]
    drained: tuple[Ints, Ints, Floats]


def covers_of(routes: Routes, n_links: int) -> Covers:
    """Ends of all paths, and the ends behind each middle link."""
    length = np.diff(routes.start)
    walked = length > 0
    first = routes.link[routes.start[:-1][walked]]
    last = routes.link[routes.start[1:][walked] - 1]
    path = np.repeat(np.arange(len(first)), length[walked])
    middle = (routes.link != first[path]) & (routes.link != last[path])
    link, share, path = routes.link[middle], routes.share[middle], path[middle]
    ends = np.unique(np.concatenate([first, last]))
    return Covers(ends, _largest(link, first[path], share, n_links), _largest(link, last[path], share, n_links))


def _largest(link: Ints, cover: Ints, share: Floats, n_links: int) -> tuple[Ints, Ints, Floats]:
    """Distinct (link, cover) pairs with their largest share."""
    pair, inverse = np.unique(link * n_links + cover, return_inverse=True)
    most = np.zeros(len(pair))
    np.maximum.at(most, inverse, share)
    return pair // n_links, pair % n_links, most


def never_full(covers: list[Covers], capacity: Floats) -> Mask:
    """Links whose feeding (or draining) ends cannot fill them, (n_links,)."""
    n_links = len(capacity)
    bound = np.full(n_links, np.inf)
    middle = np.zeros(n_links, dtype=bool)
    for side in ("fed", "drained"):
        parts = [getattr(each, side) for each in covers]
        link, cover, share = (np.concatenate([part[i] for part in parts]) for i in range(3))
        link, cover, share = _largest(link, cover, share, n_links)
        middle[link] = True
        bound = np.minimum(bound, np.bincount(link, share * capacity[cover], n_links))
    for each in covers:
        middle[each.ends] = False
    return middle & (bound <= capacity * (1 + SLACK))
