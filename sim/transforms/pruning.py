"""Structured pruning: feed-forward blocks with fewer inner columns."""

from __future__ import annotations

from sim.graph.graph import Graph
from sim.graph.operation import Shard

INNER = ("ffn", "shared ffn", "expert ffn")  # axes of the columns between the matrices of a block


def drop_columns(graph: Graph, shard: Shard) -> None:
    """Make the inner axes of a layer shorter; products, traffic, weights and activations follow from them."""
    if not shard.pruned or not graph.repeated:
        return
    left = {axis: max(1, round(graph.sizes[axis] * (1 - shard.pruned))) for axis in INNER if axis in graph.sizes}
    graph.sizes = {**graph.sizes, **left}
