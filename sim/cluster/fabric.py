"""What every network between nodes has in common: where it attaches, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Ints, Links
from sim.cluster.hops import Hops, uniform_links
from sim.inputs.records import FabricLink, Routing


@dataclass(frozen=True)
class FabricSite:
    """Where a fabric attaches to the nodes, and which numbers are free for it."""

    n_nodes: int  # places, those of storage servers included
    adapters: int  # per place: the number of rails
    endpoint: Ints  # (n_nodes*adapters,) vertex of each adapter, place by place
    rate: float  # B/s payload of one adapter, per direction
    line_rate: float  # B/s of one adapter before its efficiency
    latency: float  # s from memory to wire, one way
    first_vertex: int
    first_link: int
    routing: Routing
    guests: int = 0  # places at the end that storage servers take

    @property
    def n(self) -> int:
        """Adapters of the cluster."""
        return len(self.endpoint)

    @property
    def n_hosts(self) -> int:
        """Places that are nodes."""
        return self.n_nodes - self.guests

    def attached_rate(self, cable: FabricLink | None) -> float:
        """Line rate of the switch ports that the adapters are plugged into [B/s]."""
        return self.n * (min(self.line_rate, cable.bandwidth) if cable else self.line_rate)


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
    rate = min(site.rate, cable.bandwidth * cable.efficiency) if cable else site.rate
    hop_latency = cable.latency if cable else 0.0
    up = uniform_links(site.endpoint, switch, rate, site.latency + hop_latency)
    down = uniform_links(switch, site.endpoint, rate, site.latency)
    return Links(
        np.concatenate([up.capacity, down.capacity]),
        np.concatenate([up.latency, down.latency]),
        np.concatenate([up.source, down.source]),
        np.concatenate([up.target, down.target]),
    )
