"""Diffusion networks of the U-Net kind (Ronneberger 2015, arXiv 1505.04597; Rombach 2021, arXiv 2112.10752).

Samples are images with a text. Levels halve the sides on the way down and double them on the way up, where each block
also reads what its mate on the way down left. The encoders of images and text are frozen: they run forward, or what
they make was computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.convolution import (
    ChannelActivation,
    Concatenation,
    Convolution,
    GroupNorm,
    Upsampling,
    View,
    plain,
    window,
)
from sim.graph.ends import Lookup
from sim.graph.frozen import freeze
from sim.graph.graph import Graph, Operator, Tensor
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import Activation, ResidualSum
from sim.graph.products import Linear
from sim.graph.spatial import ChannelShift, PlacesAttention
from sim.graph.squared_error import SquaredError
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload
from sim.record import NARROW, Name, Record
from sim.units import Count

TIME = 4  # width of the embedding of time over the channels of the first level


class ImageEncoder(Record):
    """The frozen network that makes latents of images (the encoder half of an autoencoder)."""

    channels: tuple[Count, ...] = Field(default=(128, 256, 512, 512), min_length=1, description="of each level")
    blocks: Count = Field(default=2, ge=1, le=1000, description="residual blocks of a level")
    factor: Count = Field(default=8, ge=1, le=1000, description="sides of an image over those of its latent")


class FrozenTextEncoder(Record):
    """The frozen Transformer that makes vectors of a text."""

    layers: Count = Field(default=23, ge=1, le=10_000, description="its layers")
    ffn: Count = Field(default=4096, ge=1, le=10_000_000, description="inner width of its feed-forward blocks")
    head_dim: Count = Field(default=64, ge=1, le=100_000, description="width of a head")
    vocab: Count = Field(default=49408, ge=1, le=1_000_000_000, description="tokens that are told apart")


class UNet(Workload):
    """A diffusion network over latents, with attention to a text. Samples are images."""

    kind: Literal["unet"]
    name: Name = Field(default="inline", description="the name it is found by")
    latent: Count = Field(ge=8, le=100_000, description="height and width of a latent")
    latent_channels: Count = Field(default=4, ge=1, le=100_000, description="its channels")
    channels: tuple[Count, ...] = Field(min_length=1, description="channels of each level")
    blocks: Count = Field(default=2, ge=1, le=1000, description="residual blocks of a level on the way down")
    attends: tuple[bool, ...] = Field(min_length=1, description="whether blocks of a level attend to places and text")
    head_dim: Count = Field(default=64, ge=1, le=100_000, description="width of a head")
    context: Count = Field(default=1024, ge=1, le=1_000_000, description="width of a vector of the text")
    context_length: Count = Field(default=77, ge=1, le=1_000_000, description="vectors of a text")
    image_encoder: ImageEncoder | None = Field(
        default=None, description="makes latents in each step; they were computed before if absent"
    )
    text_encoder: FrozenTextEncoder | None = Field(
        default=None, description="makes vectors in each step; they were computed before if absent"
    )
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to its source")

    tokens: ClassVar[bool] = False

    @property
    @override
    def layers(self) -> int:
        return 2 * len(self.channels) * self.blocks + 3 * len(self.channels) - 1 + 1

    @property
    @override
    def fuses_attention(self) -> bool | None:
        return True

    @property
    @override
    def widths(self) -> tuple[int, int]:
        return self.channels[-1], self.head_dim

    @property
    @override
    def line(self) -> str:
        levels = ", ".join(map(str, self.channels))
        encoders = [name for name, each in (("image", self.image_encoder), ("text", self.text_encoder)) if each]
        beside = f", frozen {' and '.join(encoders)} encoder" if encoders else ", latents and texts computed before"
        return f"latents of {self.latent} x {self.latent}, channels {levels}{beside}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """What comes before the levels, blocks one by one, and the last convolution with its loss."""
        return _Levels(self, shard).pieces()

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[UNet, Divided, Trained], Iterator[Problem]]


def check_replicas(model: UNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A U-Net runs data parallel only, sharded or not: its blocks on the way up need those on the way down."""
    for name in ("tensor", "context", "pipeline"):
        count = getattr(plan, name)
        if count > 1:
            yield finding(f"parallelism.{name}", f"{name} {count}: {model.name} runs data parallel", f"set {name} to 1")


def check_blocks_whole(model: UNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Blocks are recomputed whole, or not; nothing is in 8 bit or adapted."""
    if training.recompute not in ("none", "full"):
        message = f"{training.recompute} recomputation is one of decoders"
        yield finding("training.recompute", message, "use none or full")
    if training.precision in NARROW:
        yield finding("training.precision", "convolutions in fp8 are not modelled", "use bf16 or fp16")
    if training.lora:
        yield finding("training.lora", f"adapters of {model.name} are not modelled", "leave it out")


def check_levels(model: UNet, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Each level is told whether it attends, halves evenly, and its heads divide its channels."""
    if len(model.attends) != len(model.channels):
        message = f"attends has {len(model.attends)} entries for {len(model.channels)} levels"
        yield finding("workload.attends", message, "give one for each level")
    halved = 1 << len(model.channels) - 1
    if model.latent % halved:
        message = f"{len(model.channels)} levels cannot halve {model.latent} evenly"
        yield finding("workload.latent", message, f"use a multiple of {halved}")
    uneven = [each for each in model.channels if each % model.head_dim]
    if uneven:
        yield finding("workload.head_dim", f"{model.head_dim} does not divide channels {uneven[0]}", "use a divisor")


RULES: tuple[Rule, ...] = (check_replicas, check_blocks_whole, check_levels)


class _Levels:
    """Writes the graphs of a U-Net in the order in which they run."""

    def __init__(self, model: UNet, shard: Shard) -> None:
        self.model, self.width, self.microbatch = model, element_bytes(shard.precision), shard.microbatch
        self.time = Tensor("time", ("samples", TIME * model.channels[0]), self.width)
        self.text = Tensor("text", ("samples", model.context_length, model.context), self.width, "index")

    def pieces(self) -> Pieces:
        """All of them."""
        model = self.model
        first, x = self.before()
        layers: list[Graph] = []
        left = [x]

        def add(graph: Graph) -> None:
            nonlocal x
            layers.append(graph)
            x = graph.output

        last = len(model.channels) - 1
        for level, channels in enumerate(model.channels):
            for _ in range(model.blocks):
                add(self.block(x, channels, attends=model.attends[level]))
                left.append(x)
            if level < last:
                add(self.halved(x))
                left.append(x)
        add(self.block(x, model.channels[-1], attends=True))
        add(self.block(x, model.channels[-1], attends=False))
        for level in range(last, -1, -1):
            for _ in range(model.blocks + 1):
                add(self.block(x, model.channels[level], attends=model.attends[level], mate=left.pop()))
            if level:
                add(self.doubled(x))
        return Pieces(first, layers, self.after(x))

    def before(self) -> tuple[Graph, Tensor]:
        """Frozen encoders, the embedding of time, and the first convolution."""
        model = self.model
        sides = (model.latent, model.latent)
        latent = Tensor("latent", ("samples", model.latent_channels, *sides), self.width, "index")
        graph = self.graph("before", latent)
        if model.image_encoder:
            graph.operators += freeze(self.encoded_image(model.image_encoder))
        if model.text_encoder:
            graph.operators += freeze(self.encoded_text(model.text_encoder))
        inner = self.time.axes[-1]
        wave = Tensor("time waves", ("samples", model.channels[0]), self.width, "index")
        y = graph.add(Linear("time 0", wave, (inner,), bias=True)).result
        y = graph.add(Activation("time activation", (y,), "silu", bias=False)).result
        self.time = graph.add(Linear("time 1", y, (inner,), bias=True)).result
        return graph, graph.add(Convolution("first", graph.source, model.channels[0], window(3), bias=True)).result

    def after(self, x: Tensor) -> Graph:
        """The last norm and convolution, and the error of the noise."""
        graph = self.graph("after", x)
        y = self.activated(graph, "last", graph.source)
        y = graph.add(Convolution("last", y, self.model.latent_channels, window(3), bias=True)).result
        graph.add(SquaredError(y))
        return graph

    def graph(self, name: str, x: Tensor, *, repeated: bool = False) -> Graph:
        """An empty piece behind `x`."""
        return Graph(name, Tensor(x.name, x.axes, x.width, x.role), {"samples": self.microbatch}, repeated=repeated)

    def block(self, x: Tensor, channels: int, *, attends: bool, mate: Tensor | None = None) -> Graph:
        """A residual block that knows the time, with attention behind it; `mate` is what the way down left."""
        graph = self.graph("block", x, repeated=True)
        x = graph.source
        if mate is not None:
            x = graph.add(Concatenation("mate", (x, mate))).result
        y = self.residual(graph, "block", x, channels, timed=True)
        if attends:
            self.attention(graph, y)
        return graph

    def residual(self, graph: Graph, name: str, x: Tensor, channels: int, *, timed: bool) -> Tensor:
        """Two convolutions behind norms, beside a shortcut, which is one too where channels change."""
        y = self.activated(graph, f"{name} 0", x)
        y = graph.add(Convolution(f"{name} convolution 0", y, channels, window(3), bias=True)).result
        if timed:
            z = graph.add(Activation(f"{name} time activation", (self.time,), "silu", bias=False)).result
            z = graph.add(Linear(f"{name} time", z, (channels,), bias=True)).result
            y = graph.add(ChannelShift(f"{name} time shift", y, z)).result
        y = self.activated(graph, f"{name} 1", y)
        y = graph.add(Convolution(f"{name} convolution 1", y, channels, window(3), bias=True)).result
        if plain(x.axes[1]) != channels:
            x = graph.add(Convolution(f"{name} shortcut", x, channels, window(1), bias=True)).result
        return graph.add(ChannelActivation(name, "none", y, x, normed=False)).result

    def activated(self, graph: Graph, name: str, x: Tensor) -> Tensor:
        """A norm of groups of channels, and SiLU."""
        y = graph.add(GroupNorm(f"{name} norm", x)).result
        return graph.add(ChannelActivation(name, "silu", y, wide=True)).result

    def attention(self, graph: Graph, x: Tensor) -> None:
        """A Transformer block over the places: attention to them, to the text, and a gated feed-forward block."""
        channels, height, width = map(plain, x.axes[1:])
        tokens = (x.axes[0], height * width, channels)
        y = graph.add(GroupNorm("attention norm", x)).result
        y = graph.add(View("places", y, tokens)).result
        y = graph.add(Linear("projection in", y, (channels,), bias=True)).result
        normed = graph.add(Norm("self norm", y, "layernorm")).result
        q, k, v = graph.add(Linear("self qkv", normed, (channels,) * 3)).writes
        y = self.attended(graph, "self", (q, k, v), y)
        normed = graph.add(Norm("cross norm", y, "layernorm")).result
        q = graph.add(Linear("cross query", normed, (channels,))).result
        k, v = graph.add(Linear("cross keys", self.text, (channels,) * 2)).writes
        y = self.attended(graph, "cross", (q, k, v), y)
        normed = graph.add(Norm("feed-forward norm", y, "layernorm")).result
        inner = graph.add(Linear("feed-forward up", normed, (4 * channels,) * 2, bias=True)).writes
        z = graph.add(Activation("feed-forward activation", inner, "geglu", bias=True)).result
        z = graph.add(Linear("feed-forward down", z, (channels,), bias=True)).result
        y = graph.add(ResidualSum("feed-forward", z, y, bias=True, dropout=False)).result
        y = graph.add(Linear("projection out", y, (channels,), bias=True)).result
        y = graph.add(View("image", y, x.axes)).result
        graph.add(ChannelActivation("attention", "none", y, x, normed=False))

    def attended(self, graph: Graph, name: str, operands: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        """Attention, its output product, and the sum with the stream."""
        y = graph.add(PlacesAttention(f"{name} attention", *operands, self.model.head_dim)).result
        y = graph.add(Linear(f"{name} output", y, (x.axes[-1],), bias=True)).result
        return graph.add(ResidualSum(name, y, x, bias=True, dropout=False)).result

    def halved(self, x: Tensor) -> Graph:
        """A convolution with a stride."""
        graph = self.graph("down", x, repeated=True)
        graph.add(Convolution("down", graph.source, plain(x.axes[1]), window(3, stride=2), bias=True))
        return graph

    def doubled(self, x: Tensor) -> Graph:
        """Each place four times, then a convolution."""
        graph = self.graph("up", x, repeated=True)
        y = graph.add(Upsampling("up", graph.source)).result
        graph.add(Convolution("up convolution", y, plain(x.axes[1]), window(3), bias=True))
        return graph

    def encoded_image(self, encoder: ImageEncoder) -> list[Operator]:
        """Operators of the frozen image encoder: residual blocks over halving sides."""
        side = self.model.latent * encoder.factor
        graph = self.graph("image encoder", Tensor("image", ("samples", 3, side, side), self.width, "index"))
        x = graph.add(Convolution("image first", graph.source, encoder.channels[0], window(3), bias=True)).result
        for level, channels in enumerate(encoder.channels):
            for _ in range(encoder.blocks):
                x = self.residual(graph, f"image level {level}", x, channels, timed=False)
            if level < len(encoder.channels) - 1:
                x = graph.add(Convolution("image down", x, channels, window(3, stride=2), bias=True)).result
        for _ in range(2):
            x = self.residual(graph, "image middle", x, encoder.channels[-1], timed=False)
        x = self.activated(graph, "image last", x)
        graph.add(Convolution("image last", x, 2 * self.model.latent_channels, window(3), bias=True))
        return graph.operators

    def encoded_text(self, encoder: FrozenTextEncoder) -> list[Operator]:
        """Operators of the frozen text encoder: Transformer layers over the text."""
        columns = self.model.context
        graph = self.graph("text encoder", Tensor("tokens", self.text.axes[:2], 8, "index"))
        table = Tensor("text table", (encoder.vocab, columns), self.width, "weight")
        x = graph.add(Lookup("text", graph.source, table)).result
        for _ in range(encoder.layers):
            normed = graph.add(Norm("text norm", x, "layernorm")).result
            q, k, v = graph.add(Linear("text qkv", normed, (columns,) * 3, bias=True)).writes
            y = graph.add(PlacesAttention("text attention", q, k, v, encoder.head_dim)).result
            y = graph.add(Linear("text output", y, (columns,), bias=True)).result
            x = graph.add(ResidualSum("text attention", y, x, bias=True, dropout=False)).result
            normed = graph.add(Norm("text feed-forward norm", x, "layernorm")).result
            y = graph.add(Linear("text up", normed, (encoder.ffn,), bias=True)).result
            y = graph.add(Activation("text activation", (y,), "gelu", bias=True)).result
            y = graph.add(Linear("text down", y, (columns,), bias=True)).result
            x = graph.add(ResidualSum("text feed-forward", y, x, bias=True, dropout=False)).result
        return graph.operators
