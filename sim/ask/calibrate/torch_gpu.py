"""GPUs under PyTorch's `cuda`, which is also its name for those of ROCm, with the meters of either maker's library."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, Protocol

from typing_extensions import override

from sim.ask.calibrate.device import Kernel
from sim.ask.calibrate.torch_device import LAUNCHES, TorchBackend, unusable
from sim.errors import ConfigError, Problem

FP8_SINCE = (8, 9)  # compute capability of CUDA
FP8_OF_ROCM = {  # type of the matrix units, by chip
    "gfx942": "float8_e4m3fnuz",
    "gfx950": "float8_e4m3fn",
    "gfx1200": "float8_e4m3fn",
    "gfx1201": "float8_e4m3fn",
}
HINT = "cuda or cuda:1, as PyTorch numbers them, also under ROCm"


class BoardReadings(Protocol):
    """Power and clocks of one board."""

    def watts(self) -> float:
        """Now."""

    def limit(self) -> float:
        """Of the board [W]."""

    def clocks(self) -> dict[str, str]:
        """Now, by domain."""


class GpuBackend(TorchBackend):
    """One GPU. The clock has settled after a trial, so the median counts."""

    trial_seconds: ClassVar[float] = 0.2

    @override
    def describe(self) -> None:
        torch = self.torch
        if not torch.cuda.is_available():
            hint = "run it where nvidia-smi or rocm-smi shows one; --device cpu measures the processor"
            raise ConfigError(Problem("", "", "PyTorch sees no GPU here", hint))
        try:
            torch.empty(1, device=self.name)
        except RuntimeError as error:
            raise unusable(self.name, error, HINT) from None
        properties = torch.cuda.get_device_properties(self.name)
        self.kind, self.software = "gpu", "pytorch-16bit"
        self.device = str(properties.name)
        self.compute_units = int(properties.multi_processor_count)
        self.memory = float(properties.total_memory)
        rocm = getattr(torch.version, "hip", None)
        self.narrow = self._narrow_type(properties, bool(rocm))
        wide = () if rocm else ("tf32",)
        self.precisions = ("bf16", "fp16", *wide, *(("fp8",) if self.narrow is not None else ()))
        if rocm:
            self.versions["rocm"] = str(rocm)
            self.meter = found_meter(lambda: _rocm_meter(properties))
        else:
            self.versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
            self.meter = found_meter(lambda: _cuda_meter(properties, self.versions))

    def _narrow_type(self, properties: Any, rocm: bool) -> Any:
        """The 8-bit type of its matrix units in PyTorch, None without one."""
        if rocm:
            chip = str(getattr(properties, "gcnArchName", "")).partition(":")[0]
            return getattr(self.torch, FP8_OF_ROCM.get(chip, ""), None)
        has = self.torch.cuda.get_device_capability(self.name) >= FP8_SINCE
        return getattr(self.torch, "float8_e4m3fn", None) if has else None

    @property
    @override
    def optimizer_options(self) -> dict[str, bool]:
        return {"fused": True}

    @override
    def matmul(self, m: int, n: int, k: int, precision: str) -> Kernel:
        torch = self.torch
        if precision != "fp8":
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            return super().matmul(m, n, k, precision)
        a, b = self._random(m, k).to(self.narrow), self._random(n, k).to(self.narrow).t()
        one = torch.ones((), device=self.name)
        return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    @override
    def launch(self) -> float:
        """Kernels on one number, recorded once, so that the host has no part in it."""
        graph, kernel = self.torch.cuda.CUDAGraph(), self.tiny()
        kernel()
        self.wait()
        with self.torch.cuda.graph(graph):
            for _ in range(LAUNCHES):
                kernel()
        return self.seconds(graph.replay) / LAUNCHES

    @override
    def wait(self) -> None:
        self.torch.cuda.synchronize(self.name)

    @override
    def watts(self, kernel: Kernel | None, seconds: float) -> float | None:
        """Mean of readings while `kernel` runs."""
        if self.meter is None:
            return None
        readings, until = [], time.perf_counter() + seconds
        while time.perf_counter() < until:
            self.busy(kernel, 0.0 if kernel else 0.02)
            readings.append(self.meter.watts())
        return sum(readings) / len(readings)

    @override
    def limit(self) -> float | None:
        return self.meter.limit() if self.meter else None

    @override
    def clocks(self) -> dict[str, str]:
        return self.meter.clocks() if self.meter else {}


def found_meter(find: Callable[[], BoardReadings]) -> BoardReadings | None:
    """The meter that `find` opens; None without its library or the right to read."""
    try:
        meter = find()
        meter.watts()
    except Exception:  # libraries differ in their errors; without a meter everything else still runs
        return None
    return meter


class _CudaMeter:
    """Through NVML."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.library, self.handle = library, handle

    def watts(self) -> float:
        return float(self.library.nvmlDeviceGetPowerUsage(self.handle)) / 1e3  # it counts milliwatts

    def limit(self) -> float:
        return float(self.library.nvmlDeviceGetEnforcedPowerLimit(self.handle)) / 1e3

    def clocks(self) -> dict[str, str]:
        library, domains = self.library, {"core": self.library.NVML_CLOCK_SM, "memory": self.library.NVML_CLOCK_MEM}
        return {name: f"{library.nvmlDeviceGetClockInfo(self.handle, which)} MHz" for name, which in domains.items()}


def _cuda_meter(properties: Any, versions: dict[str, str]) -> BoardReadings:
    library: Any = import_module("pynvml")
    library.nvmlInit()
    handle = library.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}".encode())
    driver = library.nvmlSystemGetDriverVersion()
    versions["driver"] = driver.decode() if isinstance(driver, bytes) else str(driver)
    return _CudaMeter(library, handle)


class _RocmMeter:
    """Through AMD SMI."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.library, self.handle = library, handle

    def watts(self) -> float:
        told = self.library.amdsmi_get_power_info(self.handle)
        now, mean = told.get("current_socket_power", "N/A"), told.get("average_socket_power", "N/A")
        return float(mean if now in ("N/A", 0) else now)  # boards have one or the other

    def limit(self) -> float:
        return float(self.library.amdsmi_get_power_cap_info(self.handle)["power_cap"]) / 1e6  # microwatts

    def clocks(self) -> dict[str, str]:
        kinds = self.library.AmdSmiClkType
        domains = {"core": kinds.GFX, "memory": kinds.MEM}
        told = {name: self.library.amdsmi_get_clock_info(self.handle, which) for name, which in domains.items()}
        return {name: f"{clock['clk']} MHz" for name, clock in told.items()}


def _rocm_meter(properties: Any) -> BoardReadings:
    """The board with the bus address that PyTorch tells."""
    library: Any = import_module("amdsmi")
    library.amdsmi_init()
    handles = library.amdsmi_get_processor_handles()
    address = f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}"
    boards = {library.amdsmi_get_gpu_device_bdf(handle).lower(): handle for handle in handles}
    (handle,) = (handle for place, handle in boards.items() if place.startswith(address))
    return _RocmMeter(library, handle)
