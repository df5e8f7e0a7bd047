"""Results side by side: what was asked differently, and what came out differently.

The first design is the one that the others are set against.

Public: `compare`, `told_apart`, `Contrast`, `Change`, `Metric`, `print_contrast`, `flatten`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.inputs.document import quantity_at
from sim.metrics.result import Result
from sim.report import human
from sim.report.labels import FIRST, label, told

SECTIONS = ("accelerators", "accelerators_idle", "step", "memory", "run", "energy", "cost")
DETAILS = ("energy.power.", "energy.states_w.", "run.spreads.", "run.time_to_train_s.p", "memory.moments.")
SMALL = 5e-4  # relative differences that a table of three digits cannot show


@dataclass(frozen=True)
class Change:
    """A key of the input that differs, with its SI value in each design; None where one lacks it."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Metric:
    """A number of the result in each design; None where one lacks it."""

    key: str
    values: tuple[float | None, ...]

    def ratio(self, number: int) -> float | None:
        """That of design `number` over the first; None where there is none, or the first is 0."""
        first, other = self.values[0], self.values[number]
        return other / first if first and other is not None else None

    @property
    def moves(self) -> bool:
        """Whether the designs differ in it."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Contrast:
    """All differences between results."""

    names: tuple[str, ...]
    changes: tuple[Change, ...]
    metrics: tuple[Metric, ...]

    def to_json(self) -> dict[str, Any]:
        """The contrast as plain data; of two designs with the names `a` and `b` too."""
        changes = [
            {"key": change.key, "values": list(change.values), **_pair(change.values)} for change in self.changes
        ]
        metrics = [
            {"key": metric.key, "values": list(metric.values), "ratios": self._ratios(metric), **_paired(metric)}
            for metric in self.metrics
        ]
        return {"designs": list(self.names), **_pair(self.names), "changes": changes, "metrics": metrics}

    def _ratios(self, metric: Metric) -> list[float | None]:
        return [metric.ratio(number) for number in range(len(self.names))]

    def shown(self) -> list[Metric]:
        """What is worth a row: what is asked first, and then what differs, details aside."""
        kept = [metric for metric in self.metrics if metric.moves and not metric.key.startswith(DETAILS)]
        return [metric for metric in kept if _visible(metric, len(self.names))]


def _pair(values: tuple[Any, ...]) -> dict[str, Any]:
    """The values of two designs under the names that a comparison of two has."""
    return dict(zip("ab", values, strict=True)) if len(values) == 2 else {}


def _paired(metric: Metric) -> dict[str, Any]:
    if len(metric.values) != 2:
        return {}
    a, b = metric.values
    difference = None if a is None or b is None else b - a
    return {**_pair(metric.values), "difference": difference, "ratio": metric.ratio(1)}


def _visible(metric: Metric, designs: int) -> bool:
    ratios = [metric.ratio(number) for number in range(1, designs)]
    return any(ratio is None or abs(ratio - 1) >= SMALL for ratio in ratios)


def compare(results: Sequence[Result], names: Sequence[str] = ()) -> Contrast:
    """Set results side by side, under `names` of one's own or those that tell them apart."""
    return Contrast(
        tuple(names) or told_apart([result.name for result in results]),
        tuple(_changes([result.manifest for result in results])),
        tuple(_metrics([result.to_json() for result in results])),
    )


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """`names`, those that stand there twice with a number."""
    often, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} {seen[name]}" if often[name] > 1 else name)
    return tuple(found)


def flatten(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings as (dotted key, value); lists count as leaves."""
    if not isinstance(data, dict):
        yield prefix, data
        return
    for key, value in data.items():
        yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))


def _changes(manifests: Sequence[dict[str, Any]]) -> Iterator[Change]:
    flat = [dict(flatten(manifest)) for manifest in manifests]
    for key in dict.fromkeys(key for one in flat for key in one):
        values = tuple(one.get(key) for one in flat)
        if "sources" not in key.split(".") and any(value != values[0] for value in values):
            yield Change(key, values)


def _metrics(results: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    numbers = [dict(_numbers(result)) for result in results]
    keys = list(dict.fromkeys(key for one in numbers for key in one))
    order = {key: place for place, key in enumerate(FIRST)}
    for key in sorted(keys, key=lambda key: order.get(key, len(order))):
        yield Metric(key, tuple(one.get(key) for one in numbers))


def _numbers(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for section in SECTIONS:
        for key, value in flatten(result.get(section), section):
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield key, float(value)


# --- to text ----------------------------------------------------------------------------------


def print_contrast(contrast: Contrast, console: Console) -> None:
    """Print the contrast: input that differs, then every number that differs, against the first design."""
    if contrast.changes:
        rows = ([change.key, *(plain(change.key, value) for value in change.values)] for change in contrast.changes)
        console.print(_table("input", contrast.names, rows))
    else:
        console.print(Text("The input is the same."))
    console.print()
    shown = contrast.shown()
    if shown:
        console.print(_table("result", contrast.names, ([label(m.key), *cells(m)] for m in shown)))
    else:
        console.print(Text("All numbers are the same."))
    hidden = len(contrast.metrics) - len(shown)
    if shown and hidden:
        console.print(Text(f"{hidden} other numbers are the same, or details (--json)", style="dim"))


def plain(key: str, value: Any) -> str:
    """A value of the input as a file would say it."""
    if value is None:
        return "-"
    told_ = quantity_at(key, value)
    return str(value) if told_ is None else told_


def cells(metric: Metric) -> list[str]:
    """The number of each design, with its difference from the first."""
    return [cell(metric, number) for number in range(len(metric.values))]


def cell(metric: Metric, number: int) -> str:
    """The number of one design, and by how much it is more than that of the first."""
    value = metric.values[number]
    if value is None:
        return "-"
    text, ratio = told(metric.key, value), metric.ratio(number)
    return text if not number or ratio is None or ratio == 1 else f"{text} {human.signed_percent(ratio - 1)}"


def _table(first: str, names: Sequence[str], rows: Iterator[list[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold", header_style="dim")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
