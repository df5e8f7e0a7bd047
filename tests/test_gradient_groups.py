"""The ranks that sum the gradient of a weight follow from the axes of its tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
from workload_samples import GPT, LLAMA, SHARD

from sim.graph.graph import Graph, Operator, Tensor
from sim.graph.operation import Shard
from sim.inputs.load import load_definition
from sim.models.dense import Transformer
from sim.models.family import Architecture
from sim.transforms.reduction import gradient_axes, gradient_group

REPLICAS = ("context", "data")


@pytest.mark.parametrize("model", [GPT, LLAMA])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_dense_weights_are_summed_over_data_and_context(model: Transformer, sequence: bool, precision: str) -> None:
    shard = replace(SHARD, context=2, sequence_parallel=sequence, precision=precision)
    graph = Architecture(model, shard).layers[0]
    groups = {weight.name: gradient_axes(graph, weight) for weight in graph.weights()}
    matrices = ("qkv", "attention output", "feed-forward up", "feed-forward down")
    assert {groups[name] for name in matrices} == {REPLICAS}
    rows = (*REPLICAS, "tensor") if sequence else REPLICAS
    assert groups["attention norm"] == groups["feed-forward norm"] == rows
    if model.bias:
        assert groups["qkv bias"] == REPLICAS  # a share of each rank
        assert groups["feed-forward down bias"] == rows  # added to rows that are summed already


def test_both_ends_are_summed_like_layers() -> None:
    architecture = Architecture(LLAMA, replace(SHARD, sequence_parallel=True))
    for graph in (architecture.first, architecture.last):
        assert graph is not None
        tables = [weight for weight in graph.weights() if len(weight.axes) == 2]
        assert {gradient_axes(graph, weight) for weight in tables} == {REPLICAS}


def test_weights_of_an_expert_are_summed_over_its_replicas() -> None:
    x = Tensor("dispatched", ("dispatched", "hidden"))
    graph = Graph("experts", x, {"dispatched": 4096, "hidden": 64, "experts": 2, "expert ffn": 128})
    weight = Tensor("up", ("experts", "expert ffn", "hidden"), role="weight")
    router = Tensor("router", ("all experts", "hidden"), role="weight")
    scores = Tensor("scores", ("rows", "all experts"))
    graph.add(Operator("up", (x,), (Tensor("inner", ("dispatched", "expert ffn")),), (weight,)))
    graph.add(Operator("router", (Tensor("normed", ("rows", "hidden")),), (scores,), (router,)))
    assert gradient_axes(graph, weight) == ("expert_data",)
    assert gradient_group(graph, weight) == "expert_gradient"
    assert gradient_axes(graph, router) == (*REPLICAS, "tensor")
    assert gradient_group(graph, router) == "gradient"


def test_convolutions_are_summed_over_data() -> None:
    model = load_definition("workload", "resnet-50")
    graph = Architecture(model, Shard()).layers[0]  # type: ignore[arg-type]
    assert {gradient_axes(graph, weight) for weight in graph.weights()} == {("data",)}
