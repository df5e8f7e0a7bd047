"""Convolutions and what stands between them. Tensors lie samples, channels, height, width.

A convolution is an implicit matrix product that unrolls nothing in memory (cuDNN). Two things are the stack's: how
much of what follows a convolution is fused (`Software.fusion`), and whether activations lie channels first, so that
tensor cores, which take channels last, need copies around each product (cuDNN developer guide, tensor core layouts).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd, prod
from typing import NamedTuple

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Step, Tensor
from sim.graph.operation import Operation, Phase
from sim.graph.work import Writer

TENSOR_CORES = ("tf32", "fp16", "bf16", "fp8")  # formats that run on them
LOAD = 8  # channels that one load of a tensor core takes (16 B of 16 bit)
WINOGRAD = 2.25  # multiplications saved by F(2x2, 3x3) (Lavin 2015, arXiv 1509.09308, section 4.1)
WIDE = 4  # bytes of a 32-bit number
# Share of the vector rate at which kernels for one channel a group compute: 24 of them over (64, 384, 32, 32) with
# windows of 31 x 31 take PyTorch 0.735 s on an RTX 2080 Ti (Ding 2022, RepLKNet, arXiv 2203.06717, table 1).
DEPTHWISE = 0.12


class Window(NamedTuple):
    """A kernel that slides over height and width; `padding` on each side of both."""

    height: int
    width: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @property
    def area(self) -> int:
        """Places it looks at."""
        return self.height * self.width

    def sides(self, x: Tensor) -> tuple[int, int]:
        """Height and width of what it makes of `x`."""
        (above, beside), stride = self.padding, self.stride
        rows = (plain(x.axes[2]) + 2 * above - self.height) // stride + 1
        return rows, (plain(x.axes[3]) + 2 * beside - self.width) // stride + 1


def window(height: int, width: int | None = None, stride: int = 1, padding: int | None = None) -> Window:
    """A window as wide as it is high, that keeps the size at stride 1, unless said otherwise."""
    width = width or height
    around = ((height - 1) // 2, (width - 1) // 2) if padding is None else (padding, padding)
    return Window(height, width, stride, around)


class Convolution(Operator):
    """Samples x height x width outputs, each a product over the channels of its group x the window.

    Groups narrower than a load of the tensor cores go several to a product, with zeros beside their blocks. One
    channel a group (depthwise) runs on the vector units, and adds up in 32 bit.
    """

    __slots__ = ("bias", "channels", "groups", "inputs", "over")

    def __init__(
        self, name: str, x: Tensor, channels: int, over: Window, *, groups: int = 1, bias: bool = False
    ) -> None:
        inputs = plain(x.axes[1])
        weight = Tensor(name, (channels, inputs // groups, over.height, over.width), x.width, "weight")
        shift = (Tensor(f"{name} bias", (channels,), x.width, "weight"),) if bias else ()
        y = Tensor(f"{name} output", (x.axes[0], channels, *over.sides(x)), x.width)
        super().__init__(name, (x,), (y,), (weight, *shift))
        self.inputs, self.channels, self.over, self.groups, self.bias = inputs, channels, over, groups, bias

    @override
    def forward(self, work: Writer) -> None:
        """Input, weights and output cross memory once; a bias is added by a kernel of its own unless fused."""
        x, weight, y = self.reads[0], self.weights[0], self.result
        self._copies(work, self.name)
        shape = (self._positions(work), self.channels // self.groups, self.inputs // self.groups * self.over.area)
        self._product(work, self.name, shape, sum(map(work.bytes, (x, weight, y))))
        if self.bias and fusion_of(work) == "none":
            work.memory(f"{self.name} bias", 2 * work.bytes(y))

    @override
    def backward(self, work: Writer) -> None:
        """Gradient of the input, unless that is given; of weights, added to what earlier microbatches left.

        Depthwise, each weight has a thread block of its own, which reads both images (PyTorch, DepthwiseConv2d.cu,
        conv_depthwise2d_grad_weight_kernel); what caches save of that is not known.
        """
        x, weight, y = self.reads[0], self.weights[0], self.result
        inputs, channels = self.inputs // self.groups, self.channels // self.groups
        if x.role != "index":
            shape = (work.elements(x) // self.inputs, inputs, channels * self.over.area // self.over.stride**2)
            self._copies(work, f"{self.name} input gradient")
            self._product(work, f"{self.name} input gradient", shape, sum(map(work.bytes, (y, weight, x))))
        before, work.phase = work.phase, Phase.WEIGHT_GRADIENT
        written = work.elements(weight) * (2 * work.gradient_bytes if work.shard.fused_accumulation else work.element)
        self._copies(work, f"{self.name} weight gradient")
        shape = (channels, inputs * self.over.area, self._positions(work))
        times = self.over.area if self._is_depthwise else 1
        self._product(work, f"{self.name} weight gradient", shape, times * (work.bytes(x) + work.bytes(y)) + written)
        if self.bias:
            work.memory(f"{self.name} bias gradient", work.bytes(y))
        if not work.shard.fused_accumulation:
            added = work.elements(weight) * (work.element + 2 * work.gradient_bytes)
            work.memory(f"{self.name} gradient accumulation", added)
        work.phase = before

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads

    @override
    def products(self, work: Writer) -> float:
        return 2.0 * self._positions(work) * self.channels * (self.inputs // self.groups) * self.over.area

    @override
    def trained_passes(self, work: Writer) -> int:
        return 2 if self.reads[0].role == "index" else 3

    def _positions(self, work: Writer) -> int:
        return work.elements(self.result) // self.channels

    def _copies(self, work: Writer, name: str) -> None:
        """Between layouts, of both activations of a product: read and written."""
        if work.shard.channels_first and work.precision in TENSOR_CORES and not self._is_depthwise:
            work.memory(f"{name} layout", 2 * (work.bytes(self.reads[0]) + work.bytes(self.result)), 2)

    @property
    def _is_depthwise(self) -> bool:
        return self.groups > 1 and self.groups == self.inputs

    def _product(self, work: Writer, name: str, shape: tuple[int, int, int], traffic: float) -> None:
        flops = self.products(work)
        if self._is_depthwise:
            done = Operation(name, "elementwise", flops / DEPTHWISE, float(traffic), "fp32", phase=work.phase)
            work.operations.append(done)
            return
        together = self._together if work.precision in TENSOR_CORES else 1
        m, n, k = shape if self.groups == 1 else _packed(shape, together, work.phase)
        flops = flops * together / (WINOGRAD if self._saves(work) else 1.0)
        batch = self.groups // together
        work.operations.append(
            Operation(name, "matmul", flops, float(traffic), work.precision, batch, m, n, k, phase=work.phase)
        )

    @property
    def _together(self) -> int:
        """Groups in a product: the fewest whose channels make whole loads."""
        common = gcd(LOAD, self.inputs // self.groups, self.channels // self.groups)
        return gcd(self.groups, LOAD // common)

    def _saves(self, work: Writer) -> bool:
        """Whether the kernel is Winograd's, which cuDNN takes in 32 bit for 3 x 3 without strides."""
        square = (self.over.height, self.over.width, self.over.stride) == (3, 3, 1)
        return square and self.groups == 1 and work.precision == "fp32"


class BatchNorm(Operator):
    """Norm of each channel over the samples of a rank, with scale and shift."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor) -> None:
        weights = tuple(Tensor(f"{name} {what}", (x.axes[1],), WIDE, "weight") for what in ("scale", "shift"))
        super().__init__(name, (x,), (Tensor(f"{name} output", x.axes, x.width),), weights)

    @override
    def forward(self, work: Writer) -> None:
        """Read x for its statistics unless the convolution made them, read it again, write y."""
        fused = fusion_of(work) == "epilogue"
        work.memory(self.name, (3 - fused) * work.bytes(self.reads[0]), 2 - fused)

    @override
    def backward(self, work: Writer) -> None:
        """Read x and dy for two sums, read both again, write dx; dy once less where its maker takes the sums."""
        fused = fusion_of(work) == "epilogue"
        work.memory(f"{self.name} backward", (5 - fused) * work.bytes(self.reads[0]), 2 - fused)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads


class FrozenNorm(BatchNorm):
    """A batch norm whose numbers are given: scale and shift of each channel, one kernel where anything is fused."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor) -> None:
        super().__init__(name, x)
        for weight in self.weights:
            weight.role = "state"

    @override
    def forward(self, work: Writer) -> None:
        fused = fusion_of(work) != "none"
        work.memory(self.name, (2 if fused else 4) * work.bytes(self.result), 1 if fused else 2)

    @override
    def backward(self, work: Writer) -> None:
        work.memory(f"{self.name} backward", 2 * work.bytes(self.result))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return ()


class GroupNorm(BatchNorm):
    """Norm of groups of channels of each sample: no statistics leave the sample, passes as of a batch norm.

    Autocast runs it in 32 bit, on a copy of its input, and what follows it until the next product (PyTorch, torch.amp).
    """

    __slots__ = ()

    @override
    def forward(self, work: Writer) -> None:
        if not work.shard.autocast:
            super().forward(work)
            return
        elements = work.elements(self.result)
        work.memory(f"{self.name} cast", (work.element + WIDE) * elements)
        work.memory(self.name, 3 * WIDE * elements, 2)

    @override
    def backward(self, work: Writer) -> None:
        if not work.shard.autocast:
            super().backward(work)
            return
        elements = work.elements(self.result)
        work.memory(f"{self.name} backward", 5 * WIDE * elements, 2)
        work.memory(f"{self.name} backward cast", (work.element + WIDE) * elements)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its input, or the copy of it."""
        x = self.reads[0]
        return (Tensor(f"{x.name} in 32 bit", x.axes, WIDE),) if work.shard.autocast else self.reads

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        if not work.shard.autocast:
            return super().steps(work)
        kept = tuple(self.needs(work))
        return Step(self.reads, kept, ()), Step(kept, self.writes, kept, self.weights)


class ChannelActivation(Operator):
    """A function of each element, or of the sum with a shortcut; "none" is the sum alone.

    normed: a norm stands before it, which takes it along where the stack fuses so far. wide: that norm is one of
    groups, whose results autocast leaves in 32 bit until the next product casts them.
    """

    __slots__ = ("form", "normed", "wide")

    def __init__(
        self,
        name: str,
        form: str,
        x: Tensor,
        shortcut: Tensor | None = None,
        *,
        normed: bool = True,
        wide: bool = False,
    ) -> None:
        inputs = (x,) if shortcut is None else (x, shortcut)
        super().__init__(f"{name} {form}", inputs, (Tensor(f"{name} output", x.axes, x.width),))
        self.form, self.normed, self.wide = form, normed, wide

    @override
    def forward(self, work: Writer) -> None:
        """Sum: read two, write one; function: read, write. Fused, the shortcut is one more read, the mask one bit."""
        size, shortcuts = work.bytes(self.result), len(self.reads) - 1
        if self.wide and work.shard.autocast:
            work.memory(self.name, (2 * WIDE + WIDE + work.element) * work.elements(self.result), 2)
        elif self._masked(work):
            work.memory(self.name, shortcuts * size + work.elements(self.result) / 8, 0)
        elif self._compiled(work):
            joined = self.normed
            work.memory(self.name, (shortcuts + 2 * (not joined)) * size, 0 if joined else 1)
        else:
            function = self.form != "none"
            work.memory(self.name, (3 * shortcuts + 2 * function) * size, function + shortcuts)

    @override
    def backward(self, work: Writer) -> None:
        """Read dy and what is kept, write dx. Fused into the norm, only a gradient of the shortcut is written beside,
        by a compiler from the result, which it reads."""
        size, shortcuts, name = work.bytes(self.result), len(self.reads) - 1, f"{self.name} backward"
        if self.form == "none":
            return
        if self.wide and work.shard.autocast:
            work.memory(name, (3 * WIDE + WIDE + work.element) * work.elements(self.result), 2)
        elif self._masked(work):
            work.memory(name, shortcuts * size + work.elements(self.result) / 8, 0)
        elif self._compiled(work) and self.normed:
            work.memory(name, 2 * shortcuts * size, 0)
        else:
            work.memory(name, 3 * size)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """A rectifier its result, or a mask of a bit per element; others their input, unless made again from the
        norm's."""
        if self.form == "none" or (self._compiled(work) and self.normed and len(self.reads) == 1):
            return ()
        if self._masked(work):
            samples, *inner = self.result.axes
            return (Tensor(f"{self.name} mask", (samples, -(-prod(map(plain, inner)) // 8)), 1),)
        if self.wide and work.shard.autocast:
            return (Tensor(f"{self.name} input in 32 bit", self.result.axes, WIDE),)
        return self.writes if self.form == "relu" else self.reads[:1]

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return (Step(self.reads, self.writes, tuple(self.needs(work)), alias=self.form == "none"),)

    def _compiled(self, work: Writer) -> bool:
        return fusion_of(work) == "pointwise"

    def _masked(self, work: Writer) -> bool:
        """Whether it runs inside the library's norm, which knows rectifiers and sums before them."""
        fused = fusion_of(work) in ("library", "epilogue")
        return fused and self.normed and self.form == "relu"


class Pooling(Operator):
    """The largest of each window, by whose index gradients go back; or the mean of each, or of all."""

    __slots__ = ("index",)

    def __init__(self, name: str, x: Tensor, over: Window | None, *, largest: bool = False) -> None:
        axes = x.axes[:2] if over is None else (*x.axes[:2], *over.sides(x))
        super().__init__(name, (x,), (Tensor(f"{name} output", axes, x.width),))
        self.index = (Tensor(f"{name} index", axes, WIDE),) if largest else ()

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


class SqueezeExcite(Operator):
    """Scales each channel by a gate made of the means of all (Hu 2017, arXiv 1709.01507): two small products."""

    __slots__ = ("inner",)

    def __init__(self, name: str, x: Tensor, inner: int) -> None:
        channels = x.axes[1]
        shapes: tuple[tuple[Axis, ...], ...] = ((inner, channels), (inner,), (channels, inner), (channels,))
        weights = tuple(Tensor(name, axes, x.width, "weight") for axes in shapes)
        super().__init__(name, (x,), (Tensor(f"{name} output", x.axes, x.width),), weights)
        self.inner = inner

    @override
    def forward(self, work: Writer) -> None:
        """Read x for its means; read it again, write y. Functions of the gate are kernels over a value a channel."""
        samples, channels = map(work.graph.count, self.result.axes[:2])
        work.memory(f"{self.name} means", work.bytes(self.result))
        work.product(f"{self.name} reduce", (samples, self.inner, channels))
        work.product(f"{self.name} expand", (samples, channels, self.inner))
        work.memory(self.name, 2 * work.bytes(self.result), 3)

    @override
    def backward(self, work: Writer) -> None:
        """Read x and dy for the gradient of the gate; read dy and the gates, write dx.

        Eager code writes their product and reads it for the sum; the gradient of the means is written, then added.
        """
        samples, channels = map(work.graph.count, self.result.axes[:2])
        eager = fusion_of(work) != "pointwise"
        work.memory(f"{self.name} gate backward", (2 + 2 * eager) * work.bytes(self.result), 3 + eager)
        for name, outputs, inputs in (("expand", channels, self.inner), ("reduce", self.inner, channels)):
            work.product(f"{self.name} {name} input gradient", (samples, inputs, outputs))
            work.weight_gradient(f"{self.name} {name}", inputs, outputs, samples)
        work.memory(f"{self.name} backward", (2 + 4 * eager) * work.bytes(self.result), 1 + 2 * eager)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        samples, channels = self.result.axes[:2]
        small = (Tensor(f"{self.name} {what}", (samples, channels), work.element) for what in ("means", "gate"))
        return (*self.reads, *small)

    @override
    def products(self, work: Writer) -> float:
        return 4.0 * self.inner * work.graph.count(self.result.axes[0]) * work.graph.count(self.result.axes[1])


class Concatenation(Operator):
    """Channels of several tensors side by side: all read and written, either way."""

    __slots__ = ()

    def __init__(self, name: str, parts: tuple[Tensor, ...]) -> None:
        first = parts[0]
        channels = sum(plain(part.axes[1]) for part in parts)
        y = Tensor(f"{name} output", (first.axes[0], channels, *first.axes[2:]), first.width)
        super().__init__(name, parts, (y,))

    @override
    def forward(self, work: Writer) -> None:
        work.memory(self.name, 2 * work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        work.memory(f"{self.name} backward", 2 * work.bytes(self.result), len(self.reads))


class Upsampling(Operator):
    """Each place four times (nearest neighbour); backward, the sum of four."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor) -> None:
        sides = (2 * plain(side) for side in x.axes[2:])
        super().__init__(name, (x,), (Tensor(f"{name} output", (*x.axes[:2], *sides), x.width),))

    @override
    def forward(self, work: Writer) -> None:
        work.memory(self.name, work.bytes(self.reads[0]) + work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        work.memory(f"{self.name} backward", work.bytes(self.reads[0]) + work.bytes(self.result))


class FocalLoss(Operator):
    """The loss of all boxes of an image (Lin 2017, arXiv 1708.02002, section 3): read logits, write their gradients.

    Eager code takes a kernel for each term: sigmoid, cross-entropy, two weights and their products, in 32 bit.
    """

    __slots__ = ()

    def __init__(self, logits: tuple[Tensor, ...]) -> None:
        super().__init__("focal loss", logits, (Tensor("loss", logits[0].axes[:1], WIDE),))

    @override
    def forward(self, work: Writer) -> None:
        size = sum(map(work.elements, self.reads))
        work.memory(self.name, (2 * work.element if work.fused else work.element + 18 * WIDE) * size, len(self.reads))

    @override
    def backward(self, work: Writer) -> None:
        size = sum(map(work.elements, self.reads))
        each = 2 * work.element if work.fused else work.element + 20 * WIDE
        work.memory(f"{self.name} backward", each * size, len(self.reads))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads


class View(Operator):
    """The same elements on other axes."""

    __slots__ = ()

    in_place = True

    def __init__(self, name: str, x: Tensor, axes: tuple[Axis, ...]) -> None:
        super().__init__(name, (x,), (Tensor(name, axes, x.width),))

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return (Step(self.reads, self.writes, (), alias=True),)


def fusion_of(work: Writer) -> str:
    """How much of what follows a convolution is fused: kernels of libraries take 16 bit, channels last, only."""
    fusion = work.shard.fusion
    if fusion in ("library", "epilogue") and (work.shard.channels_first or work.element == WIDE):
        return "none"
    return fusion


def plain(axis: Axis) -> int:
    """A count of its own, as sizes are that change from layer to layer."""
    if not isinstance(axis, int):
        raise TypeError(f"{axis} is no count")
    return axis


def _packed(shape: tuple[int, int, int], together: int, phase: Phase) -> tuple[int, int, int]:
    """The product of `together` groups, whose positions fill whole loads as well."""
    m, n, k = shape
    if phase is Phase.WEIGHT_GRADIENT:
        return together * m, together * n, -(-k // LOAD) * LOAD
    return -(-m // LOAD) * LOAD, together * n, together * k
