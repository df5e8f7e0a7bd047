"""The device backend that runs on PyTorch, for NVIDIA GPUs and for the processor of the host.

PyTorch and the NVML bindings are optional; they are imported when a device is asked for.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import Any

from sim.ask.calibrate.device import Kernel
from sim.errors import ConfigError, Problem
from sim.metrics.calibration import LayerShape

WARM_UP = 3
TRIALS = 5
TRIAL_SECONDS = {"gpu": 0.2, "cpu": 0.02}  # least time of one trial: on a GPU until the clock has settled
LAUNCHES = 200
FP8_SINCE = (8, 9)  # compute capability


def torch_backend(device: str) -> TorchBackend:
    """The backend of `device`: "cuda", "cuda:1" or "cpu". Raises ConfigError if it cannot be had."""
    try:
        torch: Any = import_module("torch")
    except ImportError:
        hint = "install it beside clustersim: pip install torch, or pip install 'clustersim[device]'"
        raise ConfigError(Problem("", "", "calibrate device needs PyTorch, which is not installed", hint)) from None
    if not device.startswith("cpu") and not torch.cuda.is_available():
        hint = "run it where nvidia-smi shows one; --device cpu measures the processor"
        raise ConfigError(Problem("", "", "PyTorch sees no GPU here", hint))
    try:
        torch.empty(1, device=device)
    except RuntimeError as error:
        message = f"{device!r} cannot be used: {str(error).splitlines()[0]}"
        raise ConfigError(Problem("", "--device", message, "cuda, cuda:1 or cpu")) from None
    return TorchBackend(torch, device)


class TorchBackend:
    """A device under PyTorch. Kernels work on random numbers, since power depends on them."""

    def __init__(self, torch: Any, device: str) -> None:
        self.torch, self.name = torch, device
        self.kind = "cpu" if device.startswith("cpu") else "gpu"
        self.versions = {"torch": str(torch.__version__), "python": platform.python_version()}
        self.meter: _Meter | None = None
        if self.kind == "gpu":
            self._describe_gpu()
        else:
            self.device = platform.processor() or platform.machine()
            self.compute_units = torch.get_num_threads()
            self.memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
            self.precisions: tuple[str, ...] = ("fp32",)

    def _describe_gpu(self) -> None:
        torch = self.torch
        properties = torch.cuda.get_device_properties(self.name)
        self.device = str(properties.name)
        self.compute_units = int(properties.multi_processor_count)
        self.memory = float(properties.total_memory)
        fp8 = torch.cuda.get_device_capability(self.name) >= FP8_SINCE and hasattr(torch, "float8_e4m3fn")
        self.precisions = ("bf16", "fp16", "tf32", *(["fp8"] if fp8 else []))
        self.versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        self.meter = _nvml_meter(str(properties.uuid) if hasattr(properties, "uuid") else "", self.versions)

    # --- kernels ------------------------------------------------------------------------------

    def matmul(self, m: int, n: int, k: int, precision: str) -> Kernel:
        """A matrix product of random numbers."""
        torch = self.torch
        if precision == "fp8":
            a = self._random(m, k).to(torch.float8_e4m3fn)
            b = self._random(n, k).to(torch.float8_e4m3fn).t()
            one = torch.ones((), device=self.name)
            return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        a, b = (self._random(*size, dtype=self._dtype(precision)) for size in ((m, k), (k, n)))
        out = torch.empty(m, n, device=self.name, dtype=a.dtype)
        return lambda: torch.mm(a, b, out=out)

    def attention(self, shape: LayerShape, backward: bool) -> Kernel:
        """PyTorch's fused causal attention."""
        size = (shape.microbatch, shape.heads, shape.sequence_length, shape.hidden // shape.heads)
        q, k, v = (self._random(*size, dtype=self._dtype(shape.precision)).requires_grad_(backward) for _ in range(3))
        attend: Callable[..., Any] = self.torch.nn.functional.scaled_dot_product_attention
        return self._passes(lambda: attend(q, k, v, is_causal=True), (q, k, v), backward)

    def layer(self, shape: LayerShape, backward: bool) -> Kernel:
        """A layer with RMS norms, rotary positions (their kernels, not their signs) and a gated feed-forward."""
        torch, width, head = self.torch, shape.hidden, shape.hidden // shape.heads
        sizes = ((3 * width, width), (width, width), (2 * shape.ffn, width), (width, shape.ffn))
        qkv, out, up, down = (self._random(*size, dtype=self._dtype(shape.precision)).mul_(0.02) for size in sizes)
        norms = [torch.ones_like(out[0]) for _ in range(2)]
        x = self._random(shape.microbatch, shape.sequence_length, width, dtype=out.dtype)
        turn = self._rotation(shape.sequence_length, head, x.dtype)
        weights = [x, qkv, out, up, down, *norms]
        for tensor in weights:
            tensor.requires_grad_(backward)
        functional = torch.nn.functional

        def forward() -> Any:
            normed = functional.rms_norm(x, (width,), norms[0])
            parts = functional.linear(normed, qkv).view(*x.shape[:2], 3, shape.heads, head).permute(2, 0, 3, 1, 4)
            q, k = (part * turn[0] + torch.roll(part, head // 2, -1) * turn[1] for part in parts[:2])
            mixed = functional.scaled_dot_product_attention(q, k, parts[2], is_causal=True)
            y = x + functional.linear(mixed.transpose(1, 2).reshape(x.shape), out)
            gate, value = functional.linear(functional.rms_norm(y, (width,), norms[1]), up).chunk(2, -1)
            return y + functional.linear(functional.silu(gate) * value, down)

        return self._passes(forward, weights, backward)

    def scale(self, elements: int) -> Kernel:
        """Multiply into another buffer."""
        source = self._random(elements)
        target = self.torch.empty_like(source)
        return lambda: self.torch.mul(source, 1.0001, out=target)

    def adam(self, elements: int) -> Kernel:
        """One step of PyTorch's fused AdamW."""
        weight = self._random(elements).requires_grad_(True)
        weight.grad = self._random(elements)
        step: Kernel = self.torch.optim.AdamW([weight], fused=True).step
        return step

    def _passes(self, forward: Callable[[], Any], inputs: Any, backward: bool) -> Kernel:
        if not backward:
            return self.torch.no_grad()(forward)  # type: ignore[no-any-return]
        slope = self.torch.ones_like(forward())
        return lambda: self.torch.autograd.grad(forward(), inputs, slope)

    def _rotation(self, length: int, head: int, dtype: Any) -> Any:
        torch = self.torch
        rates = 10000.0 ** (-torch.arange(0, head, 2, device=self.name) / head)
        angle = torch.outer(torch.arange(length, device=self.name), rates).repeat(1, 2)
        return torch.cos(angle).to(dtype), torch.sin(angle).to(dtype)

    def _random(self, *size: int, dtype: Any = None) -> Any:
        return self.torch.randn(*size, device=self.name, dtype=dtype or self.torch.float32)

    def _dtype(self, precision: str) -> Any:
        names = {"bf16": "bfloat16", "fp16": "float16"}
        return getattr(self.torch, names.get(precision, "float32"))

    # --- time and power -----------------------------------------------------------------------

    def seconds(self, kernel: Kernel) -> float:
        """Median of some trials on a GPU; the least disturbed of them on a processor that others use too."""
        for _ in range(WARM_UP):
            kernel()
        runs = max(1, min(1000, int(TRIAL_SECONDS[self.kind] / max(self._timed(kernel, 1), 1e-7))))
        trials = [self._timed(kernel, runs) / runs for _ in range(TRIALS)]
        return median(trials) if self.kind == "gpu" else min(trials)

    def launch(self) -> float:
        """Kernels on one number, recorded once on a GPU, so that the host has no part in it."""
        kernel = self._tiny()
        if self.kind == "cpu":
            return self.seconds(kernel)
        graph = self.torch.cuda.CUDAGraph()
        kernel()
        self._wait()
        with self.torch.cuda.graph(graph):
            for _ in range(LAUNCHES):
                kernel()
        return self.seconds(graph.replay) / LAUNCHES

    def issue(self) -> float:
        """Host time of a call, without waiting for it to run."""
        kernel = self._tiny()
        for _ in range(WARM_UP):
            kernel()
        self._wait()
        began = time.perf_counter()
        for _ in range(LAUNCHES):
            kernel()
        return (time.perf_counter() - began) / LAUNCHES

    def watts(self, kernel: Kernel | None, seconds: float) -> float | None:
        """Mean of readings while `kernel` runs."""
        if self.meter is None:
            return None
        readings, until = [], time.perf_counter() + seconds
        while time.perf_counter() < until:
            if kernel:
                kernel()
                self._wait()
            else:
                time.sleep(0.02)
            readings.append(self.meter.watts())
        return sum(readings) / len(readings)

    def limit(self) -> float | None:
        """As NVML tells it."""
        return self.meter.limit() if self.meter else None

    def clocks(self) -> dict[str, str]:
        """As NVML tells them."""
        return self.meter.clocks() if self.meter else {}

    def _tiny(self) -> Kernel:
        one = self._random(1)
        return lambda: one.add_(1.0)

    def _timed(self, kernel: Kernel, runs: int) -> float:
        self._wait()
        began = time.perf_counter()
        for _ in range(runs):
            kernel()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.kind == "gpu":
            self.torch.cuda.synchronize(self.name)


class _Meter:
    """Power and clocks of one board through NVML."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle

    def watts(self) -> float:
        return float(self.nvml.nvmlDeviceGetPowerUsage(self.handle)) / 1e3  # it counts milliwatts

    def limit(self) -> float:
        return float(self.nvml.nvmlDeviceGetEnforcedPowerLimit(self.handle)) / 1e3

    def clocks(self) -> dict[str, str]:
        domains = {"core": self.nvml.NVML_CLOCK_SM, "memory": self.nvml.NVML_CLOCK_MEM}
        return {name: f"{self.nvml.nvmlDeviceGetClockInfo(self.handle, which)} MHz" for name, which in domains.items()}


def _nvml_meter(uuid: str, versions: dict[str, str]) -> _Meter | None:
    """The meter of the board with that UUID; None without the bindings or the right to read."""
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
        versions["driver"] = _text(nvml.nvmlSystemGetDriverVersion())
        meter = _Meter(nvml, handle)
        meter.watts()
    except Exception:  # bindings differ in their errors; without a meter everything else still runs
        return None
    return meter


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
