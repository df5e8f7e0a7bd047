"""Processor cores with vector and matrix units: parallel loops over cores, memory domains, a rate over size.

A product is divided over the cores by tiles of its result (`matrix.tile`, as `matrix.compute_units` cores take them in
turn). Each operation is a parallel loop, whose start and end cost `launch`. Memory traffic counts in `streaming_rate`,
where pages spread over several domains cross the link between them.
"""

from __future__ import annotations

from math import ceil

from typing_extensions import override

from sim.devices.curve import share_of_size
from sim.devices.device import Device
from sim.graph.operation import Operation
from sim.inputs.records import Accelerator


class Cpu(Device):
    """Products on the cores."""

    @override
    def product(self, operation: Operation, accelerator: Accelerator, rate: float) -> tuple[float, float]:
        matrix = accelerator.matrix
        share = busy_cores(operation, accelerator) * share_of_size(matrix.curve, operation)
        return operation.flops / (rate * max(share, 1 / matrix.compute_units)), 0.0


def busy_cores(operation: Operation, accelerator: Accelerator) -> float:
    """Share of the cores that work, over the rounds in which they take tiles of the result."""
    matrix, (rows, columns) = accelerator.matrix, accelerator.matrix.tile
    tiles = operation.batch * (operation.m / rows) * (operation.n / columns)
    return tiles / (max(1, ceil(tiles / matrix.compute_units)) * matrix.compute_units)
