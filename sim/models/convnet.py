"""Convolution networks of any shape: a stem, stages of blocks, and a classifier. Samples are images.

Blocks: chains of convolutions and poolings (Simonyan 2014, arXiv 1409.1556), branches side by side (Szegedy 2015,
arXiv 1512.00567), bottlenecks with a shortcut, grouped or not (He 2015, arXiv 1512.03385; Xie 2016, arXiv 1611.05431),
and inverted ones with a depthwise convolution and a gate (Tan 2019, arXiv 1905.11946).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.convolution import (
    BatchNorm,
    ChannelActivation,
    Concatenation,
    Convolution,
    FocalLoss,
    FrozenNorm,
    Pooling,
    SqueezeExcite,
    Upsampling,
    View,
    plain,
    window,
)
from sim.graph.ends import CrossEntropy
from sim.graph.frozen import freeze, given_by
from sim.graph.graph import Graph, Tensor
from sim.graph.operation import Shard
from sim.graph.pointwise import Activation, Dropout
from sim.graph.products import Linear
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload
from sim.record import NARROW, Name, Record
from sim.units import Count

Function = Literal["relu", "silu", "none"]


class Convolved(Record):
    """A convolution with its norm and activation, or a pooling."""

    channels: Count | None = Field(default=None, ge=1, le=100_000, description="channels it makes; a pooling if absent")
    kernel: Count = Field(default=1, ge=1, le=1000, description="height of the window")
    kernel_width: Count | None = Field(default=None, ge=1, le=10_000, description="its width, if that differs")
    beside: bool = Field(default=False, description="a second convolution with the window turned, results side by side")
    stride: Count = Field(default=1, ge=1, le=100, description="places the window moves on")
    padding: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="zeros around the image; as many as keep its size at stride 1 if absent",
    )
    groups: Count = Field(default=1, ge=1, le=100_000, description="groups of channels that see only their own")
    pool: Literal["max", "mean"] = Field(default="max", description="what a pooling takes of its window")


class Convolutions(Record):
    """Units one after the other."""

    block: Literal["chain"] = Field(description="units one after the other")
    units: tuple[Convolved, ...] = Field(min_length=1, description="in order")
    repeat: Count = Field(default=1, ge=1, le=10_000, description="how many in a row")


class Branches(Record):
    """Chains side by side, whose channels are joined."""

    block: Literal["branches"] = Field(description="chains side by side, joined by channels")
    branches: tuple[tuple[Convolved, ...], ...] = Field(min_length=1, description="units of each chain")
    repeat: Count = Field(default=1, ge=1, le=10_000, description="how many in a row")


class Bottleneck(Record):
    """Three convolutions beside a shortcut: narrow, spatial, wide."""

    block: Literal["bottleneck"] = Field(description="narrow, spatial, wide, beside a shortcut (ResNet)")
    channels: Count = Field(ge=1, le=100_000, description="channels it makes")
    inner: Count = Field(ge=1, le=100_000, description="channels of the spatial convolution")
    kernel: Count = Field(default=3, ge=1, le=1000, description="window of the spatial convolution")
    groups: Count = Field(default=1, ge=1, le=100_000, description="its groups")
    stride: Count = Field(default=1, ge=1, le=100, description="its stride, in the first of the row")
    repeat: Count = Field(default=1, ge=1, le=10_000, description="how many in a row")


class Inverted(Record):
    """A wide depthwise convolution between narrow ends, with a gate on its channels and a shortcut."""

    block: Literal["inverted"] = Field(description="wide, depthwise, narrow, with a gate (MobileNet, EfficientNet)")
    channels: Count = Field(ge=1, le=100_000, description="channels it makes")
    expand: Count = Field(default=6, ge=1, le=1000, description="channels inside over those that arrive")
    kernel: Count = Field(default=3, ge=1, le=1000, description="window of the depthwise convolution")
    stride: Count = Field(default=1, ge=1, le=100, description="its stride, in the first of the row")
    squeeze: Count = Field(default=4, ge=1, le=10_000, description="channels that arrive over those inside the gate")
    repeat: Count = Field(default=1, ge=1, le=10_000, description="how many in a row")


class Auxiliary(Record):
    """A classifier on the way, with a loss of its own; the main road goes on as it was."""

    block: Literal["auxiliary"] = Field(description="a second classifier beside the network")
    units: tuple[Convolved, ...] = Field(min_length=1, description="units before its last product")


class Detector(Record):
    """A pyramid of features and two heads on each of its levels, instead of a classifier (RetinaNet).

    Lin 2016 (arXiv 1612.03144) and 2017 (arXiv 1708.02002), as torchvision has it.
    """

    taps: tuple[Count, ...] = Field(min_length=1, description="stages whose results the pyramid reads; 0 is the stem")
    levels: Count = Field(default=5, ge=1, le=20, description="its levels; those beyond the taps halve the one before")
    channels: Count = Field(default=256, ge=1, le=100_000, description="its channels")
    convolutions: Count = Field(default=4, ge=0, le=100, description="of each head before its last")
    anchors: Count = Field(default=9, ge=1, le=1000, description="boxes at each place")


Stage = Annotated[Convolutions | Branches | Bottleneck | Inverted | Auxiliary, Field(discriminator="block")]
Block = Convolutions | Branches | Bottleneck | Inverted | Auxiliary


class ConvNet(Workload):
    """A convolution network: stages of blocks, and a classifier. Samples are images."""

    kind: Literal["convnet"]
    name: Name = Field(default="inline", description="the name it is found by")
    image: Count = Field(default=224, ge=8, le=100_000, description="height of an image [pixels]")
    image_width: Count | None = Field(default=None, ge=1, le=100_000, description="its width, if that differs")
    colours: Count = Field(default=3, ge=1, le=100_000, description="channels of an image")
    stages: tuple[Stage, ...] = Field(min_length=2, description="blocks in order; the first is the stem")
    norm: bool = Field(default=True, description="a batch norm after each convolution; else it has a bias")
    activation: Literal["relu", "silu"] = Field(default="relu", description="function after it")
    detector: Detector | None = Field(default=None, description="finds objects; a classifier if absent")
    frozen_norm: bool = Field(
        default=False, description="norms only scale and shift, with numbers that are not trained"
    )
    frozen_stages: Count = Field(default=0, ge=0, le=10_000, description="first stages that are not trained")
    pooled: bool = Field(default=True, description="the classifier sees the mean of all places; else all of them")
    dense: tuple[Count, ...] = Field(default=(), description="widths of layers before the last product")
    dropout: bool = Field(default=False, description="dropout before each product of the classifier")
    classes: Count = Field(default=1000, ge=1, le=1_000_000_000, description="classes that are told apart")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to its source")

    tokens: ClassVar[bool] = False

    @property
    @override
    def layers(self) -> int:
        return sum(getattr(stage, "repeat", 1) for stage in self.stages[1:])

    @property
    @override
    def line(self) -> str:
        size = f"{self.image} x {self.image_width or self.image}"
        return f"{self.layers} blocks, images of {size} pixels, {self.classes} classes"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Stem, blocks one by one (equal ones are one graph), classifier."""
        return _Network(self, shard).pieces()

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return (*IMAGE_RULES, check_detector, check_windows)


Rule = Callable[[ConvNet, Divided, Trained], Iterator[Problem]]
ImageRule = Callable[[Workload, Divided, Trained], Iterator[Problem]]


def check_data_parallel(model: Workload, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A network over images runs data parallel only."""
    for name in ("tensor", "context", "pipeline"):
        count = getattr(plan, name)
        if count > 1:
            message = f"{name} {count}: {model.name} runs data parallel only"
            yield finding(f"parallelism.{name}", message, f"set {name} to 1")


def check_recomputation(model: Workload, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Blocks are recomputed whole, or not."""
    if training.recompute not in ("none", "full"):
        message = f"{training.recompute} recomputation is one of transformers"
        yield finding("training.recompute", message, "use none or full")


def check_precision(model: Workload, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Convolutions compute in 16 bit or more."""
    if training.precision in NARROW:
        yield finding("training.precision", "convolutions in fp8 are not modelled", "use bf16 or fp16")


def check_no_adapters(model: Workload, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Convolutions have no adapters."""
    if training.lora:
        yield finding("training.lora", f"{model.name} has no matrices to adapt", "leave it out")


IMAGE_RULES: tuple[ImageRule, ...] = (check_data_parallel, check_recomputation, check_precision, check_no_adapters)


def check_detector(model: ConvNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A pyramid reads stages that there are, from the bottom up."""
    if model.detector and (list(model.detector.taps) != sorted(set(model.detector.taps))):
        yield finding("workload.detector.taps", "taps do not go from the bottom up", "name each stage once, in order")
    elif model.detector and model.detector.taps[-1] >= len(model.stages):
        message = f"there is no stage {model.detector.taps[-1]}"
        yield finding("workload.detector.taps", message, f"they are numbered 0 to {len(model.stages) - 1}")


def check_windows(model: ConvNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Every window fits into what it looks at, and groups divide the channels."""
    if model.detector and model.detector.taps[-1] >= len(model.stages):
        return
    try:
        model.pieces(Shard(precision="bf16"))
    except _DoesNotFit as fault:
        yield finding(f"workload.stages[{fault.stage}]", fault.message, "make the image larger, or the window smaller")


class _DoesNotFit(Exception):
    """A window or a number of groups that does not suit what arrives."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message, self.stage = message, 0


class _Network:
    """Writes the graphs of a network, one block after the other."""

    def __init__(self, model: ConvNet, shard: Shard) -> None:
        self.model, self.shard = model, shard
        self.known: dict[object, Graph] = {}  # equal blocks on equal inputs are one graph
        self.frozen = False  # the stage that is being written

    def pieces(self) -> Pieces:
        """All of them."""
        model = self.model
        sides = (model.image, model.image_width or model.image)
        x = Tensor("image", ("samples", model.colours, *sides), element_bytes(self.shard.precision), "index")
        made: list[Graph] = []
        left: list[Tensor] = []  # by each stage
        for number, stage in enumerate(model.stages):
            self.frozen = number < model.frozen_stages
            for place in range(getattr(stage, "repeat", 1)):
                try:
                    made.append(self.block(stage, x, 1 if place else getattr(stage, "stride", 1), number > 0))
                except _DoesNotFit as fault:
                    fault.stage = number
                    raise
                x = given_by(made[-1]) if self.frozen else made[-1].output
            left.append(x)
        stem = getattr(model.stages[0], "repeat", 1)
        first, rest = (made[0], made[1:]) if stem == 1 else (None, made)
        return Pieces(first, rest, self.detector(model.detector, left) if model.detector else self.classifier(x))

    def block(self, stage: Block, x: Tensor, stride: int, repeated: bool) -> Graph:
        """The graph of one block behind `x`."""
        key = (id(stage), stride, x.axes, x.role)
        if key not in self.known:
            self.known[key] = graph = self.graph("block" if repeated else "stem", x, repeated=repeated)
            WRITERS[stage.block](self, graph, stage, stride)
            if self.frozen:
                graph.operators = freeze(graph.operators)
        return self.known[key]

    def graph(self, name: str, x: Tensor, *, repeated: bool = False) -> Graph:
        """An empty piece behind `x`."""
        source = Tensor(x.name, x.axes, x.width, x.role)
        return Graph(name, source, {"samples": self.shard.microbatch}, repeated=repeated)

    def unit(self, graph: Graph, name: str, x: Tensor, unit: Convolved, form: str | None = None) -> Tensor:
        """A convolution with norm and activation, or a pooling."""
        height, width = unit.kernel, unit.kernel_width or unit.kernel
        over = window(height, width, unit.stride, unit.padding)
        if min(over.sides(x)) < 1:
            raise _DoesNotFit(f"a window of {height} x {width} is larger than what arrives, {x.axes[2]} x {x.axes[3]}")
        if unit.channels is None:
            return graph.add(Pooling(f"{name} pool", x, over, largest=unit.pool == "max")).result
        inputs = plain(x.axes[1])
        if inputs % unit.groups or unit.channels % unit.groups:
            raise _DoesNotFit(f"groups {unit.groups} do not divide channels {inputs} and {unit.channels}")
        if unit.beside:
            turned = unit.model_copy(update={"beside": False, "kernel": width, "kernel_width": height})
            straight = self.unit(graph, f"{name} a", x, unit.model_copy(update={"beside": False}), form)
            return graph.add(Concatenation(name, (straight, self.unit(graph, f"{name} b", x, turned, form)))).result
        norm, form = self.model.norm, form or self.model.activation
        convolution = Convolution(f"{name} convolution", x, unit.channels, over, groups=unit.groups, bias=not norm)
        y = graph.add(convolution).result
        norms = FrozenNorm if self.model.frozen_norm else BatchNorm
        y = graph.add(norms(f"{name} norm", y)).result if norm else y
        return y if form == "none" else graph.add(ChannelActivation(name, form, y, normed=norm)).result

    def chain(self, graph: Graph, name: str, x: Tensor, units: tuple[Convolved, ...]) -> Tensor:
        """Units one after the other."""
        for number, unit in enumerate(units):
            x = self.unit(graph, f"{name} {number}", x, unit)
        return x

    def classifier(self, x: Tensor) -> Graph:
        """Mean of all places, or all of them; dense layers; the last product and its loss."""
        graph, model = self.graph("classifier", x), self.model
        if model.pooled:
            y = graph.add(Pooling("average", graph.source, None)).result
        else:
            axes = ("samples", plain(x.axes[1]) * plain(x.axes[2]) * plain(x.axes[3]))
            y = graph.add(View("flat", graph.source, axes)).result
        for number, columns in enumerate(model.dense):
            y = self.dropped(graph, f"dense {number} dropout", y)
            z = graph.add(Linear(f"dense {number}", y, (columns,), bias=True)).result
            y = graph.add(Activation(f"dense {number} activation", (z,), "relu", bias=True)).result
        y = self.dropped(graph, "dropout", y)
        graph.add(CrossEntropy(graph.add(Linear("classes", y, (model.classes,), bias=True)).result))
        return graph

    def detector(self, detector: Detector, left: list[Tensor]) -> Graph:
        """Features from the top down, and on each level what is there and where its box is."""
        graph = Graph("detector", left[detector.taps[-1]], {"samples": self.shard.microbatch})
        boxes = Heads(self, graph, detector)
        above: Tensor | None = None
        levels: list[Tensor] = []
        for number in reversed(detector.taps):
            x = self.plain(graph, f"lateral {number}", left[number], detector.channels)
            if above is not None:
                twice = graph.add(Upsampling(f"from above {number}", above)).result
                x = graph.add(ChannelActivation(f"lateral {number}", "none", x, twice, normed=False)).result
            above = x
            levels.insert(0, self.plain(graph, f"level {number}", x, detector.channels, 3))
        while len(levels) < detector.levels:
            levels.append(self.plain(graph, f"level {len(levels)} above", levels[-1], detector.channels, 3, 2))
        graph.add(FocalLoss(tuple(each for level in levels for each in boxes.on(level))))
        return graph

    def plain(self, graph: Graph, name: str, x: Tensor, channels: int, kernel: int = 1, stride: int = 1) -> Tensor:
        """A convolution with a bias and nothing behind it."""
        return graph.add(Convolution(name, x, channels, window(kernel, stride=stride), bias=True)).result

    def dropped(self, graph: Graph, name: str, x: Tensor) -> Tensor:
        """`x` behind dropout, if there is any."""
        return graph.add(Dropout(name, x)).result if self.model.dropout else x


class Heads:
    """Two chains of convolutions that all levels of a pyramid share: what is in a box, and where it is."""

    def __init__(self, network: _Network, graph: Graph, detector: Detector) -> None:
        self.graph, self.detector = graph, detector
        self.results = {"class": network.model.classes * detector.anchors, "box": 4 * detector.anchors}
        self.weights: dict[str, tuple[Tensor, ...]] = {}  # of the first level, which the others multiply by too

    def on(self, level: Tensor) -> list[Tensor]:
        """What both say of a level."""
        found = []
        for head, results in self.results.items():
            x = level
            for number in range(self.detector.convolutions):
                x = self.convolved(f"{head} {number}", x, self.detector.channels)
                x = self.graph.add(ChannelActivation(f"{head} {number}", "relu", x, normed=False)).result
            found.append(self.convolved(head, x, results))
        return found

    def convolved(self, name: str, x: Tensor, channels: int) -> Tensor:
        """One convolution, with the weights that all levels share."""
        convolution = self.graph.add(Convolution(name, x, channels, window(3), bias=True))
        convolution.weights = self.weights.setdefault(name, convolution.weights)
        return convolution.result


def _chain(builder: _Network, graph: Graph, stage: Convolutions, stride: int) -> None:
    builder.chain(graph, graph.name, graph.source, stage.units)


def _branches(builder: _Network, graph: Graph, stage: Branches, stride: int) -> None:
    ends = [builder.chain(graph, f"branch {number}", graph.source, each) for number, each in enumerate(stage.branches)]
    if len({end.axes[2:] for end in ends}) > 1:
        raise _DoesNotFit("branches make images of unequal size")
    graph.add(Concatenation("branches", tuple(ends)))


def _bottleneck(builder: _Network, graph: Graph, stage: Bottleneck, stride: int) -> None:
    """The shortcut is a convolution too where shape changes."""
    x = graph.source
    y = builder.unit(graph, "reduce", x, Convolved(channels=stage.inner))
    spatial = Convolved(channels=stage.inner, kernel=stage.kernel, stride=stride, groups=stage.groups)
    y = builder.unit(graph, "spatial", y, spatial)
    y = builder.unit(graph, "expand", y, Convolved(channels=stage.channels), "none")
    changes = x.axes[1] != y.axes[1] or stride > 1
    across = Convolved(channels=stage.channels, stride=stride)
    shortcut = builder.unit(graph, "shortcut", x, across, "none") if changes else x
    graph.add(ChannelActivation("block", builder.model.activation, y, shortcut))


def _inverted(builder: _Network, graph: Graph, stage: Inverted, stride: int) -> None:
    x = y = graph.source
    arrives = plain(x.axes[1])
    inner = arrives * stage.expand
    if stage.expand > 1:
        y = builder.unit(graph, "expand", x, Convolved(channels=inner))
    depthwise = Convolved(channels=inner, kernel=stage.kernel, stride=stride, groups=inner)
    y = builder.unit(graph, "depthwise", y, depthwise)
    y = graph.add(SqueezeExcite("gate", y, max(1, arrives // stage.squeeze))).result
    y = builder.unit(graph, "project", y, Convolved(channels=stage.channels), "none")
    if stride == 1 and arrives == stage.channels:
        graph.add(ChannelActivation("block", "none", y, x))


def _auxiliary(builder: _Network, graph: Graph, stage: Auxiliary, stride: int) -> None:
    """The loss hangs beside the main road, which leaves as it came."""
    x = graph.source
    y = builder.chain(graph, "auxiliary", x, stage.units)
    columns = plain(y.axes[1]) * plain(y.axes[2]) * plain(y.axes[3])
    y = graph.add(View("auxiliary flat", y, ("samples", columns))).result
    graph.add(CrossEntropy(graph.add(Linear("auxiliary classes", y, (builder.model.classes,), bias=True)).result))
    graph.add(View("main road", x, x.axes))


WRITERS: dict[str, Callable[..., None]] = {
    "chain": _chain,
    "branches": _branches,
    "bottleneck": _bottleneck,
    "inverted": _inverted,
    "auxiliary": _auxiliary,
}
