"""A configured array: results stay in its multipliers while operands stream through, from on-chip memory or beyond.

Results are cut into blocks of the array, so both edges are padded; a block fills and drains in as many cycles as the
array has rows and columns. A product that does not fit on the chip reads its operands several times: with S elements
on chip no order of the work moves fewer than 2 m n k / sqrt(S) (Hong and Kung, STOC 1981).
"""

from __future__ import annotations

from math import ceil, sqrt

from typing_extensions import override

from sim.devices.device import Device
from sim.devices.systolic import padded
from sim.graph.operation import Operation
from sim.inputs.board import streaming_rate
from sim.inputs.records import Accelerator, ConfiguredArray
from sim.record import NARROW, narrow_bytes


class Fpga(Device):
    """Products on `array`, which the input check knows to be there."""

    @override
    def product(self, operation: Operation, accelerator: Accelerator, rate: float) -> tuple[float, float]:
        array = _array(accelerator)
        fit = padded(operation.m, array.rows) * padded(operation.n, array.columns)
        blocks = operation.batch * ceil(operation.m / array.rows) * ceil(operation.n / array.columns)
        filling = blocks * (array.rows + array.columns) / array.clock if operation.k else 0.0
        hidden = operation.flops / rate  # the next block fills while this one works, if there is enough to do in it
        return hidden / fit + min(filling, hidden), 0.0

    @override
    def traffic(self, operation: Operation, accelerator: Accelerator) -> float:
        moved = operation.bytes_moved
        if operation.kind == "matmul":
            moved = max(moved, _least_traffic(operation, _array(accelerator)))
        return moved / streaming_rate(accelerator)

    @override
    def launches(self, operation: Operation, accelerator: Accelerator) -> float:
        return 0.0


def _least_traffic(operation: Operation, array: ConfiguredArray) -> float:
    """Bytes between the chip and its memory [B]."""
    width = narrow_bytes(operation.precision) if operation.precision in NARROW else float(operation.output_bytes)
    return operation.flops * width / sqrt(array.on_chip / width)


def _array(accelerator: Accelerator) -> ConfiguredArray:
    assert accelerator.array is not None
    return accelerator.array
