"""Max-min fair rates of flows over links, and the certificate that proves an answer.

A flow f of rate x[f] loads link l with a[l, f] * x[f]. The max-min allocation is unique, so any
answer that passes `certificate` is the answer (Bertsekas & Gallager, Data Networks, sec. 6.5.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ROUNDING = 1e-12  # of a capacity


def totals(index: Ints, weight: Floats, n: int) -> Floats:
    """Sum of `weight` for each index below n, (n,)."""
    return np.bincount(index, weight, n).astype(np.float64, copy=False)


def max_min_rates(flow: Ints, link: Ints, coefficient: Floats, capacity: Floats, n_flows: int) -> Floats:
    """Rates by local-bottleneck water-filling.

    flow, link: (nnz,) indices of the non-zero coefficients; coefficient: (nnz,) > 0; capacity:
    (n_links,) B/s. Returns (n_flows,) B/s; a flow over no link is unbounded (inf).

    Every link that is the tightest for all of its own flows is frozen in the same round, not only
    the globally tightest one: shares never fall while others freeze, so the answer is the same.
    """
    rate = np.full(n_flows, np.inf)
    free = np.ones(len(flow), dtype=bool)
    left = capacity.astype(np.float64).copy()
    n_links = len(capacity)
    while free.any():
        flows, links, weights = flow[free], link[free], coefficient[free]
        load = np.bincount(links, weights, n_links)
        share = np.divide(left, load, out=np.full(n_links, np.inf), where=load > 0)
        bound = np.full(n_flows, np.inf)
        np.minimum.at(bound, flows, share[links])
        tight = np.ones(n_links, dtype=bool)
        np.logical_and.at(tight, links, share[links] <= bound[flows] * (1 + 1e-12))
        frozen = np.zeros(n_flows, dtype=bool)
        frozen[flows[tight[links]]] = True
        rate[frozen] = bound[frozen]
        done = frozen[flows]
        used = np.bincount(links[done], weights[done] * rate[flows[done]], n_links)
        left = np.maximum(left - used, 0.0)
        free[np.flatnonzero(free)[done]] = False
    return rate


def remaining(flow: Ints, link: Ints, coefficient: Floats, capacity: Floats, rate: Floats) -> Floats:
    """What flows of these rates leave of each link, (n_links,) B/s; nothing where but rounding is left."""
    left = capacity - np.bincount(link, coefficient * rate[flow], len(capacity))
    return np.where(left > capacity * ROUNDING, left, 0.0)


def certificate(
    flow: Ints, link: Ints, coefficient: Floats, capacity: Floats, rate: Floats, tolerance: float = 1e-9
) -> str | None:
    """Why `rate` is not the max-min allocation, or None if it is.

    Feasible: no link above its capacity. Fair: every flow crosses a saturated link on which no
    flow is faster.
    """
    load = np.bincount(link, coefficient * rate[flow], len(capacity))
    over = np.flatnonzero(load > capacity * (1 + tolerance))
    if over.size:
        return f"link {over[0]} carries {load[over[0]]:.6g} of {capacity[over[0]]:.6g} B/s"
    fastest = np.zeros(len(capacity))
    np.maximum.at(fastest, link, rate[flow])
    saturated = load >= capacity * (1 - tolerance)
    is_bottleneck = saturated[link] & (rate[flow] >= fastest[link] * (1 - tolerance))
    justified = np.zeros(len(rate), dtype=bool)
    justified[flow[is_bottleneck]] = True
    unjust = np.setdiff1d(flow, np.flatnonzero(justified))
    return f"flow {unjust[0]} could be faster than {rate[unjust[0]]:.6g} B/s" if unjust.size else None
