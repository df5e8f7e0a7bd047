"""Timing a device into an accelerator file, with a device whose every rate is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest
from uncovered import uncovered_numbers

from sim.ask.calibrate import torch_device
from sim.ask.calibrate.calibrate_device import KERNEL, calibrate_device
from sim.ask.calibrate.device import ADAM_BYTES, PLANS, Kernel, measure_device
from sim.ask.calibrate.small_models import SMALL_MODELS, predicted_step
from sim.ask.run.simulate import simulate
from sim.cli.app import call
from sim.devices.compute import length_share, operation_time
from sim.graph.operation import Operation
from sim.inputs.board import streaming_rate
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import Accelerator
from sim.metrics.calibration import DeviceMeasurement, LayerShape, SmallModel

KNOWN = {"efficiency": 0.71, "fp8_efficiency": 0.62, "memory": 0.83, "forward": 0.5, "backward": 0.4, "launch": 4e-6}
BYTES = {"fp8": 1, "tf32": 4, "fp32": 4}
CORES = {"peak": {"fp32": 180e9}, "efficiency": 0.9, "compute_units": 2, "tile": (32, 32)} | {
    "curve": ((64, 0.5), (256, 0.8), (1024, 1.0))
}


@dataclass
class Fake:
    """An H100 that takes exactly as long as its own profile says: a kernel is its time."""

    kind: str = "gpu"
    device: str = "Fake H100"
    versions: dict[str, str] = field(default_factory=lambda: {"torch": "0.0"})
    compute_units: int = 132
    memory: float = 80 * 2.0**30
    precisions: tuple[str, ...] = ("bf16", "tf32", "fp8")
    meter: bool = True
    software: str = "pytorch-16bit"

    def __post_init__(self) -> None:
        known = [f"matrix.efficiency={KNOWN['efficiency']}", f"matrix.fp8_efficiency={KNOWN['fp8_efficiency']}"]
        known += [f"memory.efficiency={KNOWN['memory']}", f"launch={KNOWN['launch']} s"]
        known += [f"attention.{KERNEL}.{way}={KNOWN[way]}" for way in ("forward", "backward")]
        profile = load_definition("accelerator", "h100-sxm", known)
        assert isinstance(profile, Accelerator)
        self.profile = profile

    def _takes(self, seconds: float) -> Kernel:
        return lambda: seconds

    def matmul(self, m: int, n: int, k: int, precision: str) -> Kernel:
        size = BYTES.get(precision, 2)
        moved = float(size * (m * k + k * n) + max(size, 2) * m * n)
        product = Operation("product", "matmul", 2.0 * m * n * k, moved, precision, m=m, n=n, k=k)
        return self._takes(operation_time(product, self.profile))

    def attention(self, shape: LayerShape, backward: bool) -> Kernel:
        peak = float(getattr(self.profile.matrix.peak, shape.precision))
        seconds = {
            way: shape.attention_flops / (peak * KNOWN[way] * length_share(shape.attention(way)))
            for way in ("forward", "backward")
        }
        return self._takes(seconds["forward"] + (2.5 * seconds["backward"] if backward else 0.0))

    def layer(self, shape: LayerShape, backward: bool) -> Kernel:
        return self._takes(0.030 if backward else 0.010)

    def train(self, model: SmallModel) -> Kernel:
        return self._takes(predicted_step(model, self.profile, self.software, self.precisions[0], self.issue()))

    def scale(self, elements: int) -> Kernel:
        return self._takes(8 * elements / streaming_rate(self.profile))

    def pointwise(self, rows: int, columns: int) -> Kernel:
        return self._takes(3 * 8 * rows * columns / streaming_rate(self.profile))

    def adam(self, elements: int) -> Kernel:
        return self._takes(ADAM_BYTES * elements / 2e12)

    def launch(self) -> float:
        return self.profile.launch

    def issue(self) -> float:
        return 9e-6

    def seconds(self, kernel: Kernel) -> float:
        time = kernel()
        assert isinstance(time, float)
        return time

    def watts(self, kernel: Kernel | None, seconds: float) -> float | None:
        return (640.0 if kernel else 75.0) if self.meter else None

    def limit(self) -> float | None:
        return 700.0 if self.meter else None

    def clocks(self) -> dict[str, str]:
        return {"core": "1755 MHz"}


class FakeCores(Fake):
    """A processor of two cores that does as its profile says, but for kernels between products: 0.6 of the bandwidth.

    Three trials of five are disturbed by other work.
    """

    def __init__(self, disturbed: bool = True) -> None:
        known = {"memory": {"capacity": 2**34, "bandwidth": 30e9, "efficiency": 0.6}, "launch": 4e-6}
        fused = {way: KNOWN[way] for way in ("forward", "backward")}
        self.profile = Accelerator.from_si(
            {"name": "cores", "kind": "cpu", "power": {"tdp": 100.0}, "sources": {}, "matrix": CORES, **known}
            | {"attention": dict.fromkeys(("flash1", "flash2", "cudnn"), fused)}
        )
        self.kind, self.device, self.software, self.precisions = "cpu", "Fake cores", "pytorch-cpu", ("fp32",)
        self.versions, self.compute_units, self.memory, self.meter = {"torch": "0.0"}, 2, 2.0**34, False
        self.trials = count() if disturbed else repeat(0)

    def scale(self, elements: int) -> Kernel:
        return self._takes(8 * elements / 30e9)

    def seconds(self, kernel: Kernel) -> float:
        return super().seconds(kernel) * (1.5 if next(self.trials) % 5 in (1, 2, 3) else 1.0)


@pytest.fixture(scope="module")
def measured() -> DeviceMeasurement:
    return measure_device(Fake())


def loaded(text: str, folder: Path) -> Accelerator:
    path = folder / "measured.yaml"
    path.write_text(text, encoding="utf-8")
    accelerator = load_definition("accelerator", path)
    assert isinstance(accelerator, Accelerator)
    return accelerator


@pytest.fixture(scope="module")
def cores() -> DeviceMeasurement:
    return measure_device(FakeCores())


class TestMeasuring:
    def test_every_shape_precision_and_phase_is_timed(self, measured: DeviceMeasurement) -> None:
        assert len(measured.products) == 3 * len(PLANS["gpu"].edges) ** 3
        assert {product.precision for product in measured.products} == {"bf16", "tf32", "fp8"}
        assert list(measured.watts) == ["idle", "matrix", "attention", "memory", "layer"]
        assert measured.watts["idle"] < measured.watts["matrix"]
        assert measured.layer_backward == pytest.approx(0.020)
        assert measured.optimizer == pytest.approx(2e12)

    def test_progress_ends_at_the_total(self) -> None:
        seen: list[tuple[int, int]] = []
        measure_device(Fake(precisions=("bf16",)), lambda done, total, what: seen.append((done, total)))
        assert seen[0] == (0, 39)
        assert seen[-1] == (39, 39)

    def test_a_device_without_a_meter_has_no_watts(self) -> None:
        made = calibrate_device(measure_device(Fake(meter=False)), "h100-sxm")
        assert made.measurement.watts == {}
        assert "power" not in made.text


class TestProfile:
    def test_known_rates_come_back_over_a_data_sheet(self, measured: DeviceMeasurement, tmp_path: Path) -> None:
        made = calibrate_device(measured, "h100-sxm", "mine", date(2026, 1, 2))
        profile = loaded(made.text, tmp_path)
        assert profile.name == "mine"
        assert profile.matrix.peak.bf16 == 989.4e12
        assert profile.matrix.efficiency == pytest.approx(KNOWN["efficiency"], rel=0.01)
        assert profile.matrix.fp8_efficiency == pytest.approx(KNOWN["fp8_efficiency"], rel=0.01)
        assert profile.memory.efficiency == pytest.approx(KNOWN["memory"], rel=0.01)
        assert profile.launch == pytest.approx(KNOWN["launch"], rel=0.01)
        fused = profile.model_dump()["attention"][KERNEL]
        assert (fused["forward"], fused["backward"]) == pytest.approx((0.5, 0.4), rel=0.01)
        assert (profile.power.tdp, profile.power.idle) == (700.0, 75.0)

    def test_the_file_says_when_where_and_with_what(self, measured: DeviceMeasurement, tmp_path: Path) -> None:
        made = calibrate_device(measured, "h100-sxm", today=date(2026, 1, 2))
        for word in ("2026-01-02", "Fake H100", "torch 0.0", "core clock 1755 MHz", "matrix 640 W"):
            assert word in made.text
        profile = loaded(made.text, tmp_path)
        assert profile.name == "fake-h100-measured"
        assert uncovered_numbers(profile) == []

    def test_without_a_data_sheet_the_best_rates_are_the_peaks(
        self, measured: DeviceMeasurement, tmp_path: Path
    ) -> None:
        profile = loaded(calibrate_device(measured).text, tmp_path)
        best = max(product.rate for product in measured.products if product.precision == "bf16")
        assert profile.matrix.peak.bf16 == pytest.approx(best, rel=0.001)
        assert profile.memory.capacity == pytest.approx(80 * 2**30, rel=0.001)
        assert profile.matrix.compute_units == 132
        assert 0.9 < profile.matrix.efficiency <= 1.0
        assert uncovered_numbers(profile) == []

    def test_the_layer_is_predicted_from_the_profile(self, measured: DeviceMeasurement) -> None:
        """4,096 wide over 8,192 tokens: 24 h^2-like weights at 700 TFLOP/s take about 6 ms forward."""
        made = calibrate_device(measured, "h100-sxm")
        assert 0.004 < made.forward.predicted < 0.010
        assert 1.5 < made.backward.predicted / made.forward.predicted < 3.5
        assert made.forward.error == pytest.approx(made.forward.predicted / 0.010 - 1)


class TestCores:
    """A processor: rates over size come back, and disturbed trials do not count."""

    def test_the_rate_over_size_comes_back(self, cores: DeviceMeasurement, tmp_path: Path) -> None:
        profile = loaded(calibrate_device(cores).text, tmp_path)
        assert profile.kind == "cpu"
        rate = float(profile.matrix.peak.fp32 or 0) * profile.matrix.efficiency
        assert rate == pytest.approx(162e9, rel=0.01)
        shares = dict(profile.matrix.curve)
        assert [shares[size] for size in (64, 256, 1024)] == pytest.approx([0.5, 0.8, 1.0], rel=0.02)

    def test_kernels_between_products_tell_the_rate_of_memory(self, cores: DeviceMeasurement, tmp_path: Path) -> None:
        profile = loaded(calibrate_device(cores).text, tmp_path)
        assert profile.memory.bandwidth == pytest.approx(30e9, rel=0.001)
        assert profile.memory.efficiency == pytest.approx(0.6, rel=0.01)

    def test_whole_training_steps_are_predicted(self, cores: DeviceMeasurement) -> None:
        """A device that does as a profile says is found again, whatever its rates between the sizes that were timed."""
        made = calibrate_device(cores)
        assert set(made.steps) == {"small-mlp", "small-transformer"}
        assert [check.error for check in made.steps.values()] == pytest.approx([0.0, 0.0], abs=0.03)

    def test_the_one_attention_stands_for_all_names(self, cores: DeviceMeasurement, tmp_path: Path) -> None:
        profile = loaded(calibrate_device(cores).text, tmp_path)
        assert set(profile.attention) == {"flash1", "flash2", "cudnn"}
        assert uncovered_numbers(profile) == []

    def test_disturbed_trials_do_not_count_but_are_told(self, cores: DeviceMeasurement) -> None:
        calm = measure_device(FakeCores(disturbed=False))
        assert [each.seconds for each in cores.products] == pytest.approx([each.seconds for each in calm.products])
        assert calm.disturbed == cores.disturbed == ()

    def test_what_never_takes_as_long_twice_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FakeCores, "seconds", lambda self, kernel: kernel() * 1.1 ** next(self.trials))
        few = replace(PLANS["cpu"], edges=(64,), most_rounds=7)
        monkeypatch.setitem(PLANS, "cpu", few)
        noisy = measure_device(FakeCores())
        assert "memory" in noisy.disturbed
        assert "launches" not in noisy.disturbed

    def test_power_that_nothing_measured_is_no_measurement(self, cores: DeviceMeasurement, tmp_path: Path) -> None:
        profile = loaded(calibrate_device(cores).text, tmp_path)
        assert profile.sources["power.tdp"].startswith("assumption")

    def test_the_profile_runs_under_its_stack(self, cores: DeviceMeasurement, tmp_path: Path) -> None:
        path = tmp_path / "cores.yaml"
        path.write_text(calibrate_device(cores).text, encoding="utf-8")
        node = {"name": "host", "accelerator": str(path), "accelerators": 1, "local": {"kind": "none"}}
        result = simulate(
            load_experiment(
                {
                    "cluster": {"name": "host", "nodes": 1, "node": {**node, "nics": {"count": 0}}},
                    "workload": SMALL_MODELS["cpu"][1].workload,
                    "software": cores.software,
                    "training": {"global_batch": 8, "microbatch": 8, "sequence_length": 256, "precision": "fp32"},
                }
            ).experiment
        )
        assert result.step.time_s == pytest.approx(dict(named(cores))["small-transformer"], rel=0.03)


def named(measured: DeviceMeasurement) -> list[tuple[str, float]]:
    return [(model.name, seconds) for model, seconds in measured.steps]


class TestCommand:
    def test_without_pytorch_it_says_so(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        assert call(["calibrate", "device"]) == 3
        assert "PyTorch, which is not installed" in capsys.readouterr().err

    def test_without_a_gpu_it_says_so(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", _torch_without_gpu())
        assert call(["calibrate", "device"]) == 3
        assert "sees no GPU here; run it where nvidia-smi or rocm-smi shows one" in capsys.readouterr().err

    def test_a_file_and_a_report(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "mine.yaml"
        monkeypatch.setattr(torch_device, "torch_backend", lambda where: Fake(precisions=("bf16",)))
        words = ["calibrate", "device", "--base", "h100-sxm", "-o", str(target)]
        assert call(words) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in ("bf16", "attention forward", "power, idle", "predicted"))
        assert isinstance(load_definition("accelerator", target), Accelerator)
        assert call(words) == 3
        assert "exists already" in capsys.readouterr().err
        assert call([*words, "--force", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["measurement"]["device"] == "Fake H100"

    def test_an_unknown_base_is_found_before_anything_is_timed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(torch_device, "torch_backend", _must_not_run)
        assert call(["calibrate", "device", "--base", "h100-sxmm"]) == 3
        assert "did you mean h100-sxm" in capsys.readouterr().err


def _torch_without_gpu() -> Any:
    no: Callable[[], bool] = lambda: False  # noqa: E731
    cuda = type("cuda", (), {"is_available": staticmethod(no)})
    return type("torch", (), {"cuda": cuda, "__version__": "0.0"})


def _must_not_run(where: str) -> Fake:
    raise AssertionError(f"{where} was opened")
