"""Rate over size, as measured on cubes, for products of any shape."""

from __future__ import annotations

from math import log

from sim.graph.operation import Operation

Curve = tuple[tuple[int, float], ...]  # edge of a cube, share of the sustained rate


def edge(m: float, n: float, k: float) -> float:
    """Edge of the cube with as many FLOPs: filling and draining are paid once, and memory traffic is counted beside."""
    return float((m * n * k) ** (1 / 3))


def share_of_size(curve: Curve, operation: Operation) -> float:
    """Share of the sustained rate that a product of this shape reaches; a batch runs product by product.

    Linear in the logarithm of the edge between points; below the first in proportion to the edge, as where starting
    and filling takes all of the time; 1 without a curve.
    """
    if not curve:
        return 1.0
    size = edge(operation.m / operation.parts, operation.n, operation.k)
    (below, share), *_ = curve
    if size <= below:
        return share * size / below
    for at, reached in curve[1:]:
        if size <= at:
            return share + (reached - share) * log(size / below) / log(at / below)
        below, share = at, reached
    return share
