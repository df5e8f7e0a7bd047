"""Products in formats of 8 bit and less: where their operands are cast."""

from __future__ import annotations

from sim.graph.experts import GroupedLinear
from sim.graph.graph import Graph, Operator, Tensor
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.products import Cast, Enter, Linear, WeightCast
from sim.record import NARROW


def cast_operands(graph: Graph, shard: Shard) -> None:
    """Put a cast before each product that is not `wide`, and before its gather, which then carries 1 B."""
    if shard.precision not in NARROW:
        return
    makers = {id(tensor): each for each in graph.operators for tensor in each.writes}
    operators: list[Operator] = []
    for operator in graph.operators:
        if isinstance(operator, GroupedLinear):
            operator.cast = True
        if isinstance(operator, Enter) and operator.product and not operator.product.wide:
            cast = _cast(operator.product, makers, shard.precision)
            whole = operator.result
            operator.writes = (whole, Tensor(f"{whole.name} in 16 bit", whole.axes, whole.width))  # for who keeps that
            whole.width = 1
            operator.reads = (cast.result,)
            operators += [cast, WeightCast(operator.product)]
        elif isinstance(operator, Linear) and not operator.wide and not operator.enter:
            cast = _cast(operator, makers, shard.precision)
            operator.reads = (cast.result,)
            operators += [cast, WeightCast(operator)]
        operators.append(operator)
    graph.operators = operators


def _cast(product: Linear, makers: dict[int, Operator], precision: str) -> Cast:
    source = product.enter.reads[0] if product.enter else product.reads[0]
    product.cast = Cast(product, source, precision, normed=isinstance(makers.get(id(source)), Norm))
    return product.cast
