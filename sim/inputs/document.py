"""Documentation from the declarations: what each key is, for people and for editors.

Public: `explain`, `json_schema`, `reference_markdown`, `Entry`, `entries`, `fleet_entries`, `uncounted`, `dimensions`,
`quantity_at`, `STUDY`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from textwrap import fill
from typing import Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from sim.errors import ConfigError, Problem
from sim.inputs.catalogue import CATALOGUE
from sim.inputs.fleet import FleetSpec
from sim.inputs.records import Experiment
from sim.inputs.study import Study
from sim.inputs.walk import choices, dimension_of, is_record, kind_of, members
from sim.record import Record
from sim.units import COUNT, FRACTION, Dimension, format_quantity

_BOUNDS = (
    (Gt, "gt", "more than"), (Ge, "ge", "at least"), (Lt, "lt", "less than"), (Le, "le", "at most"),
    (MinLen, "min_length", "entries: at least"), (MaxLen, "max_length", "at most"),
)  # fmt: skip
_PLAIN = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    dict: "mapping of text to text",
    Any: "any value",
}


FLEET = "fleet."  # begins the paths of keys that stand in a fleet
STUDY = "study."  # begins the paths of keys that stand in a study


@dataclass(frozen=True)
class Entry:
    """One key of the file format: its path in an experiment, and its declaration."""

    path: str
    record: type[Record]
    field: FieldInfo

    @property
    def doc(self) -> str:
        """What the key means."""
        return self.field.description or ""

    @property
    def values(self) -> str:
        """What may be written, in words."""
        return _type_text(self.field)

    @property
    def default(self) -> str:
        """The default, or `required`."""
        return _default_text(self.field)

    @property
    def bounds(self) -> str:
        """The limits of the value, empty if there are none."""
        return _bounds_text(self.field)

    @property
    def inner(self) -> tuple[type[Record], ...]:
        """The records that may be written under this key."""
        return _records(self.field)


@cache  # walks the types of the file format; completion, sweeps and explain ask for it
def entries() -> tuple[Entry, ...]:
    """Every key that can stand in an experiment, in the order of declaration; then those of a study."""
    return (*_walk(Experiment, ""), *_walk(Study, STUDY))


@cache  # as above, for explain
def fleet_entries() -> tuple[Entry, ...]:
    """Every key that only fleets have."""
    own = FleetSpec.__module__
    return tuple(entry for entry in _walk(FleetSpec, FLEET) if entry.record.__module__ == own)


def uncounted(key_path: str) -> str:
    """The path of an entry: `failures.modes.0.mtbf` without the places in lists."""
    return ".".join(part for part in key_path.split(".") if not part.isdecimal())


@cache  # walks the types of the file format, for each value of an axis
def dimensions() -> dict[str, Dimension]:
    """The dimension of every key that has one, by its path without places in lists."""
    return {entry.path: found for entry in entries() if (found := dimension_of(entry.field)) is not None}


def quantity_at(key_path: str, value: Any) -> str | None:
    """An SI value of a key for people, with a fitting unit; None where the key is no quantity with a unit."""
    dimension = dimensions().get(uncounted(key_path))
    if dimension is None or not dimension.symbol or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return format_quantity(value, dimension)


def explain(key_path: str = "") -> str:
    """What the key is: doc, type, bounds, default, and the keys under it.

    A path may leave out its beginning: `zero_stage` finds `parallelism.zero_stage`. The empty path
    lists the top. Raises ConfigError with the nearest keys if there is none.
    """
    wanted = key_path.strip().strip(".")
    if not wanted:
        tops: dict[str, type[Record]] = {"an experiment": Experiment, "a study": Study, "a fleet": FleetSpec}
        lines = [line for name, top in tops.items() for line in (f"The keys of {name}:", *_key_lines(top), "")]
        return _wrapped(lines[:-1])
    known = (*entries(), *fleet_entries())
    exact = [entry for entry in known if entry.path == wanted]
    found = exact or [entry for entry in known if entry.path.endswith(f".{wanted}")]
    if not found:
        raise ConfigError(Problem("", wanted, "there is no such key", _nearest(wanted)))
    return "\n\n".join(_wrapped(_explained(entry)) for entry in found)


def json_schema(kind: str = "experiment") -> dict[str, Any]:
    """JSON Schema (2020-12) of the files of one kind in `CATALOGUE`; `extends` included."""
    records = tuple(CATALOGUE[kind].records.values())
    adapter: TypeAdapter[Any] = TypeAdapter(Union[records])  # type: ignore[arg-type]  # noqa: UP007
    schema: dict[str, Any] = _without_bounds(adapter.json_schema())
    names = {record.__name__ for item in CATALOGUE.values() for record in item.records.values()}
    for definition in (schema, *(value for name, value in schema.get("$defs", {}).items() if name in names)):
        _allow_extends(definition)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": f"clustersim {kind}"}


def reference_markdown() -> str:
    """A table of all keys for every record, as Markdown."""
    records = list(dict.fromkeys(entry.record for entry in (*entries(), *fleet_entries())))
    return "\n".join(["# Every key", *(line for record in records for line in _section(record))]) + "\n"


# --- the tree of keys -------------------------------------------------------------------------


def _walk(record: type[Record], prefix: str) -> Iterator[Entry]:
    for name, field in record.model_fields.items():
        entry = Entry(prefix + name, record, field)
        yield entry
        for inner in entry.inner:
            yield from _walk(inner, f"{entry.path}.")


def _records(field: FieldInfo) -> tuple[type[Record], ...]:
    options = [inner for option in members(field.annotation) for inner in (option, *_items(option))]
    return tuple(option for option in options if is_record(option))


def _items(option: Any) -> tuple[Any, ...]:
    """The entry types of a list."""
    arguments = get_args(option) if get_origin(option) is tuple else ()
    return tuple(item for argument in arguments if argument is not Ellipsis for item in members(argument))


def _nearest(wanted: str) -> str:
    paths = [entry.path for entry in (*entries(), *fleet_entries())]
    close = get_close_matches(wanted, paths, n=3, cutoff=0.7)
    last = wanted.rpartition(".")[2]
    names = get_close_matches(last, {path.rpartition(".")[2] for path in paths}, n=2, cutoff=0.6)
    by_name = [path for name in names for path in paths if path.rpartition(".")[2] == name]
    guesses = list(dict.fromkeys(close + by_name))[:3]
    return f"did you mean {' or '.join(guesses)}?" if guesses else "`clustersim explain` lists the keys"


# --- words ------------------------------------------------------------------------------------


def _wrapped(lines: list[str]) -> str:
    """Lines of at most 80 columns; what follows a name and two spaces stays beside it."""
    hanging = (" " * _hanging(line) for line in lines)
    return "\n".join(
        fill(line, 80, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for line, indent in zip(lines, hanging, strict=True)
    )


def _hanging(line: str) -> int:
    label = re.match(r" +(\S+ {2,})?", line)
    return label.end() if label else 0


def _explained(entry: Entry) -> list[str]:
    rows = {
        "type": entry.values,
        "bounds": entry.bounds,
        "default": entry.default,
        "record": f"{entry.record.__name__}{_variant(entry.record)}",
    }
    lines = [entry.path, f"  {entry.doc}", *(f"  {name:<9}{text}" for name, text in rows.items() if text)]
    for record in entry.inner:
        lines += [f"  keys{_variant(record)}:", *(f"  {line}" for line in _key_lines(record))]
    return lines


def _variant(record: type[Record]) -> str:
    return "".join(f" (kind: {kind})" for kind in kind_of(record))


def _key_lines(record: type[Record]) -> list[str]:
    width = max(len(name) for name in record.model_fields) + 2
    return [f"  {name:<{width}}{field.description or _type_text(field)}" for name, field in record.model_fields.items()]


def _type_text(field: FieldInfo) -> str:
    dimension = dimension_of(field)
    options = members(field.annotation)
    if dimension is COUNT:
        text = "count, such as 96, 1e9 or 300B"
    elif dimension is FRACTION:
        text = "fraction, such as 0.45 or 45 %"
    elif dimension is not None:
        text = f"{dimension.name} with a unit, such as {' or '.join(dimension.examples[:2])}"
    else:
        return " or ".join(_option_text(options))
    return f"list; each a {text}" if any(get_origin(option) is tuple for option in options) else text


def _option_text(options: tuple[Any, ...]) -> Iterator[str]:
    named = str in options and any(is_record(option) or get_origin(option) is dict for option in options)
    if named:
        yield "name, path"
    if choices(options):
        yield ("one of " if len(choices(options)) > 1 else "") + ", ".join(choices(options))
    if any(is_record(option) for option in options):
        yield "mapping"
    for option in options:
        origin = get_origin(option) or option
        if origin is tuple:
            yield f"list; each {' or '.join(_option_text(_items(option)[:1]))}"
        elif origin in _PLAIN and not (origin is str and named):
            yield "mapping" if option == dict[str, Any] else _PLAIN[origin]


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return "absent"
    if isinstance(value, Record):
        return "the defaults of its keys"
    dimension = dimension_of(field)
    if isinstance(value, float) and dimension is not None:
        return format_quantity(value, dimension)
    return _value_text(value)


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _bounds_text(field: FieldInfo) -> str:
    dimension = dimension_of(field)
    unit = f" {dimension.symbol}" if dimension and dimension.symbol else ""
    return ", ".join(
        f"{words} {getattr(item, name):.15g}{unit if 'length' not in name else ''}"
        for item in field.metadata
        for kind, name, words in _BOUNDS
        if isinstance(item, kind)
    )


def _section(record: type[Record]) -> list[str]:
    lines = ["", f"## {record.__name__}{_variant(record)}", "", (record.__doc__ or "").strip(), ""]
    lines += ["| key | meaning | type | default |", "|---|---|---|---|"]
    for name, field in record.model_fields.items():
        limits = _bounds_text(field)
        type_text = _type_text(field) + (f"; {limits}" if limits else "")
        lines.append(f"| `{name}` | {field.description or ''} | {type_text} | {_default_text(field)} |")
    return lines


# --- JSON Schema ------------------------------------------------------------------------------


def _without_bounds(schema: Any) -> Any:
    """`schema` without the bounds that are about decoded values and that no editor knows."""
    if isinstance(schema, dict):
        return {key: _without_bounds(value) for key, value in schema.items() if key not in ("gt", "ge", "lt", "le")}
    return [_without_bounds(item) for item in schema] if isinstance(schema, list) else schema


def _allow_extends(definition: dict[str, Any]) -> None:
    """Accept `extends`, beside which no other key is required; nothing in a choice among records."""
    if "properties" not in definition:
        return
    text = {"type": "string", "description": "name or path of the definition to start from"}
    definition["properties"] = {"extends": text, **definition["properties"]}
    required = definition.pop("required", [])
    if required:
        definition["anyOf"] = [{"required": ["extends"]}, {"required": required}]
