"""Timing one device: what is run, in which shapes, on anything that can run it.

A `Backend` runs kernels and tells the time; `measure_device` knows what is worth timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Protocol

from sim.metrics.calibration import DeviceMeasurement, LayerShape, Product

Kernel = Callable[[], object]
Progress = Callable[[int, int, str], None]  # how many are done, how many there are, what is next
LEAST_BACKWARD = 0.1  # share of both passes, where noise hides the backward pass
ADAM_BYTES = 28.0  # an fp32 Adam step reads weight, gradient and two moments and writes three of them


@dataclass(frozen=True)
class TimedShapes:
    """Shapes to time."""

    edges: tuple[int, ...]  # of products: every m, n, k of these
    layer: tuple[int, int, int, int, int]  # hidden, heads, ffn, sequence length, microbatch
    stream: int  # elements of the elementwise and optimizer kernels
    phase: float  # s, how long each phase runs while power is read


PLANS = {
    "gpu": TimedShapes((1024, 4096, 16384), (4096, 32, 14336, 4096, 2), 2**28, 3.0),
    "cpu": TimedShapes((128, 256, 512), (256, 4, 688, 256, 1), 2**22, 0.2),
}


class Backend(Protocol):
    """One device with a clock."""

    kind: str  # gpu or cpu
    device: str
    versions: dict[str, str]
    compute_units: int
    memory: float
    precisions: tuple[str, ...]  # of matrix products; the first is that of the layer

    def matmul(self, m: int, n: int, k: int, precision: str) -> Kernel:
        """A matrix product."""

    def attention(self, shape: LayerShape, backward: bool) -> Kernel:
        """Fused causal attention, forward alone or with its backward pass."""

    def layer(self, shape: LayerShape, backward: bool) -> Kernel:
        """A whole layer, forward alone or with its backward pass."""

    def scale(self, elements: int) -> Kernel:
        """Read and write `elements` numbers of four bytes."""

    def adam(self, elements: int) -> Kernel:
        """A fused Adam step on `elements` parameters of four bytes."""

    def launch(self) -> float:
        """Seconds that the device needs to start a kernel."""

    def issue(self) -> float:
        """Seconds that the host needs to issue a kernel."""

    def seconds(self, kernel: Kernel) -> float:
        """Time of one run of `kernel` in steady state."""

    def watts(self, kernel: Kernel | None, seconds: float) -> float | None:
        """Mean power while `kernel` runs for about `seconds`, idle without one; None without a meter."""

    def limit(self) -> float | None:
        """Power limit of the board [W]."""

    def clocks(self) -> dict[str, str]:
        """Clock rates now."""


def measure_device(backend: Backend, progress: Progress = lambda done, total, what: None) -> DeviceMeasurement:
    """Time matrix products, attention, memory, launches and a layer, and read the power of each phase."""
    plan = PLANS[backend.kind]
    shape = LayerShape(*plan.layer, precision=backend.precisions[0])
    shapes = list(product(backend.precisions, plan.edges, plan.edges, plan.edges))
    total = len(shapes) + 5
    products = []
    for number, (precision, m, n, k) in enumerate(shapes):
        progress(number, total, f"{precision} product of {m} x {n} x {k}")
        products.append(Product(precision, m, n, k, backend.seconds(backend.matmul(m, n, k, precision))))
    progress(len(shapes), total, "attention")
    attention = _both_ways(backend, backend.attention, shape)
    progress(len(shapes) + 1, total, "memory")
    streaming = 8.0 * plan.stream / backend.seconds(backend.scale(plan.stream))
    optimizer = ADAM_BYTES * plan.stream / backend.seconds(backend.adam(plan.stream))
    progress(len(shapes) + 2, total, "launches")
    launch, issue = backend.launch(), backend.issue()
    progress(len(shapes) + 3, total, "a whole layer")
    layer = _both_ways(backend, backend.layer, shape)
    progress(len(shapes) + 4, total, "power")
    watts = dict(_watts(backend, plan, shape))
    progress(total, total, "")
    return DeviceMeasurement(
        device=backend.device,
        kind=backend.kind,
        versions=backend.versions,
        clocks=backend.clocks(),
        compute_units=backend.compute_units,
        memory=backend.memory,
        products=tuple(products),
        layer=shape,
        attention_forward=attention[0],
        attention_backward=attention[1],
        streaming=streaming,
        optimizer=optimizer,
        launch=launch,
        issue=issue,
        layer_forward=layer[0],
        layer_backward=layer[1],
        watts=watts,
        limit=backend.limit(),
    )


def _both_ways(backend: Backend, make: Callable[[LayerShape, bool], Kernel], shape: LayerShape) -> tuple[float, float]:
    """Seconds of the forward pass, and of the backward pass as what both take longer."""
    forward, both = backend.seconds(make(shape, False)), backend.seconds(make(shape, True))
    return forward, max(both - forward, LEAST_BACKWARD * both)


def _watts(backend: Backend, plan: TimedShapes, shape: LayerShape) -> Iterator[tuple[str, float]]:
    edge = max(plan.edges)
    phases: dict[str, Callable[[], Kernel] | None] = {
        "idle": None,
        "matrix": lambda: backend.matmul(edge, edge, edge, backend.precisions[0]),
        "attention": lambda: backend.attention(shape, True),
        "memory": lambda: backend.scale(plan.stream),
        "layer": lambda: backend.layer(shape, True),
    }
    for name, make in phases.items():
        watts = backend.watts(make() if make else None, plan.phase)
        if watts is not None:
            yield name, watts
