"""One matrix engine that takes a whole product, in the shape that suits it, beside programmable vector cores.

The engine's multipliers can be set up as arrays of several shapes with the same number of cells (square, or twice as
wide or tall); a graph compiler picks one for each product and writes one program for the step, so there are neither
waves over many processors nor launches.
"""

from __future__ import annotations

from typing_extensions import override

from sim.devices.curve import share_of_size
from sim.devices.device import Device
from sim.devices.systolic import padded
from sim.graph.operation import Operation
from sim.inputs.records import Accelerator

SHAPES = ((1.0, 1.0), (2.0, 0.5), (0.5, 2.0))  # of the engine, relative to its square form


class MatrixEngine(Device):
    """Products on an array of `matrix.tile` results, or of twice the rows or columns."""

    @override
    def product(self, operation: Operation, accelerator: Accelerator, rate: float) -> tuple[float, float]:
        matrix, (rows, columns) = accelerator.matrix, accelerator.matrix.tile
        shapes = SHAPES if matrix.halves_tiles else SHAPES[:1]
        fit = max(padded(operation.m, rows * tall) * padded(operation.n, columns * wide) for tall, wide in shapes)
        share = fit * share_of_size(matrix.curve, operation)
        return operation.flops / (rate * max(share, matrix.quantization_floor)), 0.0

    @override
    def launches(self, operation: Operation, accelerator: Accelerator) -> float:
        return 0.0
