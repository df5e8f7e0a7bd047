"""What is written of fleets: rows of jobs, events, tables of many lives, pages.

Public: `write_rows`, `write_events`, `write_page`, `write_table`, `write_table_page`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sim.ask.fleet.run import LivedFleet
from sim.metrics.fleet import JOB_COLUMNS, FleetTable, job_rows
from sim.report.files import replacing, write_text, writing
from sim.report.jsonout import write_lines
from sim.report.page.fleet import fleet_page, many_page

KINDS = {int: "BIGINT", float: "DOUBLE", str: "VARCHAR"}


def write_rows(lived: LivedFleet, file: Path, option: str) -> None:
    """A row for each job, as CSV or Parquet by what `option` says. Raises OutputError."""
    _write(JOB_COLUMNS, job_rows(lived.life), file, option)


def write_table(table: FleetTable, file: Path, option: str) -> None:
    """A row for each life. Raises OutputError."""
    columns = table.columns
    _write(columns, ([row.get(name) for name in columns] for row in table.rows), file, option)


def write_events(lived: LivedFleet, file: Path, option: str) -> None:
    """What happened to jobs and nodes, one JSON document a line. Raises OutputError."""
    with writing(file, option):
        file.parent.mkdir(parents=True, exist_ok=True)
    events = (
        {"time_s": each.time, "event": each.what, "job": each.job, "boards": each.boards, "nodes": list(each.nodes)}
        | ({"cause": each.detail} if each.detail else {})
        for each in lived.life.events
    )
    write_lines(events, file)


def write_page(lived: LivedFleet, file: Path, option: str) -> None:
    """The page of one fleet. Raises OutputError."""
    with writing(file, option):
        file.parent.mkdir(parents=True, exist_ok=True)
    sorts = lived.life.inputs.sorts
    nodes = [f"{sort.kind} {number}" for sort in sorts for number in range(sort.nodes)]
    write_text(file, fleet_page(lived.result, list(job_rows(lived.life)), lived.life.events, nodes), option)


def write_table_page(table: FleetTable, file: Path, option: str) -> None:
    """The page of many lives. Raises OutputError."""
    with writing(file, option):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, many_page(table.name, table.keys, table.rows), option)


def _write(columns: Sequence[str], rows: Iterable[Sequence[Any]], file: Path, option: str) -> None:
    with writing(file, option):
        file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, option) as part:
        if option == "--parquet":
            _parquet(columns, list(rows), part)
            return
        with part.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    """Whole seconds without a point."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def _parquet(columns: Sequence[str], rows: list[Sequence[Any]], part: Path) -> None:
    """By way of CSV, which DuckDB reads in one go."""
    import duckdb

    kinds = {name: _kind(row[place] for row in rows) for place, name in enumerate(columns)}
    between = part.with_name(f"{part.name}.csv")
    try:
        with between.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(columns)
            writer.writerows(rows)
        with duckdb.connect() as store:
            told = ", ".join(f"'{name}': '{kind}'" for name, kind in kinds.items())
            source = f"read_csv('{_quoted(between)}', header = true, columns = {{{told}}})"
            store.execute(f"COPY (SELECT * FROM {source}) TO '{_quoted(part)}' (FORMAT parquet)")
    finally:
        between.unlink(missing_ok=True)


def _kind(values: Iterable[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int}:
        return KINDS[int]
    return KINDS[float] if kinds <= {int, float} else KINDS[str]


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
