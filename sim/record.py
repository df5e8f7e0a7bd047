"""The base of every record of the file format, and how one record refers to another.

Public: `Choice`, `Record`, `Reference`, `RecordT`, `Name`, `Precision`, `Narrow`, `NARROW`, `narrow_bytes`, `text_of`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from sim.memo import Memo, Same
from sim.units import SI

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "mxfp8", "fp6", "fp4", "nvfp4"]


class Narrow(NamedTuple):
    """A format of products alone, which activations and weights are cast to: its bits and how it is scaled.

    block: elements that share a scale of 8 bit, 0 for one scale a tensor. whole: a scale of the tensor beside them,
    from a pass over it.
    """

    bits: int
    block: int = 0
    whole: bool = False


NARROW: dict[str, Narrow] = {
    "int8": Narrow(8, whole=True),  # scaled from the tensor itself: integers have no exponent to spare
    "fp8": Narrow(8),
    "mxfp8": Narrow(8, 32),  # OCP Microscaling Formats 1.0, table 1, as fp6 and fp4
    "fp6": Narrow(6, 32),
    "fp4": Narrow(4, 32),
    "nvfp4": Narrow(4, 16, whole=True),  # two levels of scales (NVIDIA, Pretraining LLMs with NVFP4, 2025, section 3)
}


def narrow_bytes(precision: str) -> float:
    """Bytes of an element of a narrow format, with its share of the block's scale."""
    narrow = NARROW[precision]
    return narrow.bits / 8 + (1 / narrow.block if narrow.block else 0.0)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=120)]


class Choice(str):
    """A text that is one of the names of a table, which may grow; else as a Literal."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Those there are."""
        raise NotImplementedError

    @classmethod
    def stands_for_itself(cls, value: object) -> bool:
        """Whether a value is accepted although it is no name."""
        return False

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._one_of_them)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(cls.names()), "type": "string"}

    @classmethod
    def _one_of_them(cls, value: object) -> object:
        if value not in cls.names() and not cls.stands_for_itself(value):
            raise PydanticKnownError("literal_error", {"expected": ", ".join(cls.names())})
        return value


class Record(BaseModel):
    """Frozen, strict about unknown keys and types; the base of every record."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)

    @classmethod
    def from_si(cls, fields: dict[str, Any]) -> Self:
        """The record of `fields`, where quantities are plain SI numbers, as `model_dump` gives them."""
        return cls.model_validate(_tuples(fields), context=SI)


_texts: Memo[str] = Memo(limit=64)  # records that points of a sweep share


def text_of(record: Record) -> str:
    """All that a record says, as JSON: equal for equal records. Written once for each of the last ones asked for."""
    return _texts.get(Same(record), record.model_dump_json, lambda _: 1.0)


def _tuples(value: Any) -> Any:
    """`value` with its lists, as JSON has them, made tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _form(value: object) -> str:
    return "name" if isinstance(value, str) else "inline"


RecordT = TypeVar("RecordT", bound=Record)
Reference = Annotated[Annotated[str, Tag("name")] | Annotated[RecordT, Tag("inline")], Discriminator(_form)]
"""Another definition: its name, its path, or the record itself. Always the record after loading."""
