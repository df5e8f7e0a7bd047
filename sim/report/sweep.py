"""The outcome of a sweep for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sim.report.human import count

GAP = 3  # between columns


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
    keys: Sequence[str]  # the columns that are keys of the experiment
    failures: Sequence[tuple[str, str, int]]  # status, reason, rows; most frequent first


def print_summary(summary: SweepSummary, console: Console) -> None:
    """Print the counts, the best points or the first, and why others failed."""
    console.print(f"{summary.name}  {summary.description}".rstrip(), style="bold")
    statuses = ", ".join(f"{count(number)} {status}" for status, number in summary.counts.items())
    console.print(f"  {count(sum(summary.counts.values()))} rows: {statuses or 'none'}")
    if summary.rows:
        shown = f", {len(summary.rows)} of {count(summary.n_rows)}" if len(summary.rows) < summary.n_rows else ""
        console.print(f"\n{'Best points' if summary.best else 'Points'}{shown}", style="bold")
        for columns in _side_by_side(_columns(summary.rows, summary.keys), console.width):
            console.print(_listing(columns))
    if summary.failures:
        console.print("\nWhy others are not among them" if summary.rows else "\nWhy", style="bold")
        for status, reason, number in summary.failures:
            example = "such as " if number > 1 else ""
            console.print(f"  {count(number)} x {status}: {example}{reason}")
    if summary.database:
        console.print(f"\nAll rows are in {summary.database}, table points", soft_wrap=True)


@dataclass(frozen=True)
class _Column:
    title: str
    cells: list[str]
    justify: Literal["left", "right"]

    @property
    def width(self) -> int:
        """Least width in which no word and no value breaks."""
        return max(map(len, (*self.cells, *self.title.split())))


def _columns(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[_Column]:
    titles = _titles(list(rows[0]), keys)
    values = zip(*(row.values() for row in rows), strict=True)
    return [
        _Column(title, [_cell(value) for value in column], "left" if isinstance(column[0], str) else "right")
        for title, column in zip(titles, values, strict=True)
    ]


def _side_by_side(columns: list[_Column], width: int) -> Iterator[list[_Column]]:
    """The columns of each table: as many as there is room for, the first column in all of them."""
    shown = columns[:1]
    for column in columns[1:]:
        if len(shown) > 1 and sum(other.width + GAP for other in (*shown, column)) > width:
            yield shown
            shown = columns[:1]
        shown.append(column)
    yield shown


def _listing(columns: list[_Column]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify=column.justify, overflow="fold", min_width=column.width)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _titles(names: list[str], keys: Sequence[str]) -> list[str]:
    """Names of columns as words, so that they wrap: of a key the last part, if that is unique."""
    ends = [name.rpartition(".")[2] if name in keys else name for name in names]
    short = [end if ends.count(end) == 1 else name for end, name in zip(ends, names, strict=True)]
    return [re.sub(r"[._](?=[a-z])", " ", title) for title in short]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
