"""Low-rank adapters beside frozen matrices (Hu 2021, arXiv 2106.09685): y = W x + B A x.

A is (rank x inputs), B is (outputs x rank). Under tensor parallelism the adapter is split as its
matrix is: of a column-parallel matrix A yields a share of the rank, gathered before B; of a
row-parallel matrix A yields partial sums, added up before B (NeMo, ParallelLinearAdapter).
The adapter computes in the 16-bit format also where its matrix is fp8.
"""

from __future__ import annotations

from sim.spec.records import LowRank, Transformer
from sim.workload.extent import GATED, Extent, head_width, kv_head_count, share
from sim.workload.kernels import Operations, collective, elementwise, matmul, weight_gradient, with_random_numbers
from sim.workload.operation import CollectiveKind

COLUMN_TARGETS = ("qkv", "feed_forward_up")


def adapted_sizes(model: Transformer, tensor: int) -> dict[str, tuple[int, int]]:
    """Inputs and outputs, on the fullest of `tensor` ranks, of each matrix that can be adapted."""
    heads, ffn = share(model.heads, tensor) * head_width(model), share(model.ffn, tensor)
    keys = share(kv_head_count(model), tensor) * head_width(model)
    return {
        "qkv": (model.hidden, heads + 2 * keys),
        "attention_output": (heads, model.hidden),
        "feed_forward_up": (model.hidden, ffn * (2 if model.activation in GATED else 1)),
        "feed_forward_down": (ffn, model.hidden),
    }


def adapter_parameters(model: Transformer, lora: LowRank, tensor: int = 1) -> int:
    """Trained parameters of one layer on one of `tensor` ranks: rank x (inputs + outputs) of each target."""
    sizes = adapted_sizes(model, tensor)
    return sum(
        share(lora.rank, tensor) * sizes[target][0] + lora.rank * sizes[target][1]
        if target in COLUMN_TARGETS
        else lora.rank * sum(sizes[target])
        for target in lora.targets
    )


def adapter_forward(extent: Extent, target: str) -> Operations:
    """Dropout of the input, both small products, and the sum with the frozen product."""
    if not extent.adapts(target):
        return ()
    inputs, outputs = adapted_sizes(extent.model, extent.shard.tensor)[target]
    inner, rows, kind = _split(extent, target)
    name = f"{target} adapter"
    return (
        *(with_random_numbers(mask, extent.tokens * inputs) for mask in _dropout(extent, name, inputs)),
        matmul(f"{name} down", (extent.tokens, inner, inputs), extent.precision, extent.element),
        *_exchange(extent, name, kind),
        matmul(f"{name} up", (rows, outputs, extent.rank), extent.precision, extent.element),
        elementwise(extent, f"{name} sum", 3 * extent.element * rows * outputs),
    )


def adapter_backward(extent: Extent, target: str) -> Operations:
    """Gradients of both small matrices and of the input, added to that of the frozen product."""
    if not extent.adapts(target):
        return ()
    inputs, outputs = adapted_sizes(extent.model, extent.shard.tensor)[target]
    inner, rows, kind = _split(extent, target)
    name = f"{target} adapter"
    dual: CollectiveKind = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather"}.get(kind, kind)  # type: ignore[assignment]
    return (
        matmul(f"{name} up input gradient", (rows, extent.rank, outputs), extent.precision, extent.element),
        *weight_gradient(extent, f"{name} up", (extent.rank, outputs, rows), extent.precision),
        *_exchange(extent, name, dual),
        matmul(f"{name} down input gradient", (extent.tokens, inputs, inner), extent.precision, extent.element),
        *weight_gradient(extent, f"{name} down", (inputs, inner, extent.tokens), extent.precision),
        *_dropout(extent, f"{name} backward", inputs),
        elementwise(extent, f"{name} gradient sum", 3 * extent.element * extent.tokens * inputs),
    )


def _split(extent: Extent, target: str) -> tuple[int, int, CollectiveKind]:
    """Columns of A's product, rows of B's, and what happens between them, on one rank."""
    if target in COLUMN_TARGETS:
        return share(extent.rank, extent.shard.tensor), extent.tokens, "all_gather"
    rows = extent.rows
    return extent.rank, rows, "reduce_scatter" if extent.splits_sequence else "all_reduce"


def _exchange(extent: Extent, name: str, kind: CollectiveKind) -> Operations:
    if extent.shard.tensor == 1:
        return ()
    return (collective(f"{name} exchange", kind, "tensor", extent.element * extent.tokens * extent.rank),)


def _dropout(extent: Extent, name: str, columns: int) -> Operations:
    """Read x and write it with a mask; backward read dy and the mask, write dx."""
    if extent.shard.lora is None or not extent.shard.lora.dropout:
        return ()
    return (elementwise(extent, f"{name} dropout", (2 * extent.element + 1) * extent.tokens * columns),)
