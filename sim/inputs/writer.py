"""Definitions back to YAML.

Public: `yaml_text`, `extending`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sim.inputs.catalogue import is_path


def yaml_text(definition: Mapping[str, Any], comment: str = "") -> str:
    """A mapping as a YAML file, with `comment` on its first lines; loads to the same values."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    plain = json.loads(json.dumps(definition))
    return head + yaml.safe_dump(plain, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110)


def extending(
    source: str | Mapping[str, Any], changes: Mapping[str, Any], folder: Path | None = None
) -> dict[str, Any]:
    """The experiment `source` with `changes` by key path, as short as a person would write it.

    A name or a path is extended; a path is written relative to `folder`, where the file will lie, or else absolute. A
    mapping is copied. None takes a key away.
    """
    if isinstance(source, str):
        made: dict[str, Any] = {"extends": _found_from(source, folder) if is_path(source) else source}
    else:
        made = json.loads(json.dumps(source))
    for path, value in changes.items():
        _put(made, path.split("."), value)
    return made


def _found_from(path: str, folder: Path | None) -> str:
    if folder is None:
        return str(Path(path).resolve())
    relative = os.path.relpath(path, folder)
    return relative if is_path(relative) else f"./{relative}"


def _put(holder: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one key; a name on the way becomes a mapping that extends it, as overrides on the command line do."""
    first, *rest = path
    if not rest:
        holder[first] = value
        return
    inner = holder.get(first)
    holder[first] = dict(inner) if isinstance(inner, dict) else {"extends": inner} if isinstance(inner, str) else {}
    _put(holder[first], rest, value)
