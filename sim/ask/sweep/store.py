"""The results of a sweep in one DuckDB file.

Public: `Store`, `PointEntry`, `Outcome`, `StoredRow`, `made`, `quoted`.

`results` keeps what was computed by content key, for ever; `entries` lists the points of the present study;
`points` is the table for people, made from both. Each change is one transaction: a killed process loses
nothing that was recorded and leaves nothing half-written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from sim.errors import ConfigError, OutputError, Problem

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FILE = "sweep.duckdb"
CHUNK = 1000

ELSEWHERE = "choose another folder with -o"
FORMULA = "=+-@\t\r\n"  # a cell that begins with one of these is computed by spreadsheets (OWASP, "CSV Injection")

_UNWRITTEN = re.compile("No space left|quota exceeded|File too large|[Rr]ead-only|Permission denied|Input/output error")
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
class PointEntry:
    """One row to be: a point of the study, under the content key of its experiment if that is valid."""

    point: int
    seed: int
    key: str | None
    status: str  # why it is not simulated, else ""
    reason: str
    inputs: str  # parameters as JSON


@dataclass(frozen=True)
class StoredRow:
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
        with self.telling():
            self.connection: DuckDBPyConnection = duckdb.connect(str(self.path or ":memory:"))
            self.connection.execute("SET threads = 1")  # the others are for workers
            self.connection.execute(_TABLES)
            self._check_tables()
            errors = "SELECT 1 FROM results WHERE status = 'error' LIMIT 1"
            self.has_errors = bool(self.connection.execute(errors).fetchall())

    def _check_tables(self) -> None:
        """Raises ConfigError if the tables that were there are not those of this version."""
        for table, columns in (("results", ("key", *_names(Outcome))), ("entries", _names(PointEntry))):
            if tuple(name for name, _ in self._columns(table)) != columns:
                message = f"was written by another version: its table {table} has other columns"
                raise ConfigError(Problem(str(self.path), "", message, ELSEWHERE))

    def close(self) -> None:
        """Write everything and let go of the file."""
        with self.telling():
            self.connection.close()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Errors of the database inside come in our words.

        Raises OutputError for what cannot be written, ConfigError for a file that is damaged or in use.
        """
        import duckdb

        try:
            yield
        except (duckdb.ProgrammingError, duckdb.DataError):
            raise  # a wrong query is a defect of the program
        except duckdb.Error as error:
            raise _told(str(self.path), str(error)) from None

    # --- entries and results ------------------------------------------------------------------

    def begin(self) -> None:
        """Forget the points of the study before; their results stay."""
        with self.telling():
            self.connection.execute("DELETE FROM entries")

    def list_entries(self, entries: Sequence[PointEntry]) -> None:
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
        with self.telling():
            return {key for (key,) in self.connection.execute(query, [list(keys)]).fetchall()}

    def _insert(self, command: str, rows: Sequence[tuple[Any, ...]], width: int) -> None:
        if not rows:
            return
        columns = [list(column) for column in zip(*rows, strict=True)]
        with self.telling():
            self.connection.execute(f"{command} SELECT {', '.join(['unnest(?)'] * width)}", columns)

    def rows(self, first: int = 0) -> Iterator[StoredRow]:
        """The points of the study from `first` on, in order; those without an outcome yet are left out."""
        query = """
            SELECT point, seed, coalesce(nullif(e.status, ''), r.status), coalesce(nullif(e.reason, ''), r.reason),
                inputs, fields
            FROM entries e LEFT JOIN results r USING (key)
            WHERE point >= ? AND (e.status <> '' OR r.key IS NOT NULL) ORDER BY point, seed
        """
        with self.telling():
            cursor = self.connection.cursor().execute(query, [first])
        while chunk := self._fetched(cursor):
            for point, seed, status, reason, inputs, told in chunk:
                yield StoredRow(point, seed, status, reason, from_json(inputs), from_json(told) if told else None)

    def _fetched(self, cursor: DuckDBPyConnection) -> list[tuple[Any, ...]]:
        with self.telling():
            return cursor.fetchmany(CHUNK)

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
        with self.telling(), self._transaction():
            self.connection.execute(f"CREATE OR REPLACE TABLE points ({described})")
            for chunk in _chunks(heads):
                places = ([head[name] for head in chunk] for name in ("point", "seed"))
                self.connection.execute(command, [*places, [json.dumps(head) for head in chunk]])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is inside, or nothing."""
        import duckdb

        self.connection.execute("BEGIN")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a commit that failed has ended the transaction
                self.connection.execute("ROLLBACK")
            raise

    def export(self, path: Path, form: str) -> None:
        """Write the table to a file: `form` is csv or parquet. Raises OSError.

        In CSV a text that a spreadsheet would take for a formula begins with an apostrophe; numbers stay numbers.
        """
        import duckdb

        options, target = "HEADER" if form == "csv" else "FORMAT parquet", _escaped(str(path))
        chosen = ", ".join(map(_cell, self._columns("points"))) if form == "csv" else "*"
        table = f"(SELECT {chosen} FROM points ORDER BY point, seed)"
        try:
            self.connection.execute(f"COPY {table} TO '{target}' ({options}, USE_TMP_FILE false)")
        except duckdb.IOException as error:
            raise OSError(_cause(str(error))) from None

    def _columns(self, table: str) -> list[tuple[str, str]]:
        """Name and SQL type of each column."""
        query = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
        return self.connection.execute(query, [table]).fetchall()


def made(folder: Path | None) -> Path | None:
    """The folder, made if it is not there. Raises ConfigError."""
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(Problem(str(folder), "", f"cannot be written: {error.strerror}", ELSEWHERE)) from None
    return folder


def _told(path: str, error: str) -> ConfigError | OutputError:
    """What went wrong with the database at `path`, by what it says itself."""
    if "Could not set lock" in error:
        return ConfigError(Problem(path, "", "is in use by another process", ELSEWHERE))
    if _UNWRITTEN.search(error):
        return OutputError(Problem(path, "", f"cannot be written: {_cause(error)}", f"make room, or {ELSEWHERE}"))
    way_out = f"move it away, or {ELSEWHERE}: what it held is computed again"
    return ConfigError(Problem(path, "", f"cannot be read: {error.splitlines()[0][:160]}", way_out))


def _cause(error: str) -> str:
    """The cause that the system gave, which stands at the end of a message of DuckDB."""
    return error.splitlines()[0].rpartition(": ")[2].partition('"')[0]


def _cell(column: tuple[str, str]) -> str:
    """SQL of a column for CSV, its name included."""
    name, kind = column
    value, head = quoted(name), quoted(f"'{name}" if name.startswith(tuple(FORMULA)) else name)
    if kind != "VARCHAR":
        return f"{value} AS {head}"
    marks = ", ".join(f"chr({ord(mark)})" for mark in FORMULA)
    formula = f"{value}[1] IN ({marks}) AND TRY_CAST({value} AS DOUBLE) IS NULL"
    return f"CASE WHEN {formula} THEN chr(39) || {value} ELSE {value} END AS {head}"


def _names(record: type[PointEntry | Outcome]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


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
