"""Shared fixtures: a result made by hand, and the command as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from sim.cli.app import call
from sim.metrics.result import (
    BREAKDOWN,
    Comparison,
    LinkUse,
    MemoryResult,
    Result,
    RunResult,
    StepResult,
    UtilizationResult,
)
from sim.report.jsonout import result_text
from support import ROOT, Cli, Command, Outcome

settings.register_profile("clustersim", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("clustersim")

GIB = 2.0**30


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call the command in this process, which is quick."""

    def invoke(*arguments: object) -> Outcome:
        code = call([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return invoke


@pytest.fixture(scope="session")
def clustersim() -> Command:
    """Run the command line in its own process; returns what it printed and its exit code."""

    def call(*arguments: str, cwd: object = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sim.cli", *arguments],
            cwd=str(cwd),
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


@pytest.fixture
def sample_result() -> Result:
    """A plausible result made by hand: 16 stages, full recomputation, measured."""
    shares = {"compute": 0.765, "tensor_comm": 0.121, "pipeline_comm": 0.011, "bubble": 0.078, "optimizer": 0.003}
    shares["data_comm"] = 1 - sum(shares.values())
    breakdown = {part: 32.0 * shares.get(part, 0.0) for part in BREAKDOWN}
    parts = {"weights": 2.0, "gradients": 4.0, "optimizer": 8.0, "activations": 30.5, "temporary": 1.5, "reserved": 1.0}
    memory = {part: gib * GIB for part, gib in parts.items()}
    return Result(
        name="gpt3-175b-a100",
        description="GPT-3 175B on 1,024 A100, as in the Megatron-LM README",
        accelerators=1024,
        setup={
            "cluster": "dgx-a100-superpod, 128 nodes of 8 A100-SXM4-80GB",
            "workload": "megatron-175b, 96 layers, 174.6 B parameters",
            "parallelism": "tensor 8, pipeline 16, data 8; 1f1b, no ZeRO",
            "training": "global batch 1,536, microbatch 1, sequence 2,048, fp16, full recomputation",
            "software": "megatron-lm-2021",
        },
        step=StepResult(32.0, 48.0, 98304.0, 138.2, 0.331, 0.442, breakdown, 4.9, 0.5),
        memory=MemoryResult(sum(memory.values()), 80 * GIB, True, memory, (memory, {"weights": 20 * GIB})),
        utilization=UtilizationResult(
            {"compute_busy": 0.768, "comm_busy": 0.15, "idle": 0.08},
            (
                LinkUse("node0/gpu0>node0/nvswitch", "accelerator-switch", 1024, 0.12, 0.92, 412e9),
                LinkUse("node0/nic0>leaf0", "nic-leaf", 1024, 0.01, 0.88, 9.1e9),
            ),
        ),
        run=RunResult(dict.fromkeys(("mean", "p5", "p50", "p95"), 3.05e6), 95368, 1.0),
        energy=None,
        cost=None,
        trust=None,
        comparison=Comparison("step_time_s", 32.0, 32.5, -0.0154, "Megatron-LM README, 175B on 1,024 A100", 0.05),
        notes=("Packets and congestion control are not simulated.",),
        folding={"ranks": 1024, "rank_classes": 16, "links": 9000, "link_classes": 40, "flow_classes": 77},
        events=52000,
        wall_s=0.08,
        seed=0,
        version="0.1.0",
        manifest={"training": {"microbatch": 1}, "parallelism": {"tensor": 8}},
    )


@pytest.fixture
def stored(tmp_path: Path, sample_result: Result) -> Path:
    """A result file."""
    file = tmp_path / "result.json"
    file.write_text(result_text(sample_result), encoding="utf-8")
    return file
