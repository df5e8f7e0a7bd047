"""The table of a sweep: one row for each point and seed, and ways to get it out.

Public: `SweepTable`, `write_points`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.ask.sweep.judge import CONSTRAINT, NO_FIT, OK, STATUSES, UNFINISHED, Judge, Verdict, pareto
from sim.ask.sweep.store import Store, StoredRow, quoted
from sim.report.notebook import notebook_html
from sim.report.sweep import SweepSummary, print_summary
from sim.units import Unit

if TYPE_CHECKING:
    import pandas
    from duckdb import DuckDBPyRelation

    from sim.ask.sweep.sweep_file import LoadedStudy

_KINDS: dict[type, str] = {bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE", str: "VARCHAR"}
_NUMBERS = {"BIGINT", "DOUBLE"}
_PLACE = {"point": "BIGINT", "seed": "BIGINT"}
MOST = 20  # rows in a summary
USUAL = ("step.time_s", "step.mfu", "memory.peak_bytes_per_accelerator")  # its columns without objectives
IDLE = "accelerators_idle"  # a column where any are
_REASONS = f"""
    SELECT status, first(reason ORDER BY point), count(*) AS n FROM points WHERE status <> '{OK}'
    GROUP BY status,
        CASE WHEN status IN ('{NO_FIT}', '{UNFINISHED}') THEN ''
        WHEN status = '{CONSTRAINT}' THEN split_part(reason, ': ', 1) ELSE reason END
    ORDER BY n DESC, first(point ORDER BY point) LIMIT 8
"""


class SweepTable:
    """The rows of a sweep: parameters, status, results. Ordered by point and seed.

    Columns are `point`, `seed`, the keys that vary, `status`, `reason`, `pareto` and the objectives if there
    are any, the other parameters, and every result field by its dotted name.
    """

    def __init__(
        self,
        store: Store,
        keys: tuple[str, ...],
        objectives: tuple[tuple[str, bool], ...],
        units: Mapping[str, Unit] | None = None,
    ) -> None:
        self.store = store
        self.path = store.path
        self.keys = keys  # what varies
        self.units = units or {}  # in which the study gives it
        self.directions = objectives  # column, whether more is better
        self.objectives = tuple(text for text, _ in objectives)
        self.order = "DESC" if objectives and objectives[0][1] else "ASC"

    @property
    def relation(self) -> DuckDBPyRelation:
        """The table in DuckDB, for queries."""
        return self.store.connection.sql("SELECT * FROM points ORDER BY point, seed")

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.relation.columns)

    def __len__(self) -> int:
        return int(self.store.connection.execute("SELECT count(*) FROM points").fetchall()[0][0])

    def rows(self) -> list[dict[str, Any]]:
        """Every row as column to value."""
        return _dicts(self.relation)

    def best(self) -> list[dict[str, Any]]:
        """The rows that no other beats in the objectives; none without objectives."""
        return _dicts(self.relation.filter("pareto")) if self.objectives else []

    def title(self, column: str) -> str:
        """The name of a column for people: of a quantity of the study with the unit that was written there."""
        return f"{column} ({self.units[column].name})" if column in self.units else column

    def told(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """`rows` for people: what varies in the units in which the study gives it, by `title`."""
        return [{self.title(name): self._in_its_unit(name, value) for name, value in row.items()} for row in rows]

    def _in_its_unit(self, column: str, value: Any) -> Any:
        return self.units[column].of(value) if column in self.units and isinstance(value, int | float) else value

    def counts(self) -> dict[str, int]:
        """How many rows have which status."""
        found = self.store.connection.execute("SELECT status, count(*) FROM points GROUP BY status").fetchall()
        return {status: dict(found)[status] for status in STATUSES if status in dict(found)}

    def summary(self, name: str, description: str) -> SweepSummary:
        """What is worth printing: the best points, else the first, and the reasons of the others."""
        good = "pareto" if len(self.objectives) > 1 else f"status = '{OK}'"
        first = (f"pareto DESC, {quoted(self.objectives[0])} {self.order}",) if len(self.objectives) == 1 else ()
        wanted, there = ("point", *self.keys, *(self.objectives or USUAL)), set(self.columns)
        query, order = self.store.connection.sql, ", ".join((*first, "point", "seed"))
        if IDLE in there and query(f"SELECT 1 FROM points WHERE {good} AND {IDLE} > 0 LIMIT 1").fetchall():
            wanted = (*wanted, IDLE)
        shown = ", ".join(quoted(name) for name in dict.fromkeys(wanted) if name in there)
        n_rows = query(f"SELECT count(*) FROM points WHERE {good}").fetchall()[0][0]
        rows = _dicts(query(f"SELECT {shown} FROM points WHERE {good} ORDER BY {order} LIMIT {MOST}"))
        failures = query(_REASONS).fetchall()
        return SweepSummary(
            name=name,
            description=description,
            database=None if self.path is None else str(self.path),
            counts=self.counts(),
            best=bool(self.objectives),
            n_rows=n_rows,
            rows=self.told(rows),
            keys=tuple(map(self.title, self.keys)),
            failures=failures,
        )

    def to_json(self) -> dict[str, Any]:
        """The table as plain data: where it is, rows by status, the best points, all rows."""
        return {
            "database": None if self.path is None else str(self.path),
            "counts": self.counts(),
            "best": list(dict.fromkeys(row["point"] for row in self.best())),
            "rows": self.rows(),
        }

    def to_dataframe(self) -> pandas.DataFrame:
        """The table for pandas, which must be installed."""
        return self.relation.df()

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV with a header."""
        self.store.export(Path(path), "csv")

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet."""
        self.store.export(Path(path), "parquet")

    def _repr_html_(self) -> str:
        """What a notebook shows: the outcome as the command prints it."""
        return notebook_html(lambda console: print_summary(self.summary("sweep", ""), console))

    def close(self) -> None:
        """Let go of the file; the table cannot be read any more."""
        self.store.close()


def write_points(store: Store, judge: Judge, study: LoadedStudy) -> SweepTable:
    """Make the table of all points of `study` that have an outcome."""
    survey = _Survey(judge)
    for row in store.rows():
        survey.add(row)
    best = pareto(survey.worths) if judge.objectives else set()
    store.write_table(survey.columns(study.keys), survey.parts(), _heads(survey, best))
    return SweepTable(store, study.keys, tuple((item.text, more) for item, more in judge.objectives), study.units)


def _dicts(relation: DuckDBPyRelation) -> list[dict[str, Any]]:
    columns = relation.columns
    return [dict(zip(columns, row, strict=True)) for row in relation.fetchall()]


@dataclass
class _Survey:
    """One look at all rows: verdicts, and which columns there are."""

    judge: Judge
    places: list[tuple[int, int]] = field(default_factory=list)  # point and seed of each row
    verdicts: list[Verdict] = field(default_factory=list)
    worths: defaultdict[int, list[tuple[float, ...]]] = field(default_factory=lambda: defaultdict(list))
    inputs: dict[str, set[str]] = field(default_factory=dict)  # column to SQL types
    fields: dict[str, set[str]] = field(default_factory=dict)
    shapes: set[tuple[tuple[str, ...], tuple[type, ...]]] = field(default_factory=set)  # of inputs and fields so far

    def add(self, row: StoredRow) -> None:
        verdict = self.judge.verdict(row)
        self.places.append((row.point, row.seed))
        self.verdicts.append(verdict)
        if verdict.worth and verdict.status == OK:
            self.worths[row.point].append(verdict.worth)
        for kinds, values in ((self.inputs, row.inputs), (self.fields, row.fields or {})):
            shape = tuple(values), tuple(map(type, values.values()))
            if shape not in self.shapes:  # most rows are like the one before
                self.shapes.add(shape)
                for name, value in values.items():
                    kinds.setdefault(name, set()).update([_KINDS[type(value)]] if value is not None else [])

    def columns(self, keys: tuple[str, ...]) -> dict[str, str]:
        """Column to SQL type, in order."""
        head = _PLACE | {key: _merged(self.inputs.get(key, set())) for key in keys} | self.verdict_columns()
        found = {name: _merged(kinds) for name, kinds in (self.inputs | self.fields).items()}
        return head | {name: kind for name, kind in found.items() if name not in head}

    def verdict_columns(self) -> dict[str, str]:
        """Those that say what the study thinks of a row."""
        verdict = {"status": "VARCHAR", "reason": "VARCHAR"}
        if self.judge.objectives:
            verdict |= {"pareto": "BOOLEAN"} | {item.text: "DOUBLE" for item, _ in self.judge.objectives}
        return verdict

    def parts(self) -> dict[str, Collection[str]]:
        """Where columns come from, as `Store.write_table` wants it."""
        return {"head": _PLACE | self.verdict_columns(), "inputs": self.inputs, "fields": self.fields}


def _merged(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "DOUBLE" if kinds and kinds <= _NUMBERS else "VARCHAR"


def _heads(survey: _Survey, best: set[int]) -> Iterator[dict[str, Any]]:
    """What the study says of each row."""
    objectives = survey.judge.objectives
    for (point, seed), verdict in zip(survey.places, survey.verdicts, strict=True):
        head: dict[str, Any] = {"point": point, "seed": seed, "status": verdict.status, "reason": verdict.reason}
        if objectives:
            head["pareto"] = point in best and verdict.status == OK
            signs = (-1.0 if more else 1.0 for _, more in objectives)
            values = zip(objectives, signs, verdict.worth or (), strict=False)
            head |= {item.text: sign * value for (item, _), sign, value in values}
        yield head
