"""Over which ranks the gradient of a weight is summed, read off the axes of its tensors.

A gradient sums over what the weight was contracted with. So it is summed over each axis of the mesh that splits what
was contracted, and that does not split the weight: over all replicas of a dense weight, over those of its expert for
one of an expert, and over tensor ranks too for a norm whose rows they split.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sim.errors import EngineError
from sim.graph.experts import GroupedLinear
from sim.graph.graph import Axis, Graph, Operator, Tensor
from sim.graph.products import Linear

MeshAxis = Literal["data", "context", "tensor", "expert_data", "expert", "expert_tensor"]
GradientGroup = Literal["gradient", "expert_gradient"]
MESH: tuple[MeshAxis, ...] = ("context", "data", "tensor", "expert_data", "expert", "expert_tensor")
GROUPS: dict[GradientGroup, tuple[MeshAxis, ...]] = {  # axes of each group that exchanges gradients, fastest first
    "gradient": ("context", "data"),
    "expert_gradient": ("expert_data",),
}
SPLIT_OVER: dict[str, tuple[MeshAxis, ...]] = {  # axes of tensors that are split whatever the family
    "samples": ("data",),
    "batch": ("data",),
    "tokens": ("data", "context"),
    "rows": ("data", "context", "tensor"),
    "dispatched": ("expert_data", "expert"),  # rows that experts got from all ranks
    "experts": ("expert",),
    "expert ffn": ("expert_tensor",),
}


def gradient_axes(graph: Graph, weight: Tensor) -> tuple[MeshAxis, ...]:
    """Axes of the mesh that the gradient of `weight`, of a transformed graph, is summed over.

    Key heads that ranks hold copies of, since there are fewer than ranks, are not seen here.
    """
    held = _mesh(graph, weight.axes)
    contracted: set[MeshAxis] = set()
    for operator in graph.operators:
        if any(each is weight for each in operator.weights):
            contracted |= _mesh(graph, (axis for axis in _met(operator, weight) if axis not in weight.axes))
    return tuple(axis for axis in MESH if axis in contracted - held)


def gradient_group(graph: Graph, weight: Tensor) -> GradientGroup:
    """The group that exchanges the gradient of `weight`; sums over tensor ranks alone are small, and left out.

    Raises EngineError where no group spans the axes.
    """
    axes = set(gradient_axes(graph, weight)) - {"tensor"}
    found = next((name for name, spanned in GROUPS.items() if axes <= set(spanned)), None)
    if found is None:
        raise EngineError(f"no group sums {weight.name} over {', '.join(sorted(axes))}")
    return found


def _met(operator: Operator, weight: Tensor) -> tuple[Axis, ...]:
    """Axes of what the weight is multiplied with, or added to: a bias to the rows of a result, summed if that is."""
    x = operator.reads[0]
    if isinstance(operator, Linear | GroupedLinear) and operator.inputs not in weight.axes:
        summed = operator.leave.result if isinstance(operator, Linear) and operator.leave else x
        return summed.axes[:-1]
    return x.axes


def _mesh(graph: Graph, axes: Iterable[Axis]) -> set[MeshAxis]:
    found: set[MeshAxis] = set()
    for axis in axes:
        found.update(SPLIT_OVER.get(axis, ()) if isinstance(axis, str) else ())
        found.update(("tensor",) if graph.is_split(axis) else ())
    return found
