"""What a data sheet does not say of an accelerator: the medians of the catalogue for that kind of chip.

How much of its peaks a chip reaches stands in no data sheet. What an accelerator file leaves out is what the chips of
the same kind have that the catalogue describes; a variant of one of them (`extends`) counts with it. `assumed` lists
what was taken so.

Public: `with_medians`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from statistics import median_low
from typing import Any, Literal, cast

from sim.inputs.catalogue import list_catalogue
from sim.inputs.problems import decode
from sim.inputs.reader import read_file
from sim.inputs.records import Accelerator, FusedAttention, Rates
from sim.memo import Memo, Same
from sim.record import Record, RecordT

MATRIX = ("efficiency", "compute_units", "tile", "quantization_floor", "spread")
MEMORY = ("efficiency", "reserved")
KERNELS: tuple[Literal["flash1", "flash2", "cudnn"], ...] = ("flash1", "flash2", "cudnn")
SAME_KIND = {"tpu": "systolic"}
INNER = ("cluster", "node", "accelerator")  # keys on the way from an experiment to its accelerator

_known: Memo[Record] = Memo(limit=64)  # points of a sweep share clusters, and go on sharing them


def with_medians(record: RecordT) -> RecordT:
    """`record`, which is or holds an accelerator, with what was left out of that; the very same if nothing was."""
    for key in INNER:
        inner = getattr(record, key, None)
        if isinstance(inner, tuple):  # several kinds of node
            every = tuple(map(with_medians, inner))
            return record if every == inner else record.model_copy(update={key: every})
        if isinstance(inner, Record):
            complete = _known.get(Same(inner), lambda inner=inner: with_medians(inner), lambda _: 1.0)  # type: ignore[misc]
            return record if complete is inner else record.model_copy(update={key: complete})
    return cast(RecordT, _complete(record)) if isinstance(record, Accelerator) else record


def _complete(chip: Accelerator) -> Accelerator:
    found = {path: value for path, value in _medians(chip, _chips(chip.kind)) if value is not None}
    if not found:
        return chip
    update: dict[str, Any] = {"assumed": tuple(dict.fromkeys((*chip.assumed, *found)))}
    for part in ("matrix", "memory", "attention"):
        inner = {path.partition(".")[2]: value for path, value in found.items() if path.startswith(f"{part}.")}
        held = getattr(chip, part)
        update[part] = {**held, **inner} if isinstance(held, Mapping) else held.model_copy(update=inner)
    update |= {path: value for path, value in found.items() if "." not in path}
    return chip.model_copy(update=update)


def _medians(chip: Accelerator, chips: tuple[Accelerator, ...]) -> Iterator[tuple[str, Any]]:
    """Key path and median of all that `chip` leaves out; None where no chip says it."""
    for part, names in (("matrix", MATRIX), ("memory", MEMORY)):
        for name in names:
            if name not in getattr(chip, part).model_fields_set:
                yield f"{part}.{name}", _median(_given(chips, part, name))
    if chip.matrix.peak.fp8 and not {"efficiency", "fp8_efficiency"} & chip.matrix.model_fields_set:
        yield "matrix.fp8_efficiency", _median(_given(chips, "matrix", "fp8_efficiency"))
    for kernel in KERNELS:
        if kernel not in chip.attention:
            yield f"attention.{kernel}", _attention([c.attention[kernel] for c in chips if kernel in c.attention])
    if "vector" not in chip.model_fields_set:
        yield "vector", _vector(chip, chips)
    if "launch" not in chip.model_fields_set:
        yield "launch", _median([other.launch for other in chips])


def _given(chips: Iterable[Accelerator], part: str, name: str) -> list[Any]:
    records = (getattr(chip, part) for chip in chips)
    return [getattr(record, name) for record in records if name in record.model_fields_set]


def _median(values: list[Any]) -> Any:
    """The lower median: something that a chip has, also of whole numbers and tiles."""
    return median_low(values) if values else None


def _attention(kernels: list[FusedAttention]) -> FusedAttention | None:
    names = FusedAttention.model_fields
    return FusedAttention(**{name: _median([getattr(k, name) for k in kernels]) for name in names}) if kernels else None


def _vector(chip: Accelerator, chips: tuple[Accelerator, ...]) -> Rates | None:
    """Elementwise rates as shares of the matrix peak of the same format."""
    rates = {}
    for name, peak in chip.matrix.peak:
        shares = [vector / matrix for vector, matrix in (_both(other, name) for other in chips) if vector and matrix]
        if peak and shares:
            rates[name] = peak * _median(shares)
    return Rates.from_si(rates) if rates else None


def _both(chip: Accelerator, name: str) -> tuple[float | None, float | None]:
    return getattr(chip.vector, name), getattr(chip.matrix.peak, name)


@cache  # reads all chips of the catalogue
def _chips(kind: str) -> tuple[Accelerator, ...]:
    """The chips of a kind as the catalogue writes them; all chips where it has none of the kind."""
    roots = (read_file(path) for path in list_catalogue("accelerator").values())
    decoded = [decode(Accelerator, root) for root in roots if "extends" not in root.value]
    chips = tuple(chip for chip in decoded if isinstance(chip, Accelerator))
    return tuple(chip for chip in chips if SAME_KIND.get(chip.kind, chip.kind) == SAME_KIND.get(kind, kind)) or chips
