"""Backends on PyTorch: every kernel runs where PyTorch is there; what devices tell of themselves is read from fakes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sim.ask.calibrate import torch_cpu
from sim.ask.calibrate.calibrate_device import calibrate_device
from sim.ask.calibrate.device import PLANS, TimedShapes, measure_device
from sim.ask.calibrate.small_models import SMALL_MODELS
from sim.ask.calibrate.torch_cpu import EnergyCounters
from sim.ask.calibrate.torch_device import TorchBackend, torch_backend
from sim.ask.calibrate.torch_gpu import GpuBackend
from sim.errors import ConfigError
from sim.inputs.load import load_definition
from sim.inputs.records import Accelerator
from sim.metrics.calibration import SmallModel

TINY = TimedShapes((16, 32), (64, 1, 64, 32, 1), 2**12, (16, 64), 0.01)
HERE = os.environ.get("CLUSTERSIM_MEASURE") == "1"


def small_models() -> tuple[SmallModel, ...]:
    dense, gpt = SMALL_MODELS["cpu"]
    sizes = {"inputs": 16, "hidden": [32, 32], "outputs": 4}
    narrow = {"layers": 1, "hidden": 64, "heads": 1, "ffn": 64, "vocab": 32}
    return (
        SmallModel(dense.name, dense.workload | sizes, 8, None),
        SmallModel(gpt.name, gpt.workload | narrow, 2, 16),
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cpu", "systolic"):
        monkeypatch.setitem(PLANS, kind, TINY)
        monkeypatch.setitem(SMALL_MODELS, kind, small_models())
    monkeypatch.setattr(TorchBackend, "trial_seconds", 0.0, raising=False)


def written(backend: TorchBackend, folder: Path) -> Accelerator:
    """The profile of `backend`, as it is loaded from its file."""
    path = folder / "here.yaml"
    path.write_text(calibrate_device(measure_device(backend)).text, encoding="utf-8")
    profile = load_definition("accelerator", path)
    assert isinstance(profile, Accelerator)
    return profile


class TestWithPyTorch:
    """Skipped where PyTorch is not installed."""

    def test_the_processor_here_becomes_a_profile(self, tiny: None, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        profile = written(torch_backend("cpu"), tmp_path)
        assert profile.kind == "cpu"
        assert [size for size, _ in profile.matrix.curve] == [16, 20, 25, 32]

    def test_a_device_behind_a_compiler(self, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The runtime is faked, its device is the processor: everything that is timed is started and waited for."""
        pytest.importorskip("torch")
        runtime = FakeRuntime()
        monkeypatch.setitem(sys.modules, "torch_xla", ModuleType("torch_xla"))
        monkeypatch.setitem(sys.modules, "torch_xla.core.xla_model", runtime.module)
        profile = written(torch_backend("xla"), tmp_path)
        assert (profile.kind, profile.launch > 0) == ("systolic", True)
        assert profile.memory.capacity == 16 * 2**30
        assert runtime.programs > 100
        assert runtime.waits > 100

    @pytest.mark.slow
    @pytest.mark.skipif(not HERE, reason="times this machine for minutes: CLUSTERSIM_MEASURE=1 does it")
    def test_training_steps_of_this_machine_are_predicted(self) -> None:
        """A dense network and a transformer, in eager PyTorch, within 20 %."""
        pytest.importorskip("torch")
        made = calibrate_device(measure_device(torch_backend("cpu")))
        errors = {name: check.error for name, check in made.steps.items()}
        assert all(abs(error) < 0.2 for error in errors.values()), errors


class FakeRuntime:
    """What is used of torch_xla, over the processor."""

    def __init__(self) -> None:
        self.programs = self.waits = 0
        self.module = ModuleType("torch_xla.core.xla_model")
        told = {
            "xla_device": lambda: "cpu",
            "xla_device_hw": lambda name: "TPU",
            "get_memory_info": lambda name: {"bytes_limit": 16 * 2**30},
            "mark_step": self._run,
            "wait_device_ops": self._wait,
        }
        for name, value in told.items():
            setattr(self.module, name, value)

    def _run(self) -> None:
        self.programs += 1

    def _wait(self) -> None:
        self.waits += 1


def rocm(chip: str = "gfx942:sramecc+:xnack-") -> Any:
    """What a PyTorch for ROCm tells of a board."""
    properties = SimpleNamespace(
        name="Fake board", multi_processor_count=304, total_memory=192 * 2**30, gcnArchName=chip
    )  # fmt: skip
    properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id = 0, 0x1A, 0
    return SimpleNamespace(
        __version__="0.0+rocm",
        empty=lambda *size, device: None,
        float8_e4m3fnuz="narrow of one",
        float8_e4m3fn="narrow of others",
        version=SimpleNamespace(hip="6.4", cuda=None),
        cuda=SimpleNamespace(is_available=lambda: True, get_device_properties=lambda name: properties),
    )


def smi(power: dict[str, Any]) -> Any:
    return SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: ["other", "this"],
        amdsmi_get_gpu_device_bdf={"other": "0000:05:00.0", "this": "0000:1A:00.0"}.__getitem__,
        amdsmi_get_power_info={"this": power}.__getitem__,
        amdsmi_get_power_cap_info={"this": {"power_cap": 750_000_000}}.__getitem__,
        amdsmi_get_clock_info=lambda handle, kind: {"clk": {"gfx": 2100, "mem": 1300}[kind]},
        AmdSmiClkType=SimpleNamespace(GFX="gfx", MEM="mem"),
    )


class TestRocm:
    @pytest.mark.parametrize(
        ("chip", "precisions"),
        [("gfx942", ("bf16", "fp16", "fp8")), ("gfx950", ("bf16", "fp16", "fp8")), ("gfx90a", ("bf16", "fp16"))],
    )
    def test_precisions_are_those_of_the_chip(self, chip: str, precisions: tuple[str, ...]) -> None:
        backend = GpuBackend(rocm(chip), "cuda")
        assert backend.precisions == precisions
        assert (backend.kind, backend.compute_units, backend.versions["rocm"]) == ("gpu", 304, "6.4")

    def test_eight_bits_are_of_the_type_of_the_chip(self) -> None:
        assert GpuBackend(rocm(), "cuda").narrow == "narrow of one"
        assert GpuBackend(rocm("gfx950"), "cuda").narrow == "narrow of others"

    @pytest.mark.parametrize(
        "power",
        [
            {"current_socket_power": 641, "average_socket_power": "N/A"},
            {"current_socket_power": "N/A", "average_socket_power": 641},
        ],
    )
    def test_the_meter_of_the_board_is_found_by_its_address(
        self, power: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "amdsmi", smi(power))
        backend = GpuBackend(rocm(), "cuda")
        assert (backend.watts(None, 0.03), backend.limit()) == (641.0, 750.0)
        assert backend.clocks() == {"core": "2100 MHz", "memory": "1300 MHz"}

    def test_without_its_library_there_is_no_meter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "amdsmi", None)
        backend = GpuBackend(rocm(), "cuda")
        assert (backend.watts(None, 0.03), backend.limit(), backend.clocks()) == (None, None, {})


class TestErrors:
    def test_a_device_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match="there is no 'tpu'; cuda, cuda:1, xla or cpu"):
            torch_backend("tpu")

    def test_without_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="0.0"))
        monkeypatch.setitem(sys.modules, "torch_xla.core.xla_model", None)
        with pytest.raises(ConfigError, match=r"'xla' cannot be used: .*; install torch_xla for this PyTorch"):
            torch_backend("xla")

    def test_a_device_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*size: int, device: str) -> None:
            raise RuntimeError("invalid device ordinal\nmore")

        torch = rocm()
        torch.empty = refuse
        monkeypatch.setitem(sys.modules, "torch", torch)
        with pytest.raises(ConfigError, match="'cuda:9' cannot be used: invalid device ordinal; cuda or cuda:1"):
            torch_backend("cuda:9")


class TestProcessor:
    def test_counters_of_all_packages_are_summed(self, tmp_path: Path) -> None:
        for package, counted in ((0, 2_000_000), (1, 3_500_000)):
            folder = tmp_path / f"intel-rapl:{package}"
            folder.mkdir()
            (folder / "energy_uj").write_text(f"{counted}\n")
        (tmp_path / "intel-rapl:0:0").mkdir()  # cores alone, a part of the first package
        (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("9\n")
        assert EnergyCounters(tmp_path).joules() == 5.5
        assert EnergyCounters(tmp_path / "none").joules() is None

    @pytest.mark.parametrize(("flags", "precisions"), [("avx2", ("fp32",)), ("avx2 amx_bf16", ("fp32", "bf16"))])
    def test_sixteen_bits_where_the_processor_has_them(
        self, flags: str, precisions: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = tmp_path / "cpuinfo"
        told.write_text(f"model name\t: Fake 9000\nflags\t\t: {flags}\n\nmodel name\t: other\n")
        monkeypatch.setattr(torch_cpu, "PROCESSOR", told)
        torch = SimpleNamespace(__version__="0.0", get_num_threads=lambda: 3)
        backend = torch_cpu.CpuBackend(torch, "cpu")
        assert (backend.device, backend.compute_units, backend.precisions) == ("Fake 9000", 3, precisions)

    @pytest.mark.parametrize(("threads", "clock"), [(1, time.process_time), (2, time.perf_counter)])
    def test_what_others_take_of_its_core_is_no_time_of_one_thread(self, threads: int, clock: object) -> None:
        torch = SimpleNamespace(__version__="0.0", get_num_threads=lambda: threads)
        assert torch_cpu.CpuBackend(torch, "cpu").clock is clock
