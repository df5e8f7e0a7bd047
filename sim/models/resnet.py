"""ResidualSum convolution networks (He 2015, arXiv 1512.03385), with the stride in the middle of a block (v1.5).

Kernels as cuDNN has them: a convolution is an implicit matrix product that unrolls nothing in memory; batch norm
reads its input twice, for the statistics and for the result. Tensors lie samples, channels, height, width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.ends import CrossEntropy
from sim.graph.graph import Axis, Graph, Operator, Tensor
from sim.graph.operation import Operation, Phase, Shard
from sim.graph.products import Linear
from sim.graph.work import Writer, element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload
from sim.record import NARROW, Name
from sim.units import Count

EXPANSION = 4  # channels that leave a block over those inside
COLOURS = 3


class ResNet(Workload):
    """A residual convolution network: stem, stages of bottleneck blocks, classifier. Samples are images."""

    kind: Literal["resnet"]
    name: Name = Field(default="inline", description="the name it is found by")
    image: Count = Field(default=224, ge=32, description="height and width of an image [pixels]")
    width: Count = Field(
        default=64, ge=1, le=100_000, description="channels of the stem, and inside the blocks of the first stage"
    )
    blocks: tuple[Count, ...] = Field(min_length=1, description="bottleneck blocks of each stage")
    classes: Count = Field(default=1000, ge=1, le=1_000_000_000, description="classes that are told apart")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to its source")

    tokens: ClassVar[bool] = False

    @property
    @override
    def layers(self) -> int:
        return sum(self.blocks)

    @property
    @override
    def line(self) -> str:
        return f"{self.layers} bottleneck blocks, images of {self.image} pixels, {self.classes} classes"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Stem, blocks one by one, classifier."""
        x = Tensor("image", ("samples", COLOURS, self.image, self.image), element_bytes(shard.precision), "index")
        stem = _stem(self, shard, x)
        blocks: list[Graph] = []
        y = stem.output
        for stage, count in enumerate(self.blocks):
            for number in range(count):
                blocks.append(_block(y, shard, self.width << stage, 2 if stage and not number else 1))
                y = blocks[-1].output
        return Pieces(stem, blocks, _classifier(self, shard, y))

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[ResNet, Divided, Trained], Iterator[Problem]]


def check_data_parallel(model: ResNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A convolution network runs data parallel only."""
    for name in ("tensor", "context", "pipeline"):
        count = getattr(plan, name)
        if count > 1:
            message = f"{name} {count}: {model.name} runs data parallel only"
            yield finding(f"parallelism.{name}", message, f"set {name} to 1")


def check_recomputation(model: ResNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Blocks of a convolution network are recomputed whole, or not."""
    if training.recompute not in ("none", "full"):
        message = f"{training.recompute} recomputation is one of transformers"
        yield finding("training.recompute", message, "use none or full")


def check_precision(model: ResNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Convolutions compute in 16 bit or more."""
    if training.precision in NARROW:
        message = f"convolutions in {training.precision} are not modelled"
        yield finding("training.precision", message, "use bf16 or fp16")


def check_no_adapters(model: ResNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Convolutions have no adapters."""
    if training.lora:
        yield finding("training.lora", f"{model.name} has no matrices to adapt", "leave it out")


RULES: tuple[Rule, ...] = (check_data_parallel, check_recomputation, check_precision, check_no_adapters)


def _stem(model: ResNet, shard: Shard, x: Tensor) -> Graph:
    graph = Graph("stem", x, {"samples": shard.microbatch})
    y = _unit(graph, "stem", x, model.width, 7, 2)
    graph.add(Pooling("pool", y, -(-_side(y) // 2)))
    return graph


def _block(x: Tensor, shard: Shard, width: int, stride: int) -> Graph:
    """Three convolutions beside a shortcut, which is one too where shape changes."""
    x = Tensor(x.name, x.axes, x.width)
    graph = Graph("block", x, {"samples": shard.microbatch}, repeated=True)
    y = _unit(graph, "reduce", x, width, 1)
    y = _unit(graph, "spatial", y, width, 3, stride)
    y = _unit(graph, "expand", y, EXPANSION * width, 1, rectified=False)
    changes = x.axes[1] != y.axes[1] or stride > 1
    shortcut = _unit(graph, "shortcut", x, EXPANSION * width, 1, stride, rectified=False) if changes else x
    graph.add(Rectifier("block", y, shortcut))
    return graph


def _classifier(model: ResNet, shard: Shard, x: Tensor) -> Graph:
    x = Tensor(x.name, x.axes, x.width)
    graph = Graph("classifier", x, {"samples": shard.microbatch})
    pooled = graph.add(Pooling("average", x, None)).result
    logits = graph.add(Linear("classes", pooled, (model.classes,), bias=True)).result
    graph.add(CrossEntropy(logits))
    return graph


def _unit(
    graph: Graph, name: str, x: Tensor, channels: int, kernel: int, stride: int = 1, *, rectified: bool = True
) -> Tensor:
    """Convolution, batch norm and, mostly, a rectifier."""
    y = graph.add(Convolution(f"{name} convolution", x, channels, kernel, stride)).result
    y = graph.add(BatchNorm(f"{name} norm", y)).result
    return graph.add(Rectifier(name, y)).result if rectified else y


def _side(x: Tensor) -> int:
    return _plain(x.axes[2])


def _plain(axis: Axis) -> int:
    if not isinstance(axis, int):
        raise TypeError(f"{axis} is no count")
    return axis


class Convolution(Operator):
    """Square kernels, "same" padding: samples x height x width outputs, each a product over channels x kernel."""

    __slots__ = ("channels", "inputs", "kernel", "side", "stride")

    def __init__(self, name: str, x: Tensor, channels: int, kernel: int, stride: int) -> None:
        inputs, side = _plain(x.axes[1]), -(-_side(x) // stride)
        weight = Tensor(name, (channels, inputs, kernel, kernel), x.width, "weight")
        super().__init__(name, (x,), (Tensor(f"{name} output", (x.axes[0], channels, side, side), x.width),), (weight,))
        self.inputs, self.channels, self.kernel, self.stride, self.side = inputs, channels, kernel, stride, side

    @override
    def forward(self, work: Writer) -> None:
        """Input, weights and output cross memory once."""
        shape = (self._positions(work), self.channels, self.inputs * self.kernel**2)
        self._product(work, self.name, shape, sum(map(work.bytes, (*self.reads, *self.weights, *self.writes))))

    @override
    def backward(self, work: Writer) -> None:
        """Gradient of the input, unless that is the image; of weights, added to what earlier microbatches left."""
        x, weight, y = self.reads[0], self.weights[0], self.result
        if x.role != "index":
            shape = (work.elements(x) // self.inputs, self.inputs, self.channels * self.kernel**2 // self.stride**2)
            traffic = sum(map(work.bytes, (y, weight, x)))
            self._product(work, f"{self.name} input gradient", shape, traffic)
        before, work.phase = work.phase, Phase.WEIGHT_GRADIENT
        shape = (self.channels, self.inputs * self.kernel**2, self._positions(work))
        written = work.elements(weight) * (2 * work.gradient_bytes if work.shard.fused_accumulation else work.element)
        read = work.bytes(x) + work.bytes(y)
        self._product(work, f"{self.name} weight gradient", shape, read + written)
        if not work.shard.fused_accumulation:
            added = work.elements(weight) * (work.element + 2 * work.gradient_bytes)
            work.memory(f"{self.name} gradient accumulation", added)
        work.phase = before

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads

    @override
    def products(self, work: Writer) -> float:
        return 2.0 * self._positions(work) * self.channels * self.inputs * self.kernel**2

    @override
    def trained_passes(self, work: Writer) -> int:
        return 2 if self.reads[0].role == "index" else 3

    def _positions(self, work: Writer) -> int:
        return work.graph.sizes["samples"] * self.side**2

    def _product(self, work: Writer, name: str, shape: tuple[int, int, int], traffic: float) -> None:
        m, n, k = shape
        work.operations.append(
            Operation(name, "matmul", self.products(work), float(traffic), work.precision, 1, m, n, k, phase=work.phase)
        )


class BatchNorm(Operator):
    """Batch norm over the samples of a rank: scale and shift for each channel."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor) -> None:
        weights = tuple(Tensor(f"{name} {what}", (x.axes[1],), 4, "weight") for what in ("scale", "shift"))
        super().__init__(name, (x,), (Tensor(f"{name} output", x.axes, x.width),), weights)

    @override
    def forward(self, work: Writer) -> None:
        """Read x for its statistics, read it again, write y."""
        work.memory(self.name, 3 * work.bytes(self.reads[0]), 2)

    @override
    def backward(self, work: Writer) -> None:
        """Read x and dy for two sums, read both again, write dx."""
        work.memory(f"{self.name} backward", 5 * work.bytes(self.reads[0]), 2)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads


class Rectifier(Operator):
    """The positive part of its input, or of the sum with a shortcut. Fused, the norm before it does that too."""

    __slots__ = ()

    def __init__(self, name: str, *inputs: Tensor) -> None:
        x = inputs[0]
        super().__init__(f"{name} rectifier", inputs, (Tensor(f"{name} output", x.axes, x.width),))

    @override
    def forward(self, work: Writer) -> None:
        """Sum: read two, write one; rectify: read, write. Fused, the shortcut is one more read, the mask one bit."""
        size, shortcuts = work.bytes(self.result), len(self.reads) - 1
        if not work.fused:
            work.memory(self.name, (3 * shortcuts + 2) * size, 1 + shortcuts)
        else:
            work.memory(self.name, shortcuts * size + work.elements(self.result) / 8, 0)

    @override
    def backward(self, work: Writer) -> None:
        """Read dy and the result, write dx; fused, read the mask."""
        if not work.fused:
            work.memory(f"{self.name} backward", 3 * work.bytes(self.result))
        else:
            work.memory(f"{self.name} backward", work.elements(self.result) / 8, 0)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its result; fused, a mask of a bit per element."""
        if not work.fused:
            return self.writes
        samples, *inner = self.result.axes
        return (Tensor(f"{self.name} mask", (samples, -(-prod(map(_plain, inner)) // 8)), 1),)


class Pooling(Operator):
    """The largest of each neighbourhood, by whose index gradients go back; or the mean of all, where `side` is None."""

    __slots__ = ("index",)

    def __init__(self, name: str, x: Tensor, side: int | None) -> None:
        axes = x.axes[:2] if side is None else (*x.axes[:2], side, side)
        super().__init__(name, (x,), (Tensor(f"{name} output", axes, x.width),))
        self.index = () if side is None else (Tensor(f"{name} index", axes, 4),)

    @override
    def forward(self, work: Writer) -> None:
        """Read x, write y and the index."""
        work.memory(self.name, sum(map(work.bytes, (*self.reads, *self.writes, *self.index))))

    @override
    def backward(self, work: Writer) -> None:
        """Read dy and the index, write dx."""
        work.memory(f"{self.name} backward", sum(map(work.bytes, (*self.reads, *self.writes, *self.index))))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.index
