"""The placements by name; one more is a file beside these, entered here.

Public: `PLACEMENTS`.
"""

from __future__ import annotations

from sim.fleet.placements.best_fit import BestFit
from sim.fleet.placements.clustering import Clustering
from sim.fleet.placements.count import Count
from sim.fleet.placements.dot_product import DotProduct
from sim.fleet.placements.fgd import FragmentDescent
from sim.fleet.placements.opened_first import OpenedFirst
from sim.fleet.placements.pack import Pack
from sim.fleet.placements.placement import Placement
from sim.fleet.placements.random import ByLot
from sim.fleet.placements.random_node import RandomNode
from sim.fleet.placements.spread import SpreadOut
from sim.fleet.placements.topology import Topology

PLACEMENTS: dict[str, type[Placement]] = {
    "count": Count,
    "pack": Pack,
    "topology": Topology,
    "spread": SpreadOut,
    "random": ByLot,
    "best_fit": BestFit,
    "dot_product": DotProduct,
    "opened_first": OpenedFirst,
    "clustering": Clustering,
    "random_node": RandomNode,
    "fgd": FragmentDescent,
}
