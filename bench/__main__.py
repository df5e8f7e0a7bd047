"""`make bench`: one table of times, rates and memory, each beside its budget."""

from __future__ import annotations

from collections.abc import Iterator
from compileall import compile_dir
from itertools import chain

from bench.cases import (
    Row,
    all_reduce,
    cold_starts,
    event_rates,
    explored,
    fleets,
    growth,
    long_runs,
    points,
    sweeps,
    sweeps_on_dask,
    unfriendly,
)
from bench.measure import ROOT

WIDTHS = (48, 10, 10, 5, 10, 6)


def main() -> None:
    """Measure everything and print the table as it grows."""
    compile_dir(ROOT / "sim", quiet=1)  # as an installed program is, whatever was edited since
    print(line("what", "best", "median", "", "budget", "", "against"))
    for row in rows():
        print(show(row), flush=True)


def rows() -> Iterator[Row]:
    """All measurements, one after another: nothing else should run meanwhile."""
    sweeping = chain(points(), sweeps(), sweeps_on_dask())
    living = chain(long_runs(), fleets())
    return chain(event_rates(), sweeping, all_reduce(), growth(), unfriendly(), living, cold_starts(), explored())


def show(row: Row) -> str:
    """One line of the table."""
    limit = "" if row.budget is None else f"{'>' if row.over else '<'} {row.budget:,.4g}"
    verdict = {None: "", True: "kept", False: "MISSED"}[row.kept]
    return line(row.name, f"{row.least:,.4g}", f"{row.median:,.4g}", row.unit, limit, verdict, row.ratio)


def line(name: str, *cells: str) -> str:
    """Cells in columns, numbers to the right."""
    columns = [f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS[1:], strict=False)]
    return " ".join([f"{name:<{WIDTHS[0]}}", *columns, *cells[len(WIDTHS) - 1 :]]).rstrip()


if __name__ == "__main__":
    main()
