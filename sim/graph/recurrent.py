"""Recurrent layers: the part that reads the input is one product for all steps, the rest goes step by step.

Hochreiter and Schmidhuber 1997 (four gates), Cho 2014 (three). How often a step launches kernels, and whether its
weights are read anew, is the stack's (`Software.recurrence`): operation by operation, two kernels a step (Appleyard
2016, arXiv 1604.01946), or one kernel for all steps that keeps the weights on the chip (Diamos 2016, Persistent RNNs).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Step, Tensor
from sim.graph.operation import Operation
from sim.graph.work import Writer

GATES = {"lstm": 4, "gru": 3}
WIDE = 4  # bytes of a 32-bit number
PERSISTENT = 1024  # columns of a state (PyTorch, aten/src/ATen/native/cudnn/RNN.cpp, use_persist_common_heuristics)


class Launches(NamedTuple):
    """Kernels of a step forward and backward, and memory passes over its gates forward and backward."""

    forward: int
    backward: int
    passes: int
    passes_backward: int


# Eager: two products and their sum, four gates apart, three products of states and two sums; backward twice as many.
# A persistent kernel waits for all processors after each step, which is taken to cost what a launch does.
LAUNCHES = {
    "eager": Launches(12, 24, 10, 18),
    "library": Launches(2, 2, 2, 3),
    "persistent": Launches(1, 1, 2, 3),
}


class Recurrence(Operator):
    """A layer over steps x samples x columns; `directions` run side by side, their results lie side by side."""

    __slots__ = ("directions", "gates", "hidden", "inputs", "steps_axis")

    def __init__(self, name: str, x: Tensor, hidden: int, gates: int, directions: int = 1) -> None:
        inputs = x.axes[-1]
        shapes: tuple[tuple[Axis, ...], ...] = (
            (gates * hidden, inputs),
            (gates * hidden, hidden),
            (2 * gates * hidden,),
        )
        weights = tuple(Tensor(name, axes, x.width, "weight") for _ in range(directions) for axes in shapes)
        y = Tensor(f"{name} output", (*x.axes[:-1], directions * hidden), x.width)
        super().__init__(name, (x,), (y,), weights)
        self.inputs, self.hidden, self.gates, self.directions = inputs, hidden, gates, directions
        self.steps_axis = x.axes[0]

    @override
    def forward(self, work: Writer) -> None:
        """The product of all inputs, then the steps."""
        work.product(f"{self.name} inputs", (self._rows(work), self._columns, work.graph.count(self.inputs)))
        launches = LAUNCHES[self._kernels(work)]
        self._steps(work, self.name, (self._columns, self.hidden), launches.forward, launches.passes)

    @override
    def backward(self, work: Writer) -> None:
        """The steps in reverse, then products for the gradients of inputs and of both matrices."""
        launches, inputs = LAUNCHES[self._kernels(work)], work.graph.count(self.inputs)
        shape = self.directions * self.hidden, self.gates * self.hidden
        self._steps(work, f"{self.name} backward", shape, launches.backward, launches.passes_backward)
        if self.reads[0].role != "index":
            work.product(f"{self.name} input gradient", (self._rows(work), inputs, self._columns))
        work.weight_gradient(f"{self.name} inputs", inputs, self._columns, self._rows(work))
        work.weight_gradient(self.name, self.hidden, self._columns, self._rows(work))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its input and result, its gates, and the cells that gates write to."""
        axes = self.result.axes[:-1]
        gates = Tensor(f"{self.name} gates", (*axes, self._columns), work.element)
        cells = Tensor(f"{self.name} cells", self.result.axes, work.element)
        return (*self.reads, *self.writes, gates, *((cells,) if self.gates == GATES["lstm"] else ()))

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        kept = tuple(self.needs(work))
        return (Step(self.reads, (*self.writes, *kept[2:]), kept, self.weights),)

    @override
    def products(self, work: Writer) -> float:
        return 2.0 * self._rows(work) * self._columns * (work.graph.count(self.inputs) + self.hidden)

    @property
    def _columns(self) -> int:
        """Gates of all directions."""
        return self.directions * self.gates * self.hidden

    def _rows(self, work: Writer) -> int:
        return work.graph.rows(self.reads[0])

    def _kernels(self, work: Writer) -> str:
        """The stack's; weights stay on the chip in 16 bit up to a width, one direction at a time."""
        fits = self.hidden <= PERSISTENT and work.element < WIDE and self.directions == 1
        return work.shard.recurrence if fits or work.shard.recurrence != "persistent" else "library"

    def _steps(self, work: Writer, name: str, shape: tuple[int, int], kernels: int, passes: int) -> None:
        """Products (samples x k) by (k x n), one for each step: each in waves of its own, since the next waits."""
        (n, k), rows, steps = shape, self._rows(work), work.graph.count(self.steps_axis)
        weights = work.element * self._columns * self.hidden * (1 if self._kernels(work) == "persistent" else steps)
        traffic = weights + work.element * rows * (passes * self._columns + 2 * self.directions * self.hidden)
        flops = 2.0 * rows * self._columns * self.hidden
        work.operations.append(
            Operation(
                name,
                "matmul",
                flops,
                float(traffic),
                work.precision,
                m=rows // steps,
                n=n,
                k=k,
                kernels=kernels * steps,
                phase=work.phase,
            )
        )


class AdditiveAttention(Operator):
    """Scores v tanh(W q + U k) of all target steps over all source steps, and the mean of the source they weigh.

    Bahdanau 2014 (arXiv 1409.0473), with a normalised v. The sum of queries and keys is an array over target, source,
    samples and width.
    """

    __slots__ = ("source", "width")

    def __init__(self, name: str, queries: Tensor, context: Tensor, width: int) -> None:
        columns = context.axes[-1]
        shapes: tuple[tuple[Axis, ...], ...] = ((width, queries.axes[-1]), (width, columns), (width,), (width,), (1,))
        weights = tuple(Tensor(name, axes, queries.width, "weight") for axes in shapes)
        result = Tensor(f"{name} output", (*queries.axes[:-1], columns), queries.width)
        super().__init__(name, (queries, context), (result,), weights)
        self.width, self.source = width, context.axes[0]

    @override
    def forward(self, work: Writer) -> None:
        """Queries and keys; their sum, bias, tanh and product with v, joined where kernels are; softmax; the mean."""
        context = self.reads[1]
        rows, columns = (work.graph.rows(each) for each in self.reads), work.graph.count(context.axes[-1])
        for count, each in zip(rows, self.reads, strict=True):
            work.product(f"{self.name} projection", (count, self.width, work.graph.count(each.axes[-1])))
        work.memory(f"{self.name} scores", (2 if work.fused else 6) * self._sums(work), 1 if work.fused else 4)
        work.memory(f"{self.name} softmax", 3 * work.element * self._scores(work))
        self._batched(work, f"{self.name} context", (self._target(work), columns, work.graph.count(self.source)))

    @override
    def backward(self, work: Writer) -> None:
        """The same in reverse; the sum is made again or kept, and its gradient summed both ways."""
        queries, context = self.reads
        columns, target, source = work.graph.count(context.axes[-1]), self._target(work), work.graph.count(self.source)
        self._batched(work, f"{self.name} score gradient", (target, source, columns))
        self._batched(work, f"{self.name} context gradient", (source, columns, target))
        work.memory(f"{self.name} softmax backward", 3 * work.element * self._scores(work))
        work.memory(f"{self.name} scores backward", (4 if work.fused else 9) * self._sums(work), 3 if work.fused else 6)
        for each in (queries, context):
            rows, inputs = work.graph.rows(each), work.graph.count(each.axes[-1])
            work.product(f"{self.name} projection input gradient", (rows, inputs, self.width))
            work.weight_gradient(f"{self.name} projection", inputs, self.width, rows)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Operands, probabilities, and the tanh of each sum unless it is made again."""
        queries = self.reads[0]
        axes = (*queries.axes[:-1], self.source)
        scores = Tensor(f"{self.name} probabilities", axes, work.element)
        sums = () if work.fused else (Tensor(f"{self.name} tanh", (*axes, self.width), work.element),)
        return (*self.reads, scores, *sums)

    @override
    def products(self, work: Writer) -> float:
        context = self.reads[1]
        inputs = [work.graph.rows(each) * work.graph.count(each.axes[-1]) for each in self.reads]
        mean = self._scores(work) * work.graph.count(context.axes[-1])
        return 2.0 * (sum(inputs) * self.width + mean + self._scores(work) * self.width)

    def _target(self, work: Writer) -> int:
        return work.graph.count(self.reads[0].axes[0])

    def _scores(self, work: Writer) -> float:
        return float(work.graph.rows(self.reads[0]) * work.graph.count(self.source))

    def _sums(self, work: Writer) -> float:
        """Bytes of the sums of queries and keys [B]."""
        return work.element * self._scores(work) * self.width

    def _batched(self, work: Writer, name: str, shape: tuple[int, int, int]) -> None:
        work.product(name, shape, work.graph.sizes["samples"])


class StackedFrames(Operator):
    """Several steps of the source in one, as columns side by side: a copy either way."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, steps: Axis, times: int) -> None:
        columns = x.axes[-1]
        assert isinstance(columns, int)
        y = Tensor(f"{name} output", (steps, *x.axes[1:-1], times * columns), x.width)
        super().__init__(name, (x,), (y,))

    @override
    def forward(self, work: Writer) -> None:
        work.memory(self.name, 2 * work.bytes(self.reads[0]))

    @override
    def backward(self, work: Writer) -> None:
        work.memory(f"{self.name} backward", 2 * work.bytes(self.reads[0]))


class TransducerJoint(Operator):
    """The sum of each source step with each target step, and a rectifier: an array over both (Graves 2012).

    Read from both sides, written once; backward, masked and summed over either. Padding is left out (packed).
    """

    __slots__ = ()

    def __init__(self, name: str, source: Tensor, target: Tensor) -> None:
        y = Tensor(f"{name} output", ("grid", "samples", source.axes[-1]), source.width)
        super().__init__(name, (source, target), (y,))

    @override
    def forward(self, work: Writer) -> None:
        passes = 1 if work.fused else 1 + 2 + 2  # sum, rectifier, dropout
        work.memory(self.name, passes * work.bytes(self.result), 1 if work.fused else 3)

    @override
    def backward(self, work: Writer) -> None:
        passes = 2 + 2 if work.fused else 3 + 2 + 2
        work.memory(f"{self.name} backward", passes * work.bytes(self.result), 2 if work.fused else 4)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.writes


class TransducerLoss(Operator):
    """Forward and backward sums over the grid of source and target steps (Graves 2012, arXiv 1211.3711, section 2.4).

    Logits are read for their normalisers; gradients are written in the place of logits. The two sums go along the
    diagonals of the grid, a step after the other, inside one kernel.
    """

    __slots__ = ()

    def __init__(self, logits: Tensor) -> None:
        super().__init__("transducer loss", (logits,), (Tensor("loss", ("samples",), 4),))

    @override
    def forward(self, work: Writer) -> None:
        logits, diagonals = work.bytes(self.reads[0]), work.graph.sizes["source"] + work.graph.sizes["target"]
        work.memory(self.name, (1 if work.fused else 3) * logits, 2 + diagonals)

    @override
    def backward(self, work: Writer) -> None:
        work.memory(f"{self.name} backward", (2 if work.fused else 3) * work.bytes(self.reads[0]), 1)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads
