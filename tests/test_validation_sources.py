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
    "dle_bert": (0.07, ("s128-a100-80-8-tf32-bs128", "s128_mn-a100-80-256", "s512-a100-80-1-amp", "s128-v100-32-8")),
    "megatron_core_h100": (0.11, ("weak-1.7B", "weak-7.1B", "weak-16B", "weak-32B")),
    "mlperf_bert": (0.11, ("dgxa100_ngc22.09", "dgxh100_ngc23.04", "eos_n8", "h200_ngc23.09", "n434")),
    "mlperf_flux1": (0.075, ("tyche_ngpu16", "tyche_ngpu72", "hsg_ngpu1152", "Oracle-9x", "hpg.dgxb200x8.n2")),
    "instinct": (0.11, ("v5.0-AMD-MI300X", "v5.0-AMD-MI325X", "v5.1-AMD-MI350X_EPYC_9575F_pytorch-llama31",
                        "v5.1-AMD-MI355X", "70b-bf16")),
    "maxtext_tpu": (0.13, ("v4-22B-2x64", "v5e-32B-1x256", "v5e-128B-1x256", "v5p-32B-1x64", "v5p-128B-1x128")),
    "mlperf_llama2_70b_lora": (0.055, ("eos_ngc24.04", "h200_ngc24.04", "4xSR680Ax8H200", "2xXE9680x8H100")),
    "mpt_llm_foundry": (0.04, ("mpt-70b-s2048-h100_80gb-512", "mpt-13b-s2048-h100_80gb-32", "mpt-3b-s2048-h100_80gb-64",
                               "mpt-7b-s2048-a100_40gb-8", "mpt-125m-s512-a100_80gb-8")),
    "ibm_fms_fsdp": (0.045, ("fms-7b", "fms-34b-a100", "fms-34b-h100")),
    "nemo_24": (0.03, ("GPT3-5B", "LLAMA2-13B", "Nemotron-8B")),
    "mlperf_bert_machines": (0.15, ("v3.0-Intel-HabanaLabs-HLS-Gaudi2-PT", "tpu-v4-16", "tpu-v4-512")),
    "neuron_trn1": (0.25, ("8B", "70B")),
    "other_machines": (0.19, ("l40s_n16_ngc24.04_nemo", "Gaudi2-N32-PT-gpt3", "Gaudi2-N128-PT-gpt3",
                              "Gaudi2-PT-resnet")),
    "small_models": (0.055, ("gpt2-124m-fp32", "nanogpt-124m-4090", "llmc-350m", "llmc-1558m", "trl-qwen3-8b-1m",
                             "speedrun-2x4090-baseline")),
    "tpu_recipes": (0.11, ("70B-MaxText-v6e-32", "70B-MaxText-v6e-256", "8B-MaxText-v6e-8", "8B-MaxText-v6e-256")),
    "torchtitan": (0.03, ("llama8b-fsdp-8-compile", "llama8b-fsdp-128-eager", "llama8b-fsdp-128-compile-fp8",
                          "llama70b-256-2d", "70b-256-asynctp-bf16", "8b-64-asynctp-bf16", "h200-llama8b-32")),
    "dlrm": (0.11, ("Azure", "Fujitsu", "H3C", "nf5688m6")),
    "dlrm_dcnv2": (0.11, ("n16_ngc23.09", "eos_n8_ngc23.09", "eos_ngc23.09", "JuniperNetworks", "eos_ngc24.04")),
    "efficientnet": (0.15, ("a100-80-1-amp-591", "a100-80-8-full-592", "v100-16-1-full-612", "v100-16-1-full-614")),
    "gnmt": (0.21, ("a100-40-1-tf32", "v100-16-1-fp32", "v100-16-1-amp", "dgx2-8-amp")),
    "resnet50": (0.085, ("mx-a100-80-1-amp", "mx-v100-16-2-amp", "dgxh100_n8_ngc", "pt-a100-80-8-tf32", "h200")),
    "resnext101": (0.06, ("a100-80-1-full", "a100-80-1-amp", "v100-16-1-full", "v100-16-8-amp")),
    "retinanet": (0.06, ("Azure-ND96amsr_A100_v4_n1", "dgxa100_n8_ngc22.04", "dgxa100_ngc22.04", "1xXE9680x8H200",
                         "GigaComputing")),
    "rnnt": (0.26, ("dgxh100_n8", "dgxh100_ngc23.04", "eos_n64")),
    "stable_diffusion": (0.12, ("v4.1-NVIDIA-eos_n8", "v4.1-NVIDIA-eos_ngc", "h200_ngc24.09", "nyx_n1", "sd2-a100-8")),
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
