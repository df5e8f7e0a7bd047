"""A file in a format of others: its text, everything that is wrong with it, and what becomes of it.

Public: `ForeignFile`, `ImportedFile`, `node_like`, `reference_to`, `option_quantity`, `plain_name`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from sim.errors import ConfigError, Problem
from sim.inputs.catalogue import is_path
from sim.inputs.load import load_definition
from sim.inputs.named_files import MOST_BYTES
from sim.inputs.problems import MAX_PROBLEMS
from sim.inputs.reader import read_bytes, shown_path
from sim.inputs.records import Node
from sim.units import DATA_RATE, Dimension, QuantityError, parse_quantity


@dataclass(frozen=True)
class ImportedFile:
    """A definition as YAML, and what a reader should know about it."""

    text: str
    remarks: tuple[str, ...]


@dataclass
class ForeignFile:
    """The content of a file, and the problems met in it so far."""

    path: Path
    content: bytes
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> ForeignFile:
        """The file at `path`. Raises ConfigError if it cannot be read, or nothing is in it."""
        file = cls(path, read_bytes(path, MOST_BYTES))
        if not file.content.strip():
            file.stop(1, 1, "is empty")
        return file

    @property
    def text(self) -> str:
        """Its text. Raises ConfigError where it is none."""
        try:
            return self.content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = self.content[: error.start]
            line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
            raise ConfigError(Problem(self._place(line, column), "", "is not UTF-8 text")) from None

    def note(self, line: int, column: int, message: str, way_out: str = "", key: str = "") -> None:
        """Keep a problem; `key` is the name of what is wrong there."""
        self.problems.append(Problem(self._place(line, column), key, message, way_out))

    def stop(self, line: int, column: int, message: str, way_out: str = "") -> NoReturn:
        """Raise ConfigError with this problem and all before it."""
        self.note(line, column, message, way_out)
        raise self._error()

    def raise_if_wrong(self) -> None:
        """Raise ConfigError with all problems, in the order of the file."""
        if self.problems:
            raise self._error()

    def _error(self) -> ConfigError:
        rest = len(self.problems) - MAX_PROBLEMS
        more = [Problem(shown_path(self.path), "", f"and {rest} further problems")] if rest > 0 else []
        return ConfigError([*sorted(self.problems, key=_position)[:MAX_PROBLEMS], *more])

    def _place(self, line: int, column: int) -> str:
        return f"{shown_path(self.path)}:{line}:{column}"


def _position(problem: Problem) -> tuple[int, int]:
    line, column = problem.where.rsplit(":", 2)[1:]
    return int(line), int(column)


def node_like(name: str) -> Node:
    """The server that `name` stands for, by name or path. Raises ConfigError."""
    node = load_definition("node", name)
    if not isinstance(node, Node):
        raise ConfigError(Problem("", "--node", f"{name} is no server", "clustersim list nodes"))
    return node


def reference_to(name: str) -> str:
    """`name` as another file can say it: a path does not depend on where that file lies."""
    return str(Path(name).resolve()) if is_path(name) else name


def option_quantity(text: str, dimension: Dimension, option: str) -> float:
    """The SI value of what `option` says; rates are above 0. Raises ConfigError."""
    try:
        value = parse_quantity(text, dimension)
    except QuantityError as error:
        raise ConfigError(Problem("", option, error.message, error.suggestion)) from None
    if value == 0 and dimension is DATA_RATE:
        raise ConfigError(Problem("", option, "must be above 0"))
    return value


def plain_name(text: str) -> str:
    """`text` with what a name may not hold replaced."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._+")[:119] or "imported"
