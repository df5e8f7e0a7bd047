"""How long an operation takes on an accelerator: a roofline; matrix products are in `products.py`."""

from __future__ import annotations

from dataclasses import dataclass

from sim.engine.products import matmul_time
from sim.spec.records import Accelerator, FusedAttention
from sim.workload.operation import Operation

STORAGE_OF_RATE = {"tf32": "fp32"}  # a format without its own vector rate uses this one


@dataclass(frozen=True, slots=True)
class Times:
    """What an operation needs on a healthy accelerator at its stock power limit [s]."""

    arithmetic: float  # follows the core clock
    writing: float  # of finished tiles, not hidden by arithmetic
    memory: float  # all traffic; hides behind the two
    launches: float

    def at(self, slower: float = 1.0) -> float:
        """Seconds when the core clock is lower by the factor `slower`: the memory clock does not follow it."""
        return max(self.arithmetic * slower + self.writing, self.memory) + self.launches


def operation_times(operation: Operation, accelerator: Accelerator, attention_kernel: str = "cudnn") -> Times:
    """Arithmetic, memory and launches of one operation: it takes the larger of the first two, plus the last."""
    arithmetic, writing = _arithmetic(operation, accelerator, attention_kernel)
    memory = operation.bytes_moved / streaming_rate(accelerator)
    return Times(arithmetic, writing, memory, operation.kernels * accelerator.launch)


def operation_time(operation: Operation, accelerator: Accelerator, attention_kernel: str = "cudnn") -> float:
    """Seconds on a healthy accelerator at its stock power limit."""
    return operation_times(operation, accelerator, attention_kernel).at()


def streaming_rate(accelerator: Accelerator) -> float:
    """Memory bandwidth that streaming kernels reach [B/s]."""
    return accelerator.memory.bandwidth * accelerator.memory.efficiency


def _arithmetic(operation: Operation, accelerator: Accelerator, attention_kernel: str) -> tuple[float, float]:
    """Seconds of arithmetic at the rate its kind and shape reach, and of writing that it does not hide."""
    if operation.flops == 0:
        return 0.0, 0.0
    if operation.kind == "elementwise":
        rate = getattr(accelerator.vector, STORAGE_OF_RATE.get(operation.precision, operation.precision))
        return operation.flops / (rate or matrix_rate(operation.precision, accelerator)), 0.0
    peak = matrix_rate(operation.precision, accelerator)
    if operation.kind == "attention":
        return operation.flops / (peak * attention_share(operation, accelerator, attention_kernel)), 0.0
    rate = peak * sustained_share(operation.precision, accelerator)
    return matmul_time(operation, accelerator, rate, streaming_rate(accelerator))


def matrix_rate(precision: str, accelerator: Accelerator) -> float:
    """Peak matrix rate [FLOP/s]. The precision was checked against the accelerator with the input."""
    return float(getattr(accelerator.matrix.peak, precision))


def attention_share(operation: Operation, accelerator: Accelerator, kernel: str) -> float:
    """Share of the peak that a fused attention kernel reaches."""
    measured = accelerator.attention.get(kernel, FusedAttention())  # type: ignore[call-overload]
    return float(measured.backward if "backward" in operation.name else measured.forward)


def sustained_share(precision: str, accelerator: Accelerator) -> float:
    """Share of the peak that a large, tile-aligned product reaches."""
    matrix = accelerator.matrix
    if precision == "fp8" and matrix.fp8_efficiency is not None:
        return matrix.fp8_efficiency
    return matrix.efficiency
