"""Autocast: weights, norms and the residual stream stay in 32 bit, products run in 16 bit (PyTorch, torch.amp)."""

from __future__ import annotations

from sim.graph.ends import WIDE, Lookup
from sim.graph.graph import Graph
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import Dropout, Positions, ResidualSum


def widen_the_stream(graph: Graph, shard: Shard) -> None:
    """Give what norms, residual sums and the embedding make 4 B per element; products cast what they read.

    Autocast runs layer norms in 32 bit, which a stream of tokens that begins in 32 bit then has; what convolutions and
    recurrent layers hand on is in 16.
    """
    streams = "tokens" in graph.sizes and any(isinstance(each, Norm | Lookup) for each in graph.operators)
    if not (shard.autocast and streams):
        return
    if graph.source.role == "activation":
        graph.source.width = WIDE
    for operator in graph.operators:
        if isinstance(operator, Norm | ResidualSum | Lookup | Positions) or (
            isinstance(operator, Dropout) and not operator.region
        ):
            operator.result.width = WIDE
