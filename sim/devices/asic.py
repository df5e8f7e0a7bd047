"""A chip of one's own: a roofline with a measured rate over size, and nothing else known of it."""

from __future__ import annotations

from typing_extensions import override

from sim.devices.curve import share_of_size
from sim.devices.device import Device
from sim.graph.operation import Operation
from sim.inputs.records import Accelerator


class Asic(Device):
    """Products at the rate of their size."""

    @override
    def product(self, operation: Operation, accelerator: Accelerator, rate: float) -> tuple[float, float]:
        return operation.flops / (rate * share_of_size(accelerator.matrix.curve, operation)), 0.0
