"""Routes from accelerator to accelerator: through the node, the adapters and the fabric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cluster.cluster import Floats, Ints, Routes
from sim.cluster.fabric import Fabric
from sim.cluster.hops import Hops, chain, hop, to_routes
from sim.cluster.places import Places
from sim.cluster.servers import Servers


@dataclass(frozen=True)
class NodeRouter:
    """Routes over the local network inside a node, over adapters and fabric between nodes.

    Where rails are not joined, data moves inside the source node to the accelerator on the target's
    rail first, as NCCL's PXN does.
    """

    servers: Servers
    places: Places
    fabric: Fabric | None
    latency: Floats  # (n_links,) s

    def routes(self, source: Ints, target: Ints, key: Ints) -> Routes:
        """Paths from accelerator `source[i]` to accelerator `target[i]`; `key[i]` feeds the hash."""
        (here, i), (there, j) = self.places.split(source), self.places.split(target)
        outside = (here != there) | ((i != j) & ~self.servers.connected[here])
        if self.fabric is None or not outside.any():
            return to_routes(self.servers.hops(here, i, j), self.latency)
        relay = np.where(outside, self._relay(self.fabric, here, i, there, j), i)
        local = self.servers.hops(here, i, np.where(outside, relay, j))
        between = self._between(self.fabric, here, relay, there, j, key)
        return to_routes(chain([local, between.where(outside)]), self.latency)

    def gates(self, accelerator: Ints) -> Ints | None:
        """Number of the switch behind each accelerator from which ways to other nodes follow from the target alone."""
        if self.fabric is None:
            return np.zeros_like(accelerator)
        relayed = not self.fabric.rails_joined or not self.servers.all_joined
        found = None if relayed else self.fabric.gates(self._adapter(accelerator))
        return None if found is None else found[0]

    def links_to_gate(self, accelerator: Ints) -> Ints:
        """Links from each accelerator to that switch, (n, k), padded with -1."""
        here, i = self.places.split(accelerator)
        links = [self.servers.exits(here, i)]
        if self.fabric is not None and (found := self.fabric.gates(self._adapter(accelerator))) is not None:
            links.append(found[1])
        return np.concatenate([each.reshape(len(accelerator), -1) for each in links], axis=1)

    def _adapter(self, accelerator: Ints) -> Ints:
        return self.servers.adapter(*self.places.split(accelerator))

    def _relay(self, fabric: Fabric, here: Ints, i: Ints, there: Ints, j: Ints) -> Ints:
        """Accelerator of the source node that sends: one on the target's rail if rails are apart."""
        if fabric.rails_joined:
            return i
        rail = self.servers.rail(there, j)
        return np.where(self.servers.rail(here, i) == rail, i, self.servers.on_rail(here, rail, j))

    def _between(self, fabric: Fabric, here: Ints, i: Ints, there: Ints, j: Ints, key: Ints) -> Hops:
        servers = self.servers
        source, target = servers.adapter(here, i), servers.adapter(there, j)
        out, back = servers.exits(here, i), servers.entries(there, j)
        return chain([hop(out), fabric.hops(source, target, key), hop(back)])
