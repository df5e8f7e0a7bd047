"""Every kind of definition in one line."""

from __future__ import annotations

from functools import singledispatch

from sim.report import human
from sim.spec.energy import Prices, Site
from sim.spec.record import Record
from sim.spec.records import Accelerator, ClusterSpec, Experiment, Node, Software, Transformer
from sim.spec.reliability import Failures
from sim.spec.storage import Storage
from sim.spec.study import Study
from sim.units import DATA, DATA_RATE, POWER, WORK_RATE, format_quantity


@singledispatch
def one_line(record: Record) -> str:
    """What a definition is, in one line."""
    raise TypeError(f"no line for a {type(record).__name__}")


@one_line.register
def _(record: Accelerator) -> str:
    peak, memory = record.matrix.peak, record.memory
    rates = ((name, getattr(peak, name)) for name in ("bf16", "fp16", "fp32"))
    name, rate = next(((name, rate) for name, rate in rates if rate), ("", 0.0))
    arithmetic = f"{format_quantity(rate, WORK_RATE)} {name}".strip()
    storage = f"{format_quantity(memory.capacity, DATA)} at {format_quantity(memory.bandwidth, DATA_RATE)}"
    return f"{record.kind}, {arithmetic}, {storage}, {format_quantity(record.power.tdp, POWER)}"


@one_line.register
def _(record: Node) -> str:
    rate = human.bit_rate(record.nics.bandwidth)
    network = f"{record.nics.count} x {rate} adapters" if record.nics.count and record.nics.bandwidth else "no network"
    local = f"{record.local.kind.replace('_', ' ')} of {format_quantity(record.local.bandwidth, DATA_RATE)} each"
    return f"{record.accelerators} x {named(record.accelerator)}, {local}, {network}"


@one_line.register
def _(record: ClusterSpec) -> str:
    fabric = record.fabric.kind.replace("_", "-") if record.fabric else "no network"
    rails = ", rail-optimized" if getattr(record.fabric, "rail_optimized", False) else ""
    return f"{human.count(record.nodes)} x {named(record.node)}, {fabric}{rails}"


@one_line.register
def _(record: Transformer) -> str:
    heads = f"{record.heads} heads" + (f" ({record.kv_heads} key-value)" if record.kv_heads else "")
    return f"{record.layers} layers, hidden {record.hidden}, {heads}, {record.activation}, vocabulary {record.vocab}"


@one_line.register
def _(record: Software) -> str:
    traits = {
        "gradient overlap": record.gradient_overlap,
        f"tensor overlap {record.tensor_overlap}": record.tensor_overlap != "none",
        "pipeline overlap": record.pipeline_overlap,
        "fused kernels": record.fused_kernels,
        "eager": record.host_issue > 0,
    }
    return ", ".join(trait for trait, present in traits.items() if present) or "no overlap"


@one_line.register
def _(record: Storage) -> str:
    read, write = (format_quantity(rate, DATA_RATE) for rate in (record.read_bandwidth, record.write_bandwidth))
    return record.description or f"reads {read}, writes {write}"


@one_line.register
def _(record: Experiment | Failures | Site | Prices | Study) -> str:
    return record.description


def named(reference: str | Record) -> str:
    """The name of a definition that is given by name or inline."""
    return reference if isinstance(reference, str) else str(getattr(reference, "name", ""))
