"""Tensor-parallel matrix products with their collectives (Shoeybi 2019; Korthikanti 2022 section 4).

Columns: each rank owns output columns and needs every input row. Rows: each rank owns input
columns and holds a partial sum of the output. Under sequence parallelism the all-reduces become
a reduce-scatter and an all-gather, and the backward pass gathers the saved input once more.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.workload.extent import Extent
from sim.workload.kernels import (
    Operations,
    after,
    before,
    elementwise,
    matmul,
    tensor_collective,
    weight_gradient,
)
from sim.workload.lora import adapter_backward, adapter_forward
from sim.workload.operation import Operation


@dataclass(frozen=True, slots=True)
class Linear:
    """The weights of one linear layer on one rank: `inputs` rows by the sum of `widths` columns."""

    name: str
    inputs: int
    widths: tuple[int, ...]
    precision: str

    @property
    def target(self) -> str:
        """What adapters call it."""
        return self.name.replace(" ", "_").replace("-", "_")

    @property
    def outputs(self) -> int:
        """Columns of all matrices together."""
        return sum(self.widths)


def linear(extent: Extent, name: str, inputs: int, widths: tuple[int, ...]) -> Linear:
    """A layer's linear; fused kernels compute matrices that share an input as one product."""
    return Linear(name, inputs, (sum(widths),) if extent.fused else widths, extent.shard.precision)


def column_forward(extent: Extent, layer: Linear) -> Operations:
    """Gather the sequence (sequence parallelism only), then multiply."""
    gather = _if_split(extent, tensor_collective(extent, f"{layer.name} gather", "all_gather"))
    work = before(gather, products(extent, layer), extent.hides("forward"))
    return (*work, *adapter_forward(extent, layer.target))


def row_forward(extent: Extent, layer: Linear) -> Operations:
    """Multiply, then sum the partial outputs."""
    reduce = _sum_over_ranks(extent, f"{layer.name} reduce")
    work = after(products(extent, layer), reduce, extent.hides("forward"))
    return (*work, *adapter_forward(extent, layer.target))


def column_backward(extent: Extent, layer: Linear) -> Operations:
    """Input gradient beside the second gather, then weight gradient beside the sum over ranks."""
    hidden = extent.hides("backward")
    gather = _if_split(extent, tensor_collective(extent, f"{layer.name} gather again", "all_gather"))
    reduce = _sum_over_ranks(extent, f"{layer.name} gradient reduce")
    return (
        *before(gather, input_gradients(extent, layer), hidden),
        *adapter_backward(extent, layer.target),
        *before(reduce, weight_gradients(extent, layer), hidden),
    )


def row_backward(extent: Extent, layer: Linear) -> Operations:
    """Gather the output gradient (sequence parallelism only), then both gradients."""
    gather = _if_split(extent, tensor_collective(extent, f"{layer.name} gradient gather", "all_gather"))
    full = extent.shard.tensor_overlap == "full"
    return (
        *before(gather, input_gradients(extent, layer), full),
        *adapter_backward(extent, layer.target),
        *weight_gradients(extent, layer),
    )


def products(extent: Extent, layer: Linear) -> Operations:
    """The forward products (tokens x inputs) by (inputs x width)."""
    return (
        *cast(extent, layer, f"{layer.name} input", layer.inputs),
        *(_product(extent, layer, layer.name, width, layer.inputs) for width in layer.widths),
    )


def input_gradients(extent: Extent, layer: Linear) -> Operations:
    """The products (tokens x width) by (width x inputs), and the sum over the matrices."""
    more = len(layer.widths) - 1
    traffic = 3 * more * extent.element * extent.tokens * layer.inputs
    add = (elementwise(extent, f"{layer.name} gradient sum", traffic, more),) if more else ()
    name = f"{layer.name} input gradient"
    return (
        *cast(extent, layer, f"{layer.name} gradient", layer.outputs),
        *(_product(extent, layer, name, layer.inputs, width) for width in layer.widths),
        *add,
    )


def weight_gradients(extent: Extent, layer: Linear) -> Operations:
    """The products (width x tokens) by (tokens x inputs), accumulated; none for frozen matrices."""
    if extent.frozen:
        return ()
    return tuple(
        operation
        for width in layer.widths
        for operation in weight_gradient(extent, layer.name, (layer.inputs, width, extent.tokens), layer.precision)
    )


def cast(extent: Extent, layer: Linear, name: str, columns: int) -> Operations:
    """To fp8, plain and transposed: read 2 B and write 1 + 1 B in one kernel, or in two passes.

    Weight gradients need the transposed copy, so frozen matrices do without. Weights are cast once
    per step, with the optimizer.
    """
    if layer.precision != "fp8":
        return ()
    elements = extent.tokens * columns
    if extent.frozen:
        return (elementwise(extent, f"{name} cast", 3 * elements),)
    fused = extent.fused
    return (elementwise(extent, f"{name} cast", elements * (4 if fused else 5), 1 if fused else 2),)


def _product(extent: Extent, layer: Linear, name: str, n: int, k: int) -> Operation:
    return matmul(name, (extent.tokens, n, k), layer.precision, extent.element)


def _sum_over_ranks(extent: Extent, name: str) -> Operations:
    return tensor_collective(extent, name, "reduce_scatter" if extent.splits_sequence else "all_reduce")


def _if_split(extent: Extent, traffic: Operations) -> Operations:
    return traffic if extent.splits_sequence else ()
