"""Predicted step times against published runs of each source, a few quick ones of each.

The bounds stand a little above what the chosen runs reach; docs/models.md has the errors of whole sources.
"""

from __future__ import annotations

from statistics import mean

import pytest

from sim.ask.run.simulate import simulate
from sim.inputs.cases import load_cases
from support import ROOT

RUNS = {  # source: mean absolute error of the step time on these runs at most, and the runs
    "blackwell": (0.08, ("LLAMA3_70B-sft-GB200", "LLAMA3_70B-pretrain-GB300-64-NVFP4", "dgxb200x8.n1-llama31_8b",
                        "dgxb200x8.n8-llama2", "nemotron340b-gb200-bf16-128")),
    "bloom_tuning": (0.085, ("L585-187B", "L711-181B", "L740-182B", "L831-182B", "L928-178B")),
    "dgxc_h100": (0.015, ("nemotron4-15b-bf16-16", "nemotron4-15b-fp8-16", "llama31-8b-bf16-8", "llama31-8b-fp8-16")),
    "megatron_core_h100": (0.11, ("weak-1.7B", "weak-7.1B", "weak-16B", "weak-32B")),
    "instinct": (0.11, ("v5.0-AMD-MI300X", "v5.0-AMD-MI325X", "v5.1-AMD-MI350X_EPYC_9575F_pytorch-llama31",
                        "v5.1-AMD-MI355X", "70b-bf16")),
    "maxtext_tpu": (0.13, ("v4-22B-2x64", "v5e-32B-1x256", "v5e-128B-1x256", "v5p-32B-1x64", "v5p-128B-1x128")),
    "mlperf_llama2_70b_lora": (0.055, ("eos_ngc24.04", "h200_ngc24.04", "4xSR680Ax8H200", "2xXE9680x8H100")),
    "mpt_llm_foundry": (0.04, ("mpt-70b-s2048-h100_80gb-512", "mpt-13b-s2048-h100_80gb-32", "mpt-3b-s2048-h100_80gb-64",
                               "mpt-7b-s2048-a100_40gb-8", "mpt-125m-s512-a100_80gb-8")),
    "ibm_fms_fsdp": (0.045, ("fms-7b", "fms-34b-a100", "fms-34b-h100")),
    "nemo_24": (0.03, ("GPT3-5B", "LLAMA2-13B", "Nemotron-8B")),
    "neuron_trn1": (0.22, ("8B", "70B")),
    "other_machines": (0.17, ("l40s_n16_ngc24.04_nemo", "Gaudi2-N32-PT-gpt3", "Gaudi2-N128-PT-gpt3",
                              "Gaudi2-PT-resnet")),
    "small_models": (0.055, ("gpt2-124m-fp32", "nanogpt-124m-4090", "llmc-350m", "llmc-1558m", "trl-qwen3-8b-1m",
                             "speedrun-2x4090-baseline")),
    "tpu_recipes": (0.11, ("70B-MaxText-v6e-32", "70B-MaxText-v6e-256", "8B-MaxText-v6e-8", "8B-MaxText-v6e-256")),
    "torchtitan": (0.03, ("llama8b-fsdp-8-compile", "llama8b-fsdp-128-eager", "llama8b-fsdp-128-compile-fp8",
                          "llama70b-256-2d", "70b-256-asynctp-bf16", "8b-64-asynctp-bf16", "h200-llama8b-32")),
    "resnet50": (0.08, ("mx-a100-80-1-amp", "mx-v100-16-2-amp", "dgxh100_n8_ngc", "dgxh100_n96", "h200")),
    "vtrain_multi": (0.045, ("001", "017", "038", "066", "095")),
    "vtrain_single": (0.04, ("0024", "0192", "0360", "0672", "0840", "1152")),
}  # fmt: skip


def errors(source: str, runs: tuple[str, ...]) -> list[float]:
    cases = load_cases(ROOT / "experiments" / "validation" / f"{source}.yaml")
    chosen = [next(case for case in cases if run in case.name) for run in runs]
    comparisons = [simulate(case.load().experiment).comparison for case in chosen]
    return [comparison.error for comparison in comparisons if comparison]


@pytest.mark.parametrize("source", RUNS)
def test_chosen_runs_of_a_source_are_as_near_as_reached(source: str) -> None:
    bound, runs = RUNS[source]
    found = errors(source, runs)
    assert len(found) == len(runs)
    assert mean(map(abs, found)) <= bound, found
