"""Diffusion transformers of the MMDiT kind (Esser 2024, arXiv 2403.03206; FLUX.1, github black-forest-labs/flux).

Image and text rows have matrices of their own in double layers and share them in single layers; attention always sees
both. Each layer makes its modulation from the time, guidance and text of a sample. The encoders of text and images are
frozen: what they make is read from storage, or that of text runs forward in each step; that of images is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding, indivisible
from sim.graph.attention import Attention, AttentionSpan
from sim.graph.frozen import FrozenLayers
from sim.graph.graph import Axis, Graph, Sizes, Tensor
from sim.graph.modulation import AdaptiveNorm, GatedSum, Joined, Parts, QueryKeyNorm, Whole
from sim.graph.operation import Shard
from sim.graph.pointwise import Activation, ProductBias, ResidualSum, Rotation
from sim.graph.products import Linear
from sim.graph.squared_error import SquaredError
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload
from sim.models.sublayers import SPLIT, Style, attention_sublayer, feed_forward_sublayer, transformer_sizes
from sim.record import Name, Record
from sim.transforms.derive import transform
from sim.units import Count

SPAN = AttentionSpan(causal=False)
FREQUENCIES = 256  # features of a time or a guidance
PARTS: tuple[str, ...] = ("text", "image")


class TextEncoder(Record):
    """A frozen encoder of text, of the T5 kind."""

    layers: Count = Field(ge=1, le=10_000, description="layers")
    heads: Count = Field(ge=1, le=100_000, description="attention heads")
    head_dim: Count = Field(ge=1, le=100_000, description="width of a head")
    ffn: Count = Field(ge=1, le=100_000_000, description="inner width of the feed-forward block")
    activation: Literal["relu", "geglu"] = Field(default="geglu", description="feed-forward activation")


class DiffusionTransformer(Workload):
    """A transformer of the MMDiT kind that predicts noise in latents. Samples are images with their text."""

    kind: Literal["diffusion_transformer"]
    name: Name = Field(default="inline", description="the name it is found by")
    image: Count = Field(default=1024, ge=1, le=100_000, description="height and width of an image [pixels]")
    patch: Count = Field(
        default=16, ge=1, le=10_000, description="pixels of a token, each way: 2 of the latents that stand for 8 each"
    )
    channels: Count = Field(default=64, ge=1, le=1_000_000, description="numbers of the latents of a token")
    text_tokens: Count = Field(default=512, ge=1, le=1_000_000, description="tokens of a text")
    text_width: Count = Field(
        default=4096, ge=1, le=1_000_000, description="numbers that the text encoder makes of each"
    )
    text_encoder: TextEncoder | None = Field(
        default=None, description="frozen encoder of text that runs in each step; texts are encoded before if absent"
    )
    pooled_width: Count = Field(
        default=768, ge=1, le=1_000_000, description="numbers that a second encoder makes of a text"
    )
    guidance: bool = Field(default=True, description="the strength of guidance is an input")
    double_layers: Count = Field(ge=1, le=10_000, description="layers with matrices for images and for text")
    single_layers: Count = Field(ge=1, le=10_000, description="layers with matrices for both")
    hidden: Count = Field(ge=1, le=10_000_000, description="width of the residual stream")
    heads: Count = Field(ge=1, le=100_000, description="attention heads")
    ffn: Count = Field(ge=1, le=100_000_000, description="inner width of the feed-forward blocks")
    attention: Literal["flash", "unfused"] = Field(
        default="flash", description="fused attention, or scores written to memory"
    )
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    tokens: ClassVar[bool] = False

    @property
    @override
    def layers(self) -> int:
        return self.double_layers + self.single_layers

    @property
    def image_tokens(self) -> int:
        """Tokens of an image."""
        return (self.image // self.patch) ** 2

    @property
    @override
    def widths(self) -> tuple[int, int]:
        return self.hidden, self.hidden // self.heads

    @property
    @override
    def fuses_attention(self) -> bool:
        return self.attention == "flash"

    @property
    @override
    def line(self) -> str:
        layers = f"{self.double_layers} double and {self.single_layers} single layers"
        shape = f"hidden {self.hidden}, {self.heads} heads, images of {self.image} pixels"
        encoder = "" if self.text_encoder else ", encoded before"
        return f"diffusion transformer of {layers}, {shape}, {self.text_tokens} tokens of text{encoder}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """What makes rows and the conditions of a sample, double layers, single layers, the prediction."""
        sizes = sizes_of(self, shard)
        double = (double_layer(self, shard, sizes),) * self.double_layers
        single = (single_layer(self, shard, sizes),) * self.single_layers
        return Pieces(embedding(self, shard, sizes), (*double, *single), head(self, shard, sizes))

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[DiffusionTransformer, Divided, Trained], Iterator[Problem]]


def check_patches(model: DiffusionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tokens fill the image."""
    if model.image % model.patch:
        message = f"tokens of {model.patch} pixels do not fill an image of {model.image}"
        yield finding("workload.image", message, f"use a multiple of {model.patch}")


def check_matrices_divide(model: DiffusionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks share heads and feed-forward width evenly; rows are whole on each."""
    for name in ("heads", "ffn"):
        if getattr(model, name) % plan.tensor:
            yield indivisible("parallelism.tensor", name, getattr(model, name), "tensor", plan.tensor)
    if plan.sequence_parallel:
        message = "rows of image and text split over tensor ranks are not modelled"
        yield finding("parallelism.sequence_parallel", message, "set it to false")


def check_head_shape(model: DiffusionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Heads make up the hidden width."""
    if model.hidden % model.heads:
        message = f"heads {model.heads} do not divide hidden {model.hidden}"
        yield finding("workload.heads", message, "change one of them")


def check_sample_is_whole(model: DiffusionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """An image and its text lie on one rank."""
    if plan.context > 1:
        message = f"context {plan.context}: an image and its text lie on one rank"
        yield finding("parallelism.context", message, "set context to 1")


def check_discipline(model: DiffusionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are recomputed whole, or their attention is."""
    if training.recompute not in ("none", "selective", "full"):
        message = f"{training.recompute} recomputation is one of decoders"
        yield finding("training.recompute", message, "use none, selective or full")


def check_no_adapters(model: DiffusionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Adapters name the matrices of decoders."""
    if training.lora:
        yield finding("training.lora", "adapters of diffusion transformers are not modelled", "leave it out")


RULES: tuple[Rule, ...] = (
    check_patches,
    check_matrices_divide,
    check_head_shape,
    check_sample_is_whole,
    check_discipline,
    check_no_adapters,
)


def sizes_of(model: DiffusionTransformer, shard: Shard) -> Sizes:
    """What `shard` leaves to the fullest rank."""
    batch, length = shard.microbatch, model.image_tokens + model.text_tokens
    width = model.hidden // model.heads
    shape = transformer_sizes(shard, hidden=model.hidden, heads=model.heads, width=width, ffn=model.ffn)
    return shape | {
        "tokens": batch * length,
        "queries": length,
        "keys": length,
        "image": batch * model.image_tokens,
        "text": batch * model.text_tokens,
    }


def double_layer(model: DiffusionTransformer, shard: Shard, sizes: Sizes) -> Graph:
    """Matrices for each kind of rows, attention over all of them."""
    graph, x, modulations = _start("double layer", shard, sizes, dict.fromkeys(PARTS, 6), model)
    add = graph.add
    streams = dict(zip(PARTS, add(Parts("rows", x, PARTS)).writes, strict=True))
    heads = []
    for part, stream in streams.items():
        normed = add(AdaptiveNorm(f"{part} attention norm", stream, modulations[part])).result
        heads.append(_heads(graph, f"{part} ", normed, ())[0])
    joined = [
        add(Joined(f"all {name}", each, ("tokens", "query")))
        for name, each in zip(("queries", "keys", "values"), zip(*heads, strict=True), strict=True)
    ]
    queries, keys, values = (each.result for each in joined)
    add(Rotation(queries, keys))
    context = add(Attention(queries, keys, values, fused=model.fuses_attention, dropout=False, span=SPAN)).result
    branches = dict(zip(PARTS, add(Parts("context", context, PARTS)).writes, strict=True))
    for part, stream in streams.items():
        output = add(Linear(f"{part} attention output", branches[part], ("hidden",), bias=True)).result
        y = add(GatedSum(f"{part} attention", output, stream, modulations[part])).result
        normed = add(AdaptiveNorm(f"{part} feed-forward norm", y, modulations[part])).result
        inner = add(Linear(f"{part} feed-forward up", normed, ("ffn",), bias=True)).writes
        activated = add(Activation(f"{part} activation", inner, "gelu", bias=True)).result
        output = add(Linear(f"{part} feed-forward down", activated, ("hidden",), bias=True)).result
        streams[part] = add(GatedSum(f"{part} feed-forward", output, y, modulations[part])).result
    add(Whole("all rows", tuple(streams.values()), "tokens"))
    return graph


def single_layer(model: DiffusionTransformer, shard: Shard, sizes: Sizes) -> Graph:
    """Attention and feed-forward block side by side, between one matrix and another."""
    graph, x, modulations = _start("single layer", shard, sizes, {"all": 3}, model)
    add = graph.add
    normed = add(AdaptiveNorm("norm", x, modulations["all"])).result
    (queries, keys, values), (inner,) = _heads(graph, "", normed, ("ffn",))
    add(Rotation(queries, keys))
    context = add(Attention(queries, keys, values, fused=model.fuses_attention, dropout=False, span=SPAN)).result
    activated = add(Activation("activation", (inner,), "gelu", bias=True)).result
    both = add(Joined("context and activated", (context, activated), ("tokens", ("query", "ffn")))).result
    output = add(Linear("output", both, ("hidden",), bias=True)).result
    add(GatedSum("layer", output, x, modulations["all"]))
    return graph


def _start(
    name: str, shard: Shard, sizes: Sizes, counts: dict[str, int], model: DiffusionTransformer
) -> tuple[Graph, Tensor, dict[str, Tensor]]:
    """A layer with its rows and, from the conditions that all layers share, `counts` vectors for each modulation."""
    width = element_bytes(shard.precision)
    x, conditions = Tensor("layer input", ("tokens", "hidden"), width), Tensor("conditions", ("batch", "hidden"), width)
    graph = Graph(name, x, sizes, SPLIT, repeated=True)
    graph.carried = (conditions,)
    active = graph.add(Activation("conditions", (conditions,), "silu", bias=False)).result
    return (
        graph,
        x,
        {
            part: graph.add(Linear(f"{part} modulation", active, (count * model.hidden,), bias=True, wide=True)).result
            for part, count in counts.items()
        },
    )


def _heads(
    graph: Graph, prefix: str, x: Tensor, others: tuple[Axis, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Normed queries and keys, and values; and what `others` the same matrix makes."""
    product = graph.add(Linear(f"{prefix}qkv", x, ("query", "key", "key", *others), bias=True))
    queries, keys, values, *rest = product.writes
    graph.add(ProductBias(f"{prefix}qkv bias", (queries, keys, values)))
    queries, keys = graph.add(QueryKeyNorm(f"{prefix}head norm", queries, keys)).writes
    return (queries, keys, values), tuple(rest)


def embedding(model: DiffusionTransformer, shard: Shard, sizes: Sizes) -> Graph:
    """Latents and text to rows; time, guidance and pooled text to the conditions of a sample."""
    width = element_bytes(shard.precision)
    latents, text = (
        Tensor(name, (name, columns), width, "index")
        for name, columns in (("image", model.channels), ("text", model.text_width))
    )
    graph = Graph("embedding", latents, sizes, SPLIT)
    if model.text_encoder:
        graph.add(_encoded(model, model.text_encoder, shard, text))
    inputs = {
        "time": FREQUENCIES,
        **({"guidance": FREQUENCIES} if model.guidance else {}),
        "pooled text": model.pooled_width,
    }
    conditions: Tensor | None = None
    for name, columns in inputs.items():
        made = _condition(graph, name, Tensor(name, ("batch", columns), width, "index"))
        if conditions is not None:
            made = graph.add(ResidualSum(f"{name} condition", made, conditions, bias=False, dropout=False)).result
        conditions = made
    rows = [
        graph.add(Linear(f"{each.name} rows", each, ("hidden",), bias=True, wide=True)).result
        for each in (text, latents)
    ]
    graph.add(Joined("all rows", tuple(rows), ("tokens", "hidden")))
    return graph


def _encoded(model: DiffusionTransformer, encoder: TextEncoder, shard: Shard, text: Tensor) -> FrozenLayers:
    """The frozen encoder that makes `text`, whole on each tensor rank; its table of tokens is left out."""
    alone = replace(shard, tensor=1, recompute="none", autocast=False)
    sizes = transformer_sizes(
        alone, hidden=model.text_width, heads=encoder.heads, width=encoder.head_dim, ffn=encoder.ffn
    ) | {"tokens": shard.microbatch * model.text_tokens, "queries": model.text_tokens, "keys": model.text_tokens}
    style = Style("rmsnorm", encoder.activation, bias=False, dropout=False, fused=True)
    layer = Graph("text encoder layer", Tensor("text stream", ("tokens", "hidden"), text.width), sizes)
    y = attention_sublayer(layer, style, layer.source, AttentionSpan(causal=False, bias=True))
    feed_forward_sublayer(layer, style, y)
    tokens = Tensor("text tokens", ("text",), 8, "index")
    return FrozenLayers("text encoder", tokens, text, transform(layer, alone), encoder.layers, alone)


def _condition(graph: Graph, name: str, x: Tensor) -> Tensor:
    """Two products with an activation between them, for each sample."""
    inner = graph.add(Linear(f"{name} in", x, ("hidden",), bias=True, wide=True)).writes
    activated = graph.add(Activation(f"{name} activation", inner, "silu", bias=True)).result
    return graph.add(Linear(f"{name} out", activated, ("hidden",), bias=True, wide=True)).result


def head(model: DiffusionTransformer, shard: Shard, sizes: Sizes) -> Graph:
    """Norm under a last modulation, product with the latents' width, and squared error, of image rows alone."""
    graph, x, modulations = _start("head", shard, sizes, {"last": 2}, model)
    graph.repeated = False
    image = graph.add(Parts("rows", x, PARTS)).writes[PARTS.index("image")]
    normed = graph.add(AdaptiveNorm("last norm", image, modulations["last"])).result
    product = graph.add(Linear("prediction", normed, (model.channels,), bias=True, wide=True))
    graph.add(SquaredError(product.result))
    return graph
