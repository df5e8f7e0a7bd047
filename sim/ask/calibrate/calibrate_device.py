"""What was timed on a device as an accelerator file, and the layer that tells how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from statistics import median
from typing import Any

from sim.ask.calibrate.small_models import predicted_step
from sim.devices.compute import length_share, operation_times
from sim.devices.curve import edge
from sim.graph.operation import Operation, Shard
from sim.inputs.fragment import fragment_text, quantity_text
from sim.inputs.load import load_definition
from sim.inputs.records import Accelerator, MatrixUnit
from sim.metrics.calibration import DeviceCalibration, DeviceMeasurement, Product, TimeCheck
from sim.models.family import Architecture
from sim.record import Record
from sim.transforms.derive import block_of
from sim.units import DATA, DATA_RATE, POWER, TIME, WORK_RATE

Points = tuple[tuple[int, float], ...]
LARGE = 0.5  # products of at least this share of the FLOPs of the largest tell the sustained rate
KERNEL = "cudnn"  # the fused attention that PyTorch takes first where it can
OTHER_KERNELS = ("flash1", "flash2")  # names that it stands for too where there is but one
UNKNOWN_POWER = 100.0  # W, written where nothing measures power
CORE_TILE = (32, 32)  # of a product, as a core takes it: the same in the catalogue
BACKWARD_FLOPS = 2.5  # of fused attention, in forward passes: five products, two of them again
BYTES = {"fp32": 4, "tf32": 4, "fp8": 1}


def calibrate_device(
    measured: DeviceMeasurement, base: str = "", name: str = "", today: date | None = None
) -> DeviceCalibration:
    """An accelerator from what was timed: laid over `base`, or on its own with the best rates as peaks.

    Raises ConfigError if there is no accelerator called `base`.
    """
    start = _loaded(base) if base else _standalone(measured)
    shares, profile = _shares(measured, start)
    name = name or _file_name(measured.device)
    fields = _written(measured, profile, shares, base)
    when = today or date.today()
    head = f"Measured on {measured.device} on {when} by clustersim calibrate device."
    facts = measured.versions | {f"{key} clock": value for key, value in measured.clocks.items()}
    comment = "\n".join([head, ", ".join(f"{key} {value}" for key, value in facts.items()), *_power_line(measured)])
    sources = _sources(measured, f"measured on {measured.device}, {when}", fields)
    first = {"extends": base, "name": name} if base else {"name": name, "kind": measured.kind}
    text = fragment_text(comment, {**first, **fields, "sources": sources})
    forward, backward = _layer_times(measured, profile)
    precision = measured.layer.precision
    steps = {
        model.name: TimeCheck(seconds, predicted_step(model, profile, measured.software, precision, measured.issue))
        for model, seconds in measured.steps
    }
    return DeviceCalibration(
        measurement=measured,
        base=base,
        name=name,
        text=text,
        shares=shares,
        forward=TimeCheck(measured.layer_forward, forward),
        backward=TimeCheck(measured.layer_backward, backward),
        steps=steps,
    )


# --- the profile ------------------------------------------------------------------------------


def _loaded(base: str) -> Accelerator:
    accelerator = load_definition("accelerator", base)
    assert isinstance(accelerator, Accelerator)
    return accelerator


def _standalone(measured: DeviceMeasurement) -> Accelerator:
    """Peaks are the best rates that were seen, so that shares are of these."""
    best: dict[str, float] = {}
    for each in measured.products:
        best[each.precision] = max(best.get(each.precision, 0.0), each.rate)
    return Accelerator.from_si(
        {
            "name": "measured",
            "kind": measured.kind,
            "matrix": {"peak": best, "efficiency": 1.0, "compute_units": measured.compute_units, **_tile(measured)},
            "memory": {"capacity": measured.memory, "bandwidth": measured.streaming, "efficiency": 1.0},
            "power": {"tdp": measured.limit or max(measured.watts.values(), default=UNKNOWN_POWER)},
            "sources": {},
        }
    )


def _tile(measured: DeviceMeasurement) -> dict[str, Any]:
    return {"tile": CORE_TILE} if measured.kind == "cpu" else {}


def _shares(measured: DeviceMeasurement, start: Accelerator) -> tuple[dict[str, float], Accelerator]:
    """Shares of the peaks of `start` that were reached, and `start` with them."""
    # A core computes its GELUs and norms, and waits for new pages: both take longer than memory does.
    moved = measured.pointwise if measured.kind == "cpu" else measured.streaming
    moving = min(1.0, moved / start.memory.bandwidth)
    memory = _changed(start.memory, efficiency=moving)
    bare = _changed(start.matrix, efficiency=1.0, fp8_efficiency=1.0, fp32_efficiency=1.0, curve=())
    ideal = _changed(start, launch=measured.launch, memory=memory, matrix=bare)
    parts = _by_efficiency(measured.products)
    reached = {key: _sustained(products, ideal) for key, products in parts.items() if products}
    if not start.matrix.peak.fp8:
        reached.pop("fp8_efficiency", None)
    curve: Points = ()
    if measured.kind != "gpu":
        curve, reached["efficiency"] = _curve(parts["efficiency"], ideal)
    shares = {f"matrix.{key}": share for key, share in reached.items()}
    shares["memory.efficiency"] = moving
    peak = float(getattr(start.matrix.peak, measured.layer.precision))
    flops = measured.layer.attention_flops
    for way, factor, seconds in (
        ("forward", 1.0, measured.attention_forward),
        ("backward", BACKWARD_FLOPS, measured.attention_backward),
    ):
        rate = peak * length_share(measured.layer.attention(way))
        shares[f"attention.{KERNEL}.{way}"] = min(1.0, factor * flops / (rate * seconds)) if seconds else 1.0
    matrix = _changed(start.matrix, **reached, **({"curve": curve} if curve else {}), **_tile(measured))
    fused = {way: shares[f"attention.{KERNEL}.{way}"] for way in ("forward", "backward")}
    attention = {**start.model_dump()["attention"], **dict.fromkeys(_kernels(measured), fused)}
    profile = start.model_dump() | {"matrix": matrix.model_dump(), "attention": attention}
    return shares, Accelerator.from_si(profile | {"memory": memory.model_dump(), "launch": measured.launch})


def _kernels(measured: DeviceMeasurement) -> tuple[str, ...]:
    """Names that the one fused attention of this device stands for."""
    return (KERNEL,) if measured.kind == "gpu" else (*OTHER_KERNELS, KERNEL)


def _by_efficiency(products: Sequence[Product]) -> dict[str, list[Product]]:
    """Products by the key of the profile that they tell; `efficiency` is that of the precision that was timed first."""
    eight, full = ([each for each in products if each.precision == name] for name in ("fp8", "fp32"))
    others = [each for each in products if each.precision not in ("fp8", "fp32")]
    return {
        "efficiency": _of_first(others or full),
        "fp8_efficiency": eight,
        "fp32_efficiency": full if others else [],
    }


def _of_first(products: Sequence[Product]) -> list[Product]:
    """The products of the precision that was timed first, which is the one most used."""
    return [each for each in products if each.precision == products[0].precision]


def _sustained(products: Sequence[Product], ideal: Accelerator) -> float:
    """The share of the peak that makes the model give the measured times of the largest products."""
    largest = max(each.flops for each in products)
    shares = [_share(each, ideal) for each in products if each.flops >= LARGE * largest]
    return min(1.0, median(shares))


def _curve(products: Sequence[Product], ideal: Accelerator) -> tuple[Points, float]:
    """Rate over the edge of the cube with as many FLOPs, relative to the best edge, and the share that this reaches."""
    by_edge: dict[int, list[float]] = {}
    for each in sorted(products, key=lambda each: each.flops):
        by_edge.setdefault(round(edge(each.m, each.n, each.k)), []).append(_share(each, ideal))
    reached = {size: median(shares) for size, shares in by_edge.items()}
    best = max(reached.values())
    return tuple((size, share / best) for size, share in reached.items()), min(1.0, best)


def _share(each: Product, ideal: Accelerator) -> float:
    """Arithmetic time of `ideal`, which reaches its peak, over what is left for arithmetic."""
    times = operation_times(_operation(each), ideal)
    return times.arithmetic / max(each.seconds - times.writing - times.launches, times.arithmetic / 2)


def _operation(each: Product) -> Operation:
    size = BYTES.get(each.precision, 2)
    moved = float(size * (each.m * each.k + each.k * each.n) + max(size, 2) * each.m * each.n)
    return Operation("product", "matmul", each.flops, moved, each.precision, m=each.m, n=each.n, k=each.k)


def _changed(record: Any, **fields: Any) -> Any:
    """A copy with other SI values, not checked again."""
    return record.model_copy(update=fields) if isinstance(record, Record) else record


# --- the file ---------------------------------------------------------------------------------


def _written(measured: DeviceMeasurement, profile: Accelerator, shares: dict[str, float], base: str) -> dict[str, Any]:
    """The fields as a person would write them: what was measured, and without a base what else is needed."""
    fields: dict[str, Any] = {} if base else _whole(profile)
    for key, value in shares.items():
        _put(fields, key.split("."), float(f"{value:.4g}"))
    measured_attention = fields["attention"][KERNEL]
    fields["attention"] = {name: dict(measured_attention) for name in _kernels(measured)}
    if measured.kind != "gpu":
        fields["matrix"]["curve"] = [[size, float(f"{share:.4g}")] for size, share in profile.matrix.curve]
        fields["matrix"] |= {key: list(tile) for key, tile in _tile(measured).items()}
    fields["launch"] = quantity_text(measured.launch, TIME)
    power = {"tdp": measured.limit, "idle": measured.watts.get("idle")}
    if not base:
        power["tdp"] = profile.power.tdp
    known = {key: quantity_text(value, POWER) for key, value in power.items() if value is not None}
    return {**fields, **({"power": known} if known else {})}


def _whole(profile: Accelerator) -> dict[str, Any]:
    matrix: MatrixUnit = profile.matrix
    peaks = {name: rate for name, rate in matrix.peak.model_dump().items() if rate is not None}
    return {
        "matrix": {
            "peak": {name: quantity_text(rate, WORK_RATE) for name, rate in peaks.items()},
            "compute_units": matrix.compute_units,
        },
        "memory": {
            "capacity": quantity_text(profile.memory.capacity, DATA),
            "bandwidth": quantity_text(profile.memory.bandwidth, DATA_RATE),
        },
    }


def _put(fields: dict[str, Any], path: Sequence[str], value: float) -> None:
    for name in path[:-1]:
        fields = fields.setdefault(name, {})
    fields[path[-1]] = value


def _sources(measured: DeviceMeasurement, told: str, fields: dict[str, Any]) -> dict[str, str]:
    named = {f"{part}.{key}": told for part in ("matrix", "memory", "power") for key in fields.get(part, {})}
    named |= {"attention": f"{told}, PyTorch's fused attention, taken as {KERNEL}", "launch": told}
    if measured.kind == "cpu":
        named["matrix.tile"] = "assumption; what one core computes at a time"
        named["memory.efficiency"] = f"{told}: a sum, a GELU and a norm into new memory"
    if "power.tdp" in named and measured.limit is None:
        named["power.tdp"] = (
            f"{told}, the most that a phase drew" if measured.watts else "assumption; nothing measured it"
        )
    return named


def _power_line(measured: DeviceMeasurement) -> list[str]:
    phases = ", ".join(f"{phase} {quantity_text(watts, POWER)}" for phase, watts in measured.watts.items())
    return [f"power: {phases}"] if phases else []


def _file_name(device: str) -> str:
    letters = "".join(c if c.isalnum() else "-" for c in device.lower())
    return "-".join(part for part in letters.split("-") if part) + "-measured"


# --- the layer that was not used --------------------------------------------------------------


def _layer_times(measured: DeviceMeasurement, profile: Accelerator) -> tuple[float, float]:
    """Seconds of both passes of the measured layer, as the simulator sees them on `profile`."""
    shape = measured.layer
    model = _changed(
        load_definition("workload", "llama3-8b"),
        layers=1,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.heads,
        ffn=shape.ffn,
        head_dim=None,
    )
    shard = Shard(
        microbatch=shape.microbatch,
        sequence_length=shape.sequence_length,
        precision=shape.precision,
        fused_kernels=False,
        fused_accumulation=False,
    )
    block = block_of(Architecture(model, shard).layers[0], shard, gradient_bytes=2)
    forward, backward = (_seconds(operations, measured, profile) for operations in (block.forward, block.backward))
    return forward, backward


def _seconds(operations: Sequence[Operation], measured: DeviceMeasurement, profile: Accelerator) -> float:
    """Time of kernels one after the other; the host holds the device back where it issues more slowly."""
    device = sum(operation_times(operation, profile, KERNEL).at() for operation in operations)
    kernels = sum(operation.kernels for operation in operations)
    return max(device, kernels * measured.issue) if measured.kind == "gpu" else device
