"""What a cluster draws besides its accelerators: nodes, supplies, network, storage, cooling.

Supplies lose a share that depends on their mean load over the time that is looked at, so every part is
proportional to time, and the parts of a span sum to its energy exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.cluster.cluster import Cluster
from sim.inputs.energy import OPTICS_PER_RATE, SWITCH_PER_RATE, NodePower, Site, Supply

Watts = dict[str, float]  # by part
NODE_PARTS = ("host", "memory", "nics", "switches", "fans")
PARTS = ("accelerators", *NODE_PARTS, "supplies", "network", "storage", "cooling")


@dataclass(frozen=True)
class Plant:
    """A cluster and the site it stands on; without a site nothing is spent on cooling.

    crew: nodes of each kind that have the job; all of the cluster if absent. Where there are several kinds, some nodes
    with a job are as those of the crew on average, and some without as the others.
    """

    cluster: Cluster
    site: Site | None
    crew: tuple[int, ...] = ()

    @property
    def node(self) -> NodePower:
        """Power of a server without its accelerators; where there are several kinds, of the first."""
        return self.cluster.node.power

    def draw(self, accelerators: float, busy: int, idle: int) -> Watts:
        """Power by part [W], PARTS; `accelerators`: what those of the `busy` nodes draw, all together.

        busy: nodes with a job, idle: powered nodes without. Nodes that are down draw nothing.
        """
        unused = self.unused(idle)
        at_rest, at_work = self._servers
        parts = {name: busy * at_work[name] + idle * at_rest[name] for name in NODE_PARTS}
        working = accelerators + busy * self.base(True)
        resting = unused + idle * self.base(False)
        loss = sum(
            watts * (1 / self.efficiency(watts / nodes, busy=works) - 1)
            for watts, nodes, works in ((working, busy, True), (resting, idle, False))
            if nodes
        )
        drawn = {"accelerators": accelerators + unused, **parts, "supplies": loss}
        drawn |= {"network": self.network, "storage": self.storage}
        return drawn | {"cooling": self.cooling(sum(drawn.values()))}

    def unused(self, nodes: int) -> float:
        """Accelerators of nodes without a job [W]."""
        kinds = zip(self.cluster.kinds, self._shares(busy=False), strict=True)
        return nodes * sum(share * kind.node.accelerators * kind.accelerator.power.idle for kind, share in kinds)

    def base(self, busy: bool, kind: int | None = None) -> float:
        """Power of one node without accelerators, behind its supplies; of a kind or on average [W]."""
        return sum((self._servers if kind is None else self._draws(kind))[busy].values())

    def efficiency(self, output: float, *, busy: bool = True) -> float:
        """Output over input of the supplies of nodes with or without a job that give `output` each [W]."""
        each = zip(self.cluster.kinds, self._shares(busy=busy), strict=True)
        return 1 / sum(share / efficiency(kind.node.power.supply, output) for kind, share in each if share)

    def _shares(self, *, busy: bool) -> list[float]:
        """Shares of the kinds among nodes with, or without, a job."""
        every = [kind.nodes for kind in self.cluster.kinds]
        crew = self.crew or every
        counts = crew if busy else [n - mine for n, mine in zip(every, crew, strict=True)]
        counts = counts if sum(counts) else crew
        return [n / sum(counts) for n in counts]

    @property
    def _servers(self) -> tuple[Watts, Watts]:
        """Power by part of one node without accelerators on average [W], idle and busy."""
        draws = [self._draws(kind) for kind in range(len(self.cluster.kinds))]
        rest, work = (
            {
                name: sum(share * each[busy][name] for each, share in zip(draws, self._shares(busy=busy), strict=True))
                for name in NODE_PARTS
            }
            for busy in (False, True)
        )
        return rest, work

    def _draws(self, kind: int) -> tuple[Watts, Watts]:
        """The same of nodes of a kind."""
        draws = {name: getattr(self.cluster.kinds[kind].node.power, name) for name in NODE_PARTS}
        return {name: draw.idle for name, draw in draws.items()}, {name: draw.busy for name, draw in draws.items()}

    def cooling(self, it: float) -> float:
        """Cooling and losses of the building when the cluster draws `it` [W]."""
        if self.site is None:
            return 0.0
        fixed = self.site.fixed_overhead
        return (self.site.pue - 1) * ((1 - fixed) * it + fixed * self.rated)

    @cached_property  # a walk over the links of the cluster, for each span of a life
    def network(self) -> float:
        """Switches by the ports that the nodes need [W]."""
        return network_power(self.cluster)

    @property
    def storage(self) -> float:
        """Storage systems [W]."""
        return self.cluster.n_nodes * self.cluster.spec.power.storage

    @property
    def rated(self) -> float:
        """What the cluster draws with every board at its limit [W]."""
        nodes = 0.0
        for number, kind in enumerate(self.cluster.kinds):
            node = kind.node.accelerators * kind.accelerator.power.tdp + self.base(True, number)
            nodes += kind.nodes * node / efficiency(kind.node.power.supply, node)
        return nodes + self.network + self.storage


def efficiency(supply: Supply, output: float) -> float:
    """Output over input of the supplies of a node that give `output` [W]."""
    if supply.rated is None:
        return supply.at_50
    points = supply.at_10, supply.at_20, supply.at_50, supply.at_100
    return float(np.interp(output / supply.rated, (0.1, 0.2, 0.5, 1.0), points))


def network_power(cluster: Cluster) -> float:
    """Power of the switches between nodes [W]: ports with their transceivers, as many as the nodes need.

    A link of several times the rate of an adapter stands for as many cables; adapters bring their own transceivers.
    """
    power, fabric = cluster.spec.power, cluster.fabric
    rate = fabric.port_rate(power.switch_ports) if fabric else 0.0
    if rate == 0:
        return 0.0
    lane = adapter_rate(cluster)
    switch = SWITCH_PER_RATE * rate if power.switch is None else power.switch / power.switch_ports * rate / lane
    return switch + (OPTICS_PER_RATE * rate if power.optics is None else power.optics * rate / lane)


def adapter_rate(cluster: Cluster) -> float:
    """Line rate of an adapter, on average where nodes differ [B/s]."""
    first = cluster.node.nics.bandwidth
    if all(kind.node.nics.bandwidth == first for kind in cluster.kinds):
        return first
    counts = [kind.nodes * kind.node.nics.count for kind in cluster.kinds]
    rates = (n * kind.node.nics.bandwidth for n, kind in zip(counts, cluster.kinds, strict=True))
    return sum(rates) / sum(counts)
