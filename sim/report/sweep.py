"""The outcome of a sweep for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sim.report.human import count


@dataclass(frozen=True)
class SweepSummary:
    """What is printed of a sweep."""

    name: str
    description: str
    database: str | None  # the file that holds all rows
    counts: dict[str, int]  # rows by status
    best: bool  # whether `rows` are the best ones, not just the first
    n_rows: int  # how many of them there are
    rows: Sequence[dict[str, Any]]  # the first of them, the columns that matter
    failures: Sequence[tuple[str, str, int]]  # status, reason, rows; most frequent first


def print_summary(summary: SweepSummary, console: Console) -> None:
    """Print the counts, the best points or the first, and why others failed."""
    console.print(f"{summary.name}  {summary.description}".rstrip(), style="bold")
    statuses = ", ".join(f"{count(number)} {status}" for status, number in summary.counts.items())
    console.print(f"  {count(sum(summary.counts.values()))} rows: {statuses or 'none'}")
    if summary.rows:
        shown = f", {len(summary.rows)} of {count(summary.n_rows)}" if len(summary.rows) < summary.n_rows else ""
        console.print(f"\n{'Best points' if summary.best else 'Points'}{shown}", style="bold")
        console.print(_listing(summary.rows))
    if summary.failures:
        console.print("\nWhy others are not among them" if summary.rows else "\nWhy", style="bold")
        for status, reason, number in summary.failures:
            example = "such as " if number > 1 else ""
            console.print(f"  {count(number)} x {status}: {example}{reason}")
    if summary.database:
        console.print(f"\nAll rows are in {summary.database}, table points", soft_wrap=True)


def _listing(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    cells = [[_cell(value) for value in row.values()] for row in rows]
    for name, value, column in zip(_short(list(rows[0])), rows[0].values(), zip(*cells, strict=True), strict=True):
        width = max(map(len, column))
        table.add_column(name, justify="left" if isinstance(value, str) else "right", overflow="fold", min_width=width)
    for row in cells:
        table.add_row(*row)
    return table


def _short(names: list[str]) -> list[str]:
    """The last two parts of each name, or all of it if that is not unique."""
    ends = [".".join(name.split(".")[-2:]) for name in names]
    return [end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
