"""A definition written by the program: what was measured, laid over a definition that exists.

Public: `fragment_text`, `definition_text`, `quantity_text`, `check_target`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sim.errors import ConfigError, Problem
from sim.units import Dimension


def fragment_text(comment: str, fields: Mapping[str, Any]) -> str:
    """YAML of `fields`, in their order, under a line of comment."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + yaml.safe_dump(_plain(fields), sort_keys=False, allow_unicode=True, width=110)


def definition_text(comment: str, fields: Mapping[str, Any]) -> str:
    """The same with one line for each innermost mapping, as long lists are read best, but for `sources`."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + "".join(_entry_text(key, value) for key, value in fields.items())


def quantity_text(value: float, dimension: Dimension) -> str:
    """`value` (SI) with five digits in the unit that fits best."""
    fitting = [unit for unit in dimension.scale if abs(value) >= dimension.units[unit]]
    unit = max(fitting or dimension.scale[:1], key=lambda name: dimension.units[name])
    return f"{value / dimension.units[unit]:.5g} {unit}"


def check_target(path: Path, force: bool) -> None:
    """Raises ConfigError if `path` exists and may not be replaced, or its folder does not exist."""
    if path.exists() and not force:
        raise ConfigError(Problem(str(path), "", "exists already", "choose another name, or replace it with --force"))
    if not path.parent.is_dir():
        raise ConfigError(Problem(str(path), "", "its folder does not exist", f"make {path.parent} first"))


def _entry_text(key: str, value: Any) -> str:
    short = isinstance(value, Mapping | list) and key != "sources"
    flow = None if short else False  # None: innermost collections on one line
    return yaml.safe_dump({key: _plain(value)}, sort_keys=False, allow_unicode=True, width=110, default_flow_style=flow)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
