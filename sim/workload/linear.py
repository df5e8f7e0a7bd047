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
    arriving,
    before,
    collective,
    elementwise,
    leaving,
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
    gather = _gather(extent, layer, f"{layer.name} gather")
    work = arriving(extent, gather, products(extent, layer), extent.hides("forward"))
    return (*work, *adapter_forward(extent, layer.target))


def row_forward(extent: Extent, layer: Linear) -> Operations:
    """Multiply, then sum the partial outputs."""
    reduce = _sum_over_ranks(extent, f"{layer.name} reduce")
    cast = _cast(extent, layer, f"{layer.name} input", extent.tokens * layer.inputs, transposed=True)
    work = leaving(products(extent, layer), reduce, extent.hides("forward"))
    return (*cast, *work, *_partial_sum(extent, reduce), *adapter_forward(extent, layer.target))


def column_backward(extent: Extent, layer: Linear) -> Operations:
    """Input gradient beside the second gather, then weight gradient beside the sum over ranks."""
    hidden = extent.hides("backward")
    unused = extent.frozen and not extent.adapts(layer.target)
    gather = () if unused else _gather(extent, layer, f"{layer.name} gather again")
    reduce = _sum_over_ranks(extent, f"{layer.name} gradient reduce")
    cast = _cast(extent, layer, f"{layer.name} gradient", extent.tokens * layer.outputs, transposed=True)
    transposed = _transpose(extent, layer, f"{layer.name} input", extent.tokens * layer.inputs)
    return (
        *before(gather, (*cast, *input_gradients(extent, layer), *transposed), hidden),
        *adapter_backward(extent, layer.target),
        *before(reduce, weight_gradients(extent, layer), hidden),
        *_partial_sum(extent, reduce),
    )


def row_backward(extent: Extent, layer: Linear) -> Operations:
    """Gather the output gradient (sequence parallelism only), then both gradients."""
    gather = _gather(extent, layer, f"{layer.name} gradient gather")
    full = extent.shard.tensor_overlap == "full"
    name, elements = f"{layer.name} gradient", extent.tokens * layer.outputs
    if extent.splits_sequence:  # cast before it is gathered
        cast = _cast(extent, layer, name, extent.rows * layer.outputs, transposed=False)
        transposed = _transpose(extent, layer, name, elements)
    else:
        cast, transposed = _cast(extent, layer, name, elements, transposed=True), ()
    return (
        *cast,
        *arriving(extent, gather, input_gradients(extent, layer), full),
        *transposed,
        *adapter_backward(extent, layer.target),
        *weight_gradients(extent, layer),
    )


def products(extent: Extent, layer: Linear) -> Operations:
    """The forward products (tokens x inputs) by (inputs x width)."""
    return (
        *_weight_cast(extent, layer),
        *(_product(extent, layer, layer.name, width, layer.inputs) for width in layer.widths),
    )


def input_gradients(extent: Extent, layer: Linear) -> Operations:
    """The products (tokens x width) by (width x inputs), and the sum over the matrices."""
    more = len(layer.widths) - 1
    traffic = 3 * more * extent.element * extent.tokens * layer.inputs
    add = (elementwise(extent, f"{layer.name} gradient sum", traffic, more),) if more else ()
    name = f"{layer.name} input gradient"
    return (
        *_weight_cast(extent, layer),
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


def _cast(extent: Extent, layer: Linear, name: str, elements: int, *, transposed: bool) -> Operations:
    """To fp8: read 2 B, write 1 B, and 1 B more for the transposed copy that weight gradients need.

    Hopper multiplies fp8 operands in one layout only (Transformer Engine, cast_transpose). Delayed
    scaling takes the scale from earlier steps; dynamic scaling reads the tensor once more to find it.
    The input of a column-parallel product is cast by the norm before it.
    """
    if layer.precision != "fp8":
        return ()
    more = (transposed and not extent.frozen) + 2 * extent.scales_dynamically
    return (elementwise(extent, f"{name} cast", (3 + more) * elements, 1 + extent.scales_dynamically),)


def _transpose(extent: Extent, layer: Linear, name: str, elements: int) -> Operations:
    """The transposed copy of what was gathered, or kept, in fp8: read and write 1 B."""
    if layer.precision != "fp8" or extent.frozen:
        return ()
    return (elementwise(extent, f"{name} transpose", 2 * elements),)


def _weight_cast(extent: Extent, layer: Linear) -> Operations:
    """Dynamic scaling casts weights at each use (torchao); else they are cast once per step, with the optimizer."""
    if layer.precision != "fp8" or extent.frozen or not extent.scales_dynamically:
        return ()
    return (elementwise(extent, f"{layer.name} weight cast", 5 * layer.inputs * layer.outputs, 2),)


def _gather(extent: Extent, layer: Linear, name: str) -> Operations:
    """All-gather along the sequence, in fp8 if the product is; nothing without sequence parallelism."""
    if not extent.splits_sequence:
        return ()
    element = 1 if layer.precision == "fp8" else extent.element
    return (collective(name, "all_gather", "tensor", element * extent.tokens * extent.hidden),)


def _product(extent: Extent, layer: Linear, name: str, n: int, k: int) -> Operation:
    return matmul(name, (extent.tokens, n, k), layer.precision, extent.element)


def _partial_sum(extent: Extent, reduce: Operations) -> Operations:
    """Read the partial results of all ranks for the own rows, write their sum.

    PyTorch, distributed/_symmetric_memory: fused_matmul_reduce_scatter stacks what copies bring and reduces
    it when all is there.
    """
    if not (reduce and extent.shard.sums_partials and extent.splits_sequence):
        return ()
    traffic = extent.hidden_bytes * (1 + 1 / extent.shard.tensor)
    return tuple(elementwise(extent, f"{each.name} sum", traffic) for each in reduce)


def _sum_over_ranks(extent: Extent, name: str) -> Operations:
    return tensor_collective(extent, name, "reduce_scatter" if extent.splits_sequence else "all_reduce")
