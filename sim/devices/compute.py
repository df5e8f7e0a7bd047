"""How long an operation takes on an accelerator: a roofline; products are as the kind of the device runs them."""

from __future__ import annotations

from typing import NamedTuple

from sim.devices.catalogue import DEVICES
from sim.graph.operation import Operation
from sim.inputs.records import Accelerator, FusedAttention
from sim.record import NARROW

STORAGE_OF_RATE = {"tf32": "fp32"}  # a format without its own vector rate uses this one
# A tile of queries starts and finishes in the time of so many keys (fits to Shah 2024, figures 5 and 6: 80 to 130
# forward, 250 to 380 backward, without a mask).
START_FORWARD, START_BACKWARD = 128, 256
UNMASKED = 0.92  # time of scores without a causal mask over that of as many with one (the same fits, forward)
WIDE_HEAD = 128  # columns; shares of a profile hold for such heads


class Times(NamedTuple):
    """What an operation needs on a healthy accelerator at its stock power limit [s]."""

    arithmetic: float  # follows the core clock
    writing: float  # of finished tiles, not hidden by arithmetic
    memory: float  # all traffic; hides behind the two
    launches: float  # and waits for the host

    def at(self, slower: float = 1.0) -> float:
        """Seconds when the core clock is lower by the factor `slower`: the memory clock does not follow it."""
        return max(self.arithmetic * slower + self.writing, self.memory) + self.launches


def operation_times(operation: Operation, accelerator: Accelerator, attention_kernel: str = "cudnn") -> Times:
    """Arithmetic, memory and launches of one operation: it takes the larger of the first two, plus the last."""
    arithmetic, writing = _arithmetic(operation, accelerator, attention_kernel)
    device = DEVICES[accelerator.kind]
    memory, launches = device.traffic(operation, accelerator), device.launches(operation, accelerator)
    return Times(arithmetic, writing, memory, launches + operation.waits)


def operation_time(operation: Operation, accelerator: Accelerator, attention_kernel: str = "cudnn") -> float:
    """Seconds on a healthy accelerator at its stock power limit."""
    return operation_times(operation, accelerator, attention_kernel).at()


def _arithmetic(operation: Operation, accelerator: Accelerator, attention_kernel: str) -> tuple[float, float]:
    """Seconds of arithmetic at the rate its kind and shape reach, and of writing that it does not hide."""
    if operation.flops == 0:
        return 0.0, 0.0
    if operation.kind == "elementwise":
        return operation.flops / vector_rate(operation.precision, accelerator), 0.0
    peak = matrix_rate(operation.precision, accelerator)
    if operation.kind == "attention":
        return operation.flops / (peak * attention_share(operation, accelerator, attention_kernel)), 0.0
    rate = peak * sustained_share(operation.precision, accelerator) * operation.gain
    return DEVICES[accelerator.kind].product(operation, accelerator, rate)


def vector_rate(precision: str, accelerator: Accelerator) -> float:
    """Rate of elementwise arithmetic [FLOP/s]; the slowest that is told for a format without one of its own."""
    vector, matrix = accelerator.vector, accelerator.matrix.peak
    rate = getattr(vector, STORAGE_OF_RATE.get(precision, precision)) or getattr(matrix, precision)
    told = (getattr(rates, name) for rates in (vector, matrix) for name in type(rates).model_fields)
    return float(rate or min(rate for rate in told if rate))


def matrix_rate(precision: str, accelerator: Accelerator) -> float:
    """Peak matrix rate [FLOP/s]. The precision was checked against the accelerator with the input."""
    return float(getattr(accelerator.matrix.peak, precision))


def attention_share(operation: Operation, accelerator: Accelerator, kernel: str) -> float:
    """Share of the peak that a fused attention kernel reaches at this shape."""
    measured = accelerator.attention.get(kernel, FusedAttention())  # type: ignore[call-overload]
    share = measured.backward if operation.phase.differentiates else measured.forward
    mask = operation.masked + (1 - operation.masked) * UNMASKED
    return float(share) * length_share(operation) * width_share(operation, measured) / mask


def length_share(operation: Operation) -> float:
    """What the length leaves of the rate of fused attention, by the keys of a row: half of them if it is causal.

    Each round of a ring has its part of the keys.
    """
    start = START_BACKWARD if operation.phase.differentiates else START_FORWARD
    return operation.n / (operation.n + start / operation.seen * operation.parts)


def width_share(operation: Operation, measured: FusedAttention) -> float:
    """What narrow heads leave: softmax takes its time for each score, so the time per column is linear in 1/width."""
    beyond = WIDE_HEAD / min(operation.k, WIDE_HEAD) - 1
    return 1 / (1 + beyond * (1 / measured.narrow - 1))


def sustained_share(precision: str, accelerator: Accelerator) -> float:
    """Share of the peak that a large, tile-aligned product reaches."""
    matrix = accelerator.matrix
    if precision in NARROW and matrix.fp8_efficiency is not None:
        return matrix.fp8_efficiency
    if precision == "fp32" and matrix.fp32_efficiency is not None:
        return matrix.fp32_efficiency
    return matrix.efficiency
