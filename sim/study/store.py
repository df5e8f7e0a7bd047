"""The results of a sweep in one DuckDB file.

Public: `Store`, `Entry`, `Outcome`, `Row`, `quoted`.

`results` keeps what was computed by content key, for ever; `entries` lists the points of the present study;
`points` is the table for people, made from both. Each change is one transaction: a killed process loses
nothing that was recorded and leaves nothing half-written.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from sim.errors import ConfigError, Problem

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FILE = "sweep.duckdb"
CHUNK = 1000

_TABLES = """
CREATE TABLE IF NOT EXISTS results (key VARCHAR PRIMARY KEY, status VARCHAR, reason VARCHAR, fields VARCHAR);
CREATE TABLE IF NOT EXISTS entries (
    point BIGINT, seed BIGINT, key VARCHAR, status VARCHAR, reason VARCHAR, inputs VARCHAR
);
"""


@dataclass(frozen=True)
class Outcome:
    """What came of simulating one experiment. Status: ok, invalid input, or error."""

    status: str
    reason: str = ""
    fields: str = "{}"  # flattened result as JSON


@dataclass(frozen=True)
class Entry:
    """One row to be: a point of the study, under the content key of its experiment if that is valid."""

    point: int
    seed: int
    key: str | None
    status: str  # why it is not simulated, else ""
    reason: str
    inputs: str  # parameters as JSON


@dataclass(frozen=True)
class Row:
    """An entry with its outcome, if there is one."""

    point: int
    seed: int
    status: str
    reason: str
    inputs: dict[str, Any]
    fields: dict[str, Any] | None


class Store:
    """An open file of results; one process at a time. In memory without a path."""

    def __init__(self, folder: Path | None = None, file: str = FILE) -> None:
        import duckdb

        self.path = None if folder is None else folder / file
        try:
            self.connection: DuckDBPyConnection = duckdb.connect(str(self.path or ":memory:"))
        except duckdb.IOException as error:
            busy = "lock" in str(error)
            message = "is in use by another process" if busy else f"cannot be opened: {str(error).splitlines()[0]}"
            raise ConfigError(Problem(str(self.path), "", message, "choose another folder with -o")) from None
        self.connection.execute("SET threads = 1")  # the others are for workers
        self.connection.execute(_TABLES)
        errors = "SELECT 1 FROM results WHERE status = 'error' LIMIT 1"
        self.has_errors = bool(self.connection.execute(errors).fetchall())

    def close(self) -> None:
        """Write everything and let go of the file."""
        self.connection.close()

    # --- entries and results ------------------------------------------------------------------

    def begin(self) -> None:
        """Forget the points of the study before; their results stay."""
        self.connection.execute("DELETE FROM entries")

    def list_entries(self, entries: Sequence[Entry]) -> None:
        """Add points of the present study."""
        self._insert("INSERT INTO entries", [tuple(vars(entry).values()) for entry in entries], 6)

    def record(self, outcomes: Mapping[str, Outcome]) -> None:
        """Keep outcomes by content key, none of them `known`; errors of an earlier attempt are replaced."""
        rows = [(key, *vars(outcome).values()) for key, outcome in outcomes.items()]
        replacing = "OR REPLACE " if self.has_errors else ""  # costs several times as much
        self._insert(f"INSERT {replacing}INTO results", rows, 4)
        self.has_errors = self.has_errors or any(outcome.status == "error" for outcome in outcomes.values())

    def known(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that need not be computed again. Errors are tried again."""
        query = "SELECT key FROM results WHERE key IN (SELECT unnest(?)) AND status <> 'error'"
        return {key for (key,) in self.connection.execute(query, [list(keys)]).fetchall()}

    def _insert(self, command: str, rows: Sequence[tuple[Any, ...]], width: int) -> None:
        if not rows:
            return
        columns = [list(column) for column in zip(*rows, strict=True)]
        self.connection.execute(f"{command} SELECT {', '.join(['unnest(?)'] * width)}", columns)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The points of the study from `first` on, in order; those without an outcome yet are left out."""
        query = """
            SELECT point, seed, coalesce(nullif(e.status, ''), r.status), coalesce(nullif(e.reason, ''), r.reason),
                inputs, fields
            FROM entries e LEFT JOIN results r USING (key)
            WHERE point >= ? AND (e.status <> '' OR r.key IS NOT NULL) ORDER BY point, seed
        """
        cursor = self.connection.cursor().execute(query, [first])
        while chunk := cursor.fetchmany(CHUNK):
            for point, seed, status, reason, inputs, fields in chunk:
                yield Row(point, seed, status, reason, from_json(inputs), from_json(fields) if fields else None)

    # --- the table ----------------------------------------------------------------------------

    def write_table(
        self, columns: Mapping[str, str], parts: Mapping[str, Collection[str]], heads: Iterable[Mapping[str, Any]]
    ) -> None:
        """Replace the table `points`: `columns` are names and SQL types.

        `heads` come in the order of `rows`, with the point and seed of each. `parts` are the columns that a head
        has, those of inputs and those of fields; where two have one, the first that has a value counts.
        """
        described = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
        shapes = {part: json.dumps({name: columns[name] for name in names}) for part, names in parts.items() if names}
        read = ", ".join(f"json_transform({part}, '{_escaped(shape)}') AS {part}" for part, shape in shapes.items())
        chosen = (", ".join(f"{part}.{quoted(name)}" for part in parts if name in parts[part]) for name in columns)
        command = f"""
            INSERT INTO points SELECT {", ".join(f"coalesce({values})" for values in chosen)} FROM (SELECT {read}
            FROM (SELECT unnest(?) AS point, unnest(?) AS seed, unnest(?::VARCHAR[]) AS head)
                JOIN entries e USING (point, seed) LEFT JOIN results r USING (key) ORDER BY point, seed)
        """
        self.connection.execute("BEGIN")
        try:
            self.connection.execute(f"CREATE OR REPLACE TABLE points ({described})")
            for chunk in _chunks(heads):
                places = ([head[name] for head in chunk] for name in ("point", "seed"))
                self.connection.execute(command, [*places, [json.dumps(head) for head in chunk]])
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise

    def export(self, path: Path, form: str) -> None:
        """Write the table to a file: `form` is csv or parquet."""
        options, target = "HEADER" if form == "csv" else "FORMAT parquet", _escaped(str(path))
        self.connection.execute(f"COPY (SELECT * FROM points ORDER BY point, seed) TO '{target}' ({options})")


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _escaped(text: str) -> str:
    return text.replace("'", "''")


def _chunks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
