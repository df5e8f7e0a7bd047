"""Routes from accelerator to accelerator: through the node, the adapters and the fabric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cluster.cluster import Floats, Ints, Routes
from sim.cluster.fabric import Fabric
from sim.cluster.hops import Hops, chain, hop, to_routes
from sim.cluster.places import Places
from sim.cluster.server import Server


@dataclass(frozen=True)
class NodeRouter:
    """Routes over the local network inside a node, over adapters and fabric between nodes.

    Where rails are not joined, data moves inside the source node to the accelerator on the target's
    rail first, as NCCL's PXN does.
    """

    server: Server
    places: Places
    fabric: Fabric | None
    latency: Floats  # (n_links,) s

    def routes(self, source: Ints, target: Ints, key: Ints) -> Routes:
        """Paths from accelerator `source[i]` to accelerator `target[i]`; `key[i]` feeds the hash."""
        (here, i), (there, j) = self.places.split(source), self.places.split(target)
        outside = (here != there) | ((i != j) & (not self.server.connected))
        if self.fabric is None or not outside.any():
            return to_routes(self.server.hops(here, i, j), self.latency)
        relay = self._relay(self.fabric, i, j)
        local = self.server.hops(here, i, np.where(outside, relay, j))
        between = self._between(self.fabric, here, relay, there, j, key)
        return to_routes(chain([local, between.where(outside)]), self.latency)

    def gates(self, accelerator: Ints) -> Ints | None:
        """Number of the switch behind each accelerator from which ways to other nodes follow from the target alone."""
        if self.fabric is None:
            return np.zeros_like(accelerator)
        relayed = not self.fabric.rails_joined or not (self.server.connected or self.server.n_accelerators == 1)
        found = None if relayed else self.fabric.gates(self._adapter(accelerator))
        return None if found is None else found[0]

    def links_to_gate(self, accelerator: Ints) -> Ints:
        """Links from each accelerator to that switch, (n, k), padded with -1."""
        here, i = self.places.split(accelerator)
        links = [self.server.attached(here, self.server.exit[i])]
        if self.fabric is not None and (found := self.fabric.gates(self._adapter(accelerator))) is not None:
            links.append(found[1])
        return np.concatenate([each.reshape(len(accelerator), -1) for each in links], axis=1)

    def _adapter(self, accelerator: Ints) -> Ints:
        here, i = self.places.split(accelerator)
        return here * self.server.n_adapters + self.server.adapter[i]

    def _relay(self, fabric: Fabric, i: Ints, j: Ints) -> Ints:
        """Accelerator of the source node that sends: the one with the target's place if rails are apart."""
        adapter = self.server.adapter
        return i if fabric.rails_joined else np.where(adapter[i] == adapter[j], i, j)

    def _between(self, fabric: Fabric, here: Ints, i: Ints, there: Ints, j: Ints, key: Ints) -> Hops:
        server = self.server
        source = here * server.n_adapters + server.adapter[i]
        target = there * server.n_adapters + server.adapter[j]
        out, back = server.attached(here, server.exit[i]), server.attached(there, server.entry[j])
        return chain([hop(out), fabric.hops(source, target, key), hop(back)])
