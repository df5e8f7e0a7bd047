"""Two results side by side: what was asked differently, and what came out differently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.metrics.result import Result
from sim.report import human

SECTIONS = ("accelerators", "accelerators_idle", "step", "memory", "run", "energy", "cost")
DETAILS = ("energy.power.", "energy.states_w.", "run.spreads.", "run.time_to_train_s.p")  # not in the text
SHARES = ("mfu", "hfu", "goodput", "goodput_used")
UNITS = {  # by the end of a part of the key
    "kwh": human.energy,
    "w": human.power,
    "kg": human.carbon,
    "usd": human.money,
    "s": human.step_time,
}


@dataclass(frozen=True)
class Change:
    """A key of the input that differs; None where one side lacks it."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Metric:
    """A number of the result on both sides; `ratio` is b over a, None where a is 0."""

    key: str
    a: float
    b: float
    difference: float
    ratio: float | None


@dataclass(frozen=True)
class Contrast:
    """All differences between two results."""

    a: str
    b: str
    changes: tuple[Change, ...]
    metrics: tuple[Metric, ...]

    def to_json(self) -> dict[str, Any]:
        """The contrast as plain data."""
        return asdict(self)


def compare(a: Result, b: Result) -> Contrast:
    """Set two results side by side. Metrics appear where both sides have them."""
    left, right = a.to_json(), b.to_json()
    return Contrast(a.name, b.name, _changes(a.manifest, b.manifest), _metrics(left, right))


def print_contrast(contrast: Contrast, console: Console) -> None:
    """Print the contrast: input that differs, then every number that differs."""
    console.print(Text(f"A {contrast.a}\nB {contrast.b}\n", style="bold"))
    console.print(_change_table(contrast.changes) if contrast.changes else Text("The input is the same."))
    console.print()
    moved = [metric for metric in contrast.metrics if metric.difference]
    shown = [metric for metric in moved if not metric.key.startswith(DETAILS)]
    console.print(_metric_table(shown) if moved else Text("All numbers are the same."))
    same, hidden = len(contrast.metrics) - len(moved), len(moved) - len(shown)
    others = [f"{same} other numbers are the same"] * bool(same) + [f"{hidden} details differ (--json)"] * bool(hidden)
    if moved and others:
        console.print(Text(", ".join(others), style="dim"))


def flatten(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings as (dotted key, value); lists count as leaves."""
    if not isinstance(data, dict):
        yield prefix, data
        return
    for key, value in data.items():
        yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))


def _changes(a: dict[str, Any], b: dict[str, Any]) -> tuple[Change, ...]:
    left, right = dict(flatten(a)), dict(flatten(b))
    keys = [*left, *(key for key in right if key not in left)]
    pairs = ((key, left.get(key), right.get(key)) for key in keys if "sources" not in key.split("."))
    return tuple(Change(key, x, y) for key, x, y in pairs if x != y)


def _metrics(a: dict[str, Any], b: dict[str, Any]) -> tuple[Metric, ...]:
    right = dict(_numbers(b))
    return tuple(_metric(key, x, right[key]) for key, x in _numbers(a) if key in right)


def _metric(key: str, a: float, b: float) -> Metric:
    return Metric(key, a, b, b - a, b / a if a else None)


def _numbers(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for section in SECTIONS:
        for key, value in flatten(result.get(section), section):
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield key, float(value)


def _change_table(changes: tuple[Change, ...]) -> Table:
    table = _table("left", "input", "A", "B")
    for change in changes:
        table.add_row(change.key, plain(change.a), plain(change.b))
    return table


def plain(value: Any) -> str:
    """A value of the input as text."""
    return "-" if value is None else str(value)


def _metric_table(metrics: list[Metric]) -> Table:
    table = _table("right", "result", "A", "B", "B - A", "change")
    for metric in metrics:
        numbers = (metric.a, metric.b, metric.difference)
        table.add_row(metric.key, *(show(metric.key, number) for number in numbers), relative(metric))
    return table


def _table(side: Literal["left", "right"], first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True, overflow="fold")
    for other in others:
        table.add_column(other, justify=side, overflow="fold")
    return table


def show(key: str, value: float) -> str:
    """The number with its unit, which the name of the key tells."""
    parts = key.split(".")
    if parts[-1] in SHARES:
        return human.percent(value)
    if key.startswith("memory."):
        return human.size(value)
    ends = [part.rpartition("_")[2] for part in parts if "_per_" not in part]
    unit = next((end for end in ends if end in UNITS), None)
    if unit == "s" and parts[0] == "run":
        return human.duration(value)
    return UNITS[unit](value) if unit else human.digits(value)


def relative(metric: Metric) -> str:
    """By how much B is more than A."""
    return human.signed_percent(metric.ratio - 1) if metric.ratio is not None else "new"
