"""How long an operation takes on an accelerator: a roofline with tile and wave quantization."""

from __future__ import annotations

from math import ceil

from sim.spec.records import Accelerator
from sim.workload.operation import Operation

STORAGE_OF_RATE = {"tf32": "fp32"}  # a format without its own vector rate uses this one


def operation_time(operation: Operation, accelerator: Accelerator) -> float:
    """Seconds on a healthy accelerator: the larger of arithmetic and memory time, plus launches."""
    memory = operation.bytes_moved / (accelerator.memory.bandwidth * accelerator.memory.efficiency)
    return max(arithmetic_time(operation, accelerator), memory) + operation.kernels * accelerator.launch


def arithmetic_time(operation: Operation, accelerator: Accelerator) -> float:
    """Seconds of arithmetic at the rate its kind and shape reach."""
    if operation.flops == 0:
        return 0.0
    if operation.kind == "elementwise":
        rate = getattr(accelerator.vector, STORAGE_OF_RATE.get(operation.precision, operation.precision))
        return operation.flops / (rate or matrix_rate(operation.precision, accelerator))
    peak = matrix_rate(operation.precision, accelerator)
    return operation.flops / (peak * matrix_efficiency(operation, accelerator))


def matrix_rate(precision: str, accelerator: Accelerator) -> float:
    """Peak matrix rate [FLOP/s]. The precision was checked against the accelerator with the input."""
    return float(getattr(accelerator.matrix.peak, precision))


def matrix_efficiency(operation: Operation, accelerator: Accelerator) -> float:
    """Share of the peak that this kernel reaches."""
    matrix = accelerator.matrix
    if operation.kind == "attention":
        is_backward = "backward" in operation.name
        return matrix.attention_backward if is_backward else matrix.attention_forward
    best = matrix.efficiency
    if operation.precision == "fp8" and matrix.fp8_efficiency is not None:
        best = matrix.fp8_efficiency
    return best * wave_share(operation, accelerator)


def wave_share(operation: Operation, accelerator: Accelerator) -> float:
    """Busy share of the processors over the waves of output tiles, tiles/(units*waves)."""
    matrix = accelerator.matrix
    rows, columns = matrix.tile
    tiles = ceil(operation.m / rows) * ceil(operation.n / columns) * operation.batch
    waves = ceil(tiles / matrix.compute_units)
    return max(tiles / (matrix.compute_units * waves), matrix.quantization_floor)
