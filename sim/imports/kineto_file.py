"""What a replay needs of a trace file of the PyTorch profiler (Kineto), CUDA or ROCm.

Kept are calls of the runtime that start or await something on a device, what ran on devices, explicit waits (cat
`cuda_sync`), what collectives say of themselves, and marks of steps. Stacks, memory events and flows are not.

Public: `KinetoFile`, `Call`, `DeviceActivity`, `Wait`, `Said`, `StepMark`, `read_kineto`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from sim.errors import ConfigError, Problem
from sim.imports.trace_events import trace_events
from sim.inputs.reader import shown_path

MOST_KEPT = 6_000_000  # events of one file: some 2 GB
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver", "hip_runtime", "runtime", "driver")
IDLE_CALL = re.compile(r"Query|Get|IsCapturing|Occupancy|Attribute|ElapsedTime|CreateWith|Malloc$|HostAlloc")
STEP = re.compile(r"ProfilerStep#?\s*(\d+)")
COLLECTIVE = re.compile(r"nccl|rccl|msccl|oneccl", re.I)
SAYS: tuple[str, ...] = (
    "Collective name", "In msg nelems", "Out msg nelems", "dtype", "Group size", "Process Group Name",
    "Process Group Description", "Process Group Ranks", "Seq", "Src Rank", "Dst Rank",
)  # fmt: skip
MATRIX_OPS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


class Call(NamedTuple):
    """A call of the runtime on a thread of the host; times in us."""

    start: float
    end: float
    name: str
    thread: str
    correlation: int


class DeviceActivity(NamedTuple):
    """What ran on a device, in a stream; times in us. about: what a collective says of itself, empty for others."""

    start: float
    end: float
    name: str
    category: str
    device: int
    stream: int
    correlation: int
    external: int
    bytes: float
    about: dict[str, Any]


class Wait(NamedTuple):
    """A wait as the runtime tells it: of a stream for an event, or of the host. -1 where it does not say."""

    kind: str
    correlation: int  # of the call
    stream: int
    on_stream: int
    record: int  # correlation of the call that recorded the event


class Said(NamedTuple):
    """What the host says of a collective while it issues it, on a thread between two times [us]."""

    start: float
    end: float
    thread: str
    name: str
    about: dict[str, Any]
    elements: float  # of its input, by shapes; 0: not told
    dtype: str


class StepMark(NamedTuple):
    """A step that the profiler was told of, on the thread that trains; times in us."""

    number: int
    start: float
    end: float
    thread: str


@dataclass
class KinetoFile:
    """What is kept of a file, by time of begin. products: shapes of matrix products by external id."""

    path: Path
    events: int = 0
    strange: int = 0  # events without what their kind has
    rank: int = -1
    world: int = 0
    groups: list[dict[str, Any]] = field(default_factory=list)
    accelerators: dict[int, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    activities: list[DeviceActivity] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    steps: list[StepMark] = field(default_factory=list)
    products: dict[int, tuple[str, Any, str]] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        """Keep of an event what is needed, if anything."""
        self.events += 1
        category = event.get("cat")
        if event.get("ph") != "X" or category is None:
            return
        args = event.get("args") or {}
        start, lasted, name = _number(event.get("ts")), _number(event.get("dur", 0)), event.get("name", "")
        if not (isfinite(start) and 0 <= lasted < inf and isinstance(name, str) and isinstance(args, dict)):
            self.strange += category in ON_DEVICE or category in CALLS
            return
        end, thread = start + lasted, f"{event.get('pid')}/{event.get('tid')}"
        if category in ON_DEVICE:
            self._take_activity(event, args, start, end, name, category)
        elif category in CALLS:
            if not IDLE_CALL.search(name):
                self.calls.append(Call(start, end, intern(name), intern(thread), _whole(args.get("correlation"))))
        elif category == "cuda_sync":
            names = ("correlation", "stream", "wait_on_stream", "wait_on_cuda_event_record_corr_id")
            self.waits.append(Wait(str(args.get("cuda_sync_kind", name)), *(_whole(args.get(each)) for each in names)))
        elif (mark := STEP.match(name)) and category == "user_annotation":
            self.steps.append(StepMark(int(mark[1]), start, end, thread))
        else:
            self._take_said(args, start, end, thread, name)

    def _take_said(self, args: dict[str, Any], start: float, end: float, thread: str, name: str) -> None:
        """Keep what the host says of a collective, or of a matrix product."""
        types = args.get("Input type")
        dtype = str(types[0]) if isinstance(types, list) and types else ""
        if name == "record_param_comms" or name.startswith("nccl:"):
            about = {key: args[key] for key in SAYS if key in args}
            self.said.append(Said(start, end, thread, name, about, _elements(args.get("Input Dims")), dtype))
        elif name in MATRIX_OPS and "Input Dims" in args:
            self.products[_whole(args.get("External id"))] = intern(name), args["Input Dims"], intern(dtype)

    def _take_activity(
        self, event: dict[str, Any], args: dict[str, Any], start: float, end: float, name: str, category: str
    ) -> None:
        """Keep what ran on a device."""
        device, stream = args.get("device", event.get("pid")), args.get("stream", event.get("tid"))
        if not isinstance(stream, int) or not isinstance(device, int):
            self.strange += 1
            return
        about = {key: args[key] for key in SAYS if key in args} if COLLECTIVE.search(name) else {}
        numbers = _whole(args.get("correlation")), _whole(args.get("External id")), _number(args.get("bytes", 0))
        self.activities.append(
            DeviceActivity(start, end, intern(name), intern(category), device, stream, *numbers, about)
        )

    def end(self, about: dict[str, Any]) -> None:
        """What the file says of its job, when all events were taken. Raises ConfigError if nothing ran on a device."""
        job = about.get("distributedInfo")
        job = job if isinstance(job, dict) else {}
        self.rank, self.world = _whole(job.get("rank")), max(0, _whole(job.get("world_size")))
        groups = job.get("pg_config")
        self.groups = [each for each in groups if isinstance(each, dict)] if isinstance(groups, list) else []
        boards = about.get("deviceProperties")
        for board in boards if isinstance(boards, list) else []:
            if isinstance(board, dict):
                self.accelerators[_whole(board.get("id"))] = str(board.get("name", ""))[:120]
        if not self.activities:
            message = f"nothing that ran on a device is among its {self.events} events"
            way_out = "record with ProfilerActivity.CUDA, which is also that of ROCm"
            raise ConfigError(Problem(shown_path(self.path), "", message, way_out))
        for column in (self.calls, self.activities, self.said, self.steps):
            column.sort(key=lambda each: (each.start, each.end))


def read_kineto(path: Path) -> KinetoFile:
    """What a replay needs of the file. Raises ConfigError with the event at which it is damaged."""
    file, about = KinetoFile(path), dict[str, Any]()
    for event in trace_events(path, about):
        file.take(event)
        if len(file.calls) + len(file.activities) + len(file.waits) > MOST_KEPT:
            message = f"more than {MOST_KEPT:,} calls and kernels are in it"
            raise ConfigError(Problem(shown_path(path), "", message, "record fewer steps (schedule of the profiler)"))
    file.end(about)
    return file


def _whole(value: object) -> int:
    """A number that counts, -1 for anything else."""
    if isinstance(value, str) and value.lstrip("-").isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _number(value: object) -> float:
    """A number, or nan."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _elements(dims: object) -> float:
    """Elements of tensors by their shapes, of the first list that has any; 0 if none."""
    if not isinstance(dims, list) or not dims:
        return 0.0
    if all(isinstance(each, int) for each in dims):
        product = 1.0
        for each in dims:
            product *= each
        return product
    return next((found for each in dims if (found := _elements(each)) > 0), 0.0)
