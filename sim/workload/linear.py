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
    along_sequence,
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
    """A layer's linear; matrices that share an input may be computed as one product."""
    joined = extent.shard.joins_matrices
    return Linear(name, inputs, (sum(widths),) if joined else widths, extent.shard.precision)


def column_forward(extent: Extent, layer: Linear) -> Operations:
    """Gather the sequence (sequence parallelism only), then multiply."""
    hidden = extent.hides("forward")
    gather = _gather(extent, layer, f"{layer.name} gather", hidden)
    work = arriving(extent, gather, products(extent, layer), hidden)
    casts = (*_normed_cast(extent, layer), *weight_cast(extent, layer))
    return (*casts, *work, *adapter_forward(extent, layer.target))


def row_forward(extent: Extent, layer: Linear) -> Operations:
    """Multiply, then sum the partial outputs."""
    hidden = extent.hides("forward")
    reduce = _sum_over_ranks(extent, f"{layer.name} reduce", hidden)
    work = leaving(products(extent, layer), reduce, hidden)
    casts = (*input_cast(extent, layer), *weight_cast(extent, layer))
    summed = _partial_sum(extent, reduce) if hidden else ()
    return (*casts, *work, *summed, *adapter_forward(extent, layer.target))


def column_backward(extent: Extent, layer: Linear) -> Operations:
    """Input gradient beside the second gather, then weight gradient beside the sum over ranks.

    PyTorch runs that sum beside a product only if it is the sum of that product, not of several (micro_pipeline_tp.py,
    fuse_matmul_reduce_scatter).
    """
    hidden = extent.hides("backward")
    several = len(layer.widths) > 1
    reduces_beside = hidden and not (several and extent.shard.sums_partials)
    unused = extent.shard.keeps_gathered or (extent.frozen and not extent.adapts(layer.target))
    gather = () if unused else _gather(extent, layer, f"{layer.name} gather again", hidden)
    laid_out = extent.fused and several  # by the kernel that sums the gradients
    reduce = _sum_over_ranks(extent, f"{layer.name} gradient reduce", reduces_beside or laid_out)
    cast = _cast(extent, layer, f"{layer.name} gradient", extent.tokens * layer.outputs, transposed=True)
    transposed = _transpose(extent, layer, f"{layer.name} input", extent.tokens * layer.inputs)
    return (
        *weight_cast(extent, layer),
        *before(gather, (*cast, *input_gradients(extent, layer), *transposed), hidden),
        *adapter_backward(extent, layer.target),
        *_laid_out_again(extent, layer, f"{layer.name} input"),
        *before(reduce, weight_gradients(extent, layer), reduces_beside),
        *(_partial_sum(extent, reduce) if reduces_beside else ()),
    )


def row_backward(extent: Extent, layer: Linear) -> Operations:
    """Gather the output gradient (sequence parallelism only), then both gradients."""
    full = extent.shard.tensor_overlap == "full"
    gather = _gather(extent, layer, f"{layer.name} gradient gather", full)
    name, elements = f"{layer.name} gradient", extent.tokens * layer.outputs
    if extent.splits_sequence:  # cast before it is gathered
        cast = _cast(extent, layer, name, extent.rows * layer.outputs, transposed=False)
        transposed = _transpose(extent, layer, name, elements)
    else:
        cast, transposed = _cast(extent, layer, name, elements, transposed=True), ()
    return (
        *cast,
        *weight_cast(extent, layer),
        *arriving(extent, gather, input_gradients(extent, layer), full),
        *transposed,
        *adapter_backward(extent, layer.target),
        *_laid_out_again(extent, layer, name),
        *weight_gradients(extent, layer),
    )


def products(extent: Extent, layer: Linear) -> Operations:
    """The forward products (tokens x inputs) by (inputs x width)."""
    return tuple(_product(extent, layer, layer.name, width, layer.inputs) for width in layer.widths)


def input_gradients(extent: Extent, layer: Linear) -> Operations:
    """The products (tokens x width) by (width x inputs), and the sum over the matrices."""
    add = _gradient_sum(extent, layer)
    name = f"{layer.name} input gradient"
    return (*(_product(extent, layer, name, layer.inputs, width) for width in layer.widths), *add)


def _gradient_sum(extent: Extent, layer: Linear) -> Operations:
    """Gradients of the common input: read by twos and written, or all at once."""
    more = len(layer.widths) - 1
    if not more:
        return ()
    passes, kernels = (more + 2, 1) if extent.fused else (3 * more, more)
    traffic = passes * extent.element * extent.tokens * layer.inputs
    return (elementwise(extent, f"{layer.name} gradient sum", traffic, kernels),)


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
    scaling takes the scale from earlier steps; the others read the tensor once more to find it.
    """
    if layer.precision != "fp8":
        return ()
    more = (transposed and not extent.frozen) + 2 * extent.finds_scales
    cast = elementwise(extent, f"{name} cast", (3 + more) * elements, 1 + extent.finds_scales)
    return (*_common_scale(extent, name), cast)


def _transpose(extent: Extent, layer: Linear, name: str, elements: int) -> Operations:
    """The transposed copy of what was gathered, or kept, in fp8: read and write 1 B."""
    if layer.precision != "fp8" or extent.frozen:
        return ()
    return (elementwise(extent, f"{name} transpose", 2 * elements),)


def _laid_out_again(extent: Extent, layer: Linear, name: str) -> Operations:
    """What arrived beside a product lies sequence first; weight gradients need it as their other operand lies.

    PyTorch, distributed/_symmetric_memory, fused_all_gather_matmul. The transposed copy in fp8 sees to it.
    """
    arrived = extent.splits_sequence and extent.shard.tensor_overlap == "full"
    as_needed = extent.batch == 1 or layer.precision == "fp8" or not extent.shard.batch_first
    if not arrived or as_needed or extent.frozen:
        return ()
    return (elementwise(extent, f"{name} copy", 2 * extent.hidden_bytes),)


def _normed_cast(extent: Extent, layer: Linear) -> Operations:
    """The input of a column-parallel product, which the norm before it casts if it knows the scale.

    Else the norm finds the largest value, and a kernel of its own casts what it wrote (Transformer Engine,
    csrc/extensions/normalization.cpp, FUSED_NORM_AMAX_FP8; Inductor fuses the same).
    """
    if layer.precision != "fp8" or not extent.finds_scales:
        return ()
    cast = elementwise(extent, f"{layer.name} input cast", 3 * extent.rows * layer.inputs)
    return (*_common_scale(extent, f"{layer.name} input"), cast)


def input_cast(extent: Extent, layer: Linear) -> Operations:
    """The input of a row-parallel product to fp8."""
    return _cast(extent, layer, f"{layer.name} input", extent.tokens * layer.inputs, transposed=True)


def weight_cast(extent: Extent, layer: Linear) -> Operations:
    """Dynamic scaling casts weights at each use (torchao); else they are cast once per step, with the optimizer."""
    if layer.precision != "fp8" or extent.frozen or not extent.scales_dynamically:
        return ()
    scales = _common_scale(extent, f"{layer.name} weight") * len(layer.widths)
    return (*scales, elementwise(extent, f"{layer.name} weight cast", 5 * layer.inputs * layer.outputs, 2))


def _common_scale(extent: Extent, name: str) -> Operations:
    """The largest value of a tensor over all tensor ranks, if it is found in the tensor (torchao, tensor_to_amax)."""
    if extent.shard.tensor == 1 or not extent.scales_dynamically:
        return ()
    return (collective(f"{name} maximum", "all_reduce", "tensor", 4),)


def gathered_input(extent: Extent, layer: Linear) -> Operations:
    """What a column-parallel product read, once more, if its weight gradient does not gather it itself."""
    return _gather(extent, layer, f"{layer.name} gather", hidden=False) if extent.shard.keeps_gathered else ()


def _gather(extent: Extent, layer: Linear, name: str, hidden: bool) -> Operations:
    """All-gather along the sequence, in fp8 if the product is; nothing without sequence parallelism."""
    if not extent.splits_sequence:
        return ()
    element = 1 if layer.precision == "fp8" else extent.element
    gather = collective(name, "all_gather", "tensor", element * extent.tokens * extent.hidden)
    return along_sequence(extent, (gather,), hidden)


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


def _sum_over_ranks(extent: Extent, name: str, hidden: bool) -> Operations:
    reduce = tensor_collective(extent, name, "reduce_scatter" if extent.splits_sequence else "all_reduce")
    return along_sequence(extent, reduce, hidden)
