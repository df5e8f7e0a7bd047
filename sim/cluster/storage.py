"""Storage servers as vertices and links of the cluster, and the ways between them and the nodes.

A server is a port and the drives behind it: the link from the port to the drives writes, the one back
reads. With a storage network of their own, nodes and ports meet at one switch that never blocks; on the
compute network a port has adapters, as a node has, and takes a node's place in the fabric. Local drives
stand behind the host of their node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Ints, Links
from sim.cluster.fabric import Fabric
from sim.cluster.hops import Hops, chain, hop, join_links, uniform_links
from sim.cluster.places import Places
from sim.cluster.servers import Servers
from sim.inputs.storage import Storage


@dataclass(frozen=True)
class StorageSystem:
    """The servers of a cluster and the paths to those that work.

    Links: on a network of its own node to switch, switch to node, switch to port, port to switch; then,
    for every kind, port to drives (write) and drives to port (read).
    """

    spec: Storage
    places: Places
    servers: Servers
    fabric: Fabric | None
    blocks: tuple[VertexBlock, ...]
    links: Links
    first_link: int

    @property
    def n_nodes(self) -> int:
        """Nodes that it serves."""
        return self.places.n_nodes

    @property
    def n_working(self) -> int:
        """Servers that files can lie on."""
        return self.spec.servers - self.spec.failed_servers

    @property
    def is_local(self) -> bool:
        """Whether every node has drives of its own."""
        return self.spec.kind == "local_nvme"

    @property
    def has_own_network(self) -> bool:
        """Whether nodes reach it beside the compute network."""
        return not self.is_local and self.spec.network.kind == "own"

    @property
    def capacity(self) -> float | None:
        """Bytes that fit on the working servers (of all nodes, if local), copies counted; None: no limit."""
        if self.spec.capacity is None:
            return None
        nodes = self.n_nodes if self.is_local else 1
        return self.spec.capacity * nodes * self.n_working / self.spec.servers

    def write_hops(self, accelerator: Ints, server: Ints, key: Ints) -> Hops:
        """From the host of each accelerator to its server, and on to the servers that hold copies."""
        parts = [self._there(accelerator, server, key), hop(self._drives(accelerator, server, 0))]
        for _ in range(self.spec.replication - 1):
            onward = (server + 1) % self.n_working
            parts += [self._across(accelerator, server, onward, key), hop(self._drives(accelerator, onward, 0))]
            server = onward
        return chain(parts)

    def read_hops(self, accelerator: Ints, server: Ints, key: Ints) -> Hops:
        """From a server to the host of each accelerator."""
        return chain([hop(self._drives(accelerator, server, 1)), self._back(accelerator, server, key)])

    def drive_hops(self, accelerator: Ints, *, back: bool) -> Hops:
        """From the memory of the host of each accelerator to the drives of its node, or back."""
        return hop(self._drives(accelerator, accelerator, int(back)))

    def _drives(self, accelerator: Ints, server: Ints, back: int) -> Ints:
        number, n = (self._node(accelerator), self.n_nodes) if self.is_local else (server, self.spec.servers)
        own = 2 * (self.n_nodes + n) if self.has_own_network else 0
        return self.first_link + own + back * n + number

    def _there(self, accelerator: Ints, server: Ints, key: Ints) -> Hops:
        if self.is_local:
            return _nowhere(accelerator)
        if self.has_own_network:
            return chain([hop(self.first_link + self._node(accelerator)), hop(self._port(server, 0))])
        return self._over_fabric(self._adapter(accelerator), self._rail(accelerator, server), key)

    def _back(self, accelerator: Ints, server: Ints, key: Ints) -> Hops:
        if self.is_local:
            return _nowhere(accelerator)
        if self.has_own_network:
            down = self.first_link + self.n_nodes + self._node(accelerator)
            return chain([hop(self._port(server, 1)), hop(down)])
        return self._over_fabric(self._rail(accelerator, server), self._adapter(accelerator), key)

    def _across(self, accelerator: Ints, server: Ints, onward: Ints, key: Ints) -> Hops:
        if self.has_own_network:
            return chain([hop(self._port(server, 1)), hop(self._port(onward, 0))])
        return self._over_fabric(self._rail(accelerator, server), self._rail(accelerator, onward), key)

    def _port(self, server: Ints, back: int) -> Ints:
        return self.first_link + 2 * self.n_nodes + back * self.spec.servers + server

    def _node(self, accelerator: Ints) -> Ints:
        return self.places.node_of(accelerator)

    def _adapter(self, accelerator: Ints) -> Ints:
        return self.servers.adapter(*self.places.split(accelerator))

    def _rail(self, accelerator: Ints, server: Ints) -> Ints:
        """The server's adapter on the rail of each accelerator."""
        adapters = self.servers.kinds[0].n_adapters
        rail = self.servers.rail(*self.places.split(accelerator)) % adapters
        number: Ints = self.servers.first_adapter[-1] + server * adapters + rail
        return number

    def _over_fabric(self, source: Ints, target: Ints, key: Ints) -> Hops:
        if self.fabric is None:
            raise ValueError("a storage system on the compute network needs a fabric")
        return self.fabric.hops(source, target, key)


def _nowhere(accelerator: Ints) -> Hops:
    return hop(np.full(len(accelerator), -1))


def guests(spec: Storage | None) -> int:
    """Places in the fabric that storage servers take."""
    on_fabric = spec is not None and spec.kind != "local_nvme" and spec.network.kind == "compute"
    return spec.servers if spec is not None and on_fabric else 0


def pooled(spec: Storage) -> Storage:
    """A system with its servers drawn as one, where every file is spread evenly over all that work.

    They carry the same load at any time, so one with their summed rates is exactly as good.
    """
    if spec.stripe is not None or guests(spec):
        return spec
    share = (spec.servers - spec.failed_servers) / spec.servers
    network = spec.network
    if network.server_bandwidth is not None:
        working = network.server_bandwidth * (spec.servers - spec.failed_servers)
        network = network.model_copy(update={"server_bandwidth": working})
    return spec.model_copy(
        update={
            "servers": 1,
            "failed_servers": 0,
            "capacity": None if spec.capacity is None else spec.capacity * share,
            "read_bandwidth": spec.read_bandwidth * share,
            "write_bandwidth": spec.write_bandwidth * share,
            "network": network,
        }
    )


def build_storage(
    spec: Storage, places: Places, servers: Servers, fabric: Fabric | None, first_vertex: int, first_link: int
) -> StorageSystem:
    """Draw the servers of `spec` beside the nodes; `first_vertex` and `first_link` are the free numbers."""
    if spec.kind == "local_nvme":
        blocks, links = _local(spec, places.n_nodes, first_vertex)
    elif spec.network.kind == "compute":
        blocks, links = _servers(spec, first_vertex)
    else:
        blocks, links = _with_network(spec, places.n_nodes, first_vertex)
    return StorageSystem(spec, places, servers, fabric, tuple(blocks), links, first_link)


def _local(spec: Storage, n_nodes: int, first: int) -> tuple[list[VertexBlock], Links]:
    host = VertexBlock("host", "node{}/host", first, (n_nodes,))
    drives = VertexBlock("nvme", "node{}/nvme", host.end, (n_nodes,))
    return [host, drives], _drive_links(spec, host, drives, (spec.servers - spec.failed_servers) / spec.servers)


def _servers(spec: Storage, first: int) -> tuple[list[VertexBlock], Links]:
    ports = VertexBlock("storage-port", "storage{}/port", first, (spec.servers,))
    drives = VertexBlock("storage", "storage{}", ports.end, (spec.servers,))
    return [ports, drives], _drive_links(spec, ports, drives, 1 / spec.servers)


def _with_network(spec: Storage, n_nodes: int, first: int) -> tuple[list[VertexBlock], Links]:
    host = VertexBlock("host", "node{}/host", first, (n_nodes,))
    switch = VertexBlock("storage-switch", "storage-switch", host.end, ())
    (ports, drives), ends = _servers(spec, switch.end)
    unlimited = spec.replication * max(spec.read_bandwidth, spec.write_bandwidth)
    node_rate, port_rate = spec.network.node_bandwidth or unlimited, spec.network.server_bandwidth or unlimited
    nodes, servers, centre = _numbers(host), _numbers(ports), np.array([switch.first])
    links = [
        uniform_links(nodes, centre, node_rate, spec.network.latency),
        uniform_links(centre, nodes, node_rate, 0.0),
        uniform_links(centre, servers, port_rate, 0.0),
        uniform_links(servers, centre, port_rate, spec.network.latency),
    ]
    return [host, switch, ports, drives], join_links([*links, ends])


def _drive_links(spec: Storage, ports: VertexBlock, drives: VertexBlock, share: float) -> Links:
    """Port to drives, then back; each has `share` of the rates of the system."""
    near, far = _numbers(ports), _numbers(drives)
    write = uniform_links(near, far, spec.write_bandwidth * share, 0.0)
    return join_links([write, uniform_links(far, near, spec.read_bandwidth * share, 0.0)])


def _numbers(block: VertexBlock) -> Ints:
    return np.arange(block.first, block.end)
