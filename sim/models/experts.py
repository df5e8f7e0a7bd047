"""What a transformer may have beside the dense form: layers of experts, latent attention, windows.

Public: `Mixture`, `Latent`, and the pieces of graphs for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from sim.errors import Problem, finding, indivisible
from sim.graph.experts import Arrival, ExpertBias, GroupedLinear, Rearrangement, TokenExchange, TopK
from sim.graph.graph import Graph, Sizes, Tensor
from sim.graph.latent import Join
from sim.graph.norms import Norm
from sim.graph.operation import Shard, TokenRouting
from sim.graph.pointwise import GATED, Activation, ResidualSum, Rotation
from sim.graph.products import Linear
from sim.models.family import Divided, Trained, share
from sim.record import Record
from sim.units import Count

if TYPE_CHECKING:  # dense transformers import this file
    from sim.models.dense import Transformer


class Mixture(Record):
    """Layers of experts: each token goes to a few of many feed-forward blocks."""

    experts: Count = Field(ge=2, le=100_000, description="experts of a layer")
    top_k: Count = Field(ge=1, le=1000, description="experts that each token goes to")
    ffn: Count = Field(ge=1, le=100_000_000, description="inner width of an expert")
    shared_experts: Count = Field(default=0, ge=0, le=1000, description="experts that every token goes to beside them")
    shared_ffn: Count | None = Field(
        default=None, ge=1, le=100_000_000, description="inner width of a shared expert; ffn if absent"
    )
    first_dense: Count = Field(
        default=0, ge=0, le=10_000, description="layers at the start that are dense, of workload.ffn"
    )
    every: Count = Field(
        default=1, ge=1, le=10_000, description="every n-th layer after those has experts, the n-th first"
    )
    capacity_factor: float | None = Field(
        default=None,
        ge=0.01,
        le=100,
        description="rows that an expert computes over its even share: tokens beyond are dropped, rows that stay empty "
        "are computed; no token is dropped if absent",
    )
    groups: Count | None = Field(
        default=None, ge=1, le=10_000, description="groups of experts, of which a token may use some"
    )
    group_limit: Count | None = Field(
        default=None, ge=1, le=10_000, description="groups that the experts of a token may lie in"
    )
    latent: Count | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="width in which tokens travel to experts and back; hidden if absent",
    )
    imbalance: float = Field(
        default=1.0,
        ge=1,
        le=1000,
        description="rows of the fullest rank of experts over the mean, which all others wait for",
    )

    @property
    def routing(self) -> TokenRouting:
        """How tokens choose."""
        limited = self.groups is not None and self.group_limit is not None
        groups, limit = (self.groups or 1, self.group_limit or 1) if limited else (1, 1)
        return TokenRouting(self.experts, self.top_k, groups, limit, 1.0 if self.capacity_factor else self.imbalance)

    @property
    def shared_width(self) -> int:
        """Inner width of all shared experts together."""
        return self.shared_experts * (self.shared_ffn or self.ffn)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has experts."""
        return layer >= self.first_dense and (layer - self.first_dense + 1) % self.every == 0


class Latent(Record):
    """Multi-head latent attention: queries, keys and values are made from narrow projections."""

    q_rank: Count | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="width of the projection that queries are made from; hidden itself if absent",
    )
    kv_rank: Count = Field(ge=1, le=1_000_000, description="width of the projection that keys and values are made from")
    nope_head_dim: Count = Field(ge=1, le=100_000, description="width of the part of a query or key without positions")
    rope_head_dim: Count = Field(ge=1, le=100_000, description="width of its rotated part; keys of all heads share it")
    value_head_dim: Count = Field(ge=1, le=100_000, description="width of a value")

    @property
    def width(self) -> int:
        """Width of a query or key."""
        return self.nope_head_dim + self.rope_head_dim


def expert_sizes(mixture: Mixture, hidden: int, shard: Shard, own: int) -> Sizes:
    """Local counts of the axes of experts, on the fullest of the ranks that share them; `own` tokens of a rank."""
    routing, sharers = mixture.routing, shard.expert_tensor
    sent = own * mixture.top_k * (mixture.capacity_factor or 1.0)
    copies = routing.distinct(shard.expert) if shard.expert > 1 else 1.0
    return {
        "own": own,
        "routed": mixture.experts,
        "chosen": mixture.top_k,
        "experts": share(mixture.experts, shard.expert),
        "sent": round(sent),
        "received": round(own * copies * routing.imbalance) * sharers,
        "dispatched": round(sent * routing.imbalance) * sharers,
        "expert ffn": share(mixture.ffn, sharers),
        "expert hidden": mixture.latent or hidden,
        "shared ffn": share(mixture.shared_width, shard.tensor),
    }


class ExpertBlock:
    """Writes what experts make of `x`, which is normed, and what shared experts make of it if there are any."""

    def __init__(self, graph: Graph, model: Transformer, mixture: Mixture, shard: Shard) -> None:
        self.graph, self.model, self.mixture, self.shard = graph, model, mixture, shard
        kernels = shard.experts
        self.beside = kernels.overlap == "shared" and shard.expert > 1 and mixture.shared_experts > 0
        self.copies = kernels.dispatcher == "all_to_all" or shard.expert == 1  # a row for each expert leaves

    def write(self, x: Tensor) -> Tensor:
        """Shared experts run before, or in two parts beside the way to the experts and the way back."""
        shares = self.mixture.shared_experts > 0
        add = self.graph.add
        before = self._shared_up(x) if shares and not self.beside else None
        shared = self._shared_down(before) if before else None
        add(TopK(add(Linear("router", x, ("routed",), wide=True)).result))
        dispatch = add(self._dispatch(x))
        inner = self._shared_up(x) if self.beside else None
        add(Arrival(dispatch))
        combine = add(self._combine(self._experts(self._sorted(dispatch.result))))
        shared = self._shared_down(inner) if inner else shared
        add(Arrival(combine))
        y = self._home(combine.result)
        if shared is None:
            return y
        return add(ResidualSum("shared expert", y, shared, bias=False, dropout=False)).result

    def _dispatch(self, x: Tensor) -> TokenExchange:
        if self.mixture.latent:
            x = self.graph.add(Linear("experts down", x, ("expert hidden",))).result
        if self.copies:
            x = self.graph.add(Rearrangement("permutation", x, "sent")).result
        return TokenExchange(
            "dispatch", x, "dispatched" if self.copies else "received", self.mixture.routing, leaves=True
        )

    def _sorted(self, x: Tensor) -> Tensor:
        """A row for each expert, sorted by it; where there is one expert they arrive so."""
        if self.copies and (self.shard.expert == 1 or self.graph.sizes["experts"] == 1):
            return x
        return self.graph.add(Rearrangement("sort by expert", x, "dispatched")).result

    def _experts(self, x: Tensor) -> Tensor:
        model, add = self.model, self.graph.add
        columns = ("expert ffn", "expert ffn") if model.activation in GATED else ("expert ffn",)
        inner = add(GroupedLinear("experts up", x, columns, bias=model.bias)).writes
        activated = add(Activation("experts activation", inner, model.activation, bias=model.bias)).result
        output = add(GroupedLinear("experts down", activated, ("expert hidden",), bias=model.bias)).result
        if model.bias:
            add(ExpertBias("experts down bias", output))
        return output

    def _combine(self, x: Tensor) -> TokenExchange:
        if not self.copies:
            x = self.graph.add(Rearrangement("sum by token", x, "received")).result
        elif self.shard.expert > 1 and self.graph.sizes["experts"] > 1:
            x = self.graph.add(Rearrangement("sort by rank", x, "dispatched")).result
        return TokenExchange("combine", x, "sent" if self.copies else "tokens", self.mixture.routing, leaves=False)

    def _home(self, y: Tensor) -> Tensor:
        if self.copies:
            y = self.graph.add(Rearrangement("weighted sum", y, "tokens")).result
        return self.graph.add(Linear("experts out", y, ("hidden",))).result if self.mixture.latent else y

    def _shared_up(self, x: Tensor) -> Tensor:
        model, add = self.model, self.graph.add
        columns = ("shared ffn", "shared ffn") if model.activation in GATED else ("shared ffn",)
        inner = add(Linear("shared up", x, columns, bias=model.bias)).writes
        return add(Activation("shared activation", inner, model.activation, bias=model.bias)).result

    def _shared_down(self, x: Tensor) -> Tensor:
        return self.graph.add(Linear("shared down", x, ("hidden",), bias=self.model.bias)).result


def latent_queries_and_keys(graph: Graph, latent: Latent, form: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of latent attention, from `x`, which is normed."""
    add, source = graph.add, x
    if latent.q_rank:
        narrow = add(Linear("query down", x, ("query rank",))).result
        source = add(Norm("query norm", narrow, form)).result
    queries = add(Linear("query up", source, ("query",))).result
    narrow, rotated = add(Linear("key-value down", x, ("key rank", "rope width"))).writes
    normed = add(Norm("key-value norm", narrow, form)).result
    own, values = add(Linear("key-value up", normed, ("own key", "value"))).writes
    add(Rotation(queries, rotated))
    return queries, add(Join("key join", own, rotated, "query")).result, values


def latent_sizes(latent: Latent, heads: int) -> Sizes:
    """Local counts of the axes of latent attention, with `heads` on a rank."""
    return {
        "width": latent.width,
        "value width": latent.value_head_dim,
        "query": heads * latent.width,
        "key": heads * latent.width,
        "value": heads * latent.value_head_dim,
        "own key": heads * latent.nope_head_dim,
        "query rank": latent.q_rank or 0,
        "key rank": latent.kv_rank,
        "rope width": latent.rope_head_dim,
    }


def check_mixture(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A token goes to some of the experts there are, in some of their groups."""
    mixture = model.moe
    if mixture is None:
        return
    groups, limit = mixture.groups, mixture.group_limit
    if (groups is None) != (limit is None):
        yield finding("workload.moe.group_limit", "groups and group_limit say something together only", "give both")
    elif groups and limit:
        if mixture.experts % groups:
            yield indivisible("workload.moe.groups", "experts", mixture.experts, "groups", groups)
        if limit > groups:
            yield finding("workload.moe.group_limit", f"{limit} of {groups} groups", f"give at most {groups}")
    pool = mixture.experts * min(limit or 1, groups or 1) // (groups or 1)
    if mixture.top_k > pool:
        yield finding("workload.moe.top_k", f"{mixture.top_k} of {pool} experts", f"give at most {pool}")
    if not any(mixture.has_experts(number) for number in range(model.layers)):
        message = f"none of {model.layers} layers has experts with first_dense {mixture.first_dense}"
        yield finding("workload.moe.first_dense", f"{message}, every {mixture.every}", "reduce one of them")


def check_experts_divide(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Ranks share experts, and the matrices of each, evenly."""
    mixture = model.moe
    if mixture is None:
        return
    if mixture.experts % plan.expert:
        yield indivisible("parallelism.expert", "experts", mixture.experts, "expert", plan.expert)
    if mixture.ffn % plan.expert_tensor:
        yield indivisible("parallelism.expert_tensor", "moe.ffn", mixture.ffn, "expert_tensor", plan.expert_tensor)
    if mixture.shared_width % plan.tensor:
        yield indivisible("parallelism.tensor", "shared experts", mixture.shared_width, "tensor", plan.tensor)


def check_tokens_of_experts(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Tensor ranks send tokens of their own to experts, so they must not all have all (Megatron Core demands it)."""
    if model.moe and plan.tensor > 1 and not plan.sequence_parallel:
        message = f"tensor {plan.tensor} without sequence_parallel would send each token {plan.tensor} times"
        yield finding("parallelism.sequence_parallel", message, "set it to true")


def check_forms_of_experts(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """What is not modelled of layers of experts."""
    if model.moe is None:
        return
    if isinstance(training.recompute, str) and training.recompute not in ("none", "selective", "full"):
        message = f"{training.recompute} recomputation of layers of experts is not modelled"
        yield finding("training.recompute", message, "use none, selective or full")
    if plan.shard_group is not None:
        yield finding("parallelism.shard_group", "shard groups of experts are not modelled", "leave it out")
    if training.lora and {"feed_forward_up", "feed_forward_down"} & set(training.lora.targets):
        yield finding("training.lora.targets", "adapters of experts are not modelled", "name matrices of attention")


def check_forms_of_attention(model: Transformer, plan: Divided, training: Trained) -> Iterator[Problem]:
    """What is not modelled of latent attention and of windows."""
    for name, there in (("mla", model.mla is not None), ("window", model.window is not None)):
        if there and model.attention != "flash":
            yield finding("workload.attention", f"{name} without a fused kernel is not modelled", "use flash")
    if model.window is not None and plan.context > 1:
        message = f"a window over context {plan.context} is not modelled"
        yield finding("parallelism.context", message, "use context 1, or leave the window out")
    if not model.mla and not isinstance(training.recompute, str) and "up_projection" in training.recompute:
        message = f"{model.name} has no latent attention, whose up projections might run again"
        yield finding("training.recompute", message, "leave up_projection out")
    if model.mla and training.lora and "qkv" in training.lora.targets:
        yield finding("training.lora.targets", "latent attention has no qkv", "use attention_output")


EXPERT_RULES = (
    check_mixture,
    check_experts_divide,
    check_tokens_of_experts,
    check_forms_of_experts,
    check_forms_of_attention,
)
