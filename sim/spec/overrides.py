"""`--set a.b=c`: one value changed, also inside definitions that are only referred to.

Public: `apply_overrides`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from sim.errors import ConfigError, Problem
from sim.spec.catalogue import CATALOGUE
from sim.spec.reader import Mark, Node, from_python, plain, read_text
from sim.spec.resolve import Resolver


def apply_overrides(resolver: Resolver, root: Node, kind: str, overrides: Sequence[str]) -> Node:
    """`root` with each `key.path=value` of `overrides` set, the last one winning.

    Wrong overrides are noted in `resolver.problems` and left out. A definition on the way is
    resolved when a key path reaches into it.
    """
    for number, text in enumerate(overrides, start=1):
        try:
            root = _applied(resolver, root, kind, text, f"--set {number}")
        except ConfigError as error:
            resolver.problems += error.problems
    return root


def _applied(resolver: Resolver, root: Node, kind: str, text: str, source: str) -> Node:
    path, separator, value = text.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not separator or not all(keys):
        _refuse(source, "", f"{text[:80]!r} is not of the form key.path=value", "write it like training.tokens=300B")
    node = from_python(plain(read_text(value.strip(), source)), source)
    if keys == ["cluster", "nodes"]:
        root = Node({key: item for key, item in root.value.items() if key != "nodes"}, root.mark)
    return _changed(resolver, root, kind, keys, 0, node)


def _changed(resolver: Resolver, node: Node, kind: str | None, keys: list[str], depth: int, value: Node) -> Node:
    """`node` with `value` set at `keys[depth:]` under it; `kind` if it is a definition."""
    if depth == len(keys):
        return value
    if kind is not None and depth:
        node = resolver.resolve(kind, node, ".".join(keys[:depth]))
        if not isinstance(node.value, dict):
            return node
    if isinstance(node.value, list):
        return _changed_entry(resolver, node, keys, depth, value)
    if not isinstance(node.value, dict | None):
        _refuse(value.mark.source, ".".join(keys), f"{'.'.join(keys[:depth])} is a value, it has no keys")
    name, entries = keys[depth], node.value or {}
    inner = CATALOGUE[kind].references.get(name) if kind else None
    child = entries.get(name, Node(None, Mark(value.mark.source)))
    return Node({**entries, name: _changed(resolver, child, inner, keys, depth + 1, value)}, node.mark)


def _changed_entry(resolver: Resolver, node: Node, keys: list[str], depth: int, value: Node) -> Node:
    text, entries = keys[depth], node.value
    if not (text.isascii() and text.isdigit() and int(text[:9]) < len(entries)):
        size = f"{'.'.join(keys[:depth])} is a list of {len(entries)}"
        _refuse(value.mark.source, ".".join(keys), f"{text[:40]!r} is no entry of it: {size}", "entries count from 0")
    place = int(text)
    changed = _changed(resolver, entries[place], None, keys, depth + 1, value)
    return Node([*entries[:place], changed, *entries[place + 1 :]], node.mark)


def _refuse(source: str, key: str, message: str, suggestion: str = "") -> NoReturn:
    raise ConfigError(Problem(source, key, message, suggestion))
