"""A traced PyTorch module: size and work are those known, the file runs without PyTorch, broken ones are told."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from sim.ask.run.simulate import simulate
from sim.errors import ConfigError
from sim.graph.convolution import DEPTHWISE
from sim.graph.operation import Shard
from sim.graph.work import Writer
from sim.imports.torch_module import trace_module
from sim.inputs.load import load_definition, load_experiment
from sim.models.family import Architecture, Workload
from sim.models.imported import Imported
from sim.transforms.derive import block_of

RECORDED = Path(__file__).parent / "data" / "traced_gpt.json"  # made by the importer from `gpt` below
HAS_TORCH = find_spec("torch") is not None
with_torch = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed: nothing can be traced")
GPT = {"layers": 3, "hidden": 128, "vocab": 1000, "tokens": 64}
NETS = """
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x):
        n, t, h = x.shape
        q, k, v = (y.view(n, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.first(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, h))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 128)
        self.blocks = nn.ModuleList(Block(128, 4) for _ in range(3))
        self.head = nn.Linear(128, 1000, bias=False)

    def forward(self, tokens, targets):
        x = self.table(tokens)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


def gpt(samples):
    tokens = torch.zeros(samples, 64, dtype=torch.long)
    return Gpt(), (tokens, tokens)


def lstm(samples):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.LSTM(64, 64, 2)

        def forward(self, x):
            return self.layers(x)[0]

    return Net(), (torch.zeros(20, samples, 64),)


class Bottleneck(nn.Module):
    def __init__(self, inputs, inner, stride):
        super().__init__()
        def conv(a, b, k, s=1):
            return nn.Sequential(nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b))
        self.a, self.b, self.c = conv(inputs, inner, 1), conv(inner, inner, 3, stride), conv(inner, 4 * inner, 1)
        self.side = conv(inputs, 4 * inner, 1, stride) if inputs != 4 * inner else nn.Identity()

    def forward(self, x):
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))) + self.side(x))


def resnet(samples):
    layers, inputs = [], 64
    for inner, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            layers.append(Bottleneck(inputs, inner, stride if number == 0 else 1))
            inputs = 4 * inner
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    net = nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))
    return net, (torch.zeros(samples, 3, 224, 224),)


def depthwise():
    return nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), torch.zeros(8, 32, 16, 16)


def reads_values(samples):
    class Net(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    return Net(), (torch.zeros(samples, 4),)
"""


def sizes(source: Any, samples: int = 1) -> tuple[int, float, float]:
    """Parameters, FLOPs forward, FLOPs of both passes of so many samples."""
    workload = load_definition("workload", source)
    assert isinstance(workload, Workload)
    shard = Shard(microbatch=samples, precision="fp32")
    architecture = Architecture(workload, shard)
    forward = sum(
        operator.products(Writer(graph, shard))
        for graph in (architecture.first, *architecture.layers, architecture.last)
        if graph
        for operator in graph.operators
    )
    return architecture.whole.parameters, forward, architecture.flops[0]


def traced(tmp_path: Path, function: str) -> dict[str, Any]:
    file = tmp_path / "nets.py"
    file.write_text(dedent(NETS), encoding="utf-8")
    return trace_module(f"{file}:{function}", "traced-gpt").fields


def experiment(workload: Any, **changes: Any) -> dict[str, Any]:
    training = {"global_batch": 64, "microbatch": 4, "precision": "bf16"} | changes.pop("training", {})
    return {"cluster": "dgx-a100", "workload": workload, "software": "pytorch-ddp", "training": training, **changes}


def gpt_known() -> tuple[int, float]:
    """Parameters, and FLOPs of a forward pass of one sample: 24 h^2 a token and layer, attention 4 t h."""
    layers, h, vocab, t = GPT["layers"], GPT["hidden"], GPT["vocab"], GPT["tokens"]
    return layers * (12 * h * h + 13 * h) + 2 * vocab * h, t * (layers * (24 * h * h + 4 * t * h) + 2 * h * vocab)


def test_a_recorded_gpt_has_its_known_size_and_work() -> None:
    parameters, forward, both = sizes(RECORDED)
    assert (parameters, forward) == gpt_known()
    assert both == 3 * forward


def test_sizes_grow_with_samples() -> None:
    assert sizes(RECORDED, 8)[1:] == pytest.approx(tuple(8 * each for each in sizes(RECORDED)[1:]))


def test_a_traced_file_runs_replicated_sharded_and_recomputed() -> None:
    workload = {"kind": "graph", "file": str(RECORDED)}
    plain = simulate(load_experiment(experiment(workload)).experiment)
    again = simulate(load_experiment(experiment(workload, training={"recompute": "full"})).experiment)
    sharded = simulate(load_experiment(experiment(workload, parallelism={"zero_stage": 3})).experiment)
    assert again.step.time_s > plain.step.time_s
    assert again.memory.peak_bytes_per_accelerator < plain.memory.peak_bytes_per_accelerator
    assert sharded.memory.peak_bytes_per_accelerator < plain.memory.peak_bytes_per_accelerator


@pytest.mark.parametrize("split", ["tensor", "pipeline", "context"])
def test_what_a_trace_does_not_say_is_refused(split: str) -> None:
    with pytest.raises(ConfigError, match=f"{split} 2: a traced model runs data parallel only"):
        load_experiment(experiment({"kind": "graph", "file": str(RECORDED)}, parallelism={split: 2}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("body"), "body"),
        (lambda file: file["body"][0].update(kept=[1]), r"body\.0\.kept|body\[0\]\.kept"),
        (lambda file: file["body"][0]["forward"][0].update(kind="magic"), "kind"),
    ],
)
def test_a_broken_file_is_told_by_place_and_key(tmp_path: Path, change: Any, message: str) -> None:
    fields = json.loads(RECORDED.read_text(encoding="utf-8"))
    change(fields)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(experiment({"kind": "graph", "file": str(broken)}))
    assert any("broken.json" in problem.where or message == "body" for problem in caught.value.problems)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_experiment(experiment({"kind": "graph", "file": "nowhere/at-all.json"}))


@pytest.mark.skipif(HAS_TORCH, reason="PyTorch is installed")
def test_without_torch_the_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"clustersim\[torch\]"):
        trace_module("net.py:build")


@with_torch
def test_the_recorded_file_is_what_the_importer_writes(tmp_path: Path) -> None:
    known, found = json.loads(RECORDED.read_text(encoding="utf-8")), traced(tmp_path, "gpt")
    assert {**found, "source": ""} == {**known, "source": ""}


@with_torch
def test_resnet_50_has_its_published_size_and_work(tmp_path: Path) -> None:
    """torchvision: 25,557,032 parameters, 4.09 G multiply-adds; the image has no gradient."""
    parameters, forward, both = sizes(traced(tmp_path, "resnet"))
    assert parameters == 25_557_032
    assert forward == pytest.approx(2 * 4.09e9, rel=0.01)
    assert both == pytest.approx(3 * forward - 2 * 112 * 112 * 64 * 147, rel=1e-6)


@with_torch
def test_an_unrolled_recurrence_is_folded(tmp_path: Path) -> None:
    """Two layers of four gates over 20 steps; few operators, however many steps there are."""
    fields = traced(tmp_path, "lstm")
    parameters, forward, _ = sizes(fields)
    assert parameters == 2 * (4 * 64 * (64 + 64) + 2 * 4 * 64)
    assert forward == 2 * 20 * 2 * 4 * 64 * (64 + 64)
    assert len(fields["body"][0]["forward"]) < 20


@with_torch
def test_grouped_convolutions_count_their_groups_backward(tmp_path: Path) -> None:
    """The input is data, so that there is one product each way."""
    _, forward, both = sizes(traced(tmp_path, "depthwise"))
    assert forward == 2 * 32 * 9 * 16 * 16
    assert both == 2 * forward


def test_depthwise_convolutions_leave_the_matrix_units() -> None:
    """As those of convolution networks do."""
    convolution = {"kind": "convolution", "name": "x", "bytes": (0, 9), "batch": (32, 0), "m": (0, 4), "n": (1, 0)}
    numbers = {"parameters": 288, "output": (0, 4), "kept": (0, 4), "backward": ()}
    model = Imported.from_si(
        {"kind": "graph", "input": (0, 4), "body": ({"forward": ({**convolution, "k": (9, 0)},), **numbers},)}
    )
    shard = Shard(microbatch=1)
    (kernel,) = block_of(Architecture(model, shard).layers[0], shard).forward
    assert kernel.kind == "elementwise"
    assert kernel.flops == 2 * 32 * 4 * 9 / DEPTHWISE


@with_torch
@pytest.mark.parametrize(
    ("function", "message"), [("reads_values", "cannot be traced"), ("nothing", "is no function"), ("", "MODULE:FUNC")]
)
def test_what_cannot_be_traced_says_why(tmp_path: Path, function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        traced(tmp_path, function)
