"""Timing one device: what is run, in which shapes, on anything that can run it.

A `Backend` runs kernels and tells the time; `measure_device` knows what is worth timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Protocol

from sim.ask.calibrate.small_models import SMALL_MODELS
from sim.metrics.calibration import DeviceMeasurement, LayerShape, Product, SmallModel

Kernel = Callable[[], object]
Progress = Callable[[int, int, str], None]  # how many are done, how many there are, what is next
LEAST_BACKWARD = 0.1  # share of both passes, where noise hides the backward pass
SCALE_BYTES = 8.0  # a number of four bytes is read and written
ADAM_BYTES = 28.0  # an fp32 Adam step reads weight, gradient and two moments and writes three of them
AGREEING = 1.03  # the second fastest trial over the fastest, up to which both count as undisturbed
POINTWISE_KERNELS = 3  # a sum, a GELU and a norm, each of which reads and writes (the sum with itself: once)


@dataclass(frozen=True)
class TimedShapes:
    """Shapes to time, and in how many rounds: beside other work the least disturbed time of each thing counts."""

    edges: tuple[int, ...]  # of products: every m, n, k of these
    layer: tuple[int, int, int, int, int]  # hidden, heads, ffn, sequence length, microbatch
    stream: int  # elements of the streaming and optimizer kernels
    pointwise: tuple[int, int]  # rows and columns of the kernels between products
    phase: float  # s, how long each phase runs while power is read
    rounds: int = 1  # of everything
    most_rounds: int = 1  # of what has not been met twice by then


PLANS = {
    "gpu": TimedShapes((1024, 4096, 16384), (4096, 32, 14336, 4096, 2), 2**28, (8192, 4096), 3.0),
    "systolic": TimedShapes((1024, 4096, 16384), (4096, 32, 14336, 4096, 2), 2**28, (8192, 4096), 3.0),
    "cpu": TimedShapes((64, 256, 1024), (512, 8, 1376, 256, 4), 2**24, (1024, 1024), 0.5, 5, 15),
}


class Backend(Protocol):
    """One device with a clock."""

    kind: str  # gpu, systolic or cpu
    device: str
    versions: dict[str, str]
    compute_units: int
    memory: float
    precisions: tuple[str, ...]  # of matrix products; the first is that of the layer and of the small models
    software: str  # the stack of the catalogue that the small models run under

    def matmul(self, m: int, n: int, k: int, precision: str) -> Kernel:
        """A matrix product."""

    def attention(self, shape: LayerShape, backward: bool) -> Kernel:
        """Fused causal attention, forward alone or with its backward pass."""

    def layer(self, shape: LayerShape, backward: bool) -> Kernel:
        """A whole layer, forward alone or with its backward pass."""

    def train(self, model: SmallModel) -> Kernel:
        """A whole training step: both passes and the optimizer."""

    def scale(self, elements: int) -> Kernel:
        """Read and write `elements` numbers of four bytes."""

    def pointwise(self, rows: int, columns: int) -> Kernel:
        """A sum, a GELU and a norm over `columns`, as between the products of a layer: results in new memory."""

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
    """Time products, attention, memory, launches, a layer and small models in turn; then the power of each phase.

    Each round times everything once, so that what is compared was timed beside the same other work. What other work
    disturbs is slower, never faster, so the fastest trial counts; it is believed when another one was as fast.
    """
    plan = PLANS[backend.kind]
    shape = LayerShape(*plan.layer, precision=backend.precisions[0])
    models = SMALL_MODELS[backend.kind]
    shapes = list(product(backend.precisions, plan.edges, plan.edges, plan.edges))
    timed = dict(_timed(backend, plan, shape, shapes, models))
    trials: dict[str, list[float]] = {name: [] for name in timed}
    total = plan.rounds * len(timed) + 1
    for number in range(plan.most_rounds):
        for place, (name, time) in enumerate(timed.items()):
            if number < plan.rounds or not _agreeing(trials[name]):
                progress(min(number * len(timed) + place, total - 1), total, name)
                trials[name].append(time())
    progress(total - 1, total, "power")
    watts = dict(_watts(backend, plan, shape))
    progress(total, total, "")
    best = {name: min(times) for name, times in trials.items()}
    rows, columns = plan.pointwise
    return DeviceMeasurement(
        device=backend.device,
        kind=backend.kind,
        software=backend.software,
        versions=backend.versions,
        clocks=backend.clocks(),
        compute_units=backend.compute_units,
        memory=backend.memory,
        products=tuple(Product(*each, seconds=best[_product(*each)]) for each in shapes),
        layer=shape,
        attention_forward=best["attention"],
        attention_backward=_backward(best["attention"], best["attention, both passes"]),
        streaming=SCALE_BYTES * plan.stream / best["memory"],
        pointwise=POINTWISE_KERNELS * SCALE_BYTES * rows * columns / best["pointwise"],
        optimizer=ADAM_BYTES * plan.stream / best["optimizer"],
        launch=best["launches"],
        issue=best["host"],
        layer_forward=best["a layer"],
        layer_backward=_backward(best["a layer"], best["a layer, both passes"]),
        steps=tuple((model, best[model.name]) for model in models),
        disturbed=tuple(name for name, times in trials.items() if plan.most_rounds > 1 and not _agreeing(times)),
        watts=watts,
        limit=backend.limit(),
    )


def _agreeing(times: list[float]) -> bool:
    """Whether the fastest trial was met twice."""
    return len(times) > 1 and sorted(times)[1] <= AGREEING * min(times)


def _product(precision: str, m: int, n: int, k: int) -> str:
    return f"{precision} product of {m} x {n} x {k}"


def _timed(
    backend: Backend,
    plan: TimedShapes,
    shape: LayerShape,
    shapes: list[tuple[str, int, int, int]],
    models: tuple[SmallModel, ...],
) -> Iterator[tuple[str, Callable[[], float]]]:
    """What is timed, by name. Kernels are made anew each time: their tensors need not lie side by side."""
    kernels: dict[str, Callable[[], Kernel]] = {
        **{_product(*each): partial(backend.matmul, *each[1:], each[0]) for each in shapes},
        "attention": partial(backend.attention, shape, False),
        "attention, both passes": partial(backend.attention, shape, True),
        "memory": partial(backend.scale, plan.stream),
        "pointwise": partial(backend.pointwise, *plan.pointwise),
        "optimizer": partial(backend.adam, plan.stream),
        "a layer": partial(backend.layer, shape, False),
        "a layer, both passes": partial(backend.layer, shape, True),
        **{model.name: partial(backend.train, model) for model in models},
    }
    for name, make in kernels.items():
        yield name, partial(_seconds, backend, make)
    yield "launches", backend.launch
    yield "host", backend.issue


def _seconds(backend: Backend, make: Callable[[], Kernel]) -> float:
    return backend.seconds(make())


def _backward(forward: float, both: float) -> float:
    """Seconds of the backward pass: what both take longer."""
    return max(both - forward, LEAST_BACKWARD * both)


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
