"""Accelerators from recorded kernels: what made the kernels is found again, and how well it explains them is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sim.ask.calibrate.from_trace import calibrate_from_traces
from sim.devices.compute import operation_times
from sim.errors import ConfigError
from sim.graph.operation import Operation
from sim.inputs.load import load_definition
from sim.inputs.recording import HOST, PRODUCT, KnownShape, Queue, RecordedRank, Recording, recording_text
from sim.inputs.records import Accelerator
from support import Cli

SHAPES = tuple((m, n, k) for m in (1024, 4096, 8192) for n in (1024, 4096, 16384) for k in (1024, 4096))


def seconds_of(shape: tuple[int, int, int], efficiency: float, precision: str = "bf16") -> float:
    """A product on an H100 that reaches so much of its peak, launch left out."""
    base = load_definition("accelerator", "h100-sxm")
    assert isinstance(base, Accelerator)
    matrix = base.matrix.model_copy(update={"efficiency": efficiency, "fp8_efficiency": efficiency})
    profile = base.model_copy(update={"matrix": matrix, "launch": 0.0})
    m, n, k = shape
    size = 1 if precision == "fp8" else 2
    moved = float(size * (m * k + k * n) + 2 * m * n)
    return operation_times(Operation("p", "matmul", 2.0 * m * n * k, moved, precision, m=m, n=n, k=k), profile).at()


def recording(tmp_path: Path, timed: Sequence[tuple[tuple[int, int, int], str, float]]) -> Path:
    """A rank that ran products, and one kernel whose shape nobody kept."""
    n = len(timed) + 1
    rank = RecordedRank(
        rank=0,
        step=1.0,
        queues=(Queue("stream 7", "device"),),
        names=("gemm",),
        queue=np.zeros(n, dtype=np.int64),
        kind=np.array([PRODUCT] * len(timed) + [HOST]),
        name=np.zeros(n, dtype=np.int64),
        seconds=np.array([seconds for _, _, seconds in timed] + [1e-6]),
        lag=np.zeros(n),
        start=np.full(n, -1.0),
        before=np.zeros(0, dtype=np.int64),
        after=np.zeros(0, dtype=np.int64),
        shapes=tuple(
            KnownShape(i, 2.0 * m * n * k, 0.0, 1, m, n, k, precision)
            for i, ((m, n, k), precision, _) in enumerate(timed)
        ),
    )
    file = tmp_path / "step.jsonl"
    file.write_text("".join(recording_text(Recording(1, (rank,), (), "NVIDIA H100"))), encoding="utf-8")
    return file


@pytest.mark.parametrize("efficiency", [0.55, 0.73, 0.91])
def test_the_share_that_made_the_kernels_is_found_again(tmp_path: Path, efficiency: float) -> None:
    file = recording(tmp_path, [(shape, "bf16", seconds_of(shape, efficiency)) for shape in SHAPES])
    found = calibrate_from_traces([file], "h100-sxm")
    assert found.shares["matrix.efficiency"] == pytest.approx(efficiency, rel=1e-6)
    assert found.error() == pytest.approx(0, abs=1e-6)
    assert found.error(unseen=True) == pytest.approx(0, abs=1e-6)
    assert found.share_known == 1.0


def test_each_format_has_its_share_and_a_shape_counts_once(tmp_path: Path) -> None:
    """A shape that ran slowly once is its median."""
    timed = [(shape, "bf16", seconds_of(shape, 0.7)) for shape in SHAPES for _ in range(3)]
    timed += [(shape, "fp8", seconds_of(shape, 0.6, "fp8")) for shape in SHAPES]
    timed.append((SHAPES[-1], "bf16", 1.0))
    found = calibrate_from_traces([recording(tmp_path, timed)], "h100-sxm")
    assert found.shares == {"matrix.efficiency": pytest.approx(0.7), "matrix.fp8_efficiency": pytest.approx(0.6)}
    assert {(each.precision, each.count) for each in found.shapes} >= {("bf16", 3), ("bf16", 4), ("fp8", 1)}


def test_how_well_it_fits_is_said_of_shapes_it_was_not_made_from(tmp_path: Path) -> None:
    """One large shape that is twice as slow as the model can say is not explained by the others."""
    odd = SHAPES[-1]
    timed = [(shape, "bf16", seconds_of(shape, 0.7) * (2 if shape == odd else 1)) for shape in SHAPES]
    found = calibrate_from_traces([recording(tmp_path, timed)], "h100-sxm")
    worst = max(found.shapes, key=lambda each: abs(each.unseen / each.measured - 1))
    assert (worst.m, worst.n, worst.k) == odd
    assert worst.unseen / worst.measured == pytest.approx(0.5, rel=0.01)
    assert found.error(unseen=True) == pytest.approx(found.error())
    assert found.shares["matrix.efficiency"] == pytest.approx(0.7)
    assert found.error() > 0.1


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no matrix product with shapes"):
        calibrate_from_traces([recording(tmp_path, [])], "h100-sxm")
    with pytest.raises(ConfigError, match="in formats that v100-sxm2-32gb has not"):
        calibrate_from_traces([recording(tmp_path, [(SHAPES[0], "fp8", 1e-3)])], "v100-sxm2-32gb")
    timed = [(SHAPES[-1], "bf16", 1e-3), (SHAPES[0], "fp8", 1e-5), (SHAPES[0], "nvfp4", 1)]
    few = calibrate_from_traces([recording(tmp_path, timed)], "h100-sxm")
    assert any("2 shapes are few" in remark for remark in few.remarks)
    assert any("1 kernels are in formats" in remark for remark in few.remarks)
    assert few.shares.keys() == {"matrix.efficiency"}
    assert any("fp8_efficiency stays" in remark for remark in few.remarks)
    with pytest.raises(ConfigError, match="too small to tell a rate"):
        calibrate_from_traces([recording(tmp_path, [((128, 128, 5), "bf16", 12e-6)])], "h100-sxm")


def test_the_command_writes_an_accelerator(tmp_path: Path, cli: Cli) -> None:
    file = recording(tmp_path, [(shape, "bf16", seconds_of(shape, 0.7)) for shape in SHAPES])
    target = tmp_path / "mine.yaml"
    done = cli("calibrate", "device", "--from-trace", file, "--base", "h100-sxm", "--name", "mine", "-o", target)
    assert done.code == 0, done.err
    assert "each shape by a fit to" in done.out
    made = load_definition("accelerator", str(target))
    assert isinstance(made, Accelerator)
    assert made.matrix.efficiency == pytest.approx(0.7, abs=1e-4)
    assert "step.jsonl" in made.sources["matrix.efficiency"]
    shown = cli("calibrate", "device", "--from-trace", file, "--base", "h100-sxm", "--json")
    assert json.loads(shown.out)["error"] == pytest.approx(0, abs=1e-6)
    assert cli("calibrate", "device", "--from-trace", file).code == 2
