"""An accelerator file from kernels that a profiler recorded, by products whose shapes it kept.

Public: `calibrate_from_traces`, `read_recorded`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from sim.devices.compute import operation_times
from sim.errors import ConfigError, Problem
from sim.graph.operation import Operation
from sim.inputs.fragment import fragment_text
from sim.inputs.load import load_definition
from sim.inputs.reader import shown_path
from sim.inputs.recording import PRODUCT, Recording, read_recording
from sim.inputs.records import Accelerator
from sim.metrics.trace_calibration import TimedShape, TraceCalibration
from sim.models.family import Workload

LARGE = 0.1  # products of at least this share of the FLOPs of the largest tell the sustained rate
TELLING = 2e-5  # s of arithmetic at the peak that the largest product needs: what smaller ones take is something else
FEW = 3  # shapes below which a fit says little
FIELDS = {"fp8": "fp8_efficiency", "fp32": "fp32_efficiency"}  # key of the share of a precision; others efficiency
BYTES = {"fp32": 4, "tf32": 4, "fp8": 1}
WAY_OUT = "record with record_shapes=True, and import kineto again"


class _ProductShape(NamedTuple):
    precision: str
    batch: int
    m: int
    n: int
    k: int


def read_recorded(path: Path) -> Recording:
    """The recording in a file, or that a workload of `kind: trace` names. Raises ConfigError."""
    if path.suffix not in (".yaml", ".yml"):
        return read_recording(path)
    model = load_definition("workload", str(path.resolve()))
    replay = model.replay if isinstance(model, Workload) else None
    if replay is None:
        raise ConfigError(Problem(shown_path(path), "kind", "is no recorded step", "clustersim import kineto"))
    recording = Path(replay.recording)
    return read_recording(recording if recording.is_absolute() or recording.exists() else path.parent / recording)


def calibrate_from_traces(paths: Sequence[Path], base: str, name: str = "") -> TraceCalibration:
    """The accelerator `base` with the shares of its peaks that recorded products reached.

    A share is the median over the largest shapes of each precision; of every shape the report says what the profile
    makes of it, and what a profile would that was fitted to all shapes but this one. Raises ConfigError.
    """
    accelerator = load_definition("accelerator", base)
    if not isinstance(accelerator, Accelerator):
        raise ConfigError(Problem("", "--base", f"{base} is no accelerator", "clustersim list accelerators"))
    recordings = [read_recorded(path) for path in paths]
    times, share_known = _times(recordings)
    left = {each for each in times if getattr(accelerator.matrix.peak, each.precision, None) is None}
    known = {each: seconds for each, seconds in times.items() if each not in left}
    if not known:
        what = f"in formats that {base} has not" if left else "with shapes"
        message = "holds no matrix product " + ("but " if left else "") + what
        raise ConfigError(Problem(shown_path(paths[0]), "shapes", message, WAY_OUT))
    medians = {each: median(seconds) for each, seconds in known.items()}
    shares = _shares(medians, accelerator)
    if not shares:
        message = f"its products are too small to tell a rate: none needs {TELLING * 1e6:.0f} us of {base}"
        raise ConfigError(Problem(shown_path(paths[0]), "shapes", message, "record a step with large products"))
    profile = _with_shares(accelerator, shares)
    shapes = [
        TimedShape(*each, len(known[each]), seconds, _seconds(each, profile), _unseen(each, medians, accelerator))
        for each, seconds in medians.items()
    ]
    shapes.sort(key=lambda each: (-each.count * each.measured, each.m, each.n, each.k, each.batch))
    name = name or f"{base}-recorded"
    text = _text(paths, recordings, base, name, shares)
    small = {_field(each.precision) for each in medians} - {key.partition(".")[2] for key in shares}
    remarks = tuple(_remarks(shapes, sum(len(times[each]) for each in left), small, recordings, base))
    return TraceCalibration(base, name, text, shares, tuple(shapes), share_known, remarks)


def _times(recordings: Sequence[Recording]) -> tuple[dict[_ProductShape, list[float]], float]:
    """Seconds of every product by its shape, and the share of the time of products that has one."""
    times: defaultdict[_ProductShape, list[float]] = defaultdict(list)
    whole = 0.0
    for recording in recordings:
        for rank in recording.ranks:
            whole += float(rank.seconds[rank.kind == PRODUCT].sum())
            for each in rank.shapes:
                seconds = float(rank.seconds[each.node])
                if each.m and each.precision and seconds > 0:
                    times[_ProductShape(each.precision, each.batch, each.m, each.n, each.k)].append(seconds)
    known = sum(sum(seconds) for seconds in times.values())
    return dict(times), min(1.0, known / whole) if whole else 0.0


def _operation(each: _ProductShape) -> Operation:
    size = BYTES.get(each.precision, 2)
    inner, outer = each.m * each.k + each.k * each.n, each.m * each.n
    moved = float(each.batch * (size * inner + max(size, 2) * outer))
    flops = 2.0 * each.batch * each.m * each.n * each.k
    return Operation("product", "matmul", flops, moved, each.precision, each.batch, each.m, each.n, each.k)


def _seconds(each: _ProductShape, accelerator: Accelerator) -> float:
    """What a product takes; a recorded kernel has no launch in it."""
    return operation_times(_operation(each), _without_launch(accelerator)).at()


def _without_launch(accelerator: Accelerator) -> Accelerator:
    return accelerator.model_copy(update={"launch": 0.0})


def _field(precision: str) -> str:
    return FIELDS.get(precision, "efficiency")


def _shares(medians: dict[_ProductShape, float], accelerator: Accelerator) -> dict[str, float]:
    """Of each peak what the largest products reached: arithmetic time at the peak over what is left for arithmetic."""
    ideal = _without_launch(
        _with_shares(accelerator, {f"matrix.{name}": 1.0 for name in ("efficiency", *FIELDS.values())})
    )
    found: dict[str, float] = {}
    for name in sorted({_field(each.precision) for each in medians}):
        mine = {each: seconds for each, seconds in medians.items() if _field(each.precision) == name}
        largest = max(each.batch * each.m * each.n * each.k for each in mine)
        if max(operation_times(_operation(each), ideal).arithmetic for each in mine) < TELLING:
            continue
        reached = [
            _reached(each, seconds, ideal)
            for each, seconds in mine.items()
            if each.batch * each.m * each.n * each.k >= LARGE * largest
        ]
        found[f"matrix.{name}"] = min(1.0, median(reached))
    return found


def _reached(each: _ProductShape, seconds: float, ideal: Accelerator) -> float:
    times = operation_times(_operation(each), ideal)
    return times.arithmetic / max(seconds - times.writing, times.arithmetic / 2)


def _unseen(each: _ProductShape, medians: dict[_ProductShape, float], accelerator: Accelerator) -> float:
    """What a profile says of a shape that was fitted to the others; the base where there is no other."""
    others = {other: seconds for other, seconds in medians.items() if other != each}
    return _seconds(each, _with_shares(accelerator, _shares(others, accelerator) if others else {}))


def _with_shares(accelerator: Accelerator, shares: dict[str, float]) -> Accelerator:
    fields = {key.partition(".")[2]: value for key, value in shares.items()}
    return accelerator.model_copy(update={"matrix": accelerator.matrix.model_copy(update=fields)})


def _text(
    paths: Sequence[Path], recordings: Sequence[Recording], base: str, name: str, shares: dict[str, float]
) -> str:
    matrix = {key.partition(".")[2]: float(f"{value:.4g}") for key, value in shares.items()}
    device = next((each.accelerator for each in recordings if each.accelerator), "an unnamed device")
    told = f"kernels recorded on {device}: {', '.join(path.name for path in paths)}"
    comment = f"From {told}\nby clustersim calibrate device --from-trace."
    sources = dict.fromkeys(shares, told)
    return fragment_text(comment, {"extends": base, "name": name, "matrix": matrix, "sources": sources})


def _remarks(
    shapes: Sequence[TimedShape], left: int, small: set[str], recordings: Sequence[Recording], base: str
) -> Iterator[str]:
    if len(shapes) < FEW:
        yield f"{len(shapes)} shapes are few: the fit says little of others"
    if left:
        yield f"{left} kernels are in formats that {base} has not: left out"
    for name in sorted(small):
        yield f"{name} stays that of {base}: products are too small to tell a rate"
    devices = sorted({each.accelerator for each in recordings if each.accelerator})
    if len(devices) > 1:
        yield f"the traces are of different devices: {', '.join(devices)}"
    yield "memory, attention and launches are those of the base: traces keep no bytes of other kernels"
