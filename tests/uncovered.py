"""A source for every number: which numbers of a definition no source covers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.inputs.walk import choices, members
from sim.record import Record


def uncovered_numbers(record: Record) -> list[str]:
    """Key paths of the numbers written in `record` that no key of its `sources` is a prefix of.

    What was left out, and assumed, has the catalogue for a source. Definitions that are referred to have sources of
    their own; a choice such as `tiers: 3` is no number.
    """
    sources = (*getattr(record, "sources", {}), *getattr(record, "assumed", ()))
    return [key for key in _numbers(record, "") if not any(_covers(source, key) for source in sources)]


def _covers(source: str, key: str) -> bool:
    return key == source or key.startswith(f"{source}.")


def _numbers(record: Record, prefix: str) -> Iterator[str]:
    for name, field in type(record).model_fields.items():
        if name in record.model_fields_set and not choices(members(field.annotation)):
            yield from _leaves(getattr(record, name), prefix + name)


def _leaves(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, Record):
        yield from () if hasattr(value, "sources") else _numbers(value, f"{key}.")
    elif isinstance(value, tuple):
        yield from dict.fromkeys(key for item in value for _ in _leaves(item, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key
