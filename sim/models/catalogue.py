"""All families: one for each file of this folder that holds a `Workload`.

Public: `FAMILIES`, `AnyWorkload`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Discriminator, Tag

import sim.models
from sim.models.family import Workload
from sim.record import Record, Reference


def _families() -> dict[str, type[Workload]]:
    """Families by `kind`, in alphabetical order of their files."""
    modules = [import_module(f"sim.models.{module.name}") for module in iter_modules(sim.models.__path__)]
    found = [each for module in modules for each in vars(module).values() if _is_family(each, module.__name__)]
    return {get_args(family.model_fields["kind"].annotation)[0]: family for family in found}


def _is_family(value: object, module: str) -> bool:
    """Whether `value` is a family that `module` itself defines."""
    own = isinstance(value, type) and issubclass(value, Workload) and value.__module__ == module
    return own and "kind" in value.model_fields  # type: ignore[attr-defined]


FAMILIES = _families()


def _tag(value: Any) -> str | None:
    """Which side of the union is meant; a text is the name of a definition."""
    if isinstance(value, str):
        return "name"
    if isinstance(value, Record):
        return getattr(value, "kind", None)
    return value.get("kind") if isinstance(value, dict) else next(iter(FAMILIES))


if TYPE_CHECKING:
    AnyWorkload = Reference[Workload]
else:
    _sides = [Annotated[str, Tag("name")], *(Annotated[family, Tag(kind)] for kind, family in FAMILIES.items())]
    AnyWorkload = Annotated[Union[tuple(_sides)], Discriminator(_tag)]  # noqa: UP007
"""Another definition: its name, its path, or the record of a family. Always the record after loading."""
