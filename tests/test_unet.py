"""Diffusion networks: Stable Diffusion 2 against its published size and its trace; what is frozen."""

from __future__ import annotations

import pytest

from sim.ask.run.simulate import simulate
from sim.errors import ConfigError
from sim.graph.frozen import Frozen
from sim.graph.graph import Graph, Tensor
from sim.graph.operation import Phase, Shard
from sim.graph.spatial import PlacesAttention
from sim.graph.work import Writer
from sim.inputs.load import load_definition, load_experiment
from sim.metrics.result import Result
from sim.models.family import Architecture
from sim.models.unet import FrozenTextEncoder, ImageEncoder, UNet
from sim.transforms.derive import block_of

SHARD = Shard(precision="bf16")


def network(**changes: object) -> UNet:
    model = load_definition("workload", "stable-diffusion-2")
    assert isinstance(model, UNet)
    return model.model_copy(update=changes)


def forward_flops(model: UNet) -> float:
    """FLOPs of a sample, forward."""
    architecture = Architecture(model, SHARD)
    graphs = [graph for graph in (architecture.first, *architecture.layers, architecture.last) if graph]
    return sum(each.products(Writer(graph, SHARD)) for graph in graphs for each in graph.operators)


def run(**changes: object) -> Result:
    source = {
        "cluster": "dgx-h100",
        "workload": "stable-diffusion-2",
        "software": "nemo-multimodal",
        "training": {"global_batch": 256, "microbatch": 32, "precision": "fp16"},
        **changes,
    }
    return simulate(load_experiment(source).experiment)


def test_it_has_its_published_size() -> None:
    """stabilityai/stable-diffusion-2-base, unet: 865,910,724 parameters."""
    model = network()
    architecture = Architecture(model, SHARD)
    assert architecture.whole.parameters == architecture.whole.trained == 865_910_724
    assert len(architecture.layers) == model.layers


def test_it_does_the_work_of_its_trace() -> None:
    """804 GFLOP forward for a latent of 64 x 64 (trace of diffusers' U-Net)."""
    assert forward_flops(network()) == pytest.approx(804e9, rel=0.01)


def test_its_backward_pass_does_the_work_of_its_trace() -> None:
    """2,472 GFLOP in all passes, of which fused attention repeats its scores."""
    shard = Shard(precision="bf16", fused_accumulation=True)
    architecture = Architecture(network(), shard)
    graphs = [graph for graph in (architecture.first, *architecture.layers, architecture.last) if graph]
    blocks = [block_of(graph, shard) for graph in graphs]
    flops = sum(each.flops for b in blocks for each in (*b.forward, *b.backward) if each.kind != "elementwise")
    assert flops == pytest.approx(2472e9, rel=0.01)


def test_the_way_up_reads_what_the_way_down_left() -> None:
    """Channels that arrive at blocks on the way up: 2560 three times and so on (diffusers)."""
    layers = Architecture(network(), SHARD).layers
    mates = [each.result.axes[1] for graph in layers for each in graph.operators if each.name == "mate"]
    assert mates == [2560, 2560, 2560, 2560, 2560, 1920, 1920, 1280, 960, 960, 640, 640]


def test_attention_without_a_mask_looks_at_all_keys() -> None:
    queries, keys = Tensor("q", ("samples", 4096, 320)), Tensor("k", ("samples", 77, 320))
    graph = Graph("block", queries, {"samples": 2})
    attention = graph.add(PlacesAttention("a", queries, keys, keys, 64))
    work = Writer(graph, Shard(precision="bf16", microbatch=2))
    assert attention.products(work) == 4 * 2 * 4096 * 77 * 320
    attention.forward(work)
    assert work.operations[0].masked == 0


def test_frozen_encoders_run_forward_and_lie_there() -> None:
    """Autoencoder's encoder 34.2 M and text encoder 340 M weights (stable-diffusion-2-base)."""
    plain, beside = network(), network(image_encoder=ImageEncoder(), text_encoder=FrozenTextEncoder())
    whole, without = Architecture(beside, SHARD).whole, Architecture(plain, SHARD).whole
    assert whole.parameters == whole.trained == without.trained
    assert whole.table_bytes / 2 == pytest.approx(34.2e6 + 340e6, rel=0.1)
    first = Architecture(beside, SHARD).first
    assert first
    frozen = {each.name for each in first.operators if isinstance(each, Frozen)}
    assert frozen
    backward = block_of(first, SHARD).backward
    assert not [each for each in backward if each.name.startswith(("image", "text"))]
    assert {each.phase for each in backward} <= {Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT}


def test_encoders_cost_time_and_memory() -> None:
    before, beside = run(), run(workload={"extends": "stable-diffusion-2", "image_encoder": {}, "text_encoder": {}})
    assert beside.step.time_s > 1.2 * before.step.time_s
    assert beside.memory.parts["weights"] > before.memory.parts["weights"]
    assert before.step.tokens_per_s is None
    assert before.step.samples_per_s * before.step.time_s == pytest.approx(256)


def test_recomputing_blocks_saves_memory_and_costs_time() -> None:
    training = {"global_batch": 256, "microbatch": 32, "precision": "fp16"}
    plain, again = (run(training={**training, "recompute": each}) for each in ("none", "full"))
    assert again.memory.parts["activations"] < 0.5 * plain.memory.parts["activations"]
    assert 1.2 < again.step.time_s / plain.step.time_s < 1.4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parallelism": {"tensor": 2}}, "runs data parallel"),
        ({"workload": {"extends": "stable-diffusion-2", "latent": 60}}, "halve 60 evenly"),
        ({"workload": {"extends": "stable-diffusion-2", "attends": [True]}}, "1 entries for 4 levels"),
        ({"workload": {"extends": "stable-diffusion-2", "head_dim": 48}}, "does not divide channels 320"),
    ],
)
def test_what_does_not_suit_levels_is_said(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(**changes)
    assert words in str(caught.value)
