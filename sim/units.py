"""The one table of units: text such as `400 Gb/s` to SI floats, and back to text for people.

Public: `parse_quantity`, `parse_count`, `parse_fraction`, `format_quantity`, `spell_quantity`, `show_value`,
`unit_of`, `Unit`, `Dimension` and its constants, `DIMENSIONS`, `QuantityError`, and the pydantic types `Bytes`,
`BytesPerSecond`, `Count`, `Dollars`, `DollarsPerHour`, `DollarsPerKilowattHour`, `Flops`,
`FlopsPerSecond`, `Fraction`, `Hertz`, `Joules`, `CarbonPerKilowattHour`, `Seconds`, `Tokens`, `Watts`.

Inside the program everything is SI float64: bytes, seconds, FLOP, watts, joules, USD. Text is
decoded once, at the border. Records are built from SI floats with the validation context `SI`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

SI: dict[str, bool] = {"si": True}
"""Validation context under which quantities are plain SI numbers: `Record.model_validate(data, context=SI)`."""

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*(\S.*?)?\s*", re.ASCII)
_METRIC = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_SMALL = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3}
_COUNTS = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_WORDS = {
    "m": ("min", "ms"), "mins": ("min",), "minute": ("min",), "minutes": ("min",),
    "sec": ("s",), "secs": ("s",), "second": ("s",), "seconds": ("s",),
    "hr": ("h",), "hrs": ("h",), "hour": ("h",), "week": ("weeks",), "w": ("weeks",), "yr": ("years",), "y": ("years",),
    "month": (), "months": (), "mo": (), "mus": ("us",), "msec": ("ms",), "usec": ("us",), "nsec": ("ns",),
}  # fmt: skip
"""How people write units of time that are spelled otherwise here; months have no fixed length."""
_OF_1024 = re.compile("[KMGTP]i[Bb]")
_HOUR, _DAY, _KWH = 3600.0, 86400.0, 3.6e6
_LARGEST_COUNT = 2**53  # beyond it a float64 no longer holds every integer


class QuantityError(ValueError):
    """A quantity cannot be read: `message` says why, `suggestion` the way out."""

    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(f"{message}; {suggestion}" if suggestion else message)
        self.message = message
        self.suggestion = suggestion


@dataclass(frozen=True)
class Dimension:
    """A physical dimension: its SI symbol, the spelled units with their factors, and examples."""

    name: str  # as in "a data rate is wanted"
    symbol: str  # the SI unit that decoded values have
    units: dict[str, float] = field(repr=False, hash=False)  # spelled unit to SI factor
    examples: tuple[str, ...]  # the first is used in messages
    scale: tuple[str, ...] = ()  # units for people, ascending
    least: float = 0.0  # what a value above 0 is at least and at most [SI]: with more, sums and
    most: float = math.inf  # quotients leave the range of floats

    @property
    def article(self) -> str:
        """The name with its article: `a time`, `an energy`."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    @property
    def pattern(self) -> str:
        """Regular expression of the accepted text, for JSON Schema."""
        return rf"^\s*{_NUMBER}\s*(?:{'|'.join(re.escape(unit) for unit in self.units)})\s*$"


class Unit(NamedTuple):
    """A unit as it is written, and the SI value of one of it."""

    name: str
    factor: float

    def of(self, value: float) -> float:
        """`value` (SI) in this unit, without the last digits, which conversions blur."""
        return float(f"{value / self.factor:.12g}")


def _scaled(symbol: str, *tables: dict[str, float]) -> dict[str, float]:
    return {prefix + symbol: factor for table in tables for prefix, factor in table.items()}


def _per(units: dict[str, float], suffix: str, divisor: float) -> dict[str, float]:
    return {unit + suffix: factor / divisor for unit, factor in units.items()}


def _bits(units: dict[str, float]) -> dict[str, float]:
    return {unit: factor / 8 for unit, factor in units.items()}


_DATA = _scaled("B", _METRIC, _BINARY) | _bits(_scaled("b", _METRIC, _BINARY)) | _bits(_scaled("bit", _METRIC, _BINARY))
_TIME = _scaled("s", {"": 1.0}, _SMALL) | {
    "min": 60.0, "h": _HOUR, "hours": _HOUR, "d": _DAY, "day": _DAY, "days": _DAY,
    "weeks": 7 * _DAY, "year": 365.25 * _DAY, "years": 365.25 * _DAY,
}  # fmt: skip
_ENERGY = _scaled("J", _METRIC) | {f"{prefix}Wh": factor * _HOUR for prefix, factor in _METRIC.items()}
_MASS = {"g": 1e-3, "kg": 1.0, "t": 1e3}

DATA = Dimension(
    "data size",
    "B",
    _DATA,
    ("80 GiB", "512 MB", "40 KiB"),
    ("B", "KiB", "MiB", "GiB", "TiB", "PiB"),
    least=1e-3,
    most=1e24,
)
DATA_RATE = Dimension(
    "data rate", "B/s", _per(_DATA, "/s", 1) | _bits(_scaled("bps", _METRIC)),
    ("400 Gb/s", "50 GB/s", "3.35 TB/s"), ("B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"),
    least=1e-3, most=1e24,
)  # fmt: skip
TIME = Dimension(
    "time",
    "s",
    _TIME,
    ("2 us", "32 s", "5 days"),
    ("ns", "us", "ms", "s", "min", "h", "days", "years"),
    least=1e-15,
    most=1e18,
)
WORK = Dimension(
    "number of operations", "FLOP", _scaled("FLOP", _METRIC, {"Z": 1e21, "Y": 1e24}), ("2 TFLOP", "3.1e23 FLOP"),
    ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP", "YFLOP"),
    least=1e-3, most=1e36,
)  # fmt: skip
WORK_RATE = Dimension(
    "arithmetic rate", "FLOP/s", _scaled("FLOP/s", _METRIC) | _scaled("FLOPS", _METRIC),
    ("312 TFLOP/s", "1.98 PFLOP/s"), ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s", "EFLOP/s"),
    least=1.0, most=1e27,
)  # fmt: skip
POWER = Dimension(
    "power",
    "W",
    _scaled("W", _METRIC, {"m": 1e-3}),
    ("700 W", "10.2 kW"),
    ("W", "kW", "MW", "GW"),
    least=1e-6,
    most=1e15,
)
ENERGY = Dimension(
    "energy", "J", _ENERGY, ("1.5 kWh", "20 MJ"), ("J", "kJ", "kWh", "MWh", "GWh"), least=1e-18, most=1e30
)
FREQUENCY = Dimension(
    "frequency",
    "Hz",
    _scaled("Hz", _METRIC),
    ("1.41 GHz", "100 Hz"),
    ("Hz", "kHz", "MHz", "GHz"),
    least=1e-6,
    most=1e18,
)
MONEY = Dimension(
    "sum of money",
    "USD",
    {"USD": 1.0, "kUSD": 1e3, "MUSD": 1e6},
    ("2.5 USD",),
    ("USD", "kUSD", "MUSD"),
    least=1e-9,
    most=1e18,
)
ENERGY_PRICE = Dimension(
    "price of energy", "USD/J", {"USD/kWh": 1 / _KWH, "USD/MWh": 1e-3 / _KWH, "USD/J": 1.0},
    ("0.08 USD/kWh", "62 USD/MWh"), ("USD/kWh",),
    least=1e-21, most=1e9,
)  # fmt: skip
TIME_PRICE = Dimension(
    "price of time", "USD/s", {"USD/h": 1 / _HOUR, "USD/s": 1.0}, ("2.5 USD/h",), ("USD/h",), least=1e-15, most=1e12
)
CARBON_INTENSITY = Dimension(
    "carbon intensity", "kg/J", _per(_MASS, "/kWh", _KWH) | _per(_MASS, "/MWh", 1e3 * _KWH) | {"kg/J": 1.0},
    ("380 g/kWh", "0.38 kg/kWh"), ("g/kWh",),
    least=1e-21, most=1e6,
)  # fmt: skip
ENERGY_PER_WORK = Dimension(
    "energy per operation", "J/FLOP", _per(_scaled("J", {"": 1.0, "p": 1e-12, "n": 1e-9}), "/FLOP", 1),
    ("0.8 pJ/FLOP",), ("pJ/FLOP", "nJ/FLOP"),
    least=1e-27, most=1.0,
)  # fmt: skip
ENERGY_PER_BYTE = Dimension(
    "energy per byte", "J/B", _per(_scaled("J", {"": 1.0, "p": 1e-12, "n": 1e-9}), "/B", 1),
    ("100 pJ/B",), ("pJ/B", "nJ/B"),
    least=1e-24, most=1e3,
)  # fmt: skip
MASS = Dimension("mass", "kg", _MASS, ("300 kg", "8.9 t"), ("g", "kg", "t"), least=1e-12, most=1e18)
COUNT = Dimension("count", "", {unit: float(factor) for unit, factor in _COUNTS.items()}, ("96", "1e9", "300B", "4k"))
FRACTION = Dimension("fraction", "", {"%": 0.01}, ("0.45", "45 %"), least=1e-9, most=1.0)

DIMENSIONS: tuple[Dimension, ...] = (
    DATA, DATA_RATE, TIME, WORK, WORK_RATE, POWER, ENERGY, FREQUENCY, MONEY, ENERGY_PRICE, TIME_PRICE,
    CARBON_INTENSITY, MASS, ENERGY_PER_WORK, ENERGY_PER_BYTE,
)  # fmt: skip


# --- text to numbers --------------------------------------------------------------------------


def parse_quantity(value: object, dimension: Dimension, *, signed: bool = False) -> float:
    """SI value of `value`, a text with a unit of `dimension`; a bare 0 needs no unit.

    Raises QuantityError for a missing, unknown or foreign unit, and for a negative value unless `signed`.
    """
    if not isinstance(value, str):
        return _bare_number(value, dimension)
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise QuantityError(f"{show_value(value)} is not {dimension.article}", f"write it like {dimension.examples[0]}")
    number, unit = match.groups()
    factor = dimension.units.get(unit)
    if factor is None:
        if unit is None:
            return _bare_number(float(number), dimension)
        raise _wrong_unit(value.strip(), number, unit, dimension)
    return _checked(float(number) * factor, value, dimension, signed)


def unit_of(value: object, dimension: Dimension) -> Unit | None:
    """The unit of `dimension` in which the text `value` gives a quantity; None if it has none."""
    match = _matched(value)
    factor = match and dimension.units.get(match[2])
    return Unit(match[2], factor) if match and factor else None


def parse_count(value: object) -> int:
    """A whole number: an integer, `1e9`, `300e9`, `300B`, `1.5T`, `4k` or `2M`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _whole(value, value)
    match = _matched(value)
    if match is None:
        raise QuantityError(f"{show_value(value)} is not a count", "write a whole number such as 96, 1e9 or 300B")
    number, suffix = match.groups()
    factor = 1 if suffix is None else _COUNTS.get(suffix)
    if factor is None:
        raise _wrong_suffix(str(value).strip(), number, suffix)
    return _whole(Decimal(number) * factor if abs(float(number)) <= _LARGEST_COUNT else math.inf, value)


def parse_fraction(value: object) -> float:
    """A number from 0 to 1: `0.45` or `45 %`."""
    number = _share(value)
    if not 0 <= number <= 1:
        raise QuantityError(f"{show_value(value)} is not between 0 and 1", "write 0.45 or 45 %")
    _check_size(number, value, FRACTION)
    return number


def _matched(value: object) -> re.Match[str] | None:
    """Number and unit of a text, as groups."""
    return _QUANTITY.fullmatch(value) if isinstance(value, str) else None


def _share(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(min(value, 2))
    match = _matched(value)
    if match is None or match[2] not in (None, "%"):
        raise QuantityError(f"{show_value(value)} is not a fraction", "write 0.45 or 45 %")
    return float(match[1]) / (100 if match[2] else 1)


def _whole(number: float | Decimal, value: object) -> int:
    if not -_LARGEST_COUNT <= number <= _LARGEST_COUNT:
        raise QuantityError(f"{show_value(value)} is too large for a count", "counts reach 2**53")
    if number < 0:
        raise QuantityError(f"{show_value(value)} is negative; a count is 0 or more")
    if number != int(number):
        raise QuantityError(f"{show_value(value)} is not a whole number")
    return int(number)


def _checked(number: float, value: object, dimension: Dimension, signed: bool) -> float:
    if not math.isfinite(number):
        raise QuantityError(f"{show_value(value)} is not finite; {dimension.article} is wanted")
    if number < 0 and not signed:
        raise QuantityError(f"{show_value(value)} is negative; {dimension.article} is 0 or more")
    _check_size(number, value, dimension)
    return number


def _check_size(number: float, value: object, dimension: Dimension) -> None:
    """Refuse what is so small or large that arithmetic with it would leave the range of floats."""
    if number and not dimension.least <= abs(number) <= dimension.most:
        least, most = (f"{bound:g} {dimension.symbol}".rstrip() for bound in (dimension.least, dimension.most))
        message = f"{show_value(value)} is out of range; {dimension.article} is 0, or between {least} and {most}"
        raise QuantityError(message)


def _bare_number(value: object, dimension: Dimension) -> float:
    wanted = f"{dimension.article} is wanted"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QuantityError(f"{show_value(value)} is not {dimension.article}", f"write it like {dimension.examples[0]}")
    if value == 0:
        return 0.0
    if not math.isfinite(value):
        raise QuantityError(f"{show_value(value)} is not finite; {wanted}")
    first, second = [example.split()[1] for example in (*dimension.examples, dimension.examples[0])][:2]
    choice = f"{value:g} {first}" + (f" or {value:g} {second}" if second != first else "")
    raise QuantityError(f"{value:g} has no unit; {wanted}", f"write for instance {choice}")


def _wrong_unit(text: str, number: str, unit: str, dimension: Dimension) -> QuantityError:
    spellings = _similar_units(unit, dimension)
    choice = " or ".join(f"{number} {spelling}" for spelling in spellings)
    suggestion = f"did you mean {choice}?" if choice else f"write it like {' or '.join(dimension.examples[:2])}"
    for other in DIMENSIONS:
        if unit in other.units:
            return QuantityError(f"{show_value(text)} is {other.article}; {dimension.article} is wanted", suggestion)
    return QuantityError(f"{unit[:40]!r} is not a unit of {dimension.name}", suggestion)


def _similar_units(unit: str, dimension: Dimension) -> list[str]:
    """Units that may be meant, none of which says something else than was written."""
    unit = unit.replace(" ", "")
    spelled = dict.fromkeys((unit, re.sub("ps$|PS$|/sec$", "/s", unit)))  # GBps is GB/s
    same = [known for text in spelled for known in dimension.units if known.casefold() == text.casefold()]
    per_second = [known for known in (f"{unit}/s", unit.removesuffix("/s")) if known in dimension.units]
    words = [known for known in _WORDS.get(unit.casefold(), ()) if known in dimension.units]
    close = [] if unit.casefold() in _WORDS else get_close_matches(unit[:20], dimension.units, n=2, cutoff=0.75)
    alike = [known for known in close if bool(_OF_1024.search(known)) == bool(_OF_1024.search(unit))]
    found = same or per_second or words or alike
    if not unit.islower() and not (unit.isupper() and "S" in unit):  # in mixed case, B is bytes and b is bits
        found = [known for known in found if ("B" in known) == ("B" in unit)]
    return list(dict.fromkeys(found))[:3]


def _wrong_suffix(text: str, number: str, suffix: str) -> QuantityError:
    alias = {"K": "k", "m": "M", "G": "B", "b": "B", "t": "T", "bn": "B"}.get(suffix)
    suggestion = f"did you mean {number}{alias}?" if alias else "write a whole number such as 96, 1e9 or 300B"
    return QuantityError(f"{show_value(text)} is not a count; suffixes are k, M, B and T", suggestion)


def show_value(value: object) -> str:
    """`value` as the user wrote it, cut to a readable length."""
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and value.bit_length() > 200:
        return "the number"
    text = repr(value) if isinstance(value, str) else f"{value:.12g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- numbers to text --------------------------------------------------------------------------


def format_quantity(value: float, dimension: Dimension) -> str:
    """`value` (SI) for people: three or more digits and a fitting unit, as in `1.23 TB/s` or `5.4 days`."""
    if not dimension.scale or not math.isfinite(value):
        return f"{value:.4g}{dimension.symbol and ' ' + dimension.symbol}"
    unit = dimension.scale[0] if value else dimension.symbol
    for candidate in dimension.scale:
        if _rounded(abs(value) / dimension.units[candidate]) >= _threshold(candidate):
            unit = candidate
    return f"{_digits(value / dimension.units[unit])} {unit}"


def spell_quantity(value: float, dimension: Dimension) -> str:
    """`value` (SI) as exact text that `parse_quantity` reads back to the same float."""
    return f"{value!r} {dimension.symbol}".rstrip()


def _threshold(unit: str) -> float:
    return {"min": 2.0, "h": 2.0, "days": 2.0, "years": 2.0}.get(unit, 1.0)


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")


def _digits(number: float) -> str:
    return f"{_rounded(number):g}" if abs(number) < 999.5 else f"{number:.0f}"


# --- pydantic types ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """Marks a field as text with a unit; the decoded value is an SI float."""

    dimension: Dimension
    signed: bool = False

    def decode(self, value: object, si: bool) -> float:
        """SI value of `value`: a text with a unit, or with `si` a plain number."""
        if si and isinstance(value, int | float) and not isinstance(value, bool):
            return _checked(float(value), value, self.dimension, self.signed)
        return parse_quantity(value, self.dimension, signed=self.signed)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _decoding(self.decode, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        text = {"type": "string", "pattern": self.dimension.pattern, "examples": list(self.dimension.examples)}
        return {
            "anyOf": [text, {"const": 0}],
            "description": f"{self.dimension.article}, such as {text['examples'][0]}",
        }


@dataclass(frozen=True)
class WholeNumber:
    """Marks a field as a count; the decoded value is an int."""

    dimension: Dimension = COUNT

    def decode(self, value: object, si: bool) -> int:
        """The count that `value` says."""
        return parse_count(value)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _decoding(self.decode, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        text = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*[kMBT]?\s*$", "examples": list(COUNT.examples[1:])}
        return {"anyOf": [{"minimum": 0} | handler(schema), text], "description": "a count"}


@dataclass(frozen=True)
class Share:
    """Marks a field as a fraction; the decoded value is a float from 0 to 1."""

    dimension: Dimension = FRACTION

    def decode(self, value: object, si: bool) -> float:
        """The fraction that `value` says."""
        return parse_fraction(value)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _decoding(self.decode, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        text = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*%?\s*$", "examples": ["45 %"]}
        return {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, text], "description": "a fraction"}


def _decoding(decode: Callable[[object, bool], float], schema: CoreSchema) -> CoreSchema:
    def decoded(value: object, info: ValidationInfo) -> float:
        try:
            return decode(value, bool(info.context and info.context.get("si")))
        except QuantityError as error:
            context = {"problem": error.message, "suggestion": error.suggestion}
            raise PydanticCustomError("quantity", "{problem}", context) from None

    return core_schema.with_info_before_validator_function(decoded, schema)


Bytes = Annotated[float, Quantity(DATA)]
BytesPerSecond = Annotated[float, Quantity(DATA_RATE)]
Seconds = Annotated[float, Quantity(TIME)]
FlopsPerSecond = Annotated[float, Quantity(WORK_RATE)]
Watts = Annotated[float, Quantity(POWER)]
Joules = Annotated[float, Quantity(ENERGY)]
Hertz = Annotated[float, Quantity(FREQUENCY)]
Dollars = Annotated[float, Quantity(MONEY)]
DollarsPerKilowattHour = Annotated[float, Quantity(ENERGY_PRICE)]
DollarsPerHour = Annotated[float, Quantity(TIME_PRICE)]
CarbonPerKilowattHour = Annotated[float, Quantity(CARBON_INTENSITY)]
JoulesPerFlop = Annotated[float, Quantity(ENERGY_PER_WORK)]
JoulesPerByte = Annotated[float, Quantity(ENERGY_PER_BYTE)]
Kilograms = Annotated[float, Quantity(MASS)]
Count = Annotated[int, WholeNumber()]
Tokens = Annotated[int, WholeNumber()]
Fraction = Annotated[float, Share()]
