"""Tensor parallelism: collectives where a tensor enters and leaves the region of split axes."""

from __future__ import annotations

from sim.graph.ends import Lookup
from sim.graph.graph import Axis, Graph, Operator, Tensor
from sim.graph.operation import Shard
from sim.graph.products import Enter, Leave, Linear

# axes of rows that tensor ranks share outside products under sequence parallelism: the whole, and a rank's share
ROWS = {"tokens": "rows", "targets": "target rows", "masked": "masked rows"}
WHOLE = {share: whole for whole, share in ROWS.items()}


def split_over_tensor_ranks(graph: Graph, shard: Shard) -> None:
    """Put `Enter` before products of split columns, `Leave` after those of split inputs and split tables.

    Under sequence parallelism what lies outside is split along the rows; what has no split axis stays so by itself.
    """
    if shard.tensor == 1:
        return
    splits = shard.sequence_parallel
    if splits:
        _split_rows(graph)
    operators: list[Operator] = []
    for operator in graph.operators:
        if isinstance(operator, Linear) and graph.is_split(operator.columns[0]):
            operator.summed = True
            if splits:
                operators.append(_enter(operator))
        operators.append(operator)
        if (isinstance(operator, Linear) and graph.is_split(operator.inputs)) or (
            isinstance(operator, Lookup) and graph.is_split(operator.weights[0].axes[0])
        ):
            operators.append(_leave(operator))
    graph.operators = operators


def _split_rows(graph: Graph) -> None:
    """Rows of the tensors that have no split axis, the residual stream and its like, over tensor ranks."""
    for operator in graph.operators:
        for tensor in (*operator.reads, *operator.writes):
            rows = tensor.axes[0]
            if isinstance(rows, str) and rows in ROWS and len(tensor.axes) > 1 and not graph.is_split(tensor.axes[-1]):
                tensor.axes = (ROWS[rows], *tensor.axes[1:])


def _whole(axis: Axis) -> Axis:
    """The axis of all rows, of which `axis` may be a share."""
    return WHOLE.get(axis, axis) if isinstance(axis, str) else axis


def _enter(product: Linear) -> Enter:
    x = product.reads[0]
    whole = Tensor(f"{x.name} gathered", (_whole(x.axes[0]), *x.axes[1:]), x.width)
    product.enter = Enter(f"{product.name} gather", (x,), (whole,), product)
    product.reads = (whole,)
    return product.enter


def _leave(operator: Linear | Lookup) -> Leave:
    total = operator.result
    partial = Tensor(f"{total.name} partial", (_whole(total.axes[0]), *total.axes[1:]), total.width)
    operator.writes = (partial,)
    product = operator if isinstance(operator, Linear) else None
    operator.leave = Leave(f"{operator.name} reduce", (partial,), (total,), product)
    return operator.leave
