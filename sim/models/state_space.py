"""State space models of the Mamba-2 kind (Dao 2024, arXiv 2405.21060), and hybrids with layers of transformers.

Layers follow a pattern of letters: M a state space layer, * attention, - a feed-forward block (as Nemotron-H,
arXiv 2504.03624, writes it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.attention import CAUSAL
from sim.graph.ends import CHUNKED, CrossEntropy, Lookup
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.norms import Norm
from sim.graph.operation import Shard
from sim.graph.pointwise import ResidualSum
from sim.graph.products import Linear
from sim.graph.scan import CausalConvolution, ChunkedScan, Chunks, GatedNorm, Projection, ScanOutput
from sim.graph.work import element_bytes
from sim.models.family import Divided, Pieces, Trained, Workload, share
from sim.models.sublayers import SPLIT, Style, attention_sublayer, feed_forward_sublayer, row_sizes, transformer_sizes
from sim.record import Name
from sim.units import Count


class StateSpace(Workload):
    """A decoder of state space layers, alone or in a pattern with attention and feed-forward layers."""

    kind: Literal["state_space"]
    name: Name = Field(default="inline", description="the name it is found by")
    layers: Count = Field(ge=1, le=10_000, description="layers, all kinds together")
    pattern: str = Field(
        default="M",
        min_length=1,
        max_length=10_000,
        description="kinds of layers, repeated until there are enough: M state space, * attention, - feed-forward",
    )
    hidden: Count = Field(ge=1, le=10_000_000, description="width of the residual stream")
    inner: Count | None = Field(
        default=None, ge=1, le=100_000_000, description="columns of a state space layer; 2 * hidden if absent"
    )
    state: Count = Field(default=128, ge=1, le=1_000_000, description="numbers of the state of each column")
    scan_head_dim: Count = Field(default=64, ge=1, le=1_000_000, description="columns of a head of the scan")
    groups: Count = Field(default=1, ge=1, le=100_000, description="groups of heads that share scores")
    kernel: Count = Field(default=4, ge=1, le=1024, description="positions of the convolution before the scan")
    chunk: Count = Field(default=256, ge=1, le=1_000_000, description="tokens of a chunk of the scan")
    heads: Count | None = Field(default=None, ge=1, le=100_000, description="query heads of attention layers")
    kv_heads: Count | None = Field(
        default=None, ge=1, le=100_000, description="key and value heads of attention layers; heads if absent"
    )
    head_dim: Count | None = Field(
        default=None, ge=1, le=100_000, description="width of a head of attention; hidden/heads if absent"
    )
    ffn: Count | None = Field(default=None, ge=1, le=100_000_000, description="inner width of feed-forward layers")
    activation: Literal["gelu", "swiglu", "geglu", "relu", "squared_relu"] = Field(
        default="swiglu", description="activation of feed-forward layers"
    )
    vocab: Count = Field(ge=1, le=1_000_000_000, description="vocabulary entries, as padded")
    tied_embeddings: bool = Field(default=True, description="input and output embedding share weights")
    attention: Literal["flash", "unfused"] = Field(
        default="flash", description="fused attention, or scores written to memory, in attention layers"
    )
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    @property
    def columns(self) -> int:
        """Columns of a state space layer."""
        return self.inner or 2 * self.hidden

    @property
    def kinds(self) -> str:
        """The letter of each layer."""
        return (self.pattern * self.layers)[: self.layers]

    @property
    @override
    def widths(self) -> tuple[int, int]:
        return self.hidden, self.head_dim or self.hidden // (self.heads or self.hidden)

    @property
    @override
    def ties(self) -> bool:
        return self.tied_embeddings

    @property
    @override
    def fuses_attention(self) -> bool | None:
        return self.attention == "flash" if "*" in self.kinds else None

    @property
    @override
    def line(self) -> str:
        counts = {"M": "state space", "*": "attention", "-": "feed-forward"}
        layers = ", ".join(f"{self.kinds.count(each)} {name}" for each, name in counts.items() if each in self.kinds)
        return f"{layers} layers, hidden {self.hidden}, state {self.state}, vocabulary {self.vocab}"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Embedding, layers by the pattern, and a head with its loss."""
        sizes = sizes_of(self, shard)
        graphs = {kind: LAYERS[kind](self, shard, sizes) for kind in dict.fromkeys(self.kinds)}
        layers = tuple(graphs[kind] for kind in self.kinds)
        return Pieces(embedding(self, shard, sizes), layers, head(self, shard, sizes))

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[StateSpace, Divided, Trained], Iterator[Problem]]


def check_scan(model: StateSpace, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Heads of the scan make up its columns, groups share the heads, and chunks fill a sequence."""
    if model.columns % model.scan_head_dim:
        message = f"scan_head_dim {model.scan_head_dim} does not divide {model.columns} columns"
        yield finding("workload.scan_head_dim", message, "change it or inner")
    elif model.columns // model.scan_head_dim % model.groups:
        message = f"groups {model.groups} do not divide {model.columns // model.scan_head_dim} heads of the scan"
        yield finding("workload.groups", message, "each group has as many")


def check_pattern(model: StateSpace, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Each letter of the pattern is a kind of layer."""
    unknown = sorted(set(model.pattern) - set(LAYERS))
    if unknown:
        message = f"no layer is called {' or '.join(unknown)}"
        yield finding("workload.pattern", message, "M is a state space layer, * attention, - a feed-forward block")


def check_kinds_are_described(model: StateSpace, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers of attention have heads, feed-forward layers a width."""
    for kind, name in (("*", "heads"), ("-", "ffn")):
        if kind in model.kinds and getattr(model, name) is None:
            yield finding(f"workload.{name}", f"the pattern has layers {kind} and {name} is not given", f"give {name}")
    if model.heads and model.head_dim is None and model.hidden % model.heads:
        message = f"heads {model.heads} do not divide hidden {model.hidden}"
        yield finding("workload.heads", message, "give head_dim, or change one of them")
    if model.heads and model.heads % (model.kv_heads or model.heads):
        message = f"kv_heads {model.kv_heads} do not divide heads {model.heads}"
        yield finding("workload.kv_heads", message, "each group of query heads shares one")


def check_ranks_hold_whole_layers(model: StateSpace, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are replicated, sharded or put in stages; scans are not split over ranks."""
    for name in ("tensor", "context"):
        count = getattr(plan, name)
        if count > 1:
            message = f"{name} {count}: scans that ranks share are not modelled"
            yield finding(f"parallelism.{name}", message, f"set {name} to 1")


def check_discipline(model: StateSpace, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Layers are recomputed whole, or their attention is."""
    if training.recompute not in ("none", "selective", "full"):
        message = f"{training.recompute} recomputation is one of dense decoders"
        yield finding("training.recompute", message, "use none, selective or full")


def check_no_adapters(model: StateSpace, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Adapters name matrices that state space layers do not have."""
    if training.lora:
        yield finding("training.lora", "adapters of state space layers are not modelled", "leave it out")


def check_attention_of_documents(model: StateSpace, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Only a fused kernel skips the scores between documents of a sequence; a scan takes as long."""
    if training.document_length is not None and model.attention != "flash":
        message = "unfused attention computes all scores and masks them"
        yield finding("training.document_length", message, "use workload.attention flash, or leave it out")


RULES: tuple[Rule, ...] = (
    check_scan,
    check_pattern,
    check_kinds_are_described,
    check_ranks_hold_whole_layers,
    check_discipline,
    check_no_adapters,
    check_attention_of_documents,
)


def sizes_of(model: StateSpace, shard: Shard) -> Sizes:
    """What a rank has; chunks do not cross sequences."""
    heads, ffn, batch, length = model.heads or 1, model.ffn or 1, shard.microbatch, shard.sequence_length
    width = model.head_dim or max(1, model.hidden // heads)
    shape = transformer_sizes(shard, hidden=model.hidden, heads=heads, width=width, ffn=ffn)
    return (
        shape
        | row_sizes(shard, batch * length)
        | {
            "queries": length,
            "keys": shard.document_length or length,
            "key": (model.kv_heads or heads) * width,
            "inner": model.columns,
            "mixed": model.columns + 2 * model.groups * model.state,
            "scan heads": model.columns // model.scan_head_dim,
            "loss rows": share(batch * length, shard.loss_chunks),
            "vocabulary": shard.pads_vocabulary * share(model.vocab, shard.pads_vocabulary),
        }
    )


def _style(model: StateSpace) -> Style:
    return Style("rmsnorm", model.activation, bias=False, dropout=False, fused=model.attention == "flash")


def _graph(name: str, shard: Shard, sizes: Sizes) -> tuple[Graph, Tensor]:
    x = Tensor("layer input", ("tokens", "hidden"), element_bytes(shard.precision))
    return Graph(name, x, sizes, SPLIT, repeated=True), x


def scan_layer(model: StateSpace, shard: Shard, sizes: Sizes) -> Graph:
    """Norm, one projection to gate, input of the scan and steps, convolution, scan, gated norm, output."""
    graph, x = _graph("state space layer", shard, sizes)
    add = graph.add
    normed = add(Norm("scan norm", x, "rmsnorm")).result
    gate, mixed, steps = add(Projection("scan input", normed, ("inner", "mixed", "scan heads"))).writes
    convolved = add(CausalConvolution("convolution", mixed, model.kernel)).result
    length = min(model.chunk, shard.sequence_length)
    count = shard.microbatch * share(shard.sequence_length, length)
    chunks = Chunks(count, length, sizes["scan heads"], model.scan_head_dim, model.state, model.groups)
    y = add(ChunkedScan("scan", convolved, steps, chunks)).result
    gated = add(GatedNorm("gated norm", y, gate)).result
    output = add(ScanOutput("scan output", gated, ("hidden",))).result
    add(ResidualSum("scan", output, x, bias=False, dropout=False))
    return graph


def attention_layer(model: StateSpace, shard: Shard, sizes: Sizes) -> Graph:
    """Causal attention alone, without positions, which scans tell."""
    graph, x = _graph("attention layer", shard, sizes)
    attention_sublayer(graph, _style(model), x, CAUSAL)
    return graph


def feed_forward_layer(model: StateSpace, shard: Shard, sizes: Sizes) -> Graph:
    """A feed-forward block alone."""
    graph, x = _graph("feed-forward layer", shard, sizes)
    feed_forward_sublayer(graph, _style(model), x)
    return graph


LAYERS: dict[str, Callable[[StateSpace, Shard, Sizes], Graph]] = {
    "M": scan_layer,
    "*": attention_layer,
    "-": feed_forward_layer,
}


def embedding(model: StateSpace, shard: Shard, sizes: Sizes) -> Graph:
    """Token lookup."""
    tokens = Tensor("tokens", ("tokens",), 8, "index")
    graph = Graph("embedding", tokens, sizes, SPLIT)
    table = Tensor("token table", ("vocabulary", "hidden"), element_bytes(shard.precision), "weight")
    graph.add(Lookup("embedding", tokens, table))
    return graph


def head(model: StateSpace, shard: Shard, sizes: Sizes) -> Graph:
    """Final norm, output product and cross-entropy."""
    x = Tensor("head input", ("tokens", "hidden"), element_bytes(shard.precision))
    graph = Graph("head", x, sizes, SPLIT)
    normed = graph.add(Norm("final norm", x, "rmsnorm")).result
    product = graph.add(Linear("head", normed, ("vocabulary",), wide=True))
    if model.tied_embeddings:
        product.weights = ()  # the token table, which stands in the embedding
    if shard.cross_entropy in CHUNKED:
        product.result.axes = ("loss rows", "vocabulary")
    graph.add(CrossEntropy(product.result))
    return graph
