"""Recorded faults of nodes: the JSON published with InfiniteHBD, or CSV with headers of one's own.

Public: `Outage`, `read_fault_log`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from sim.errors import ConfigError, Problem
from sim.inputs.named_files import read_named
from sim.inputs.problems import MAX_PROBLEMS, near
from sim.inputs.reader import shown_path
from sim.inputs.reliability import FaultLog
from sim.units import TIME, QuantityError, parse_quantity

DAY, KEY = 86400.0, "failures.log.file"
COLUMNS = ("node", "start", "end", "cause")
UNITS = {"": 0.0, "_days": DAY, "_hours": 3600.0, "_s": 1.0}  # endings of a header; 0: as the cell says
EPOCH = 1e8  # numbers above are seconds since 1970, as of other logs of clusters
A_TIME = "a date (2024-05-01T12:30:00), or a time with its unit (36 h); headers as start_days, end_s give one"


class Outage(NamedTuple):
    """One fault of one node: seconds since the log began, and what it was."""

    start: float
    end: float  # inf: not repaired while the log was kept
    node: int  # numbered in the order in which nodes appear
    cause: str
    name: str = ""  # of the node, as the log calls it


class _RecordedFault(NamedTuple):
    """A fault as it was written: seconds since the log began, or since 1970 if `dated`."""

    node: str
    start: float
    end: float
    cause: str
    dated: bool = False


def read_fault_log(log: FaultLog) -> tuple[Outage, ...]:
    """All outages of a log, by start. Raises ConfigError with everything that cannot be read."""
    path = Path(log.file)
    return _outages(read_named(path, KEY), path, tuple(sorted(log.columns.items())), log.begin)


@lru_cache(maxsize=8)  # a file, shared by points of a sweep
def _outages(content: bytes, path: Path, columns: tuple[tuple[str, str], ...], begin: str | None) -> tuple[Outage, ...]:
    try:
        text = content.decode("utf-8-sig")
        if path.suffix == ".json" or text.lstrip()[:1] == "[":
            return _numbered(list(_json_rows(json.loads(text))))
        rows = _FaultTable(path, text, dict(columns)).rows()
        return _numbered([_since(row, _origin(rows, begin, path)) for row in rows])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, csv.Error) as error:
        reason = f"cannot be read as a log of faults: {_reason(error)}"
        raise ConfigError(Problem(str(path), KEY, reason, "JSON events or CSV rows")) from None


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _numbered(rows: list[_RecordedFault]) -> tuple[Outage, ...]:
    ordered = sorted(rows, key=lambda row: (row.start, row.node, row.end))
    number = {name: i for i, name in enumerate(dict.fromkeys(row.node for row in ordered))}
    return tuple(Outage(row.start, row.end, number[row.node], row.cause, row.node) for row in ordered)


# --- tables ---------------------------------------------------------------------------------


class _FaultTable:
    """A CSV file whose columns are found by our names, or by those that the user says they have."""

    def __init__(self, path: Path, text: str, columns: Mapping[str, str]) -> None:
        self.path, self.problems = path, list[Problem]()
        first = text.partition("\n")[0]
        self.reader = csv.reader(text.splitlines(), delimiter=max(",\t;|", key=first.count))
        self.header = [name.strip() for name in next(self.reader, [])]
        self.place = {ours: self._found(ours, columns) for ours in COLUMNS}
        for ours in columns.keys() - set(COLUMNS):
            self.problems.append(
                Problem("", f"failures.log.columns.{ours}", "is no column of ours", near(ours, COLUMNS))
            )
        self._raise_if_wrong()

    def _found(self, ours: str, columns: Mapping[str, str]) -> int | None:
        """Where a column of ours stands; None for one that may be missing."""
        wanted = (
            [columns[ours]]
            if ours in columns
            else [ours + unit for unit in (UNITS if ours in ("start", "end") else ("",))]
        )
        place = next((self.header.index(name) for name in wanted if name in self.header), None)
        if place is None and (ours in columns or ours in ("node", "start")):
            hint = f"{near(wanted[0], self.header)}; `log: {{columns: {{{ours}: NAME}}}}` says which column it is"
            self.problems.append(Problem(f"{shown_path(self.path)}:1:1", wanted[0], "this column is missing", hint))
        return place

    def rows(self) -> list[_RecordedFault]:
        """Every fault. Raises ConfigError with all cells that cannot be read."""
        found = [row for cells in self.reader if any(map(str.strip, cells)) for row in self._row(cells)]
        if len({row.dated for row in found}) > 1:
            message = "some times are dates and some are not"
            self.problems.append(Problem(shown_path(self.path), KEY, message, "give all as time stamps, or none"))
        self._raise_if_wrong()
        return found

    def _row(self, cells: Sequence[str]) -> Iterator[_RecordedFault]:
        line = self.reader.line_num
        before = len(self.problems)
        node, cause = self._cell(cells, "node"), self._cell(cells, "cause") or "fault"
        if not node:
            self._note(line, "node", "names no node", "each row is a fault of a node")
        start = self._time(cells, "start", line)
        end = self._time(cells, "end", line) if self._cell(cells, "end") else inf
        if len(self.problems) == before:
            (begun, dated), ended = start, end if isinstance(end, float) else end[0]
            if isinstance(end, tuple) and end[1] != dated:
                self._note(line, "end", "is a date where the start is none, or the other way round", A_TIME)
            elif ended < begun:
                self._note(line, "end", f"node {node}: the fault ends before it starts", "is a column mistaken?")
            elif not dated and begun < 0:
                self._note(line, "start", f"node {node}: the fault starts before the log does", A_TIME)
            else:
                yield _RecordedFault(node, begun, ended, cause, dated)

    def _cell(self, cells: Sequence[str], ours: str) -> str:
        place = self.place[ours]
        return cells[place].strip() if place is not None and place < len(cells) else ""

    def _time(self, cells: Sequence[str], ours: str, line: int) -> tuple[float, bool]:
        """Seconds, and whether they count from 1970."""
        text, place = self._cell(cells, ours), self.place[ours]
        name = "" if place is None else self.header[place]
        unit = next((factor for ending, factor in UNITS.items() if ending and name.endswith(ending)), 0.0)
        try:
            return _moment(text, unit)
        except ValueError:
            self._note(line, ours, f"{text[:40]!r} is no time", A_TIME)
            return 0.0, False

    def _note(self, line: int, ours: str, message: str, way_out: str) -> None:
        place = self.place[ours]
        column = 1 if place is None else place + 1
        name = ours if place is None else self.header[place]
        self.problems.append(Problem(f"{shown_path(self.path)}:{line}:{column}", name, message, way_out))

    def _raise_if_wrong(self) -> None:
        if self.problems:
            rest = len(self.problems) - MAX_PROBLEMS
            more = [Problem(shown_path(self.path), KEY, f"and {rest} further problems")] if rest > 0 else []
            raise ConfigError([*self.problems[:MAX_PROBLEMS], *more])


def _moment(text: str, unit: float) -> tuple[float, bool]:
    """Seconds that a cell says, and whether they count from 1970. Raises ValueError."""
    try:
        number = float(text)
    except ValueError:
        return _spoken(text)
    if not 0 <= number < inf or not (unit or number >= EPOCH):
        raise ValueError(text)
    return (number * unit, False) if unit else (number, True)


def _spoken(text: str) -> tuple[float, bool]:
    """A time stamp, without a zone that of UTC; or a quantity."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return parse_quantity(text, TIME), False
        except QuantityError:
            raise ValueError(text) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), True


def _origin(rows: Sequence[_RecordedFault], begin: str | None, path: Path) -> float:
    """When a log of dates began [s since 1970]: as it is said, else with its first fault. Raises ConfigError."""
    if not rows or not rows[0].dated:
        return 0.0
    first = min(row.start for row in rows)
    try:
        origin, dated = _moment(begin, 0.0) if begin else (first, True)
    except ValueError:
        origin, dated = 0.0, False
    if not dated:
        raise ConfigError(Problem("", "failures.log.begin", f"{begin!r} is no date", "a time stamp, as 2024-05-01"))
    if origin > first:
        message = f"{begin} is after the first fault in {path.name}"
        raise ConfigError(Problem("", "failures.log.begin", message, "say when observation began"))
    return origin


def _since(row: _RecordedFault, origin: float) -> _RecordedFault:
    return row._replace(start=row.start - origin, end=row.end - origin)


# --- InfiniteHBD ----------------------------------------------------------------------------


def _json_rows(events: list[dict[str, Any]]) -> Iterator[_RecordedFault]:
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
        yield _RecordedFault(node, start * DAY, time * DAY, cause)
    for node, waiting in begun.items():
        yield from (_RecordedFault(node, start * DAY, inf, cause) for start, cause, _ in waiting)
