"""Measurements of a user's own hardware and what was fitted to them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sim.graph.operation import Operation, Phase
from sim.metrics.curves import CurveScore
from sim.metrics.fit import CollectiveFit

EXPLAINED = 0.2  # error of the time of its largest message up to which a platform explains a table


@dataclass(frozen=True)
class TimeTable:
    """One run: seconds by message size (median where a size was run more than once)."""

    path: Path
    line: int  # of its first row
    program: str  # that printed it
    collective: str
    ranks: int
    nodes: int
    device: str
    seconds: dict[int, float]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """One table: the curve fitted to it, and what the platform made of all tables predicts for it."""

    table: TimeTable
    fit: CollectiveFit
    check: CurveScore | None = None

    @property
    def scope(self) -> str:
        """Which numbers of a platform the table tells: "local" or "network"."""
        return "local" if self.table.nodes == 1 else "network"

    @property
    def explained(self) -> bool:
        """Whether the platform takes about as long as was measured for the largest message.

        Nothing is made of an all-to-all, so it contradicts nobody.
        """
        return self.check is None or self.table.collective == "all_to_all" or abs(self.check.largest.error) <= EXPLAINED


@dataclass(frozen=True)
class Calibration:
    """The measured platform: its fields as written, and the tables they come from."""

    base: str
    name: str
    text: str
    fitted: tuple[Fitted, ...]
    remarks: tuple[str, ...] = field(default=())

    @property
    def unexplained(self) -> tuple[Fitted, ...]:
        """The tables that contradict the others, whatever algorithm is taken; empty if all agree."""
        return tuple(each for each in self.fitted if not each.explained)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "base": self.base,
            "name": self.name,
            "platform": self.text,
            "tables": [
                {
                    "file": str(each.table.path),
                    "line": each.table.line,
                    "program": each.table.program,
                    "collective": each.table.collective,
                    "ranks": each.table.ranks,
                    "nodes": each.table.nodes,
                    "device": each.table.device,
                    "sizes": len(each.table.seconds),
                    "fit": asdict(each.fit),
                    "platform_error": each.check.mean_error if each.check else None,
                    "explained": each.explained,
                }
                for each in self.fitted
            ],
            "remarks": list(self.remarks),
        }


# --- accelerators ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """One matrix product of (m x k) by (k x n)."""

    precision: str
    m: int
    n: int
    k: int
    seconds: float

    @property
    def flops(self) -> float:
        """Multiply and add counted apart."""
        return 2.0 * self.m * self.n * self.k

    @property
    def rate(self) -> float:
        """FLOP/s."""
        return self.flops / self.seconds


@dataclass(frozen=True)
class LayerShape:
    """A transformer layer with a gated feed-forward and causal attention, and the batch it is run with."""

    hidden: int
    heads: int
    ffn: int
    sequence_length: int
    microbatch: int
    precision: str

    @property
    def attention_flops(self) -> float:
        """Forward FLOPs of the causal attention core: two products over half of the scores."""
        return 2.0 * self.microbatch * self.sequence_length**2 * self.hidden

    def attention(self, way: str) -> Operation:
        """The shape of the attention kernel of one pass, "forward" or "backward"."""
        phase = Phase.INPUT_GRADIENT if way == "backward" else Phase.FORWARD
        return Operation("attention", "attention", n=self.sequence_length, k=self.hidden // self.heads, phase=phase)


@dataclass(frozen=True)
class SmallModel:
    """A small model as a file would say it, and how many samples a step of it takes, of how many tokens if any."""

    name: str
    workload: dict[str, Any]
    batch: int
    sequence_length: int | None


@dataclass(frozen=True)
class DeviceMeasurement:
    """Everything that was timed on one device: seconds, bytes per second, watts."""

    device: str
    kind: str  # of device, as in an accelerator file
    software: str  # stack of the catalogue that the small models ran under
    versions: dict[str, str]
    clocks: dict[str, str]  # clock domain to its rate while busy, as text
    compute_units: int
    memory: float  # bytes
    products: tuple[Product, ...]
    layer: LayerShape
    attention_forward: float  # s
    attention_backward: float  # s
    streaming: float  # B/s of a kernel that reads and writes large buffers
    pointwise: float  # B/s of the kernels between products, into new memory
    optimizer: float  # B/s of an Adam step
    launch: float  # s, device side
    issue: float  # s, host side, eager
    layer_forward: float  # s
    layer_backward: float  # s
    steps: tuple[tuple[SmallModel, float], ...]  # whole training steps [s]
    disturbed: tuple[str, ...]  # what was never timed twice with the same result, beside other work
    watts: dict[str, float]  # by phase; empty without a meter
    limit: float | None = None  # W, board limit


@dataclass(frozen=True)
class TimeCheck:
    """What the profile was not made from: measured, and what the profile makes of it [s]."""

    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Of the time: positive is too slow."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class DeviceCalibration:
    """The measured accelerator: its definition, and the layer and steps that it was not made from."""

    measurement: DeviceMeasurement
    base: str
    name: str
    text: str
    shares: dict[str, float]  # what was written of the matrix unit, attention and memory
    forward: TimeCheck
    backward: TimeCheck
    steps: dict[str, TimeCheck]  # training steps, by small model

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            **asdict(self),
            "layer_errors": {"forward": self.forward.error, "backward": self.backward.error},
            "step_errors": {name: step.error for name, step in self.steps.items()},
        }
