"""Memory-bound kernels of a layer: bytes read and written per element, e bytes each.

Fused kernels move each operand once; the others are the separate kernels of an eager framework,
whose intermediates go through memory. Masks take 1 B, 32-bit intermediates 4 B.
"""

from __future__ import annotations

from sim.workload.extent import Extent
from sim.workload.kernels import Operations, elementwise, with_random_numbers


# Passes over the elements and kernels of what is written out in elementary operations, one term per kernel as reads +
# writes. Layer norm, forward: mean, variance, difference, quotient, scale, shift, and two kernels of a value a row;
# backward: shift; scale (2 kernels and a sum), quotient (3 and a sum), difference, variance (2), mean, three gradients.
NORM, NORM_BACKWARD = (1 + 1 + 2 + 2 + 2 + 2, 8), (1 + (2 + 3 + 1) + (2 + 3 + 1) + 1 + (2 + 2) + 1 + 2 * 3, 20)
# GELU, forward: cube, times, plus, times, tanh, plus, half, times; backward: two of the last product, half, tanh, times,
# times, cube (square, times, times), three gradients.
GELU, GELU_BACKWARD = (2 + 2 + 3 + 2 + 2 + 2 + 2 + 3, 8), (2 * 3 + 2 + 3 + 2 + 2 + (2 + 2 + 3) + 2 * 3, 11)


def norm_forward(extent: Extent, name: str) -> Operations:
    """Read x, write y. An eager RMSNorm casts up, squares, averages, scales, casts down, weighs."""
    if _eager_rms(extent):
        return _pass(extent, name, 4 * extent.element + 24, 6)
    if _written_out_norm(extent):
        return _pass(extent, name, NORM[0] * extent.element, NORM[1])
    return _pass(extent, name, extent.stream + extent.element)


def norm_backward(extent: Extent, name: str) -> Operations:
    """Read x and dy, write dx; read x and dy once more for the weight gradient, unless it is frozen."""
    if extent.frozen:
        return _pass(extent, f"{name} backward", 3 * extent.element)
    if _eager_rms(extent):
        return _pass(extent, f"{name} backward", 8 * extent.element + 48, 12)
    if _written_out_norm(extent):
        return _pass(extent, f"{name} backward", NORM_BACKWARD[0] * extent.element, NORM_BACKWARD[1])
    return _pass(extent, f"{name} backward", 3 * extent.stream + 2 * extent.element, 2)


def residual_forward(extent: Extent, name: str) -> Operations:
    """Bias, dropout and residual: read x and residual, write the sum and the mask."""
    model, e = extent.model, extent.element
    moved = e + 2 * extent.stream
    if extent.fused:
        kernels = _pass(extent, f"{name} residual", moved + model.dropout)
    else:
        separate = 2 * e * model.bias + (2 * e + 1) * model.dropout
        kernels = _pass(extent, f"{name} residual", moved + separate, 1 + model.bias + model.dropout)
    if not model.dropout:
        return kernels
    return tuple(with_random_numbers(kernel, extent.rows * extent.hidden) for kernel in kernels)


def residual_backward(extent: Extent, name: str) -> Operations:
    """Dropout: read dy and mask, write dx. Bias: read dy once more."""
    dropout, bias, e = extent.model.dropout, extent.trains_bias, extent.element
    if not (dropout or bias):
        return ()
    return _pass(extent, f"{name} residual backward", (2 * e + 1) * dropout + e * bias, dropout + bias)


def residual_gradient(extent: Extent, name: str) -> Operations:
    """Add the gradient of the branch to that of the residual stream."""
    return _pass(extent, f"{name} residual gradient", 3 * extent.stream)


def activation_forward(extent: Extent) -> Operations:
    """Bias and activation: read the products (two if gated), write one."""
    e, bias, gated = extent.element, extent.model.bias, extent.gated
    if extent.fused:
        return _inner(extent, "activation", (3 if gated else 2) * e, 1)
    if _written_out_gelu(extent):
        return _inner(extent, "activation", (GELU[0] + 2 * bias) * e, GELU[1] + bias)
    steps = 2 if gated or extent.model.activation == "squared_relu" else 1
    per_element = 2 * e + (3 if gated else 2) * e * (steps - 1) + 2 * e * bias * (1 + gated)
    return _inner(extent, "activation", per_element, steps + bias)


def activation_backward(extent: Extent) -> Operations:
    """Read dy and the inputs, write their gradients; the bias gradient reads these once more."""
    e, gated = extent.element, extent.gated
    bias = e * extent.trains_bias * (1 + gated)
    if extent.fused:
        return _inner(extent, "activation backward", (5 if gated else 3) * e + bias, 1 + extent.trains_bias)
    if _written_out_gelu(extent):
        kernels = GELU_BACKWARD[1] + extent.trains_bias
        return _inner(extent, "activation backward", GELU_BACKWARD[0] * e + bias, kernels)
    steps = 3 if gated else 1 + (extent.model.activation == "squared_relu")
    return _inner(extent, "activation backward", 3 * e * steps + bias, steps + extent.trains_bias)


def _written_out_norm(extent: Extent) -> bool:
    return extent.model.norm == "layernorm" and extent.shard.written_out


def _written_out_gelu(extent: Extent) -> bool:
    return extent.model.activation == "gelu" and extent.shard.written_out


def layout_forward(extent: Extent) -> Operations:
    """What happens between the QKV product and attention: layout copies (unfused), rotation, copies to every head."""
    return (
        *_copy(extent, "qkv layout", sum(extent.qkv_widths)),
        *_rotate(extent, "rotary"),
        *_repeat_keys(extent, "key repetition"),
    )


def layout_backward(extent: Extent) -> Operations:
    """The way back, and the bias gradient of the QKV product (one more read)."""
    traffic = extent.element * extent.tokens * sum(extent.qkv_widths)
    bias = (elementwise(extent, "qkv bias gradient", traffic),) if extent.trains_bias else ()
    return (
        *_repeat_keys(extent, "key repetition backward"),
        *_rotate(extent, "rotary backward"),
        *_copy(extent, "qkv layout backward", sum(extent.qkv_widths)),
        *bias,
    )


def context_copy(extent: Extent, name: str) -> Operations:
    """Heads back into columns; flash attention writes them in place."""
    return _copy(extent, name, extent.query_width)


def _eager_rms(extent: Extent) -> bool:
    return extent.model.norm == "rmsnorm" and not extent.fused


def _pass(extent: Extent, name: str, per_element: float, kernels: int = 1) -> Operations:
    return (elementwise(extent, name, per_element * extent.rows * extent.hidden, kernels),)


def _inner(extent: Extent, name: str, per_element: float, kernels: int) -> Operations:
    return (elementwise(extent, name, per_element * extent.tokens * extent.ffn, kernels),)


def _copy(extent: Extent, name: str, columns: int) -> Operations:
    if extent.flash:
        return ()
    return (elementwise(extent, name, 2 * extent.element * extent.tokens * columns),)


def _repeat_keys(extent: Extent, name: str) -> Operations:
    """Keys and values from their own heads to every query head; backward, gradients summed the other way."""
    if extent.held_key_width == extent.key_width:
        return ()
    columns = 2 * (extent.key_width + extent.held_key_width)
    return (elementwise(extent, name, extent.element * extent.tokens * columns, 2),)


def _rotate(extent: Extent, name: str) -> Operations:
    """Queries and keys, read and written; eager code multiplies 32-bit complex numbers."""
    if extent.model.positions != "rotary":
        return ()
    elements = extent.tokens * (extent.query_width + extent.key_width)
    per_element = 2 * extent.element + (0 if extent.fused else 16)
    return (elementwise(extent, name, per_element * elements, 1 if extent.fused else 6),)
