"""Parameter counts against published ones, and the shipped models and stacks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_samples import (
    copied_parameters,
    embedding_parameters,
    layer_parameters,
    model_flops_per_token,
    rank_parameters,
    total_parameters,
)

from sim.inputs.load import load_definition
from sim.inputs.reader import plain, read_file
from sim.inputs.records import Software
from sim.models.dense import Transformer
from sim.models.family import Workload

WORKLOADS = Path(__file__).resolve().parent.parent / "workloads"
MODELS = sorted(WORKLOADS.glob("*.yaml"))
STACKS = sorted((WORKLOADS / "software").glob("*.yaml"))


def load(name: str) -> Transformer:
    return Transformer(**plain(read_file(WORKLOADS / f"{name}.yaml")))


# Billions. GPT-3: Brown 2020 Table 2.1, rounded there, with Megatron's padding. Megatron:
# Narayanan 2021 Table 1. Llama: the released weights.
PUBLISHED = {
    "gpt3-125m": (0.125, 0.02),
    "gpt3-350m": (0.356, 0.02),
    "gpt3-760m": (0.760, 0.02),
    "gpt3-1.3b": (1.3, 0.02),
    "gpt3-2.7b": (2.7, 0.02),
    "gpt3-6.7b": (6.7, 0.02),
    "gpt3-13b": (13.0, 0.02),
    "gpt3-175b": (174.6, 5e-4),
    "megatron-1.7b": (1.7, 0.03),
    "megatron-3.6b": (3.6, 0.02),
    "megatron-7.5b": (7.5, 0.01),
    "megatron-18b": (18.4, 3e-3),
    "megatron-39b": (39.1, 1e-3),
    "megatron-76b": (76.1, 1e-3),
    "megatron-145b": (145.6, 5e-4),
    "megatron-310b": (310.1, 5e-4),
    "megatron-530b": (529.6, 5e-4),
    "megatron-1t": (1008.0, 5e-4),
    "megatron-22b": (22.0, 5e-3),
    "megatron-175b": (174.6, 5e-4),
    "bloom-176b": (176.2, 1e-3),
    "llama2-7b": (6.738415616, 1e-9),
    "llama2-13b": (13.015864320, 1e-9),
    "llama2-70b": (68.976648192, 1e-9),
    "llama3-8b": (8.030261248, 1e-9),
    "llama3-70b": (70.553706496, 1e-9),
    "llama3-405b": (405.853388800, 1e-9),
    "mixtral-8x7b": (46.7, 6e-3),
    "mixtral-8x22b": (141, 6e-3),
    "deepseek-v3": (671, 1e-4),
    "qwen3-30b-a3b": (30.5, 2e-3),
    "qwen3-235b-a22b": (235, 6e-4),
    "dbrx": (132, 4e-3),
    "grok-1": (314, 6e-3),
    "gpt-oss-120b": (116.8, 1e-3),
    "resnet-50": (0.025557032, 1e-9),  # torchvision, resnet50
    "bert-large": (0.336226108, 1e-9),  # Transformers, BertForPreTraining of bert-large-uncased
    "t5-11b": (11.307321344, 1e-9),  # Transformers, T5ForConditionalGeneration of google-t5/t5-11b
    "vit-b16": (0.086567656, 1e-9),  # torchvision, vit_b_16
    "vit-l16": (0.304326632, 1e-9),  # torchvision, vit_l_16
    "mamba2-2.7b": (2.702599680, 1e-9),  # state-spaces/mamba2-2.7b, the released weights
    "flux-1-dev": (11.901408320, 1e-9),  # black-forest-labs/FLUX.1-dev, the released transformer
    "resnext101-32x4d": (0.044177704, 1e-9),  # timm, resnext101_32x4d
    "vgg-16": (0.138357544, 1e-9),  # torchvision, vgg16
    "inception-v3": (0.027161264, 1e-9),  # torchvision, inception_v3, auxiliary classifier included
    "efficientnet-b0": (0.005288548, 1e-9),  # torchvision, efficientnet_b0
    "efficientnet-b4": (0.019341616, 1e-9),  # torchvision, efficientnet_b4
    "gnmt": (0.160, 6e-3),  # NVIDIA DeepLearningExamples, GNMT v2
    "rnn-t": (0.049, 6e-3),  # MLPerf Training, rnnt
    "retinanet": (0.036849004, 1e-9),  # torchvision's RetinaNet by the same rules is 34,014,999 (`test_convolution.py`)
    "dlrm": (24.04, 6e-3),  # facebookresearch/dlrm: 187,767,399 rows of 128, and 2.4 M dense
    "dlrm-dcnv2": (26.15, 6e-3),  # MLPerf Training, dlrm_dcnv2: 104.6 GB of 32-bit tables and 16 M dense
    "stable-diffusion-2": (0.865910724, 1e-9),  # stabilityai/stable-diffusion-2-base, unet
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_shipped_models_have_their_published_size(name: str) -> None:
    billions, tolerance = PUBLISHED[name]
    model = load_definition("workload", name)
    assert isinstance(model, Workload)
    assert total_parameters(model) / 1e9 == pytest.approx(billions, rel=tolerance)


def test_every_shipped_model_is_checked() -> None:
    assert sorted(PUBLISHED) == sorted(path.stem for path in MODELS)


@pytest.mark.parametrize("path", [*MODELS, *STACKS], ids=lambda path: path.stem)
def test_every_number_has_a_source_and_the_file_its_name(path: Path) -> None:
    record = plain(read_file(path))
    assert record["name"] == path.stem
    numbers = {key for key, value in record.items() if key not in ("name", "kind", "sources") and _is_quantity(value)}
    assert numbers <= set(record["sources"])
    assert set(record["sources"]) <= set(record)


def _is_quantity(value: object) -> bool:
    text = str(value)
    return not isinstance(value, bool) and text[:1].isdigit()


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.stem)
def test_stacks_decode(path: Path) -> None:
    record = load_definition("software", path)
    assert isinstance(record, Software)
    assert record.name == path.stem


def test_a_gpt_layer_has_12_h_squared_plus_13_h() -> None:
    h = 12288
    assert layer_parameters(load("gpt3-175b")) == 12 * h**2 + 13 * h


@given(
    pipeline=st.sampled_from([1, 2, 4, 8, 16]),
    tensor=st.sampled_from([1, 2, 4, 8]),
    name=st.sampled_from(["gpt3-175b", "llama3-8b"]),
)
def test_ranks_together_hold_the_model_and_its_copies(pipeline: int, tensor: int, name: str) -> None:
    model = load(name)
    layers = model.layers // pipeline
    held = sum(
        rank_parameters(model, tensor, layers, first=stage == 0, last=stage == pipeline - 1)
        for stage in range(pipeline)
    )
    copies = copied_parameters(model)
    second_table = embedding_parameters(model) if model.tied_embeddings and pipeline > 1 else 0
    assert tensor * held == total_parameters(model) + second_table + (tensor - 1) * copies


def test_tied_table_is_held_twice_only_by_a_pipeline() -> None:
    model = load("gpt3-125m")
    alone = rank_parameters(model, 1, 12, first=True, last=True)
    assert alone == total_parameters(model)


def test_small_tables_follow_the_position_encoding() -> None:
    rows = {"gpt3-175b": (2048, 2048), "llama3-8b": (0, 0)}
    for name, expected in rows.items():
        model = load(name).model_copy(update={"max_positions": None})
        none = model.model_copy(update={"positions": "none"})
        found = [total_parameters(model, length) - total_parameters(none, length) for length in (2048, 4096)]
        assert found == [model.hidden * rows * scale for rows, scale in zip(expected, (1, 2), strict=True)]


def test_flops_per_token_are_about_six_per_parameter() -> None:
    model = load("llama3-405b")
    assert model_flops_per_token(model, 8192) / (6 * total_parameters(model)) == pytest.approx(1.08, abs=0.04)
