"""Low-rank adapters beside the matrices that the training names; all else is frozen."""

from __future__ import annotations

from sim.graph.adapters import Adapter, Dequantization
from sim.graph.graph import Graph, Operator
from sim.graph.operation import Shard
from sim.graph.products import Enter, Leave, Linear


def adapt(graph: Graph, shard: Shard) -> None:
    """Put an adapter behind each product of a repeated piece that is a target, and behind the sum of its result."""
    lora = shard.lora
    if lora is None or not graph.repeated:
        return
    operators: list[Operator] = []
    for operator in graph.operators:
        if lora.base and isinstance(operator, Linear):
            before = len(operators) - bool(operators and isinstance(operators[-1], Enter))
            operators.insert(before, Dequantization(operator, lora.base))
        operators.append(operator)
        if isinstance(operator, Linear):
            target = operator.name.replace(" ", "_").replace("-", "_")
            if target in lora.targets:
                column = graph.is_split(operator.columns[0])
                operator.adapter = Adapter(target, operator, lora, column=column)
                if not operator.leave:
                    operators.append(operator.adapter)
        elif isinstance(operator, Leave) and operator.product and operator.product.adapter:
            operators.append(operator.product.adapter)
    graph.operators = operators
