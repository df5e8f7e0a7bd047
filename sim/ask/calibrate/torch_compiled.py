"""Devices behind PyTorch's XLA: kernels are recorded, and run as one compiled program when they are started."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, ClassVar

from typing_extensions import override

from sim.ask.calibrate.device import Kernel
from sim.ask.calibrate.torch_device import TorchBackend, unusable

KINDS = {"CPU": "cpu", "CUDA": "gpu", "ROCM": "gpu"}  # what runs behind the compiler, else arrays


class CompiledBackend(TorchBackend):
    """The first device of the runtime. What a kernel returns is kept, or the compiler would leave it out."""

    trial_seconds: ClassVar[float] = 0.2

    @override
    def describe(self) -> None:
        try:
            self.xla: Any = import_module("torch_xla.core.xla_model")
            self.name = self.xla.xla_device()
        except (ImportError, RuntimeError) as error:
            raise unusable(
                "xla", error, "install torch_xla for this PyTorch, on a host that has such a device"
            ) from None
        hardware = str(self.xla.xla_device_hw(self.name))
        self.kind = KINDS.get(hardware, "systolic")
        self.software = "pytorch-cpu" if self.kind == "cpu" else "pytorch-16bit-compile"
        self.device = os.environ.get("TPU_ACCELERATOR_TYPE", f"xla {hardware.lower()}")
        self.compute_units = os.cpu_count() or 1 if self.kind == "cpu" else 1
        self.memory = self._memory()
        self.precisions = ("fp32",) if self.kind == "cpu" else ("bf16",)
        self.versions["torch_xla"] = str(getattr(import_module("torch_xla"), "__version__", "unknown"))

    def _memory(self) -> float:
        told = self.xla.get_memory_info(self.name)
        return float(told["bytes_limit"]) if "bytes_limit" in told else float(told["kb_total"]) * 2**10

    @override
    def adam(self, elements: int) -> Kernel:
        """AdamW of elementary operations, which the compiler fuses."""
        weight = self._random(elements).requires_grad_(True)
        weight.grad = self._random(elements)
        optimizer = self.torch.optim.AdamW([weight])

        def step() -> Any:
            optimizer.step()
            return weight

        return step

    @override
    def start(self, kernel: Kernel) -> None:
        kept = kernel()
        self.xla.mark_step()
        del kept

    @override
    def wait(self) -> None:
        self.xla.wait_device_ops()
