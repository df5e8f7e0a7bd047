"""The processor of this host under PyTorch."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from sim.ask.calibrate.device import Kernel
from sim.ask.calibrate.torch_device import TorchBackend

PROCESSOR = Path("/proc/cpuinfo")
COUNTERS = Path("/sys/class/powercap")
SIXTEEN_BIT = ("amx_bf16", "avx512_bf16")  # flags of processors that have 16-bit products


class CpuBackend(TorchBackend):
    """All threads that PyTorch takes. Of several trials the least disturbed counts, since others use it too."""

    trial_seconds: ClassVar[float] = 0.02

    @override
    def describe(self) -> None:
        told = _processor(PROCESSOR)
        self.kind, self.software = "cpu", "pytorch-cpu"
        self.device = told.get("model name", "") or platform.processor() or platform.machine()
        self.compute_units = int(self.torch.get_num_threads())
        self.memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        flags = told.get("flags", "").split()
        self.precisions = ("fp32", *(["bf16"] if any(name in flags for name in SIXTEEN_BIT) else []))
        self.versions |= {"threads": str(self.compute_units)}
        self.meter = EnergyCounters(COUNTERS)
        if self.compute_units == 1:
            self.clock = time.process_time  # of one thread, what others take of its core does not count

    @override
    def of_trials(self, seconds: list[float]) -> float:
        return min(seconds)

    @override
    def wait(self) -> None:
        """A call returns when its work is done."""

    @override
    def watts(self, kernel: Kernel | None, seconds: float) -> float | None:
        before, began = self.meter.joules(), time.perf_counter()
        if before is None:
            return None
        self.busy(kernel, seconds)
        after = self.meter.joules()
        elapsed = time.perf_counter() - began
        return None if after is None or after < before else (after - before) / elapsed  # a counter may turn over


class EnergyCounters:
    """Counters of the packages of this host (Linux powercap), where they may be read."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("intel-rapl:[0-9]/energy_uj"))  # other makers' packages have this name too

    def joules(self) -> float | None:
        """Of all packages since some moment; None where there are none or they are closed to the user."""
        try:
            return sum(int(file.read_text()) for file in self.files) / 1e6 if self.files else None
        except (OSError, ValueError):
            return None


def _processor(file: Path) -> dict[str, str]:
    """What Linux tells of the first core, by name; empty elsewhere."""
    try:
        lines = file.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
