"""A user's own measured collectives as a platform file: start-up, ramp and saturation of a kind of server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, Literal

import numpy as np

from sim.ask.validate.collectives import predict_curve
from sim.errors import ConfigError, Problem
from sim.inputs.curves import Curve, MeasuredCurve
from sim.inputs.fragment import fragment_text, quantity_text
from sim.inputs.load import load_definition
from sim.inputs.records import ClusterSpec, CollectiveTuning, Node, SwitchFabric
from sim.metrics.calibration import Calibration, Fitted, TimeTable
from sim.metrics.curves import CurveScore, bus_factor
from sim.metrics.fit import CollectiveFit, fit_collective
from sim.units import TIME

LATENCY_HOPS = 2  # adapters on the way from one server to another


def calibrate_collectives(
    tables: Sequence[TimeTable], base: str, name: str = "", today: date | None = None
) -> Calibration:
    """Fit every table, and lay what they tell over the server kind `base`.

    Where several tables tell the same numbers, the one with the most sizes counts. Whether an all-reduce between two
    servers whose switches add was a tree or a ring is what all tables together say: the way that is nearest to all of
    them. Raises ConfigError if a table cannot be fitted or has more ranks in a server than `base` has accelerators.
    """
    node = load_definition("node", base)
    assert isinstance(node, Node)
    fitted = [Fitted(table, _fit(table)) for table in tables]
    for each in fitted:
        _check_size(each.table, node, base)
    summed = [each for each in fitted if _in_two(each, node)]
    gathered = [each for each in fitted if each.scope == "network" and each.table.collective in GATHERING]
    ways: tuple[Way, ...] = ("tree", "ring") if summed and gathered else ("tree",)
    platform = min((_platform(fitted, node, way) for way in ways), key=_farthest)
    remarks = _remarks(tables)
    if summed and not gathered:
        remarks.append(ONLY_SUMMED)
    if "nics" in platform.values and platform.values["nics"]["efficiency"] > 1:
        remarks.append("more than the adapters' line rate was measured; is this the right --node?")
    name = name or f"{node.name}-measured"
    programs = " and ".join(dict.fromkeys(table.program for table in tables))
    comment = f"Measured with {programs}, fitted by clustersim on {today or date.today()}."
    written = {"extends": base, "name": name, **_written(platform.values), "sources": platform.sources}
    return Calibration(base, name, fragment_text(comment, written), platform.checked, tuple(remarks))


Way = Literal["tree", "ring"]
GATHERING = ("all_gather", "reduce_scatter")  # always rings
ONLY_SUMMED = (
    "an all-reduce of two servers was taken for a tree, as NCCL's tuner chooses; an all_gather of the same servers "
    "would tell whether it was a ring"
)


@dataclass(frozen=True)
class _Platform:
    """What all tables make of a server: fields by part, their sources, the tables checked."""

    values: dict[str, dict[str, Any]]
    sources: dict[str, str]
    checked: tuple[Fitted, ...]


def _platform(fitted: Sequence[Fitted], node: Node, way: Way) -> _Platform:
    """The server that `fitted` tell of, where two servers sum over a tree or a ring."""
    measured = node
    values: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for tell in (_local_ring, _switch, partial(_network, way=way)):
        for part, fields, each in tell(fitted, measured):
            values.setdefault(part, {}).update(fields)
            told = _told(each)
            sources.update({f"{part}.{key}": told for key in fields})
            measured = _with(measured, part, fields)
    return _Platform(
        values, sources, tuple(Fitted(each.table, each.fit, _check(each.table, measured)) for each in fitted)
    )


def _farthest(platform: _Platform) -> float:
    """By how much the largest message of any table is off."""
    return max(abs(each.check.largest.error) for each in platform.checked if each.check)


Told = list[tuple[str, dict[str, Any], Fitted]]  # record of a node, its fields, the table that tells them


def _fit(table: TimeTable) -> CollectiveFit:
    size = np.array(list(table.seconds), np.float64)
    seconds = np.array(list(table.seconds.values()))
    try:
        return fit_collective(size, bus_factor(table.collective, table.ranks) * size, seconds)
    except ValueError as error:
        problem = Problem(
            f"{table.path}:{table.line}",
            "",
            f"{table.collective} over {table.ranks}: {error}",
            "run more sizes, such as -b 8 -e 8G -f 2",
        )
        raise ConfigError(problem) from None


def _most(fitted: Sequence[Fitted]) -> Fitted | None:
    return max(fitted, key=lambda each: len(each.table.seconds), default=None)


def _local_ring(fitted: Sequence[Fitted], node: Node) -> Told:
    """Rings inside a server: all but an all-reduce where switches add."""
    rings = [each for each in fitted if each.scope == "local" and not _adds(each, node)]
    best = _most([each for each in rings if each.table.collective != "all_to_all"])
    if best is None or not node.local.bandwidth:
        return []
    turns = (2 if best.table.collective == "all_reduce" else 1) * (best.table.ranks - 1)
    steps = {"ring_hop": best.fit.start / turns, "tree_hop": best.fit.start / (2 * (best.table.ranks - 1))}
    tuning = {"floor": best.fit.floor, **steps, **_ramp(best.fit)}
    return [("local", {"efficiency": best.fit.rate / node.local.bandwidth}, best), ("collectives", tuning, best)]


def _switch(fitted: Sequence[Fitted], node: Node) -> Told:
    """An all-reduce where switches add: S (1 + 1/n) bytes through every port."""
    best = _most([each for each in fitted if each.scope == "local" and _adds(each, node)])
    if best is None:
        return []
    n = best.table.ranks
    share = best.fit.rate * (1 + 1 / n) / bus_factor("all_reduce", n) / node.local.bandwidth
    tuning = {"floor": best.fit.floor, "in_network": best.fit.start, **_ramp(best.fit)}
    return [("local", {"reduction_efficiency": share}, best), ("collectives", tuning, best)]


def _ramp(fit: CollectiveFit) -> dict[str, float]:
    return {"ramp": fit.ramp, **({"ramp_limit": fit.limit} if fit.limit is not None else {})}


def _adds(each: Fitted, node: Node) -> bool:
    return node.local.in_network_reduction and each.table.collective == "all_reduce"


def _in_two(each: Fitted, node: Node) -> bool:
    """An all-reduce that the tuner sums over a tree: between two servers whose switches add."""
    return each.table.nodes == 2 and _adds(each, node)


def _network(fitted: Sequence[Fitted], node: Node, way: Way) -> Told:
    """Between servers: rings, or a tree over two servers whose switches add."""
    between_nodes = [each for each in fitted if each.scope == "network" and each.table.collective != "all_to_all"]
    rings = [each for each in between_nodes if way == "ring" or not _in_two(each, node)]
    best = _most(rings or between_nodes)
    if best is None or not node.nics.bandwidth:
        return []
    table, fit, tuning = best.table, best.fit, node.collectives
    rate = fit.rate
    if not rings:
        rate *= 1 / bus_factor("all_reduce", table.ranks) / tuning.tree_efficiency
    per_node = table.ranks // table.nodes
    adapters = min(node.nics.count, per_node * max(1.0, node.nics.count / node.accelerators))
    hop = LATENCY_HOPS * node.nics.latency
    between = (2 if table.collective == "all_reduce" else 1) * (table.nodes - 1)
    inside = between // (table.nodes - 1) * (table.ranks - 1) - between
    levels = 2 * int(np.ceil(np.log2(table.nodes)))
    steps: dict[str, Any] = {
        "floor_network": fit.floor,
        "ring_hop_network": max(0.0, (fit.start - inside * tuning.ring_hop) / between - hop),
        "tree_hop_network": max(0.0, (fit.start - 2 * (per_node - 1) * tuning.tree_hop) / levels - hop),
        "ramp_network": fit.ramp,
        **({"ramp_limit_network": fit.limit} if fit.limit is not None else {}),
        **({"patterns": tuple(name for name in tuning.patterns if name != "tree")} if way == "ring" else {}),
    }
    efficiency = {"efficiency": rate / (adapters * node.nics.bandwidth)}
    return [("nics", efficiency, best), ("collectives", steps, best)]


def _with(node: Node, part: str, fields: dict[str, Any]) -> Node:
    return node.model_copy(update={part: getattr(node, part).model_copy(update=fields)})


def _written(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fields as a person would write them: times with units, shares and ramps as numbers."""
    numbers = {"tree_efficiency", "ramp", "ramp_network", "patterns"}
    times = CollectiveTuning.model_fields.keys() - numbers
    return {part: {key: _text(v, key in times) for key, v in fields.items()} for part, fields in values.items()}


def _text(value: Any, is_time: bool) -> Any:
    if is_time:
        return quantity_text(value, TIME)
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _told(each: Fitted) -> str:
    table = each.table
    return (
        f"{table.collective} over {table.ranks} ranks on {table.nodes} node(s), {len(table.seconds)} sizes of "
        f"{table.program} in {table.path.name}, mean error of the fit {each.fit.error:.1%}"
    )


def _remarks(tables: Sequence[TimeTable]) -> list[str]:
    return [f"{table.path.name}: {remark}" for table in tables for remark in table.remarks]


def _check_size(table: TimeTable, node: Node, base: str) -> None:
    per_node = table.ranks / table.nodes
    place = f"{table.path}:{table.line}"
    if per_node != int(per_node):
        message = f"{table.ranks} ranks on {table.nodes} nodes"
        raise ConfigError(Problem(place, "", message, "give a run with as many ranks on every node"))
    if per_node > node.accelerators:
        message = f"{int(per_node)} ranks a node, but {base} has {node.accelerators} accelerators"
        raise ConfigError(Problem(place, "", message, "name the kind of server with --node"))


def _check(table: TimeTable, node: Node) -> CurveScore:
    """What a simulation on the measured platform says of the same run."""
    fabric = SwitchFabric(kind="switch", rail_optimized=True) if table.nodes > 1 else None
    cluster = ClusterSpec.from_si({"name": "measured", "nodes": table.nodes, "node": node, "fabric": fabric})
    curve = Curve.from_si(
        {
            "name": table.path.name,
            "cluster": None,
            "nodes": table.nodes,
            "accelerators": table.ranks // table.nodes,
            "collective": table.collective,
            "unit": "us",
            "rows": [(size, seconds / TIME.units["us"]) for size, seconds in table.seconds.items()],
            "source": str(table.path),
        }
    )
    return predict_curve(MeasuredCurve(curve, cluster, table.path))
