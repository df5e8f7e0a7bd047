"""Convolution networks: shapes, work and traffic against published totals and against what fusion promises."""

from __future__ import annotations

from typing import Literal

import pytest

from sim.errors import ConfigError
from sim.graph.convolution import (
    BatchNorm,
    ChannelActivation,
    Concatenation,
    Convolution,
    GroupNorm,
    Pooling,
    SqueezeExcite,
    Upsampling,
    window,
)
from sim.graph.graph import Graph, Operator, Tensor
from sim.graph.operation import Operation, Phase, Shard
from sim.graph.work import Writer
from sim.inputs.load import load_definition, load_experiment
from sim.models.convnet import ConvNet, Detector
from sim.models.family import Architecture, Workload
from sim.models.resnet import ResNet
from sim.transforms.derive import block_of
from support import ROOT

Fusion = Literal["none", "pointwise", "library", "epilogue"]
IMAGE = Tensor("x", ("samples", 64, 56, 56))


def forward_macs(name: str) -> float:
    """Multiply-adds of one sample, forward."""
    model = load_definition("workload", name)
    assert isinstance(model, Workload)
    architecture = Architecture(model, Shard(precision="bf16"))
    layers = [graph for each in range(len(architecture.layers)) for graph in [architecture.layers[each]]]
    graphs = [graph for graph in (architecture.first, *layers, architecture.last) if graph]
    return sum(each.products(Writer(graph, architecture.shard)) for graph in graphs for each in graph.operators) / 2


def written(operator: Operator, way: str, **fields: object) -> list[Operation]:
    """Operations of an operator, `way` "forward" or "backward"."""
    shard = Shard(**{"precision": "bf16", "microbatch": 4} | fields)  # type: ignore[arg-type]
    work = Writer(Graph("block", IMAGE, {"samples": shard.microbatch}), shard)
    getattr(operator, way)(work)
    return work.operations


def moved(operations: list[Operation]) -> float:
    return sum(each.bytes_moved for each in operations)


# Multiply-adds forward as torchvision lists them (GFLOPS column of its weights), ResNeXt as timm does.
MACS = {
    "resnet-50": 4.089e9,
    "resnext101-32x4d": 8.01e9,
    "vgg-16": 15.47e9,
    "inception-v3": 5.713e9,
    "efficientnet-b0": 0.386e9,
    "efficientnet-b4": 4.394e9,
}


@pytest.mark.parametrize("name", sorted(MACS))
def test_networks_do_their_published_work(name: str) -> None:
    assert forward_macs(name) == pytest.approx(MACS[name], rel=0.01)


@pytest.mark.parametrize(
    ("height", "stride", "padding", "side"),
    [(7, 2, None, 28), (3, 2, None, 28), (3, 1, 0, 54), (1, 1, None, 56), (5, 3, 0, 18), (2, 2, 0, 28)],
)
def test_windows_make_the_sides_that_frameworks_make(height: int, stride: int, padding: int | None, side: int) -> None:
    """floor((side + 2 padding - kernel) / stride) + 1 (PyTorch, Conv2d)."""
    assert window(height, None, stride, padding).sides(IMAGE) == (side, side)


@pytest.mark.parametrize("groups", [1, 2, 8, 64])
def test_groups_divide_parameters_and_work(groups: int) -> None:
    whole, grouped = (Convolution("c", IMAGE, 128, window(3), groups=each) for each in (1, groups))
    work = Writer(Graph("block", IMAGE, {"samples": 4}), Shard(precision="bf16", microbatch=4))
    assert work.elements(grouped.weights[0]) * groups == work.elements(whole.weights[0])
    assert grouped.products(work) * groups == whole.products(work)


def test_narrow_groups_go_together_and_depthwise_ones_to_vector_units() -> None:
    """32 groups of 4 channels are multiplied by twos, with zeros beside their blocks: a load has 8 channels."""
    x = Tensor("x", ("samples", 128, 56, 56))
    grouped = Convolution("c", x, 128, window(3), groups=32)
    for way in ("forward", "backward"):
        for each in written(grouped, way):
            if each.kind == "matmul":
                assert each.batch == 16
                assert 2.0 * each.batch * each.m * each.n * each.k == pytest.approx(each.flops, rel=1e-12)
    work = Writer(Graph("block", x, {"samples": 4}), Shard(precision="bf16", microbatch=4))
    assert sum(each.flops for each in written(grouped, "forward")) == 2 * grouped.products(work)
    depthwise = Convolution("c", x, 128, window(3), groups=128)
    assert {each.kind for each in written(depthwise, "forward")} == {"elementwise"}


def test_winograd_saves_multiplications_in_32_bit_alone() -> None:
    """Lavin 2015: 2.25 for 3 x 3 without strides; tensor cores multiply all."""
    plain, strided = Convolution("c", IMAGE, 64, window(3)), Convolution("c", IMAGE, 64, window(3, stride=2))
    work = Writer(Graph("block", IMAGE, {"samples": 4}), Shard(precision="bf16", microbatch=4))
    for convolution, precision, saved in ((plain, "fp32", 2.25), (plain, "tf32", 1), (strided, "fp32", 1)):
        (product,) = written(convolution, "forward", precision=precision)
        assert product.flops * saved == pytest.approx(convolution.products(work))


def test_channels_first_copies_what_tensor_cores_read_and_write() -> None:
    convolution = Convolution("c", IMAGE, 64, window(3))
    both = 2 * 2 * 4 * 64 * 56 * 56
    for way, products in (("forward", 1), ("backward", 2)):
        last, first = (moved(written(convolution, way, channels_first=each)) for each in (False, True))
        assert first - last == 2 * products * both
        assert written(convolution, way, channels_first=True, precision="fp32") == written(
            convolution, way, precision="fp32"
        )


def norm_and_activation(fusion: Fusion, *, form: str = "relu", shortcut: bool = False) -> tuple[float, float]:
    """Passes over an image, forward and backward, of a norm and what follows it."""
    norm = BatchNorm("n", IMAGE)
    after = ChannelActivation("a", form, norm.result, IMAGE if shortcut else None)
    size = 2 * 4 * 64 * 56 * 56
    ways = [sum(moved(written(each, way, fusion=fusion)) for each in (norm, after)) for way in ("forward", "backward")]
    return ways[0] / size, ways[1] / size


def test_each_step_of_fusion_moves_less() -> None:
    bit = 1 / 16  # of a 16-bit element
    assert norm_and_activation("none") == (3 + 2, 5 + 3)
    assert norm_and_activation("library") == (3 + bit, 5 + bit)
    assert norm_and_activation("epilogue") == (2 + bit, 4 + bit)
    assert norm_and_activation("pointwise") == (3, 5)
    assert norm_and_activation("none", shortcut=True) == (3 + 2 + 3, 5 + 3)
    assert norm_and_activation("library", shortcut=True) == (3 + 1 + bit, 5 + 1 + bit)
    assert norm_and_activation("pointwise", shortcut=True) == (3 + 1, 5 + 2)
    assert norm_and_activation("library", form="silu") == norm_and_activation("none", form="silu")


def test_library_kernels_take_16_bit_and_channels_last_only() -> None:
    norm = BatchNorm("n", IMAGE)
    after = ChannelActivation("a", "relu", norm.result)
    for fields in ({"precision": "fp32"}, {"channels_first": True}):
        assert written(after, "forward", fusion="library", **fields) == written(after, "forward", **fields)


def test_traffic_of_resnet_50_is_that_of_its_trace() -> None:
    """A trace of PyTorch moves 0.397 GB an image unfused. It counts each operand of an operator once: a norm 5 passes
    of the 8 that are counted here, and the gradient of a convolution's result once for both of its products."""
    model = load_definition("workload", "resnet-50")
    assert isinstance(model, Workload)
    shard = Shard(precision="bf16", microbatch=32)
    architecture = Architecture(model, shard)
    graphs = [graph for graph in (architecture.first, *architecture.layers) if graph]
    blocks = [block_of(graph, shard) for graph in graphs]
    each = [operation for block in blocks for operation in (*block.forward, *block.backward)]
    norms = sum(operation.bytes_moved for operation in each if "norm" in operation.name)
    results = [graph.bytes(made.result) for graph in graphs for made in graph.operators if type(made) is Convolution]
    counted = moved(each) - norms * 3 / 8 - sum(results)
    assert counted / 32 / 1e9 == pytest.approx(0.397, rel=0.02)


@pytest.mark.parametrize(
    "operator",
    [
        Convolution("c", IMAGE, 64, window(3), bias=True),
        BatchNorm("n", IMAGE),
        GroupNorm("n", IMAGE),
        ChannelActivation("a", "silu", IMAGE),
        Pooling("p", IMAGE, window(2, stride=2), largest=True),
        Pooling("p", IMAGE, None),
        SqueezeExcite("s", IMAGE, 16),
        Concatenation("j", (IMAGE, IMAGE)),
        Upsampling("u", IMAGE),
    ],
    ids=lambda operator: type(operator).__name__,
)
@pytest.mark.parametrize("autocast", [False, True])
def test_cost_is_in_proportion_to_samples(operator: Operator, autocast: bool) -> None:
    """Activations are; weights and their gradients are not."""
    for way in ("forward", "backward"):
        few, many, more = (moved(written(operator, way, microbatch=each, autocast=autocast)) for each in (8, 16, 24))
        assert 0 < few < many
        assert more - many == pytest.approx(many - few)


def test_autocast_norms_of_groups_run_in_32_bit() -> None:
    for operator in (GroupNorm("n", IMAGE), ChannelActivation("a", "silu", IMAGE, wide=True)):
        for way in ("forward", "backward"):
            assert moved(written(operator, way, autocast=True)) > 2 * moved(written(operator, way))


def test_gradient_of_the_image_is_not_made() -> None:
    given = Tensor("image", ("samples", 3, 56, 56), role="index")
    made = Tensor("image", ("samples", 3, 56, 56))
    first, later = (written(Convolution("c", x, 64, window(7, stride=2)), "backward") for x in (given, made))
    assert {each.phase for each in first} == {Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT} - {Phase.INPUT_GRADIENT}
    assert len(later) == len(first) + 1


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([{"units": [{"channels": 8}]}, {"units": [{"channels": 8, "kernel": 99, "padding": 0}]}], "larger than"),
        ([{"units": [{"channels": 8}]}, {"units": [{"channels": 8, "groups": 3}]}], "groups 3 do not divide"),
    ],
)
def test_what_does_not_fit_together_is_said(stages: list[dict[str, object]], words: str) -> None:
    source = {
        "cluster": "dgx-a100",
        "workload": {"kind": "convnet", "image": 32, "stages": [{"block": "chain", **each} for each in stages]},
        "training": {"global_batch": 64, "microbatch": 8, "precision": "fp16"},
    }
    with pytest.raises(ConfigError) as caught:
        load_experiment(source)
    assert "workload.stages[1]" in str(caught.value)
    assert words in str(caught.value)


def test_branches_of_unequal_size_are_refused() -> None:
    branches = [[{"channels": 8}], [{"channels": 8, "kernel": 3, "padding": 0}]]
    stages = [{"block": "chain", "units": [{"channels": 8}]}, {"block": "branches", "branches": branches}]
    source = {
        "cluster": "dgx-a100",
        "workload": {"kind": "convnet", "image": 32, "stages": stages},
        "training": {"global_batch": 64, "microbatch": 8, "precision": "fp16"},
    }
    with pytest.raises(ConfigError, match="unequal size"):
        load_experiment(source)


def detector() -> ConvNet:
    model = load_definition("workload", "retinanet")
    assert isinstance(model, ConvNet)
    return model


def test_a_detector_has_the_size_of_torchvisions() -> None:
    """retinanet_resnet50_fpn: 34,014,999 parameters for 91 classes; its norms are given."""
    resnet = load_definition("workload", "resnet-50")
    assert isinstance(resnet, ResNet)
    changes = {"detector": detector().detector, "frozen_norm": True, "classes": 91, "image": 800}
    model = resnet.written_out.model_copy(update=changes)
    assert Architecture(model, Shard(precision="bf16")).whole.parameters == 34_014_999


def test_heads_share_their_weights_over_the_levels() -> None:
    one, five = (
        Architecture(detector().model_copy(update={"detector": each}), Shard(precision="bf16"))
        for each in (Detector(taps=(4,), levels=1), Detector(taps=(4,), levels=5))
    )
    above = 4 * (9 * 256 * 256 + 256)  # convolutions from level to level
    assert five.whole.parameters - one.whole.parameters == above
    assert five.flops[0] > one.flops[0]


def test_frozen_stages_run_forward_only() -> None:
    """Neither they nor the gradient that would go to them cost anything backward."""
    plain = detector().model_copy(update={"frozen_stages": 0})
    free, frozen = (Architecture(each, Shard(precision="bf16", microbatch=2)) for each in (plain, detector()))
    assert frozen.whole.kept < free.whole.kept
    assert frozen.flops[0] < free.flops[0]
    assert frozen.first
    assert not block_of(frozen.first, frozen.shard).backward
    later = [each.name for each in block_of(frozen.layers[3], frozen.shard).backward]
    assert "reduce convolution weight gradient" in later
    assert "reduce convolution input gradient" not in later


@pytest.mark.parametrize(("taps", "words"), [("[3, 2]", "from the bottom up"), ("[2, 9]", "there is no stage 9")])
def test_pyramids_read_stages_that_there_are(taps: str, words: str) -> None:
    source = {
        "cluster": "dgx-a100",
        "workload": "retinanet",
        "training": {"global_batch": 64, "microbatch": 8, "precision": "fp16"},
    }
    with pytest.raises(ConfigError, match=words):
        load_experiment(source, [f"workload.detector.taps={taps}"])


def test_a_stack_fuses_by_precision() -> None:
    """NVIDIA's MXNet container has images channels last, and fused norms, in 16 bit only."""
    path = ROOT / "experiments" / "resnet50-dgx-a100.yaml"
    half, tf32 = (load_experiment(path, [f"training.precision={each}"]).experiment.setup for each in ("fp16", "tf32"))
    assert (half.shard.fusion, half.shard.channels_first) == ("library", False)
    assert tf32.shard.channels_first
