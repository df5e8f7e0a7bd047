"""What varies in a study: the levels of each axis, with the places where they were written.

Public: `Varying`, `Level`, `varying`, `Change`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, NoReturn

from sim.errors import ConfigError, Problem
from sim.inputs.document import dimensions, uncounted
from sim.inputs.expression import Expression, parse_expression
from sim.inputs.reader import Mark, SourceNode, plain
from sim.inputs.study import Axis, Bound, LinearRange, LogRange
from sim.units import (
    COUNT,
    DIMENSIONS,
    FRACTION,
    QuantityError,
    Unit,
    parse_count,
    parse_fraction,
    parse_quantity,
    unit_of,
)

MAX_LEVELS = 1_000_000
Change = tuple[str, SourceNode]  # key path and the value as it was written

_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.ASCII)


@dataclass(frozen=True)
class Level:
    """One value of an axis: what it changes, and the same for a table (quantities in SI)."""

    changes: tuple[Change, ...]

    @property
    def shown(self) -> dict[str, Any]:
        """Key path to value."""
        return {key: shown_value(key, plain(node)) for key, node in self.changes}

    @property
    def units(self) -> dict[str, Unit]:
        """Key path to the unit of its value, where that is written with one."""
        quantities = ((key, plain(node), dimensions().get(uncounted(key))) for key, node in self.changes)
        found = ((key, unit_of(value, dimension)) for key, value, dimension in quantities if dimension in DIMENSIONS)
        return {key: unit for key, unit in found if unit}


@dataclass(frozen=True)
class Varying:
    """An axis: its levels, or a function of the unit interval where every value between two is allowed."""

    keys: tuple[str, ...]
    mark: Mark
    when: Expression | None
    levels: tuple[Level, ...]
    between: Callable[[float], Level] | None = None

    def at(self, share: float) -> Level:
        """The level at `share` of the axis, from 0 to below 1."""
        return self.between(share) if self.between else self.levels[int(share * len(self.levels))]

    @property
    def units(self) -> dict[str, Unit]:
        """Key path to the unit in which its values are written; the first one if they differ."""
        levels = (self.at(0.0),) if self.between else self.levels
        return {key: unit for level in reversed(levels) for key, unit in level.units.items()}

    @property
    def ordered(self) -> bool:
        """Whether the levels are rising numbers, so that neighbours are alike."""
        values = [value for level in self.levels for value in level.shown.values()]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        return len(self.keys) == 1 and numbers == values and numbers == sorted(numbers)


def varying(axis: Axis, node: SourceNode) -> Varying:
    """The axis that was written at `node`. Raises ConfigError with the key relative to it."""
    forms = [name for name in ("values", "range", "log_range", "zip") if getattr(axis, name) is not None]
    if len(forms) != 1:
        _refuse(node, "", f"an axis has one of values, range, log_range and zip, not {' and '.join(forms) or 'none'}")
    if (axis.key is None) != (axis.zip is not None):
        _refuse(node, "key", "an axis has a key, unless it is a zip of several", "name the key path that varies")
    when = parse_expression(axis.when) if axis.when else None
    make = partial(Varying, mark=node.mark, when=when)
    if axis.zip is not None:
        return make(tuple(axis.zip), levels=_zipped(node.value["zip"]))
    key = axis.key or ""
    if axis.values is not None:
        return make((key,), levels=tuple(Level(((key, item),)) for item in node.value["values"].value))
    try:
        return _ranged(make, key, axis.range or axis.log_range, node.value[forms[0]])
    except ConfigError as error:
        raise ConfigError([replace(item, key=f"{forms[0]}.{item.key}") for item in error.problems]) from None


def shown_value(key: str, value: Any) -> Any:
    """`value` of the key path as a table shows it: SI where the key has a dimension, a name for a mapping."""
    dimension = dimensions().get(uncounted(key))
    if isinstance(value, dict):
        return value.get("name", str(value))
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if dimension is None or value is None or isinstance(value, bool):
        return value
    read = {COUNT.name: parse_count, FRACTION.name: parse_fraction}.get(dimension.name)
    try:
        return read(value) if read else parse_quantity(value, dimension)
    except QuantityError:
        return None


def _zipped(node: SourceNode) -> tuple[Level, ...]:
    columns = {key: column.value for key, column in node.value.items()}
    sizes = {key: len(column) for key, column in columns.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        counts = ", ".join(f"{key} has {size}" for key, size in sizes.items())
        _refuse(node, "zip", f"keys that change together need equally many values: {counts}")
    return tuple(Level(tuple(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))


# --- ranges -----------------------------------------------------------------------------------


def _ranged(make: Callable[..., Varying], key: str, limits: LinearRange | LogRange | None, node: SourceNode) -> Varying:
    if limits is None:
        raise TypeError("an axis of another form")
    scale = _scale(limits, node)
    if scale.steps is None:
        return make((key,), levels=(), between=lambda share: Level(((key, scale.node(scale.between(share))),)))
    nodes = list(dict.fromkeys(scale.value(number) for number in scale.steps))
    return make((key,), levels=tuple(Level(((key, SourceNode(value, node.mark)),)) for value in nodes))


@dataclass(frozen=True)
class _Scale:
    """Numbers from first to last, and how they are written."""

    first: Decimal
    last: Decimal
    unit: str
    whole: bool
    logarithmic: bool
    steps: tuple[Decimal, ...] | None
    mark: Mark

    def between(self, share: float) -> Decimal:
        first, last = float(self.first), float(self.last)
        if self.logarithmic:
            return Decimal(first * (last / first) ** share)
        return (
            Decimal(first + (last + self.whole - first) * share).quantize(Decimal(1), "ROUND_FLOOR")
            if (self.whole)
            else Decimal(first + (last - first) * share)
        )

    def value(self, number: Decimal) -> int | float | str:
        if self.unit:
            return f"{float(number):.12g} {self.unit}"
        return round(number) if self.whole else float(f"{float(number):.12g}")

    def node(self, number: Decimal) -> SourceNode:
        return SourceNode(self.value(number), self.mark)


def _scale(limits: LinearRange | LogRange, node: SourceNode) -> _Scale:
    (first, unit), (last, unit_of_last) = (_split(node, name, getattr(limits, name)) for name in ("first", "last"))
    if unit != unit_of_last:
        _refuse(node, "last", f"first is in {unit or 'no unit'}, last in {unit_of_last or 'no unit'}", "use one unit")
    if first >= last:
        _refuse(node, "last", f"must be more than first: {limits.last} is not more than {limits.first}")
    logarithmic = isinstance(limits, LogRange)
    if logarithmic and first <= 0:
        _refuse(node, "first", "must be more than 0 on a logarithmic range")
    whole = not unit and isinstance(limits.first, int) and isinstance(limits.last, int)
    numbers = _by_factor(limits, node, first, last) if isinstance(limits, LogRange) else None
    if isinstance(limits, LinearRange):
        numbers = _by_step(limits, node, first, last, unit)
        whole = whole and not isinstance(limits.step, float)
    return _Scale(first, last, unit, whole, logarithmic, numbers, node.mark)


def _split(node: SourceNode, name: str, bound: Bound) -> tuple[Decimal, str]:
    """Number and unit of `bound`."""
    match = _NUMBER.fullmatch(str(bound))
    if match is None:
        _refuse(node, name, f"{bound!r} is not a number with or without a unit", "write it like 8 or 300 W")
    return Decimal(match[1]), match[2]


def _by_step(
    limits: LinearRange, node: SourceNode, first: Decimal, last: Decimal, unit: str
) -> tuple[Decimal, ...] | None:
    if limits.count is not None:
        _refuse_both(node, "step", limits.step)
        return tuple(first + (last - first) * place / (limits.count - 1) for place in range(limits.count))
    if limits.step is None:
        return None
    step, unit_of_step = _split(node, "step", limits.step)
    if step <= 0 or unit_of_step != unit:
        _refuse(node, "step", f"must be more than 0 and in {unit or 'no unit'}, not {limits.step}")
    _refuse_many(node, float((last - first) / step))
    return tuple(_climb(first, last, lambda number: number + step))


def _by_factor(limits: LogRange, node: SourceNode, first: Decimal, last: Decimal) -> tuple[Decimal, ...] | None:
    if limits.count is not None:
        _refuse_both(node, "factor", limits.factor)
        ratio, gaps = float(last / first), limits.count - 1
        inner = [Decimal(float(first) * ratio ** (place / gaps)) for place in range(1, gaps)]
        return (first, *inner, last)
    if limits.factor is None:
        return None
    factor = Decimal(str(limits.factor))
    _refuse_many(node, float((last / first).ln() / factor.ln()))
    return tuple(_climb(first, last, lambda number: number * factor))


def _climb(first: Decimal, last: Decimal, following: Callable[[Decimal], Decimal]) -> Iterator[Decimal]:
    while first <= last:
        yield first
        first = following(first)


def _refuse_both(node: SourceNode, name: str, value: object) -> None:
    if value is not None:
        _refuse(node, name, f"a range has a {name} or a count, not both", "remove one of them")


def _refuse_many(node: SourceNode, number: float) -> None:
    if number > MAX_LEVELS:
        _refuse(node, "", f"has {number:.3g} values, more than {MAX_LEVELS:,}")


def _refuse(node: SourceNode, key: str, message: str, suggestion: str = "") -> NoReturn:
    inner = node.value.get(key, node) if isinstance(node.value, dict) else node
    raise ConfigError(Problem(str(inner.mark), key, message, suggestion))
