"""Many lives of a fleet as a table.

Public: `print_table`, `means`, `SHOWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from sim.metrics.fleet import FleetTable
from sim.report import human
from sim.report.layout import grid, section

Rows = Sequence[Mapping[str, Any]]
SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "avg_jct_s": ("completion", human.duration),
    "p99_jct_s": ("its p99", human.duration),
    "avg_queue_s": ("waiting", human.duration),
    "makespan_s": ("makespan", human.duration),
    "utilization": ("utilization", human.percent),
    "preemptions": ("preemptions", human.count),
    "job_failures": ("failed", human.count),
    "late": ("late", human.count),
    "energy_kwh": ("energy", human.energy),
    "carbon_kg": ("carbon", human.carbon),
    "hardware_usd": ("cost", human.money),
}
QUIET = ("preemptions", "job_failures")  # shown only where there are some


def means(keys: Sequence[str], rows: Rows) -> list[tuple[tuple[str, ...], int, dict[str, float]]]:
    """Values that vary, number of seeds, and the mean of each quantity, for each combination in order."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return [
        (values, len(group), {name: _mean([row[name] for row in group]) for name in SHOWN if _is_told(name, rows)})
        for values, group in groups.items()
    ]


def _is_told(name: str, rows: Rows) -> bool:
    values = [row.get(name) for row in rows]
    return all(value is not None for value in values) and (name not in QUIET or any(values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def print_table(table: FleetTable, console: Console) -> None:
    """Print a row for each combination, means over its seeds."""
    found = means(table.keys, table.rows)
    told = list(found[0][2]) if found else []
    labels = tuple(key.rpartition(".")[2] for key in table.keys) or ("",)
    body = grid(*["left"] * len(labels), *["right"] * len(told))
    body.add_row(*labels, *(SHOWN[name][0] for name in told), style="dim")
    for values, _, numbers in found:
        body.add_row(*(values or ("all",)), *(SHOWN[name][1](numbers[name]) for name in told))
    seeds = found[0][1] if found else 0
    title = f"Means of {human.count(seeds)} seeds" if seeds > 1 else "Lives"
    console.print(Group(Text(table.name, style="bold"), *section(title, body)), highlight=False)
