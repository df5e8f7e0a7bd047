"""What every network between nodes has in common: where it attaches, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Floats, Ints, Links
from sim.cluster.hops import Hops
from sim.inputs.records import FabricLink, Routing


@dataclass(frozen=True, eq=False)
class FabricSite:
    """Where a fabric attaches to the nodes, and which numbers are free for it.

    Places are nodes, then storage servers. Adapters are numbered place by place; nodes of several kinds may have
    different numbers of them, with different rates.
    """

    place: Ints  # (n,) of each adapter
    rail: Ints  # (n,) number of each adapter in its place
    endpoint: Ints  # (n,) vertex of each adapter
    rate: Floats  # (n,) B/s payload of each adapter, per direction
    line_rate: Floats  # (n,) B/s of each adapter before its efficiency
    latency: Floats  # (n,) s from memory to wire, one way
    first_vertex: int
    first_link: int
    routing: Routing
    guests: int = 0  # places at the end that storage servers take

    @property
    def n(self) -> int:
        """Adapters of the cluster."""
        return len(self.endpoint)

    @cached_property  # (n,) maxima, read for each route
    def n_places(self) -> int:
        """Places, those of storage servers included."""
        return int(self.place[-1]) + 1

    @cached_property  # as above
    def rails(self) -> int:
        """Adapters of the place that has most."""
        return int(self.rail.max()) + 1

    @property
    def n_hosts(self) -> int:
        """Places that are nodes."""
        return self.n_places - self.guests

    def host_rate(self, links: Links) -> float:
        """What the adapters of all nodes send at most, by the fabric's links [B/s]."""
        return float(links.capacity[: np.searchsorted(self.place, self.n_hosts)].sum())

    @property
    def payload(self) -> float:
        """Share of the line rate of all adapters that is payload."""
        return (
            float(self.rate[0] / self.line_rate[0]) if self.is_even else float(self.rate.sum() / self.line_rate.sum())
        )

    @cached_property  # (n,) comparisons
    def is_even(self) -> bool:
        """Whether every place has as many adapters, with the same rates."""
        alike = all(bool((each == each[0]).all()) for each in (self.rate, self.line_rate, self.latency))
        return alike and self.n == self.n_places * self.rails

    def attached_rate(self, cable: FabricLink | None) -> float:
        """Line rate of the switch ports that the adapters are plugged into [B/s]."""
        rate = np.minimum(self.line_rate, cable.bandwidth) if cable else self.line_rate
        return self.n * float(rate[0]) if self.is_even else float(rate.sum())


class Fabric(Protocol):
    """The network between nodes, from adapter to adapter (numbered node by node)."""

    @property
    def blocks(self) -> tuple[VertexBlock, ...]:
        """Name blocks of its switches, in vertex order."""

    @property
    def links(self) -> Links:
        """Its links, the first of which has the number the site gave."""

    @property
    def rails_joined(self) -> bool:
        """Whether adapters on different rails reach one another."""

    def hops(self, source: Ints, target: Ints, key: Ints) -> Hops:
        """Paths from adapter source[i] to adapter target[i]; key[i] feeds the hash."""

    def gates(self, adapter: Ints) -> tuple[Ints, Ints] | None:
        """Switch (or node) behind each adapter, from which ways follow from the target alone, and the link to it.

        The link is -1 where there is none. None where ways follow from the source too.
        """

    def bisection(self) -> float:
        """Payload rate between two equal halves of the nodes, one direction [B/s]; nan where not known."""

    def port_rate(self, radix: int) -> float:
        """Line rate of all switch ports that a network for these nodes needs, per direction [B/s].

        What is drawn may be more: a network that was designed for a larger cluster keeps its switches and paths.
        radix: ports of one switch.
        """


def adapter_links(site: FabricSite, switch: Ints, cable: FabricLink | None) -> Links:
    """Adapter to switch[p] for all adapters p, then back: links p and n + p of the fabric.

    The rate is the adapter's, or the cable's if that is less. The way up pays the hop into the switch.
    """
    rate = np.minimum(site.rate, cable.bandwidth * cable.efficiency) if cable else site.rate
    hop_latency = cable.latency if cable else 0.0
    return Links(
        np.concatenate([rate, rate]),
        np.concatenate([site.latency + hop_latency, site.latency]),
        np.concatenate([site.endpoint, switch]),
        np.concatenate([switch, site.endpoint]),
    )
