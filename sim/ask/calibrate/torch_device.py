"""The device backends that run on PyTorch: kernels in eager PyTorch, and how a kind of device is waited for and read.

PyTorch and what reads meters are optional; they are imported when a device is asked for.
"""

from __future__ import annotations

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import Any, ClassVar

from sim.ask.calibrate.device import Kernel
from sim.errors import ConfigError, Problem
from sim.metrics.calibration import LayerShape, SmallModel

WARM_UP = 2
TRIALS = 3
LAUNCHES = 200
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def torch_backend(device: str) -> TorchBackend:
    """The backend of `device`: "cuda", "cuda:1", "xla" or "cpu". Raises ConfigError if it cannot be had."""
    from sim.ask.calibrate.torch_compiled import CompiledBackend
    from sim.ask.calibrate.torch_cpu import CpuBackend
    from sim.ask.calibrate.torch_gpu import GpuBackend

    backends: dict[str, type[TorchBackend]] = {"cuda": GpuBackend, "xla": CompiledBackend, "cpu": CpuBackend}
    place = device.partition(":")[0]
    if place not in backends:
        raise ConfigError(Problem("", "--device", f"there is no {device!r}", "cuda, cuda:1, xla or cpu"))
    try:
        torch: Any = import_module("torch")
    except ImportError:
        hint = "install it beside clustersim: pip install torch, or pip install 'clustersim[device]'"
        raise ConfigError(Problem("", "", "calibrate device needs PyTorch, which is not installed", hint)) from None
    return backends[place](torch, device)


class TorchBackend(ABC):
    """A device under PyTorch. Kernels work on random numbers, since power depends on them.

    Raises ConfigError where the device cannot be used.
    """

    trial_seconds: ClassVar[float]  # least time of one trial
    clock: Callable[[], float] = staticmethod(time.perf_counter)
    kind: str
    device: str
    compute_units: int
    memory: float
    precisions: tuple[str, ...]
    software: str

    def __init__(self, torch: Any, name: str) -> None:
        self.torch, self.name = torch, name
        self.versions = {"torch": str(torch.__version__), "python": platform.python_version()}
        self.describe()

    @abstractmethod
    def describe(self) -> None:
        """Find the device and say what it is."""

    # --- kernels ------------------------------------------------------------------------------

    def matmul(self, m: int, n: int, k: int, precision: str) -> Kernel:
        """A matrix product of random numbers."""
        a, b = (self._random(*size, dtype=self._dtype(precision)) for size in ((m, k), (k, n)))
        out = self.torch.empty(m, n, device=self.name, dtype=a.dtype)
        return lambda: self.torch.mm(a, b, out=out)

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

    def train(self, model: SmallModel) -> Kernel:
        """Both passes and AdamW, as a script does it: everything in the precision of the layer."""
        from sim.ask.calibrate.torch_models import network_of

        torch, dtype = self.torch, self._dtype(self.precisions[0])
        network, inputs, targets = network_of(torch, model)
        network = network.to(device=self.name, dtype=dtype)
        inputs = inputs.to(device=self.name, dtype=dtype if inputs.is_floating_point() else None)
        targets = targets.to(self.name)
        optimizer = torch.optim.AdamW(network.parameters(), **self.optimizer_options)

        def step() -> Any:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(inputs).flatten(0, -2), targets)
            loss.backward()
            optimizer.step()
            return loss

        return step

    @property
    def optimizer_options(self) -> dict[str, bool]:
        """What AdamW is told, so that it is that of the stack `software`."""
        return {}

    def scale(self, elements: int) -> Kernel:
        """Multiply into another buffer."""
        source = self._random(elements)
        target = self.torch.empty_like(source)
        return lambda: self.torch.mul(source, 1.0001, out=target)

    def pointwise(self, rows: int, columns: int) -> Kernel:
        """A sum, a GELU and a norm, whose results go into new memory."""
        functional, x = self.torch.nn.functional, self._random(rows, columns)
        return lambda: (x + 1.0, functional.gelu(x), functional.layer_norm(x, (columns,)))

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
        return getattr(self.torch, DTYPES.get(precision, "float32"))

    # --- time and power -----------------------------------------------------------------------

    def seconds(self, kernel: Kernel) -> float:
        """One run of `kernel`, of as many as make a trial."""
        for _ in range(WARM_UP):
            self.start(kernel)
        runs = max(1, min(1000, int(self.trial_seconds / max(self._timed(kernel, 1), 1e-7))))
        return self.of_trials([self._timed(kernel, runs) / runs for _ in range(TRIALS)])

    def of_trials(self, seconds: list[float]) -> float:
        """The time that counts, of several trials."""
        return median(seconds)

    def launch(self) -> float:
        """A kernel on one number, from the host."""
        return self.seconds(self.tiny())

    def issue(self) -> float:
        """Host time of a call, without waiting for it to run."""
        kernel = self.tiny()
        for _ in range(WARM_UP):
            self.start(kernel)
        self.wait()
        began = self.clock()
        for _ in range(LAUNCHES):
            self.start(kernel)
        return (self.clock() - began) / LAUNCHES

    def watts(self, kernel: Kernel | None, seconds: float) -> float | None:
        """None without a meter."""
        return None

    def limit(self) -> float | None:
        """None without a meter."""
        return None

    def clocks(self) -> dict[str, str]:
        """Nothing without a meter."""
        return {}

    def busy(self, kernel: Kernel | None, seconds: float) -> None:
        """Run `kernel` again and again for about `seconds`, or rest."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            if kernel is None:
                time.sleep(0.02)
            else:
                self.start(kernel)
                self.wait()

    def tiny(self) -> Kernel:
        """A kernel on one number."""
        one = self._random(1)
        return lambda: one.add_(1.0)

    def start(self, kernel: Kernel) -> None:
        """Hand `kernel` to the device."""
        kernel()

    @abstractmethod
    def wait(self) -> None:
        """Until the device has done all that it was given."""

    def _timed(self, kernel: Kernel, runs: int) -> float:
        self.wait()
        began = self.clock()
        for _ in range(runs):
            self.start(kernel)
        self.wait()
        return self.clock() - began


def unusable(device: str, why: object, hint: str) -> ConfigError:
    """The error for a device that PyTorch cannot use; `why`: an error of its own, or text."""
    return ConfigError(Problem("", "--device", f"{device!r} cannot be used: {str(why).splitlines()[0]}", hint))
