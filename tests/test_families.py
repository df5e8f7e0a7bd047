"""Families of models: one file each, which nothing else knows by name; and one that a test brings along."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from sim.ask.run.simulate import simulate
from sim.errors import ConfigError
from sim.graph.operation import Phase, Shard
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import Parallelism, Software
from sim.layout.pieces import build_chunks
from sim.models.catalogue import FAMILIES
from sim.models.family import Architecture, Workload
from sim.models.resnet import ResNet
from sim.transforms.derive import block_of
from support import ROOT

MINE = """
    from typing import ClassVar, Iterator, Literal

    from pydantic import Field

    from sim.graph.graph import Graph, Tensor
    from sim.graph.pointwise import Activation
    from sim.graph.products import Linear
    from sim.models.family import Pieces, Workload
    from sim.units import Count


    class Perceptron(Workload):
        kind: Literal["perceptron"]
        name: str = "inline"
        width: Count = Field(ge=1)
        depth: Count = Field(ge=1)
        tokens: ClassVar[bool] = False

        @property
        def layers(self):
            return self.depth

        @property
        def line(self):
            return f"{self.depth} layers of {self.width}"

        def pieces(self, shard):
            x = Tensor("input", ("samples", "width"))
            graph = Graph("layer", x, {"samples": shard.microbatch, "width": self.width}, repeated=True)
            y = graph.add(Linear("layer", x, ("width",))).result
            graph.add(Activation("activation", (y,), "relu", bias=False))
            return Pieces(None, (graph,) * self.depth, None)

        @property
        def rules(self):
            return ()
"""
RUN = """
    import json, sys
    import sim.models

    sim.models.__path__.append(sys.argv[1])
    from sim.api import simulate

    workload = {"kind": "perceptron", "width": 4096, "depth": 4}
    result = simulate(
        {
            "cluster": "dgx-h100", "workload": workload, "parallelism": {"pipeline": 2},
            "training": {"global_batch": 64, "microbatch": 4, "samples": 6400},
        }
    )
    print(json.dumps([result.setup["parameters"], result.step.mfu, result.step.samples_per_s, result.run.steps]))
"""


# side and channels of what each rectifier leaves: stem, then inside and behind the blocks of each stage
OUTPUTS = [
    (112, 64),
    *[(56, 64)] * 6, *[(56, 256)] * 3,
    (56, 128), *[(28, 128)] * 7, *[(28, 512)] * 4,
    (28, 256), *[(14, 256)] * 11, *[(14, 1024)] * 6,
    (14, 512), *[(7, 512)] * 5, *[(7, 2048)] * 3,
]  # fmt: skip


def resnet_50() -> ResNet:
    model = load_definition("workload", "resnet-50")
    assert isinstance(model, ResNet)
    return model


def test_a_family_is_added_by_a_file(tmp_path: Path) -> None:
    """Its record, its graphs and its samples reach input, plan, memory and result; nothing else is told of it."""
    (tmp_path / "perceptron.py").write_text(dedent(MINE), encoding="utf-8")
    command = [sys.executable, "-c", dedent(RUN), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    parameters, mfu, rate, steps = json.loads(done.stdout)
    assert parameters == 4 * 4096**2
    assert 0 < mfu < 1
    assert rate > 0
    assert steps == 100


def test_no_file_outside_models_knows_a_family_by_name() -> None:
    modules = {family.__module__ for family in FAMILIES.values()}
    names = {family.__name__ for family in FAMILIES.values()} | set(FAMILIES) - {"graph", "trace"}  # words of all rooms
    for file in (ROOT / "sim").rglob("*.py"):
        if file.parent.name != "models" and file.name != "small_models.py":  # nets that calibration builds and times
            nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
            said = {node.value for node in nodes if isinstance(node, ast.Constant)}
            said |= {node.id for node in nodes if isinstance(node, ast.Name)}
            said |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            assert not names & said, file
            assert not modules & {node.module for node in nodes if isinstance(node, ast.ImportFrom)}, file


def test_every_workload_of_the_catalogue_is_of_a_family() -> None:
    assert all(issubclass(family, Workload) for family in FAMILIES.values())
    assert {"transformer", "resnet"} <= set(FAMILIES)


# --- ResNet-50 ----------------------------------------------------------------------------------


def test_resnet_50_has_its_published_size_and_work() -> None:
    """Parameters: torchvision. FLOPs: 4.09 G multiply-adds forward (torchvision), no gradient of the image."""
    architecture = Architecture(resnet_50(), Shard(precision="bf16"))
    assert architecture.whole.parameters == 25_557_032
    stem = 2 * 112**2 * 64 * 3 * 7**2
    model, hardware = architecture.flops
    assert (model + stem) / 3 == pytest.approx(2 * 4.089e9, rel=1e-3)
    assert model == hardware


def test_gradients_of_a_convolution_do_its_work_again() -> None:
    shard = Shard(precision="bf16", microbatch=8)
    architecture = Architecture(resnet_50(), shard)
    for number in (0, 3, 4):  # with a shortcut, plain after, with a stride
        block = block_of(architecture.layers[number], shard)
        products = [each for each in (*block.forward, *block.backward) if each.kind == "matmul"]
        for each in products:
            assert 2.0 * each.m * each.n * each.k == pytest.approx(each.flops, rel=1e-12)
        work = {phase: sum(each.flops for each in products if each.phase is phase) for phase in Phase}
        assert work[Phase.FORWARD] == work[Phase.INPUT_GRADIENT] == work[Phase.WEIGHT_GRADIENT]


def test_fused_rectifiers_launch_nothing_and_keep_a_bit() -> None:
    eager = Architecture(resnet_50(), Shard(precision="bf16", microbatch=8))
    fused = Architecture(resnet_50(), Shard(precision="bf16", microbatch=8, fusion="library"))
    masks = sum(8 * side**2 * channels for side, channels in OUTPUTS) / 8
    stem = 2 * 8 * 112**2 * 64  # all others are read by the next convolution
    assert fused.whole.kept == eager.whole.kept + masks - stem
    kernels = [sum(each.kernels for each in block_of(a.layers[1], a.shard).forward) for a in (eager, fused)]
    assert kernels[0] - kernels[1] == 4  # three rectifiers, one sum


@pytest.mark.parametrize("root", [True, False])
def test_sharded_units_of_unequal_layers_hold_the_model(root: bool) -> None:
    architecture = Architecture(resnet_50(), Shard(precision="bf16"))
    stack = Software(name="x", root_unit=root, gradient_bytes=4)
    (chunk,) = build_chunks(architecture, stack, Parallelism(zero_stage=3))
    assert len(chunk.segments) == 16
    assert sum(each.parameters for each in chunk.segments) == architecture.whole.parameters
    ends = architecture.stage(range(0), first=True, last=True).parameters
    assert [each.kept for each in chunk.segments] == [ends * root, *[0] * 15]
    inner = [architecture.held(layer).parameters for layer in architecture.layers]
    assert [each.gathered_again for each in chunk.segments][1:15] == inner[1:15]


@pytest.mark.parametrize("mebibytes", [1, 25, 1000])
def test_buckets_are_as_full_as_layers_allow(mebibytes: int) -> None:
    architecture = Architecture(resnet_50(), Shard(precision="bf16"))
    stack = Software.from_si({"name": "x", "gradient_bucket": mebibytes * 2.0**20, "gradient_comm_bytes": 4})
    (chunk,) = build_chunks(architecture, stack, Parallelism())
    sizes = [4 * each.trained / 2**20 for each in chunk.segments]
    assert sum(sizes) == pytest.approx(4 * 25_557_032 / 2**20)
    assert len(sizes) == {1: 14, 25: 4, 1000: 1}[mebibytes]


def test_images_have_no_tokens_and_are_trained_by_their_number() -> None:
    experiment = ROOT / "experiments" / "resnet50-dgx-a100.yaml"
    result = simulate(load_experiment(experiment).experiment)
    assert result.step.tokens_per_s is None
    assert result.step.samples_per_s * result.step.time_s == pytest.approx(4096)
    assert result.run is not None
    assert result.run.steps == 28151  # 90 epochs of 1,281,167 images
    assert result.trust is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("parallelism.tensor=2", "runs data parallel only"),
        ("training.recompute=selective", "one of transformers"),
        ("training.sequence_length=224", "have no tokens"),
        ("training.tokens=1T", "have no tokens"),
        ("training.precision=fp8", "fp8"),
        ("workload.blocks=[]", "at least"),
        ("workload.kind=lstm", "must be one of"),
    ],
)
def test_what_does_not_suit_images_is_said(change: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(ROOT / "experiments" / "resnet50-dgx-a100.yaml", [change])
    assert words in str(caught.value)


def test_a_sequence_of_tokens_needs_its_length() -> None:
    source = {"cluster": "dgx-h100", "workload": "llama3-8b", "training": {"global_batch": 8}}
    with pytest.raises(ConfigError) as caught:
        load_experiment(source)
    assert "training.sequence_length: this key is required" in str(caught.value)
