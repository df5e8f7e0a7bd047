"""Tables of measured runs: many experiments in one file, each a change of common defaults.

Public: `ValidationTable`, `LeftOut`, `Case`, `load_table`, `load_cases`, `is_table`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from sim.errors import ConfigError, Problem
from sim.inputs.load import LoadedExperiment, load_node
from sim.inputs.problems import decode
from sim.inputs.reader import Mark, SourceNode, plain, read_file
from sim.inputs.resolve import merge
from sim.inputs.run_table import RunColumns, is_run_table, read_run_table
from sim.record import Record


class LeftOut(Record):
    """A measurement of the source that is no case."""

    id: str = Field(min_length=1, description="which one, in the words of the source")
    reason: str = Field(min_length=1, description="why the simulator is not compared with it")


class ValidationTable(Record):
    """Measured runs of one source. A case that says `extends` starts there, not at the defaults."""

    source: str = Field(min_length=1, description="where the measurements were published")
    notes: str = Field(default="", description="what a reader of the errors should know")
    defaults: dict[str, Any] = Field(default={}, description="what the cases share: a part of an experiment")
    cases: tuple[dict[str, Any], ...] = Field(description="each a name and the rest of an experiment")
    left_out: tuple[LeftOut, ...] = Field(default=(), description="measurements that are no cases, with the reason")


@dataclass(frozen=True)
class Case:
    """One experiment of a table, as written: not yet resolved, decoded or checked."""

    name: str
    path: Path
    node: SourceNode

    def load(self, overrides: Sequence[str] = ()) -> LoadedExperiment:
        """The checked experiment. Raises ConfigError with places in the table."""
        return load_node(self.node, self.path, overrides)


def is_table(path: Path) -> bool:
    """Whether the file is a table, as YAML or CSV, and not one experiment. Raises ConfigError."""
    return is_run_table(path) or "cases" in read_file(path).value


def load_table(path: Path) -> ValidationTable:
    """The table as a record; its cases are not looked into. Raises ConfigError."""
    decoded = decode(ValidationTable, read_file(path))
    if isinstance(decoded, list):
        raise ConfigError(decoded)
    return decoded


def load_cases(path: Path, columns: RunColumns | None = None) -> list[Case]:
    """The cases of a table in file order; `columns` says what headers of CSV mean. Raises ConfigError."""
    if is_run_table(path):
        return _named(read_run_table(path, columns or RunColumns()), path)
    load_table(path)
    root = read_file(path).value
    defaults = root.get("defaults", SourceNode({}, Mark(str(path))))
    return [replace(case, node=merge(defaults, case.node)) for case in _named(root["cases"].value, path)]


def _named(nodes: Sequence[SourceNode], path: Path) -> list[Case]:
    """Cases as they stand. Raises ConfigError where names are missing or alike."""
    problems = list(_problems_of_names(nodes))
    if problems:
        raise ConfigError(problems)
    return [Case(plain(node.value["name"]), path, node) for node in nodes]


def _problems_of_names(nodes: Sequence[SourceNode]) -> Iterator[Problem]:
    """A case has a name of its own."""
    seen: dict[str, Mark] = {}
    for number, node in enumerate(nodes):
        name = node.value.get("name")
        if name is None or not isinstance(name.value, str):
            yield Problem(str(node.mark), f"cases.{number}.name", "a case needs a name, which is text")
        elif name.value in seen:
            first = seen[name.value]
            message = f"{name.value!r} is also the name of the case in line {first.line}"
            yield Problem(str(name.mark), f"cases.{number}.name", message, "names are unique in a table")
        else:
            seen[name.value] = name.mark
