"""Systolic arrays behind a compiler: sizes padded to the arrays, a rate over size, no launch for each operation.

Weights stand in an array of k by n cells, rows of the input stream through it, so k and n are padded to its edges and
the rows to a register of eight (Jouppi and others, ISCA 2017 and 2023). The compiler cuts a product over all arrays
along whichever size has enough, so there are no waves. A step is one program: operations follow one another without
a host or a launch.
"""

from __future__ import annotations

from math import ceil

from typing_extensions import override

from sim.devices.curve import share_of_size
from sim.devices.device import Device
from sim.graph.operation import Operation
from sim.inputs.records import Accelerator

ROWS = 8  # of a vector register, which hold one row each (Jouppi and others, ISCA 2023)


class Systolic(Device):
    """Products on arrays of `matrix.tile` cells."""

    @override
    def product(self, operation: Operation, accelerator: Accelerator, rate: float) -> tuple[float, float]:
        matrix = accelerator.matrix
        share = filled(operation, matrix.tile) * share_of_size(matrix.curve, operation)
        return operation.flops / (rate * max(share, matrix.quantization_floor)), 0.0

    @override
    def launches(self, operation: Operation, accelerator: Accelerator) -> float:
        return 0.0


def filled(operation: Operation, cells: tuple[int, int]) -> float:
    """Share of the padded product that is asked for."""
    return padded(operation.m, ROWS) * padded(operation.k, cells[0]) * padded(operation.n, cells[1])


def padded(size: float, unit: float) -> float:
    """What padding to whole units leaves."""
    return size / (ceil(size / unit) * unit)
