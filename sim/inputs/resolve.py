"""References to raw mappings: names, paths, inline definitions, `extends` and overrides.

Public: `Resolver`, `merge`, `real_path`. Works on Nodes, so that every value keeps the place it was written at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sim.errors import ConfigError, Problem
from sim.inputs.catalogue import CATALOGUE, GROUP, find_definition
from sim.inputs.reader import SourceNode, read_file

MAX_CHAIN = 20
VARIANTS = frozenset({"fabric", "workload", "teacher"})  # records whose `kind` chooses the other keys


@dataclass
class Resolver:
    """Resolves the references of one definition; keeps the files it read and all problems it met."""

    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    homes: dict[str, Path] = field(default_factory=dict)  # source of a Mark to the folder of that file
    outside: Path = field(default_factory=Path)  # folder for references that are in no file

    def read(self, path: Path) -> SourceNode:
        """The mapping in `path`. Raises ConfigError."""
        node = read_file(path)
        self.was_read(path, node.mark.source)
        return node

    def was_read(self, path: Path, source: str) -> None:
        """Definitions come from `path`, which marks call `source`: what they name is looked for beside it."""
        self.files.append(path.absolute())
        self.homes[source] = path.parent

    def resolve(self, kind: str, node: SourceNode, key: str = "", chain: tuple[Path, ...] = ()) -> SourceNode:
        """`node` as a mapping in which every reference is a mapping too.

        What cannot be resolved stays a text, with a problem noted. `key` is the key path of
        `node`, `chain` the files that are being extended.
        """
        if isinstance(node.value, list) and kind == "node":
            return self._resolve_groups(node, key)
        expanded = self.expand(kind, node, key, chain)
        if not isinstance(expanded.value, dict):
            return expanded
        resolved = self._resolve_inner(expanded, CATALOGUE[kind].references, key)
        return _with_sum(resolved) if kind in ("cluster", "instance") else resolved

    def _resolve_inner(self, node: SourceNode, references: Mapping[str, str], key: str) -> SourceNode:
        """A mapping with those of its keys resolved that refer to definitions of the kinds given."""
        inner = {
            name: self.resolve(target, node.value[name], _joined(key, name))
            for name, target in references.items()
            if name in node.value
        }
        return SourceNode(node.value | inner, node.mark)

    def _resolve_groups(self, node: SourceNode, key: str) -> SourceNode:
        """Several kinds of node, each an entry with its count."""
        entries = enumerate(node.value)
        return SourceNode(
            [
                self._resolve_inner(entry, GROUP, _joined(key, str(number))) if isinstance(entry.value, dict) else entry
                for number, entry in entries
            ],
            node.mark,
        )

    def expand(self, kind: str, node: SourceNode, key: str, chain: tuple[Path, ...] = ()) -> SourceNode:
        """`node` with its own name looked up and its `extends` applied; references under it stay."""
        if isinstance(node.value, str):
            return self._look_up(kind, node, key, chain)
        said = _said(kind, node)
        if said is None:
            return node
        base: SourceNode = node.value[said]
        if not isinstance(base.value, str):
            message = "must be the name or path of a definition"
            self.problems.append(Problem(str(base.mark), _joined(key, said), message))
            return SourceNode("", base.mark)
        start = self.expand(kind, base, _joined(key, said), chain)
        return self._changed(kind, start, node, key) if isinstance(start.value, dict) else start

    def _look_up(self, kind: str, node: SourceNode, key: str, chain: tuple[Path, ...]) -> SourceNode:
        try:
            path = real_path(find_definition(kind, node.value, self.homes.get(node.mark.source, self.outside)))
            _refuse_circle(path, chain)
            inner = self.read(path)
        except ConfigError as error:
            self.problems += [_located(problem, node, key) for problem in error.problems]
            return node
        return self.expand(kind, inner, key, (*chain, path))

    def _changed(self, kind: str, base: SourceNode, change: SourceNode, key: str) -> SourceNode:
        """`base` with the keys of `change`; a reference in `base` is resolved if keys of it change."""
        entries = {name: item for name, item in change.value.items() if name != _said(kind, change)}
        inner = {
            name: self.resolve(target, base.value[name], _joined(key, name))
            for name, target in CATALOGUE[kind].references.items()
            if name in base.value and name in entries and isinstance(entries[name].value, dict)
        }
        return merge(SourceNode(base.value | inner, base.mark), SourceNode(entries, change.mark), kind)


def merge(base: SourceNode, change: SourceNode, key: str = "") -> SourceNode:
    """`base` with the keys of `change`: mappings merge, everything else is replaced.

    A mapping replaces a fabric or workload of another `kind`, and a mapping that says `extends`
    replaces what was there.
    """
    if not isinstance(base.value, dict) or not isinstance(change.value, dict):
        return change
    if "extends" in change.value or (key in VARIANTS and _kinds_differ(base, change)):
        return change
    merged = dict(base.value)
    for name, item in change.value.items():
        merged[name] = merge(merged[name], item, name) if name in merged else item
    return SourceNode(merged, change.mark)


def _with_sum(cluster: SourceNode) -> SourceNode:
    """A cluster of several kinds of node with the number of all of them, where it does not say it."""
    kinds = cluster.value.get("node")
    if kinds is None or not isinstance(kinds.value, list) or "nodes" in cluster.value:
        return cluster
    entries = [entry.value for entry in kinds.value if isinstance(entry.value, dict) and "nodes" in entry.value]
    counts = (entry["nodes"].value for entry in entries)
    total = sum(count for count in counts if isinstance(count, int))
    return SourceNode(cluster.value | {"nodes": SourceNode(max(1, total), kinds.mark)}, cluster.mark)


def _said(kind: str, node: SourceNode) -> str | None:
    """The key by which `node` builds on another definition; a workload that lies in a file of its own says which."""
    keys = ("extends", "file") if kind == "workload" else ("extends",)
    return next((key for key in keys if isinstance(node.value, dict) and key in node.value), None)


def real_path(path: Path) -> Path:
    """`path` without links; unchanged where that fails, which reading it will report."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


def _refuse_circle(path: Path, chain: tuple[Path, ...]) -> None:
    if path in chain:
        names = " -> ".join(file.stem for file in (*chain[chain.index(path) :], path))
        raise ConfigError(Problem("", "", f"`extends` goes in a circle: {names}", "remove it from one of them"))
    if len(chain) >= MAX_CHAIN:
        raise ConfigError(Problem("", "", f"`extends` goes through more than {MAX_CHAIN} files"))


def _kinds_differ(base: SourceNode, change: SourceNode) -> bool:
    kinds = [node.value["kind"].value for node in (base, change) if "kind" in node.value]
    return len(kinds) == 2 and kinds[0] != kinds[1]


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _located(problem: Problem, node: SourceNode, key: str) -> Problem:
    """`problem` placed at the reference if it has no place, or if the file itself is missing."""
    if not problem.where:
        return replace(problem, where=str(node.mark), key=key)
    if ":" in problem.where.rpartition("/")[2]:
        return problem
    return Problem(str(node.mark), key, f"{problem.where} {problem.message}", problem.suggestion)
