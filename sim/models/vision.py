"""Vision transformers (Dosovitskiy 2020, arXiv 2010.11929): patches of an image as tokens, a class token before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding, indivisible
from sim.graph.attention import AttentionSpan
from sim.graph.ends import CrossEntropy
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import Dropout, Positions, ProductBias
from sim.graph.products import Linear
from sim.graph.rows import FirstRow, SelectedRows
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload
from sim.models.sublayers import (
    SPLIT,
    Style,
    attention_sublayer,
    feed_forward_sublayer,
    row_sizes,
    transformer_sizes,
)
from sim.record import Name
from sim.units import Count

COLOURS = 3
SPAN = AttentionSpan(causal=False)


class VisionTransformer(Workload):
    """An encoder over the patches of an image, with a classifier on its class token. Samples are images."""

    kind: Literal["vision_transformer"]
    name: Name = Field(default="inline", description="the name it is found by")
    image: Count = Field(default=224, ge=1, le=100_000, description="height and width of an image [pixels]")
    patch: Count = Field(default=16, ge=1, le=100_000, description="height and width of a patch [pixels]")
    layers: Count = Field(ge=1, le=10_000, description="transformer layers")
    hidden: Count = Field(ge=1, le=10_000_000, description="width of the residual stream")
    heads: Count = Field(ge=1, le=100_000, description="attention heads")
    ffn: Count = Field(ge=1, le=100_000_000, description="inner width of the feed-forward block")
    classes: Count = Field(default=1000, ge=1, le=1_000_000_000, description="classes that are told apart")
    activation: Literal["gelu", "relu"] = Field(default="gelu", description="feed-forward activation")
    attention: Literal["flash", "unfused"] = Field(
        default="flash", description="fused attention, or scores written to memory"
    )
    dropout: bool = Field(default=False, description="dropout of scores, sublayers and the embedding")
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    tokens: ClassVar[bool] = False

    @property
    def patches(self) -> int:
        """Patches of an image."""
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
        shape = f"{self.layers} layers, hidden {self.hidden}, {self.heads} heads"
        return f"vision transformer of {shape}, images of {self.image} pixels in patches of {self.patch}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Patches to tokens, equal layers, classifier."""
        sizes = sizes_of(self, shard)
        layers = (layer(self, shard, sizes),) * self.layers
        return Pieces(embedding(self, shard, sizes), layers, classifier(self, shard, sizes))

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[VisionTransformer, Divided, Trained], Iterator[Problem]]


def check_patches(model: VisionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Patches fill the image."""
    if model.image % model.patch:
        message = f"patches of {model.patch} pixels do not fill an image of {model.image}"
        yield finding("workload.patch", message, "change one of them")


def check_matrices_divide(model: VisionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks share heads and feed-forward width evenly, and rows where these are split."""
    for name in ("heads", "ffn"):
        if getattr(model, name) % plan.tensor:
            yield indivisible("parallelism.tensor", name, getattr(model, name), "tensor", plan.tensor)
    if plan.sequence_parallel and (model.patches + 1) % plan.tensor:
        message = f"{model.patches} patches and a class token are no multiple of tensor {plan.tensor}"
        yield finding("parallelism.sequence_parallel", message, "set it to false")


def check_head_shape(model: VisionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Heads make up the hidden width."""
    if model.hidden % model.heads:
        message = f"heads {model.heads} do not divide hidden {model.hidden}"
        yield finding("workload.heads", message, "change one of them")


def check_image_is_whole(model: VisionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """The patches of an image lie on one rank."""
    if plan.context > 1:
        message = f"context {plan.context}: the patches of an image lie on one rank"
        yield finding("parallelism.context", message, "set context to 1")


def check_discipline(model: VisionTransformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are recomputed whole, or their attention is."""
    if training.recompute not in ("none", "selective", "full"):
        message = f"{training.recompute} recomputation is one of decoders"
        yield finding("training.recompute", message, "use none, selective or full")


RULES: tuple[Rule, ...] = (
    check_patches,
    check_matrices_divide,
    check_head_shape,
    check_image_is_whole,
    check_discipline,
)


def sizes_of(model: VisionTransformer, shard: Shard) -> Sizes:
    """What `shard` leaves to the fullest rank."""
    length, batch = model.patches + 1, shard.microbatch
    width = model.hidden // model.heads
    shape = transformer_sizes(shard, hidden=model.hidden, heads=model.heads, width=width, ffn=model.ffn)
    return (
        shape
        | row_sizes(shard, batch * length)
        | {
            "queries": length,
            "keys": length,
            "patches": batch * model.patches,
            "positions": length,
            "pixels": COLOURS * model.patch**2,
            "classes": model.classes,
        }
    )


def _style(model: VisionTransformer) -> Style:
    fused = model.attention == "flash"
    return Style("layernorm", model.activation, bias=True, dropout=model.dropout, fused=fused)


def layer(model: VisionTransformer, shard: Shard, sizes: Sizes) -> Graph:
    """Attention and feed-forward block, each with a norm before and a residual behind."""
    x = Tensor("layer input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("layer", x, sizes, SPLIT, repeated=True)
    feed_forward_sublayer(graph, _style(model), attention_sublayer(graph, _style(model), x, SPAN))
    return graph


def embedding(model: VisionTransformer, shard: Shard, sizes: Sizes) -> Graph:
    """The product of each patch, a class token before them, positions and dropout."""
    width = element_bytes(shard.precision)
    pixels = Tensor("patches", ("patches", "pixels"), width, "index")
    graph = Graph("embedding", pixels, sizes, SPLIT)
    product = graph.add(Linear("patch embedding", pixels, ("hidden",), bias=True))
    graph.add(ProductBias("patch embedding bias", product.writes))
    x = graph.add(FirstRow("class token", product.result, "tokens")).result
    x = graph.add(Positions("positions", x, Tensor("position table", ("positions", "hidden"), width, "weight"))).result
    if model.dropout:
        graph.add(Dropout("embedding dropout", x))
    return graph


def classifier(model: VisionTransformer, shard: Shard, sizes: Sizes) -> Graph:
    """Norm of all tokens; product of the class token with the classes, and its loss."""
    x = Tensor("head input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("head", x, sizes, SPLIT)
    normed = graph.add(Norm("final norm", x, "layernorm")).result
    first = graph.add(SelectedRows("class token", normed, "batch")).result
    graph.add(CrossEntropy(graph.add(Linear("classes", first, ("classes",), bias=True, wide=True)).result, rows=None))
    return graph
