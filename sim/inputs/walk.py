"""The tree of records as data: which field a key path means.

Public: `KeyPlace`, `locate`, `members`, `is_record`, `kind_of`, `dimension_of`, `choices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from sim.record import Choice, Record
from sim.units import Dimension, Quantity, Share, WholeNumber


@dataclass(frozen=True)
class KeyPlace:
    """A key path, the record that holds its last key, and the field if the record has it."""

    keys: tuple[str | int, ...]
    record: type[Record] | None
    field: FieldInfo | None
    options: tuple[Any, ...]  # the types that the value may have


def members(annotation: Any) -> tuple[Any, ...]:
    """The types that `annotation` allows: unions flattened, None and Annotated removed."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(option for member in get_args(annotation) for option in members(member))
    return () if annotation is type(None) else (annotation,)


def is_record(option: Any) -> TypeGuard[type[Record]]:
    """Whether a member of an annotation is a record class."""
    return isinstance(option, type) and issubclass(option, Record)


def locate(record: type[Record], location: Sequence[str | int]) -> KeyPlace:
    """The place of a pydantic error location, from which the labels of unions are left out."""
    place = KeyPlace((), None, None, (record,))
    for part in location:
        place = _narrow(place, str(part)) if len(place.options) > 1 else _step(place, part)
    return place


def kind_of(record: type[Record]) -> tuple[str, ...]:
    """The values of `kind` that choose this record among others."""
    field = record.model_fields.get("kind")
    return get_args(field.annotation) if field and field.is_required() else ()


def dimension_of(field: FieldInfo) -> Dimension | None:
    """The dimension of a quantity, count or fraction, also inside an option or a tuple."""
    markers = [*field.metadata, *_markers(field.annotation)]
    return next((item.dimension for item in markers if isinstance(item, Quantity | WholeNumber | Share)), None)


def choices(options: Sequence[Any]) -> list[str]:
    """The literal values among `options`, and names of tables."""
    return [str(value) for option in options for value in _values(option)]


def _values(option: Any) -> tuple[Any, ...]:
    if isinstance(option, type) and issubclass(option, Choice):
        return option.names()
    return get_args(option) if get_origin(option) is Literal else ()


def _markers(annotation: Any) -> list[Any]:
    found = list(annotation.__metadata__) if get_origin(annotation) is Annotated else []
    return found + [marker for inner in get_args(annotation) for marker in _markers(inner)]


def _narrow(place: KeyPlace, label: str) -> KeyPlace:
    return KeyPlace(place.keys, place.record, place.field, _narrowed(place.options, label))


def _narrowed(options: tuple[Any, ...], label: str) -> tuple[Any, ...]:
    if label in ("name", "str"):
        return (str,)
    if label == "inline":
        return tuple(option for option in options if is_record(option))
    kinds = tuple(option for option in options if is_record(option) and label in kind_of(option))
    origins = tuple(
        option for option in options if label.startswith(getattr(get_origin(option), "__name__", "-").lower())
    )
    return kinds or origins[:1] or options[:1]


def _step(place: KeyPlace, part: str | int) -> KeyPlace:
    keys = (*place.keys, part)
    option = place.options[0] if place.options else None
    if is_record(option):
        field = option.model_fields.get(str(part))
        return KeyPlace(keys, option, field, members(field.annotation) if field else ())
    inner = _item(option, part)
    return KeyPlace(keys, None, place.field if inner else None, members(inner) if inner else ())


def _item(option: Any, part: str | int) -> Any:
    """Type of the entry `part` of a tuple or dict type."""
    arguments = get_args(option)
    if get_origin(option) is dict:
        return arguments[1]
    if get_origin(option) is not tuple or not isinstance(part, int):
        return None
    return arguments[0] if arguments[-1] is Ellipsis else arguments[min(part, len(arguments) - 1)]
