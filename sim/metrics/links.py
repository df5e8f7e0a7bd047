"""How much of each link a step uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.engine.fairness import totals
from sim.engine.network import FlowTable
from sim.engine.trace import Trace
from sim.metrics.result import LinkUse

Floats = NDArray[np.float64]


def flow_bytes(trace: Trace) -> Floats:
    """Bytes of one flow of each class over the step, those inside coalesced chains too, (n_flows,)."""
    total = [0.0] * trace.table.n_flows
    times = np.bincount(trace.actions(), trace.weights(), len(trace.program.actions))
    for action, count in zip(trace.program.actions, times.tolist(), strict=True):
        if action.flow >= 0:
            total[action.flow] += count * action.size
        for flow, size in trace.carried(action):
            total[flow] += count * size
    return np.array(total)


def link_bytes(trace: Trace) -> Floats:
    """Bytes over one link of each class, (n_links,)."""
    table = trace.table
    return totals(table.link, table.coefficient * flow_bytes(trace)[table.flow], len(table.capacity))


def link_use(trace: Trace, cluster: Cluster) -> tuple[LinkUse, ...]:
    """Every class of links that carries anything, busiest first; links of one kind and load together."""
    return link_use_of(trace.table, link_bytes(trace), trace.link_peak, trace.time, cluster)


def link_use_of(table: FlowTable, carried: Floats, peaks: Floats, time: float, cluster: Cluster) -> tuple[LinkUse, ...]:
    """The same of links that carried that many bytes each in `time` s, with that peak of their capacity, (n_links,)."""
    real = table.link_example >= 0
    rows: dict[tuple[str, float, float], tuple[int, int, float]] = {}
    means = carried / (table.capacity * time)
    loads = np.round(np.stack([means, np.maximum(means, peaks)]), 12)
    columns = (table.link_example, table.link_count, carried, *loads)
    for example, links, size, mean, peak in zip(*(column[real].tolist() for column in columns), strict=True):
        if size > 0 and links > 0:  # rows of a link that counts in part stand for none
            key = (cluster.link_kind(example), mean, peak)
            known = rows.get(key)
            rows[key] = (min(known[0], example), known[1] + links, known[2]) if known else (example, links, size)
    uses = [
        LinkUse(cluster.link_name(example), kind, count, mean, peak, size)
        for (kind, mean, peak), (example, count, size) in rows.items()
    ]
    return tuple(sorted(uses, key=lambda use: (-use.mean, use.name)))
