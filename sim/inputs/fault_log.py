"""Recorded faults of nodes: the JSON published with InfiniteHBD, or a plain CSV.

Public: `Outage`, `read_fault_log`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from sim.errors import ConfigError, Problem
from sim.inputs.named_files import read_named

DAY, KEY = 86400.0, "failures.log.file"


class Outage(NamedTuple):
    """One fault of one node: seconds since the log began, and what it was."""

    start: float
    end: float  # inf: not repaired while the log was kept
    node: int  # numbered in the order in which nodes appear
    cause: str


def read_fault_log(path: Path) -> tuple[Outage, ...]:
    """All outages of a log, by start. Raises ConfigError where the file cannot be read."""
    return _outages(read_named(path, KEY), path)


@lru_cache(maxsize=8)  # a file, shared by points of a sweep
def _outages(content: bytes, path: Path) -> tuple[Outage, ...]:
    try:
        text = content.decode("utf-8-sig")
        rows = _csv_rows(text.splitlines()) if path.suffix == ".csv" else _json_rows(json.loads(text))
        return _numbered(rows)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, csv.Error) as error:
        reason = f"cannot be read as a log of faults: {_reason(error)}"
        raise ConfigError(Problem(str(path), KEY, reason, "JSON events or CSV rows")) from None


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _numbered(rows: Iterator[tuple[str, float, float, str]]) -> tuple[Outage, ...]:
    ordered = sorted(rows, key=lambda row: (row[1], row[0], row[2]))
    number = {name: i for i, name in enumerate(dict.fromkeys(row[0] for row in ordered))}
    return tuple(Outage(start * DAY, end * DAY, number[name], cause) for name, start, end, cause in ordered)


def _csv_rows(lines: list[str]) -> Iterator[tuple[str, float, float, str]]:
    for row in csv.DictReader(lines):
        start, end = float(row["start_days"]), float(row["end_days"] or inf)
        if not (0 <= start <= end and start < inf):
            raise ValueError(f"node {row['node']}: the fault ends at {end:g} before it starts at {start:g}")
        yield row["node"], start, end, row.get("cause") or "fault"


def _json_rows(events: list[dict[str, Any]]) -> Iterator[tuple[str, float, float, str]]:
    """Starts and ends of a node matched in order, those of the same kind of fault first."""
    begun: dict[str, list[tuple[float, str, str]]] = {}
    for event in sorted(events, key=lambda event: (float(event["event_time"]), event["event_type"] != "fault_start")):
        if not 0 <= float(event["event_time"]) < inf:
            raise ValueError(f"{event['event_time']} is no time in days")
        node, time, kind = str(event["node_id"]), float(event["event_time"]), event["fault_type"]
        waiting = begun.setdefault(node, [])
        if event["event_type"] == "fault_start":
            waiting.append((time, kind["Class"], kind["Desc"]))
            continue
        same = (i for i, (_, group, detail) in enumerate(waiting) if (group, detail) == (kind["Class"], kind["Desc"]))
        place = next(same, 0 if waiting else None)
        if place is None:
            raise ValueError(f"node {node}: a fault ends at day {time:g} that never started")
        start, cause, _ = waiting.pop(place)
        yield node, start, time, cause
    for node, waiting in begun.items():
        yield from ((node, start, inf, cause) for start, cause, _ in waiting)
