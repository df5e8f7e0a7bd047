"""`--set a.b=c`: one value changed, also inside definitions that are only referred to.

Public: `apply_overrides`, `set_value`, `Override`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from sim.errors import ConfigError, Problem
from sim.inputs.catalogue import CATALOGUE, GROUP
from sim.inputs.reader import Mark, SourceNode, from_python, plain, read_text
from sim.inputs.resolve import Resolver

Override = str | tuple[str, object]  # `key.path=value` with the value in YAML, or the path and a plain value


def apply_overrides(resolver: Resolver, root: SourceNode, kind: str, overrides: Sequence[Override]) -> SourceNode:
    """`root` with each of `overrides` set, the last one winning.

    Wrong overrides are noted in `resolver.problems` and left out. A definition on the way is
    resolved when a key path reaches into it.
    """
    for number, override in enumerate(overrides, start=1):
        try:
            root = set_value(resolver, root, kind, *_read(override, f"--set {number}"))
        except ConfigError as error:
            resolver.problems += error.problems
    return root


def _read(override: Override, source: str) -> tuple[str, SourceNode]:
    if not isinstance(override, str):
        return override[0], from_python(override[1], source)
    path, separator, value = override.partition("=")
    if not separator:
        _refuse(source, "", f"{override[:80]!r} is not of the form key.path=value", _HOW)
    return path, from_python(plain(read_text(value.strip(), source)), source)


def set_value(resolver: Resolver, root: SourceNode, kind: str, path: str, node: SourceNode) -> SourceNode:
    """`root`, a definition of `kind`, with `node` at the key path `path`. Raises ConfigError."""
    keys = [key.strip() for key in path.split(".")]
    if not all(keys):
        _refuse(str(node.mark), "", f"{path[:80]!r} is not a key path", _HOW)
    if keys == ["cluster", "nodes"]:
        root = SourceNode({key: item for key, item in root.value.items() if key != "nodes"}, root.mark)
    return _changed(resolver, _uncounted(root, keys), kind, keys, 0, node)


def _uncounted(root: SourceNode, keys: list[str]) -> SourceNode:
    """An experiment without the number of all nodes, where the count of one kind of them is to change."""
    cluster = root.value.get("cluster")
    if keys[:2] != ["cluster", "node"] or len(keys) < 3 or cluster is None or not isinstance(cluster.value, dict):
        return root
    if "node" not in cluster.value or not isinstance(cluster.value["node"].value, list):
        return root
    kept = {key: item for key, item in cluster.value.items() if key != "nodes"}
    return SourceNode(root.value | {"cluster": SourceNode(kept, cluster.mark)}, root.mark)


ENTRY = "entry"  # of a list of kinds of node
_HOW = "write it like training.tokens=300B"


def _changed(
    resolver: Resolver, node: SourceNode, kind: str | None, keys: list[str], depth: int, value: SourceNode
) -> SourceNode:
    """`node` with `value` set at `keys[depth:]` under it; `kind` if it is a definition."""
    if depth == len(keys):
        return value
    if kind is not None and kind != ENTRY and depth and not isinstance(node.value, list):
        node = resolver.expand(kind, node, ".".join(keys[:depth]))
        if not isinstance(node.value, dict):
            return node
    if isinstance(node.value, list):
        return _changed_entry(resolver, node, kind, keys, depth, value)
    if not isinstance(node.value, dict | None):
        _refuse(str(value.mark), ".".join(keys), f"{'.'.join(keys[:depth])} is a value, it has no keys")
    name, entries = keys[depth], node.value or {}
    inner = _references(kind).get(name)
    child = entries.get(name, SourceNode(None, Mark(value.mark.source)))
    return SourceNode({**entries, name: _changed(resolver, child, inner, keys, depth + 1, value)}, node.mark)


def _references(kind: str | None) -> Mapping[str, str]:
    """Keys that refer to definitions, with the kind of these."""
    if kind is None:
        return {}
    return GROUP if kind == ENTRY else CATALOGUE[kind].references


def _changed_entry(
    resolver: Resolver, node: SourceNode, kind: str | None, keys: list[str], depth: int, value: SourceNode
) -> SourceNode:
    text, entries = keys[depth], node.value
    if not (text.isascii() and text.isdigit() and int(text[:9]) < len(entries)):
        size = f"{'.'.join(keys[:depth])} is a list of {len(entries)}"
        _refuse(str(value.mark), ".".join(keys), f"{text[:40]!r} is no entry of it: {size}", "entries count from 0")
    place = int(text)
    changed = _changed(resolver, entries[place], ENTRY if kind == "node" else None, keys, depth + 1, value)
    return SourceNode([*entries[:place], changed, *entries[place + 1 :]], node.mark)


def _refuse(source: str, key: str, message: str, suggestion: str = "") -> NoReturn:
    raise ConfigError(Problem(source, key, message, suggestion))
