"""Recurrent networks: parameters, work and launches of layers; GNMT and RNN-T."""

from __future__ import annotations

from typing import Literal

import pytest

from sim.devices.compute import operation_time
from sim.errors import ConfigError
from sim.graph.graph import Graph, Tensor
from sim.graph.operation import Operation, Shard
from sim.graph.recurrent import LAUNCHES, AdditiveAttention, Recurrence
from sim.graph.work import Writer
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import Accelerator
from sim.models.family import Architecture, Workload
from sim.transforms.derive import block_of

STEPS, SAMPLES, HIDDEN = 50, 128, 1024
SIZES = {"source": STEPS, "samples": SAMPLES}
INPUT = Tensor("x", ("source", "samples", HIDDEN))
Kernels = Literal["eager", "library", "persistent"]


def passes(layer: Recurrence | AdditiveAttention, recurrence: Kernels = "library") -> list[Operation]:
    """Operations of both passes of a layer."""
    graph = Graph("layer", INPUT, SIZES)
    graph.add(layer)
    block = block_of(graph, Shard(precision="fp16", microbatch=SAMPLES, recurrence=recurrence))
    return [*block.forward, *block.backward]


def architecture(name: str, length: int, microbatch: int = 1) -> Architecture:
    model = load_definition("workload", name)
    assert isinstance(model, Workload)
    return Architecture(model, Shard(precision="bf16", sequence_length=length, microbatch=microbatch))


def test_layers_do_the_work_of_their_trace() -> None:
    """Four LSTM layers of 1024 over 50 steps of 128 samples: a trace of PyTorch has 400 products of 1.074 GFLOP."""
    layer = Recurrence("layer", INPUT, HIDDEN, 4)
    work = Writer(Graph("layer", INPUT, SIZES), Shard(precision="bf16", microbatch=SAMPLES))
    assert 4 * layer.products(work) == pytest.approx(400 * 1_073_741_824)
    assert sum(each.flops for each in passes(layer)) == pytest.approx(3 * layer.products(work))


@pytest.mark.parametrize(("gates", "share"), [(4, 1.0), (3, 0.75)])
@pytest.mark.parametrize("directions", [1, 2])
def test_gates_and_directions_are_in_proportion(gates: int, share: float, directions: int) -> None:
    work = Writer(Graph("layer", INPUT, SIZES), Shard(precision="bf16", microbatch=SAMPLES))
    lstm, layer = Recurrence("a", INPUT, HIDDEN, 4), Recurrence("b", INPUT, HIDDEN, gates, directions)
    assert layer.products(work) == pytest.approx(share * directions * lstm.products(work))
    held = [sum(map(work.elements, each.weights)) for each in (lstm, layer)]
    assert held[0] == 4 * HIDDEN * (2 * HIDDEN + 2)
    assert held[1] == share * directions * held[0]


@pytest.mark.parametrize("recurrence", sorted(LAUNCHES))
def test_every_step_launches(recurrence: Kernels) -> None:
    operations = passes(Recurrence("layer", INPUT, HIDDEN, 4), recurrence)
    steps = [each.kernels for each in operations if each.name in ("layer", "layer backward")]
    assert steps == [STEPS * LAUNCHES[recurrence].forward, STEPS * LAUNCHES[recurrence].backward]


def test_a_step_takes_the_time_of_a_product_of_its_own() -> None:
    """The next waits for it: no wave has tiles of two steps."""
    board = load_definition("accelerator", "a100-sxm-80gb")
    assert isinstance(board, Accelerator)
    (steps,) = [each for each in passes(Recurrence("layer", INPUT, HIDDEN, 4)) if each.name == "layer"]
    one = Operation(
        "one",
        "matmul",
        steps.flops / STEPS,
        steps.bytes_moved / STEPS,
        "fp16",
        m=SAMPLES,
        n=4 * HIDDEN,
        k=HIDDEN,
        kernels=2,
    )
    assert operation_time(steps, board) == pytest.approx(STEPS * operation_time(one, board), rel=0.1)


def test_persistent_kernels_read_weights_once_where_they_fit() -> None:
    weights = 2 * 4 * HIDDEN * HIDDEN
    narrow, both = Recurrence("layer", INPUT, HIDDEN, 4), Recurrence("layer", INPUT, HIDDEN, 4, 2)
    wide = Recurrence("layer", Tensor("x", ("source", "samples", HIDDEN)), 2 * HIDDEN, 4)

    def moved(layer: Recurrence, recurrence: Kernels) -> float:
        return next(each.bytes_moved for each in passes(layer, recurrence) if each.name == "layer")

    assert moved(narrow, "library") - moved(narrow, "persistent") == (STEPS - 1) * weights
    for layer in (both, wide):
        assert moved(layer, "library") == moved(layer, "persistent")


@pytest.mark.parametrize(("name", "length", "published"), [("gnmt", 25, 160e6), ("rnn-t", 410, 49e6)])
def test_networks_have_their_published_size(name: str, length: int, published: float) -> None:
    model = architecture(name, length)
    assert model.whole.parameters == pytest.approx(published, rel=6e-3)
    assert model.whole.trained == model.whole.parameters


def test_gnmt_attends_in_the_first_decoder_layer_and_all_others_read_it() -> None:
    layers = architecture("gnmt", 25).layers
    attending = [any(isinstance(each, AdditiveAttention) for each in graph.operators) for graph in layers]
    assert attending == [False] * 4 + [True] + [False] * 3
    inputs = [each.inputs for graph in layers for each in graph.operators if isinstance(each, Recurrence)]
    assert inputs == [1024, 2048, 1024, 1024, 1024, 2048, 2048, 2048]


def test_a_transducer_looks_at_every_pair_of_steps() -> None:
    """Its logits are the largest tensor: source steps after the reduction x target steps x vocabulary."""
    model = architecture("rnn-t", 410, 8)
    assert model.last
    logits = next(each for each in model.last.operators if each.name == "head").result
    assert model.last.elements(logits) == 205 * (round(0.11 * 410) + 1) * 8 * 1024


def test_work_grows_with_the_length_and_the_transducers_head_with_its_square() -> None:
    short, long = architecture("gnmt", 20).flops[0], architecture("gnmt", 40).flops[0]
    assert 2 * short < long < 2.1 * short
    heads = [architecture("rnn-t", length).last for length in (200, 400)]
    parts = [sum(each.products(Writer(g, Shard())) for each in g.operators if each.name == "head") for g in heads if g]
    assert parts[1] / parts[0] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("parallelism.tensor=2", "runs data parallel only"),
        ("parallelism.pipeline=2", "runs data parallel only"),
        ("training.recompute=selective", "one of transformers"),
        ("training.precision=fp8", "fp8"),
        ("workload.joint=512", "give one of"),
    ],
)
def test_what_does_not_suit_is_said(change: str, words: str) -> None:
    source = {
        "cluster": "dgx-h100",
        "workload": "gnmt",
        "training": {"global_batch": 1024, "microbatch": 128, "sequence_length": 25},
    }
    with pytest.raises(ConfigError) as caught:
        load_experiment(source, [change])
    assert words in str(caught.value)
