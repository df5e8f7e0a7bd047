"""What a cluster is made of, by name: nodes, accelerators, adapters, switches and links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sim.cluster.cluster import Cluster, Ints
from sim.cluster.export import summary
from sim.report import human
from sim.report.oneline import one_line
from sim.units import DATA_RATE, TIME, format_quantity

SHOWN = 2  # names of a group unless all are wanted


@dataclass(frozen=True)
class PartGroup:
    """Parts of one kind: how many there are, and the names of the first of them."""

    part: str  # "node", "vertex" or "link"
    kind: str
    count: int
    names: tuple[str, ...]
    capacity_bytes_per_s: tuple[float, float] | None = None  # least and largest, of links
    latency_s: tuple[float, float] | None = None  # least and largest, of links


@dataclass(frozen=True)
class Listing:
    """The parts of a cluster."""

    name: str
    summary: str
    groups: tuple[PartGroup, ...]

    def to_json(self) -> dict[str, Any]:
        """The listing as plain data."""
        return asdict(self)


def list_parts(cluster: Cluster, everything: bool = False) -> Listing:
    """The parts of a cluster; the names of all parts if `everything`, else of the first few of each kind."""
    limit = None if everything else SHOWN
    groups = (_nodes(cluster, limit), *_vertices(cluster, limit), *_links(cluster, limit))
    return Listing(cluster.spec.name, f"{one_line(cluster.spec)}{_totals(cluster)}", groups)


def _totals(cluster: Cluster) -> str:
    facts = summary(cluster)
    text = f"; {human.count(facts['accelerators'])} x {facts['accelerator']}"
    bisection = facts["bisection"]
    return text if bisection is None else f"{text}, bisection {format_quantity(bisection, DATA_RATE)}"


def listing_lines(listing: Listing) -> Iterator[str]:
    """The listing as text: a line for each kind, then one for each name."""
    yield f"{listing.name}: {listing.summary}"
    for group in listing.groups:
        yield ""
        yield f"{human.count(group.count)} x {_title(group)}"
        yield from (f"  {name}" for name in group.names)
        hidden = group.count - len(group.names)
        if hidden:
            yield f"  and {human.count(hidden)} more (--all)"


def _title(group: PartGroup) -> str:
    if group.capacity_bytes_per_s is None or group.latency_s is None:
        return group.kind
    rates = _spread(group.capacity_bytes_per_s, lambda rate: format_quantity(rate, DATA_RATE))
    delays = _spread(group.latency_s, lambda delay: format_quantity(delay, TIME))
    return f"{group.kind} link of {rates}, {delays}"


def _spread(bounds: tuple[float, float], show: Callable[[float], str]) -> str:
    least, largest = (show(bound) for bound in bounds)
    return least if least == largest else f"{least} to {largest}"


def _nodes(cluster: Cluster, limit: int | None) -> PartGroup:
    first = cluster.places.first[:-1][:limit].tolist()
    names = tuple(cluster.vertex_name(accelerator).rpartition("/")[0] for accelerator in first)
    return PartGroup("node", "node", cluster.n_nodes, names)


def _vertices(cluster: Cluster, limit: int | None) -> Iterator[PartGroup]:
    for block in cluster.blocks:
        if block.n:
            shown = range(block.first, block.end)[:limit]
            yield PartGroup("vertex", block.kind, block.n, tuple(block.name(vertex) for vertex in shown))


def _links(cluster: Cluster, limit: int | None) -> Iterator[PartGroup]:
    links = cluster.links
    for members in _by_kind(cluster):
        capacity, latency = links.capacity[members], links.latency[members]
        yield PartGroup(
            "link",
            cluster.link_kind(int(members[0])),
            len(members),
            tuple(cluster.link_name(int(link)) for link in members[:limit]),
            (float(capacity.min()), float(capacity.max())),
            (float(latency.min()), float(latency.max())),
        )


def _by_kind(cluster: Cluster) -> Sequence[Ints]:
    """Links grouped by the kinds of their ends, each group in link order."""
    first = np.array([block.first for block in cluster.blocks])
    kinds = [block.kind for block in cluster.blocks]
    number = np.array([kinds.index(kind) for kind in kinds])
    ends = (
        number[np.searchsorted(first, vertex, side="right") - 1]
        for vertex in (cluster.links.source, cluster.links.target)
    )
    source, target = ends
    _, group = np.unique(source * len(kinds) + target, return_inverse=True)
    return [np.flatnonzero(group == each) for each in range(int(group.max()) + 1)] if len(group) else []
