"""What a kind of device is: how long products take on it, and what starting an operation costs.

Each kind has a file of its own; `catalogue.py` finds it by the `kind` of an accelerator file. What a chip is like
stands in that file alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sim.graph.operation import Operation
from sim.inputs.board import streaming_rate
from sim.inputs.records import Accelerator


class Device(ABC):
    """A kind of device. `rate`: FLOP/s of a large product that suits it; results are seconds."""

    @abstractmethod
    def product(self, operation: Operation, accelerator: Accelerator, rate: float) -> tuple[float, float]:
        """Arithmetic of a matrix product, and writing that it does not hide."""

    def traffic(self, operation: Operation, accelerator: Accelerator) -> float:
        """Device memory traffic of an operation, at the rate that streaming kernels reach."""
        return operation.bytes_moved / streaming_rate(accelerator)

    def launches(self, operation: Operation, accelerator: Accelerator) -> float:
        """Starting its kernels."""
        return operation.kernels * accelerator.launch
