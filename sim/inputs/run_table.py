"""Runs as people keep them: CSV with a row for each, whose headers are keys of an experiment, or are mapped to them.

Public: `RunColumns`, `is_run_table`, `read_run_table`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem
from sim.inputs.document import STUDY, entries
from sim.inputs.problems import MAX_PROBLEMS, near
from sim.inputs.reader import MAX_BYTES, Mark, SourceNode, read_bytes, read_text, scalar, shown_path

SUFFIXES = (".csv", ".tsv")
EXTENDS = "extends"
SOURCE, MEASURED = "measured.source", "measured."
MAPPED = "--column KEY=HEADER says what it is, --ignore HEADER leaves it out"
_UNIT = re.compile(r"\s*[\[(]([^\])]+)[\])]$")  # at the end of a header


@dataclass(frozen=True)
class RunColumns:
    """What the user says of headers. named: key to header, with its unit as `iter [ms]`; ignored: no keys."""

    named: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class _RunColumn:
    """Where a key stands, and the unit of its numbers."""

    place: int
    key: str
    unit: str


def is_run_table(path: Path) -> bool:
    """Whether a file is read as a table of runs."""
    return path.suffix.lower() in SUFFIXES


def read_run_table(path: Path, said: RunColumns) -> list[SourceNode]:
    """An experiment for each row, as written; each has a name and says where it was measured. Raises ConfigError."""
    try:
        text = read_bytes(path, MAX_BYTES, "a table of runs is a few kilobytes").decode("utf-8-sig")
        rows = csv.reader(text.splitlines(), delimiter=max(",\t;", key=text.partition("\n")[0].count), strict=True)
        header = [name.strip() for name in next(rows, [])]
        columns = _columns(header, said, shown_path(path))
        return list(_experiments(rows, columns, shown_path(path)))
    except UnicodeDecodeError:
        raise ConfigError(Problem(f"{shown_path(path)}:1:1", "", "is not UTF-8 text", "save it as UTF-8")) from None
    except csv.Error as error:
        raise ConfigError(Problem(shown_path(path), "", f"cannot be read as CSV: {error}")) from None


# --- headers --------------------------------------------------------------------------------


def _columns(header: Sequence[str], said: RunColumns, source: str) -> list[_RunColumn]:
    """The key of each column that is not left out. Raises ConfigError with all headers that are none."""
    found: list[_RunColumn] = []
    problems = list(_unknown_words(header, said))
    named = {_bare(wanted): (key, _unit(wanted)) for key, wanted in said.named.items()}
    ignored = {_bare(name) for name in said.ignored}
    for place, name in enumerate(header):
        bare = _bare(name)
        if bare in ignored or not name:
            continue
        key, unit = named.get(bare, (bare, ""))
        try:
            found.append(_RunColumn(place, _key(key), unit or _unit(name)))
        except ValueError as error:
            problems.append(Problem(f"{source}:1:{place + 1}", name[:80], str(error), MAPPED))
    problems += _clashes(found, header, source)
    if not header:
        problems.append(Problem(f"{source}:1:1", "", "is empty", "a header of keys, then a row for each run"))
    elif not any(column.key.startswith(MEASURED) and column.key != SOURCE for column in found):
        problems.append(
            Problem(f"{source}:1:1", "measured", "no column is measured", "name one measured.step_time [ms]")
        )
    if problems:
        raise ConfigError(problems)
    return found


def _unknown_words(header: Sequence[str], said: RunColumns) -> Iterator[Problem]:
    there = [_bare(name) for name in header]
    for key, wanted in said.named.items():
        if _bare(wanted) not in there:
            yield Problem("", f"--column {key}={wanted}", "is no header of this table", near(_bare(wanted), there))
    for name in said.ignored:
        if _bare(name) not in there:
            yield Problem("", f"--ignore {name}", "is no header of this table", near(_bare(name), there))


def _bare(name: str) -> str:
    return _UNIT.sub("", name).strip()


def _unit(name: str) -> str:
    found = _UNIT.search(name)
    return found[1].strip() if found else ""


def _key(name: str) -> str:
    """The key of that name, or the only one that ends in it and lies nearest to the top. Raises ValueError."""
    wanted = re.sub(r"[\s-]+", "_", name.strip()).lower()
    known = [entry.path for entry in entries() if not entry.path.startswith(STUDY)]
    if wanted in known or wanted == EXTENDS:
        return wanted
    ends = sorted({path for path in known if path.endswith(f".{wanted}")}, key=lambda path: (path.count("."), path))
    same = [path for path in ends if path.count(".") == ends[0].count(".")]
    if len(same) == 1:
        return same[0]
    if same:
        raise ValueError(f"may be {', '.join(same[:4])}")
    close = get_close_matches(wanted.rpartition(".")[2], {path.rpartition(".")[2] for path in known}, n=1, cutoff=0.75)
    raise ValueError(f"is no key of an experiment{f', as {close[0]} is' if close else ''}")


def _clashes(columns: Sequence[_RunColumn], header: Sequence[str], source: str) -> Iterator[Problem]:
    """Each key stands in one column, and not beside keys inside it."""
    seen: dict[str, _RunColumn] = {}
    for column in columns:
        other = next((seen[key] for key in seen if _overlap(key, column.key)), None)
        if other is not None:
            message = f"{column.key} is also said by column {other.place + 1}, {header[other.place]}"
            yield Problem(f"{source}:1:{column.place + 1}", header[column.place], message, "keep one of them")
        seen.setdefault(column.key, column)


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


# --- rows -----------------------------------------------------------------------------------


def _experiments(rows: Any, columns: Sequence[_RunColumn], source: str) -> Iterator[SourceNode]:
    problems: list[Problem] = []
    found: list[SourceNode] = []
    last = max(column.place for column in columns) + 1
    for cells in rows:
        line = rows.line_num
        if not any(map(str.strip, cells)):
            continue
        if len(cells) < last:
            message = f"has {len(cells)} cells, the header {last} or more"
            problems.append(Problem(f"{source}:{line}:1", "", message, "is a separator or a quote missing?"))
            continue
        found.append(_experiment(cells, columns, source, line, problems))
    if not found and not problems:
        problems.append(Problem(f"{source}:2:1", "", "holds no run", "a row for each run"))
    if problems:
        raise ConfigError(problems[:MAX_PROBLEMS])
    yield from found


def _experiment(
    cells: Sequence[str], columns: Sequence[_RunColumn], source: str, line: int, problems: list[Problem]
) -> SourceNode:
    """The experiment of a row; an empty cell says nothing."""
    mark = Mark(source, line, 1)
    tree: dict[str, Any] = {}
    said = {SOURCE: SourceNode(f"{source}, line {line}", mark), "name": SourceNode(f"line-{line}", mark)}
    for column in columns:
        text = cells[column.place].strip()
        if text:
            place = Mark(source, line, column.place + 1)
            try:
                said[column.key] = _cell(text, column, place)
            except ConfigError as error:
                reason = error.problems[0].message
                problems.append(
                    Problem(str(place), column.key, f"{text[:40]!r}: {reason}", "write it as in a definition")
                )
    for key, node in said.items():
        *outer, last = key.split(".")
        inner = tree
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = node
    return _nested(tree, mark)


def _cell(text: str, column: _RunColumn, place: Mark) -> SourceNode:
    """A cell as a definition would hold it. Raises ConfigError."""
    if text[0] in "[{":
        return _placed(read_text(text, place.source), place)
    value = scalar(text)
    if column.key == "name":
        return SourceNode(re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.+_")[:119] or f"line-{place.line}", place)
    if column.unit and isinstance(value, int | float) and not isinstance(value, bool):
        return SourceNode(f"{text} {column.unit}", place)
    return SourceNode(value, place)


def _placed(node: SourceNode, mark: Mark) -> SourceNode:
    """`node` with all that is in it at one place."""
    value = node.value
    if isinstance(value, dict):
        return SourceNode({key: _placed(item, mark) for key, item in value.items()}, mark)
    return SourceNode([_placed(item, mark) for item in value] if isinstance(value, list) else value, mark)


def _nested(tree: dict[str, Any], mark: Mark) -> SourceNode:
    inner = {key: _nested(item, mark) if isinstance(item, dict) else item for key, item in tree.items()}
    return SourceNode(inner, mark)
