"""What a recorded kernel takes on another accelerator, and draws: by its kind, from the models of both devices.

A kernel is scaled by how long an operation of its kind takes here over how long it takes where it was recorded: a
product of its own shape where that was recorded, else a large one; attention of long sequences; a pass over memory.

Public: `KernelScale`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from sim.devices.power import Board, Work
from sim.errors import PlanError, Problem
from sim.graph.operation import Operation
from sim.inputs.energy import PowerSetting
from sim.inputs.recording import ATTENTION, MEMORY, PRODUCT, KnownShape
from sim.inputs.records import Accelerator
from sim.phase import Phase

EDGE = 8192  # of a large product
HEADS, LENGTH, WIDTH = 32, 4096, 128  # of attention
STREAMED = 2.0**30  # bytes of a pass over memory
FORMATS = (  # by the name of a kernel, the first that fits
    ("bf16", r"bf16|bfloat"),
    ("tf32", r"tf32|s1688"),
    ("fp16", r"h884|hgemm|f16|half|s16816"),
    ("fp32", r"sgemm|f32"),
)
BACKWARD = re.compile(r"bwd|backward|dgrad", re.I)


class Scaled(NamedTuple):
    """How long a kernel takes over what was recorded, what it draws [W], and in which phase."""

    factor: float
    watts: float
    phase: str


@dataclass(frozen=True, eq=False)
class KernelScale:
    """Recorded kernels on a board. there: the accelerator that they were recorded on; this one if None."""

    here: Accelerator
    setting: PowerSetting
    kernel: str  # of attention
    precision: str  # of products that do not say
    there: Accelerator | None = None
    known: dict[tuple[Operation, bool], Work] = field(default_factory=dict)

    def of(self, kind: int, name: str, shape: KnownShape | None = None) -> Scaled | None:
        """Of a kernel; None for one that no model of a device is about. Raises PlanError for an unknown format."""
        operation = self._operation(kind, name, shape)
        if operation is None:
            return None
        here, there = self._run(operation, recorded=False), self._run(operation, recorded=True)
        return Scaled(here.seconds / there.seconds, here.joules / here.seconds, here.phase)

    def _run(self, operation: Operation, *, recorded: bool) -> Work:
        key = operation, recorded
        if key not in self.known:
            chip, setting = (self.there or self.here, PowerSetting()) if recorded else (self.here, self.setting)
            if operation.kind != "elementwise" and getattr(chip.matrix.peak, operation.precision) is None:
                message = f"{chip.name} has no {operation.precision} rate, in which {operation.name} runs"
                raise PlanError(Problem("", "training.precision", message, "say another, or keep kernels as recorded"))
            self.known[key] = Board(chip, setting, self.kernel).run(operation)
        return self.known[key]

    def _operation(self, kind: int, name: str, shape: KnownShape | None) -> Operation | None:
        """The operation whose times are compared."""
        if kind == MEMORY:
            return Operation("a pass over memory", "elementwise", 0.0, STREAMED, self.precision)
        if kind == PRODUCT and shape and shape.m:
            size = shape.batch, shape.m, shape.n, shape.k
            precision = shape.precision or self._format(name)
            return Operation("a product", "matmul", shape.flops, shape.bytes, precision, *size)
        if kind == PRODUCT:
            flops, moved = 2.0 * EDGE**3, 3 * 2.0 * EDGE**2
            return Operation("a product", "matmul", flops, moved, self._format(name), 1, EDGE, EDGE, EDGE)
        if kind == ATTENTION:
            flops, moved = 2.0 * HEADS * LENGTH**2 * WIDTH, 4 * 2.0 * HEADS * LENGTH * WIDTH
            phase = Phase.INPUT_GRADIENT if BACKWARD.search(name) else Phase.FORWARD
            size = HEADS, LENGTH, LENGTH, WIDTH
            return Operation("attention", "attention", flops, moved, self._format(name), *size, phase=phase)
        return None

    def _format(self, name: str) -> str:
        """Number format of a product by the name of its kernel, where both devices have it."""
        chips = (self.here, self.there or self.here)
        for precision, pattern in FORMATS:
            if re.search(pattern, name, re.I) and all(getattr(chip.matrix.peak, precision) for chip in chips):
                return precision
        return self.precision
