"""Tables of measured runs: what may stand in them, and the published ones that come with the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from workload_samples import (
    total_parameters,
)

from sim.errors import ConfigError
from sim.inputs.cases import Case, load_cases, load_table
from sim.inputs.catalogue import catalogue_root
from sim.inputs.records import Measured
from sim.models.dense import Transformer
from support import Cli

FOLDER = catalogue_root() / "experiments" / "validation"
CASES = {
    "blackwell": (52, 60),
    "bloom_tuning": (68, 6),
    "dgxc_h100": (52, 13),
    "dle_bert": (24, 0),
    "dlrm": (6, 1),
    "dlrm_dcnv2": (9, 0),
    "efficientnet": (30, 2),
    "gnmt": (12, 0),
    "dgxc_moe": (15, 0),
    "ibm_fms_fsdp": (3, 2),
    "instinct": (22, 1),
    "korthikanti_2022": (6, 0),
    "maxtext_tpu": (29, 1),
    "megatron_core_h100": (11, 0),
    "megatron_sc21": (8, 0),
    "mlperf_bert": (12, 68),
    "mlperf_flux1": (9, 3),
    "megatron_bridge_moe": (22, 0),
    "megatron_bridge_pairs": (6, 0),
    "megatron_bridge_recompute": (4, 0),
    "mlperf_bert_machines": (12, 9),
    "mlperf_gpt3": (12, 9),
    "mlperf_llama2_70b_lora": (12, 7),
    "mlperf_llama31_405b": (5, 0),
    "mpt_llm_foundry": (140, 0),
    "nemo_24": (8, 0),
    "neuron_trn1": (2, 4),
    "other_machines": (12, 5),
    "resnet50": (27, 0),
    "resnext101": (12, 0),
    "retinanet": (24, 4),
    "rnnt": (5, 0),
    "small_models": (24, 6),
    "stable_diffusion": (14, 0),
    "torchtitan": (20, 1),
    "tpu_recipes": (15, 10),
    "vtrain_multi": (71, 0),
    "vtrain_single": (39, 0),
}
PRINTED = {  # a case of each family and the parameters that its source prints [10**9]
    "mcore-h100-weak-1.7B": 1.7,
    "mcore-h100-weak-7.1B": 7.1,
    "mcore-h100-weak-16B": 16,
    "mcore-h100-weak-32B": 32,
    "mcore-h100-weak-70B": 70,
    "mcore-h100-weak-119B": 119,
    "mcore-h100-weak-314B": 314,
    "mcore-h100-strong-177B-96": 177,
    "mpt-1b-s2048-h100_80gb-512": 1.316,
    "mpt-7b-s65536-h100_80gb-8": 6.9189,
    "mpt-70b-s2048-h100_80gb-512": 64.8624,
    "bloom-pre-L617-181B-dp8tp8pp6mb4": 181,
    "bloom-pre-L947-176B-dp8tp4pp12mb2": 176,
    "dgxc-nemotron4-340b-bf16-128": 340,
    "dgxc-nemotron4-15b-bf16-16": 15.6,
    "fms-34b-a100": 33.7,
}


def cases_of(table: str) -> list[Case]:
    return load_cases(FOLDER / f"{table}.yaml")


def published() -> list[Case]:
    return [case for table in CASES for case in cases_of(table)]


def test_the_published_tables_are_these() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.yaml")) == sorted(CASES)


@pytest.mark.parametrize("table", CASES)
def test_every_case_passes_the_checks_and_says_what_was_measured(table: str) -> None:
    cases, record = cases_of(table), load_table(FOLDER / f"{table}.yaml")
    assert (len(cases), len(record.left_out)) == CASES[table]
    for case in cases:
        measured = case.load().experiment.measured
        assert isinstance(measured, Measured)
        assert measured.source
        assert measured.model_dump(include={"step_time", "tokens_per_s", "samples_per_s"}, exclude_none=True) or rate(
            measured
        )


def rate(measured: Measured) -> float | None:
    return measured.tokens_per_s_per_accelerator or measured.model_tflops_per_accelerator


@pytest.mark.parametrize("table", CASES)
def test_what_is_left_out_is_named_once_with_a_reason(table: str) -> None:
    left_out = load_table(FOLDER / f"{table}.yaml").left_out
    assert all(len(entry.reason) > 10 for entry in left_out)
    assert len({entry.id for entry in left_out}) == len(left_out)


def test_no_two_cases_share_a_name() -> None:
    names = [case.name for case in published()]
    assert len(set(names)) == len(names)


def test_software_depends_on_the_source_and_its_stack_never_on_the_case() -> None:
    stacks = {table: {case.load().experiment.setup.software.name for case in cases_of(table)} for table in CASES}
    assert {table: names for table, names in stacks.items() if len(names) > 1} == {
        "bloom_tuning": {"deepspeed-blocking", "deepspeed-bf16"},
        "dgxc_h100": {"nemo", "nemo-flash2", "nemo-flash2-bf16-adam", "maxtext"},
        "megatron_bridge_moe": {
            "megatron-moe",
            "megatron-moe-deepep",
            "megatron-moe-graphs",
            "megatron-moe-hybridep",
        },
        "megatron_bridge_pairs": {"megatron-moe-hybridep", "megatron-moe-unfused"},
        "mlperf_bert_machines": {"habana", "ipex", "maxtext-tpu"},
        "mlperf_gpt3": {"nemo", "nemo-flash2", "nemo-flash1"},
        "mpt_llm_foundry": {"llm-foundry", "llm-foundry-pure"},
        "nemo_24": {"nemo-flash2", "nemo-flash2-bf16-adam"},
        "other_machines": {"habana", "ipex", "maxtext-tpu", "mxnet-ngc", "nemo"},
        "resnet50": {"pytorch-ddp", "mxnet-ngc", "mxnet-mlperf"},
        "small_models": {
            "huggingface-cudnn",
            "llm-c",
            "nanogpt",
            "nanogpt-2023",
            "pytorch-16bit",
            "pytorch-16bit-compile",
            "teaching",
            "teaching-16bit",
        },
        "stable_diffusion": {"nemo-multimodal", "composer"},
        "torchtitan": {
            "fsdp",
            "fsdp-compile",
            "fsdp-compile-async-tp",
            "torchtitan-2024",
            "torchtitan-2024-pipeline",
        },
    }
    written = [case.node.value["software"].value for case in published() if "software" in case.node.value]
    assert all(isinstance(name, str) for name in written), "a stack is named, not described, in a case"


def find(name: str) -> Case:
    return next(case for case in published() if case.name == name)


@pytest.mark.parametrize(("name", "billions"), PRINTED.items())
def test_models_have_as_many_parameters_as_the_source_prints(name: str, billions: float) -> None:
    experiment = find(name).load().experiment
    model = experiment.workload
    assert isinstance(model, Transformer)
    assert total_parameters(model, experiment.training.sequence_length or 0) / 1e9 == pytest.approx(
        billions, rel=0.02, abs=0.05
    )


# --- the format -----------------------------------------------------------------------------

TABLE = """\
source: a paper
defaults:
  cluster: dgx-a100
  software: megatron-lm-2021
  workload: {kind: transformer, layers: 4, hidden: 1024, heads: 16, ffn: 4096, vocab: 51200}
  training: {global_batch: 8, sequence_length: 1024, precision: fp16}
  measured: {source: table 1}
cases:
  - {name: one, parallelism: {tensor: 8}, measured: {step_time: 1 s}}
  - {name: two, parallelism: {tensor: 4}, training: {microbatch: 2}, measured: {step_time: 2 s}}
left_out:
  - {id: three, reason: it ran elsewhere}
"""


def table(folder: Path, text: str) -> Path:
    file = folder / "table.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(file: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _ = [case.load() for case in load_cases(file)]
    return [str(problem) for problem in caught.value.problems]


def test_cases_change_the_defaults(tmp_path: Path) -> None:
    one, two = (case.load().experiment for case in load_cases(table(tmp_path, TABLE)))
    assert (one.name, two.name) == ("one", "two")
    assert (one.parallelism.tensor, two.parallelism.tensor) == (8, 4)
    assert (one.training.microbatch, two.training.microbatch) == (1, 2)
    assert one.measured is not None
    assert (one.measured.step_time, one.measured.source) == (1.0, "table 1")


def test_a_case_that_extends_an_experiment_starts_there(tmp_path: Path) -> None:
    text = TABLE.replace("name: two, ", "name: two, extends: korthikanti-22b-full, ")
    two = load_cases(table(tmp_path, text))[1].load(["nodes=1"]).experiment
    assert (two.training.sequence_length, two.training.microbatch) == (2048, 2)
    assert two.measured is not None
    assert two.measured.source.startswith("Korthikanti")


def test_overrides_reach_every_case(tmp_path: Path) -> None:
    loaded = [case.load(["software.host_issue=1 us"]) for case in load_cases(table(tmp_path, TABLE))]
    assert [item.experiment.setup.software.host_issue for item in loaded] == [1e-6, 1e-6]


WRONG: dict[str, tuple[str, str, str]] = {
    "a key of the table": ("left_out:", "leftout:", "leftout: unknown key; did you mean left_out?"),
    "no reason": (", reason: it ran elsewhere", "", "left_out.0.reason: this key is required"),
    "no name": ("name: one, ", "", ":9:5: cases.0.name: a case needs a name"),
    "a name twice": ("name: two", "name: one", "is also the name of the case in line 9"),
    "a value in a case": ("tensor: 4", "tensor: four", ":10:31: parallelism.tensor: "),
    "a value in the defaults": ("layers: 4", "layers: many", ":5:33: workload.layers: "),
    "a plan that cannot be": ("tensor: 4", "tensor: 3", "parallelism.tensor: heads 16 cannot be divided"),
    "a case that is no mapping": ("{name: one,", "one #", "cases.0: must be a mapping"),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_are_told_with_their_place(what: str, tmp_path: Path) -> None:
    old, new, message = WRONG[what]
    found = problems(table(tmp_path, TABLE.replace(old, new, 1)))
    assert any(message in problem and "table.yaml:" in problem for problem in found), found


def test_check_tells_the_mistakes_of_all_cases(cli: Cli, tmp_path: Path) -> None:
    file = table(tmp_path, TABLE)
    assert cli("check", file).code == 0
    outcome = cli("check", table(tmp_path, TABLE.replace("tensor: 8", "tensor: 6").replace("tensor: 4", "tensor: 3")))
    assert outcome.code == 3
    assert ":9:" in outcome.err
    assert ":10:" in outcome.err


def test_the_table_must_have_cases(tmp_path: Path) -> None:
    assert any("cases: must be a list" in line for line in problems(table(tmp_path, "source: x\ncases: 3\n")))


def test_every_table_is_what_its_record_declares() -> None:
    fields: dict[str, Any] = load_table(FOLDER / "vtrain_multi.yaml").model_dump()
    assert list(fields) == ["source", "notes", "defaults", "cases", "left_out"]
