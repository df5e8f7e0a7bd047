"""Paths under construction: padded tables of links and shares, and their way into CSR form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.cluster.cluster import Floats, Ints, Links, Mask, Routes


@dataclass(frozen=True)
class Hops:
    """Links of n connections in the order they are crossed; -1 where a row has fewer."""

    link: Ints  # (n, k)
    share: Floats  # (n, k) share of the connection's bytes

    def where(self, mask: Mask) -> Hops:
        """The same, with rows outside the mask (n,) emptied."""
        return Hops(np.where(mask[:, None], self.link, -1), self.share)


def hop(link: Ints, share: float | Floats = 1.0) -> Hops:
    """One link (n,) or k parallel links (n, k) per connection, each with the given share."""
    table = link.reshape(len(link), -1)
    return Hops(table, np.broadcast_to(np.asarray(share, np.float64), table.shape))


def chain(parts: Sequence[Hops]) -> Hops:
    """Hops one after the other."""
    return Hops(
        np.concatenate([part.link for part in parts], axis=1), np.concatenate([part.share for part in parts], axis=1)
    )


def to_routes(hops: Hops, latency: Floats) -> Routes:
    """CSR form of a padded table. latency (n_links,) s. Links met twice in one row are merged."""
    n = len(hops.link)
    row, column = np.nonzero(hops.link >= 0)
    link, share = hops.link[row, column], hops.share[row, column]
    if (share < 1).any():
        row, link, share = _merge(row, link, share, len(latency))
    start = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=n), out=start[1:])
    return Routes(start, link, share, _sums(row, share * latency[link], n))


def _merge(row: Ints, link: Ints, share: Floats, n_links: int) -> tuple[Ints, Ints, Floats]:
    """Add the shares of hashed paths that fell on the same link, at its first place in the row."""
    pair, first, inverse = np.unique(row * n_links + link, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return row[first[order]], link[first[order]], _sums(inverse, share, len(pair))[order]


def _sums(group: Ints, values: Floats, n: int) -> Floats:
    return np.bincount(group, values, minlength=n).astype(np.float64)


def join_links(groups: Sequence[Links]) -> Links:
    """Links one group after the other."""
    return Links(
        np.concatenate([group.capacity for group in groups]),
        np.concatenate([group.latency for group in groups]),
        np.concatenate([group.source for group in groups]),
        np.concatenate([group.target for group in groups]),
    )


def uniform_links(source: Ints, target: Ints, capacity: float, latency: float) -> Links:
    """Links of equal capacity [B/s] and latency [s]; source and target broadcast to one flat shape."""
    ends = np.broadcast_arrays(source, target)
    first, second = (np.ascontiguousarray(end, np.int64).reshape(-1) for end in ends)
    return Links(np.full(len(first), float(capacity)), np.full(len(first), float(latency)), first, second)
