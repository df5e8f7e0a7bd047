"""Names that expressions of a study may use: keys of the experiment, and fields of the result.

Public: `flatten`, `result_lookup`, `input_lookup`, `is_input`, `nearest`, `DERIVED`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from math import isfinite
from typing import Any, get_args, get_type_hints

from sim.inputs.document import STUDY, Entry, entries, uncounted
from sim.inputs.expression import Lookup
from sim.inputs.records import Experiment
from sim.inputs.setup import Setup
from sim.metrics.result import LinkUse, Result
from sim.record import Record

# Parts of a result that say how it was found, or repeat the input.
LEFT_OUT = frozenset(
    {"name", "description", "setup", "manifest", "notes", "folding", "exactness", "events", "wall_s", "seed", "version"}
)
SUMMARIES = ("total", "mean")  # the entry of a mapping that its own name stands for
DERIVED: dict[str, Callable[[Setup], Any]] = {
    "accelerators": lambda setup: setup.ranks,
    "microbatches": lambda setup: setup.microbatches,
    "nodes": lambda setup: setup.cluster.nodes,
}


# --- results ----------------------------------------------------------------------------------


def flatten(result: Result) -> dict[str, Any]:
    """Every number, flag and text of `result` by its dotted name; of all links the busiest by mean load."""
    row: dict[str, Any] = {}
    for name, part in vars(result).items():
        if name not in LEFT_OUT:
            _add_leaves(row, name, part)
    links = max(result.utilization.links, key=lambda link: link.mean, default=None)
    return row | _busiest(links)


def _busiest(link: LinkUse | None) -> dict[str, Any]:
    names = ("kind", "mean", "peak")
    return {f"utilization.busiest_link.{name}": getattr(link, name) for name in names} if link else {}


def _add_leaves(row: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, float):
        if isfinite(value):
            row[name] = value
    elif isinstance(value, bool | int | str):
        row[name] = value
    elif isinstance(value, dict) or is_dataclass(value):
        for key, item in (value if isinstance(value, dict) else vars(value)).items():
            _add_leaves(row, f"{name}.{key}", item)


def result_lookup(row: Mapping[str, Any], inputs: Lookup) -> Lookup:
    """Values of a flattened result by name, a mapping standing for its total or mean; else of `inputs`."""

    def look_up(name: str) -> Any:
        for known in (name, *(f"{name}.{summary}" for summary in SUMMARIES)):
            if known in row:
                return row[known]
        return inputs(name)

    return look_up


# --- inputs -----------------------------------------------------------------------------------


def input_lookup(experiment: Experiment) -> Lookup:
    """Values of a resolved experiment by key path, in SI; a definition stands for its name."""
    setup = experiment.setup

    def look_up(name: str) -> Any:
        if name in DERIVED:
            return DERIVED[name](setup)
        value: Any = experiment
        for key in name.split("."):
            value = _entry(value, key)
        return getattr(value, "name", value) if isinstance(value, Record) else value

    return look_up


def _entry(value: Any, key: str) -> Any:
    if isinstance(value, Record) and key in type(value).model_fields:
        return getattr(value, key)
    if isinstance(value, Mapping):
        return value[key]
    raise KeyError(key)


# --- which names there are --------------------------------------------------------------------


def is_input(name: str) -> bool:
    """Whether `name` is known before the simulation."""
    return name in _input_names()


def is_result(name: str) -> bool:
    """Whether `name` is, or may be, a field of a result."""
    return any(name == known or (open_ended and name.startswith(f"{known}.")) for known, open_ended in _result_names())


def is_key(path: str) -> bool:
    """Whether an axis may vary the key path: a key of an experiment, list entries counted, mappings open."""
    plain = uncounted(path)
    parents = [plain.rsplit(".", count)[0] for count in range(1, plain.count(".") + 1)]
    return plain in _keys() or any(parent in _open_keys() for parent in parents)


def nearest(name: str, results: bool) -> str:
    """`did you mean ...?` for an unknown name, or how to find one."""
    known = [*_input_names(), *(name for name, _ in _result_names())] if results else sorted(_keys())
    last = name.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last][:3]
    close = same or get_close_matches(name, known, n=2, cutoff=0.6)
    way_out = "`clustersim explain` lists the keys" + (", docs/metrics.md the results" if results else "")
    return f"did you mean {' or '.join(close)}?" if close else way_out


def _entries() -> list[Entry]:
    return [entry for entry in entries() if not entry.path.startswith(STUDY)]


def _keys() -> frozenset[str]:
    return frozenset(entry.path for entry in _entries())


def _open_keys() -> frozenset[str]:
    return frozenset(entry.path for entry in _entries() if "dict[" in str(entry.field.annotation))


def _input_names() -> tuple[str, ...]:
    return (*DERIVED, *(entry.path for entry in _entries() if entry.path not in DERIVED))


@cache  # walks the types of a result, for each name in a study
def _result_names() -> tuple[tuple[str, bool], ...]:
    """Names of result fields, and whether any name may follow them."""
    return tuple(_typed(Result, ""))


def _typed(kind: Any, prefix: str) -> Iterator[tuple[str, bool]]:
    for name, hint in get_type_hints(kind).items():
        options = [option for option in (hint, *get_args(hint)) if is_dataclass(option)]
        if not prefix and name in LEFT_OUT:
            continue
        yield prefix + name, "dict[" in str(hint) or (prefix + name) == "utilization"
        for option in options:
            yield from _typed(option, f"{prefix}{name}.")
