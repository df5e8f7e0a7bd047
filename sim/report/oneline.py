"""What the catalogue holds: kinds, and every definition in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from sim.graph.operation import Shard
from sim.inputs.energy import Prices, Site
from sim.inputs.fleet import FleetSpec
from sim.inputs.records import Accelerator, ClusterSpec, Experiment, Node, Software
from sim.inputs.reliability import Failures
from sim.inputs.storage import Storage
from sim.inputs.study import Study
from sim.models.family import Architecture, Workload
from sim.record import Record, Reference
from sim.report import human
from sim.units import DATA, DATA_RATE, POWER, TIME_PRICE, WORK_RATE, format_quantity

KINDS = {
    "experiment": "complete runs, for `clustersim run NAME`",
    "study": "many runs, for `clustersim sweep NAME`",
    "fleet": "many jobs on one cluster, for `clustersim fleet NAME`",
    "cluster": "nodes and the network between them",
    "instance": "what clouds rent out, with prices; each serves as a cluster",
    "workload": "models",
    "software": "how a training stack issues work",
    "accelerator": "devices, with the source of every number",
    "node": "servers",
    "storage": "storage systems",
    "failures": "what breaks, and how often",
    "site": "cooling and the carbon of electricity",
    "prices": "what renting or owning costs",
}


def print_overview(names: Mapping[str, Sequence[str]], console: Console) -> None:
    """Print the names of every kind, and what the kind is."""
    for kind in sorted(names, key=list(KINDS).index):
        console.print(f"{kind}: {KINDS[kind]}", style="bold")
        console.print(Padding(", ".join(names[kind]), (0, 0, 1, 2)))
    console.print("`clustersim list KIND` has a line for each, `clustersim list NAME` all that it says.")


def print_kind(kind: str, lines: Mapping[str, str], console: Console) -> None:
    """Print every definition of a kind with its line."""
    console.print(f"{kind}: {KINDS[kind]}", style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, line in lines.items():
        table.add_row(f"  {name}", line)
    console.print(table)


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
    network = f"{record.nics.count} x {rate}" if record.nics.count and record.nics.bandwidth else "no network"
    kind = record.local.kind.replace("_", " ")
    local = f", {kind} {format_quantity(record.local.bandwidth, DATA_RATE)}" if record.local.kind != "none" else ""
    return f"{record.accelerators} x {named(record.accelerator)}{local}, {network}"


@one_line.register
def _(record: ClusterSpec) -> str:
    fabric = record.fabric.kind.replace("_", "-") if record.fabric else "no network"
    rails = ", rail-optimized" if getattr(record.fabric, "rail_optimized", False) else ""
    nodes = " and ".join(f"{human.count(group.nodes)} x {named(group.node)}" for group in record.groups)
    return _offer(record) if record.provider else f"{nodes}, {fabric}{rails}"


def _offer(record: ClusterSpec) -> str:
    """Boards, memory of each, network and price of what a cloud rents out."""
    node, prices = record.node, record.prices
    if not isinstance(node, Node) or not isinstance(node.accelerator, Accelerator):
        return record.provider
    boards = f"{node.accelerators} x {node.accelerator.name}"
    memory = format_quantity(node.accelerator.memory.capacity, DATA)
    network = f"{human.bit_rate(node.nics.count * node.nics.bandwidth)} of network"
    each = "" if record.nodes == 1 else f"{human.count(record.nodes)} nodes, each "
    return f"{record.provider}, {each}{boards} of {memory}, {network}, {_price(prices, node.accelerators)}"


def _price(prices: Reference[Prices] | None, boards: int) -> str:
    """What all boards together cost by the hour, and when."""
    rate = getattr(prices.rental, prices.pay, None) if isinstance(prices, Prices) else None
    if not isinstance(prices, Prices) or rate is None:
        return "no price known"
    return f"{boards * rate / TIME_PRICE.units['USD/h']:.2f} USD/h {prices.pay.replace('_', ' ')} ({prices.as_of})"


@one_line.register
def _(record: Workload) -> str:
    """With its weights, and those that one sample meets where these are fewer."""
    model = Architecture(record, Shard())
    every, active = model.whole.parameters, model.active_parameters
    beside = f" ({human.parameters(active).removesuffix(' parameters')} active)" if active < every else ""
    return f"{record.line}, {human.parameters(every)}{beside}"


@one_line.register
def _(record: Software) -> str:
    traits = {
        "gradient overlap": record.gradient_overlap,
        f"tensor overlap {record.tensor_overlap}": record.tensor_overlap != "none",
        "pipeline overlap": record.pipeline_overlap,
        "fused kernels": record.fused_kernels,
        "eager": record.host_issue > 0,
    }
    told = ", ".join(trait for trait, present in traits.items() if present) or "no overlap"
    return f"{record.description}; {told}" if record.description else told


@one_line.register
def _(record: Storage) -> str:
    read, write = (format_quantity(rate, DATA_RATE) for rate in (record.read_bandwidth, record.write_bandwidth))
    return record.description or f"reads {read}, writes {write}"


@one_line.register
def _(record: Experiment | Failures | Site | Prices | Study | FleetSpec) -> str:
    return record.description


def named(reference: str | Record) -> str:
    """The name of a definition that is given by name or inline."""
    return reference if isinstance(reference, str) else str(getattr(reference, "name", ""))
