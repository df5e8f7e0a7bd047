"""Which kind of definition a name or a file is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.errors import ConfigError, Problem

if TYPE_CHECKING:
    from sim.record import Record
    from sim.spec.reader import Node

# Where a name has several kinds, the first of these is meant.
ORDER = (
    "cluster", "workload", "experiment", "software", "node", "accelerator", "storage", "failures", "site", "prices",
    "study",
)  # fmt: skip


def kind_called(word: str) -> str | None:
    """The kind that `word` names, in the singular or the plural."""
    from sim.spec.load import CATALOGUE

    plurals = {f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s": kind for kind in CATALOGUE}
    return word if word in CATALOGUE else plurals.get(word)


def kind_of(name: str) -> str:
    """The kind of a name in the catalogue, or of a file by the keys that it has. Raises ConfigError."""
    from sim.spec.catalogue import is_path

    return _kind_of_file(Path(name)) if is_path(name) else _kind_of_name(name)


def _kind_of_name(name: str) -> str:
    from difflib import get_close_matches

    from sim.spec.load import CATALOGUE, list_catalogue

    names = {kind: list_catalogue(kind) for kind in ORDER}
    found = [kind for kind in ORDER if name in names[kind]]
    if found:
        return found[0]
    known = sorted({*CATALOGUE, *(known for kind in ORDER for known in names[kind])})
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    way_out = f"did you mean {' or '.join(close)}?" if close else "`clustersim list` shows what there is"
    raise ConfigError(Problem(name, "", "is neither a kind nor a name in the catalogue", way_out))


def _kind_of_file(path: Path) -> str:
    """The kind whose record knows most of the keys, those inside too; of equal ones the first in ORDER."""
    from sim.spec.load import CATALOGUE
    from sim.spec.reader import read_file

    root = read_file(path)
    return max(ORDER, key=lambda kind: max(_known_keys(record, root) for record in CATALOGUE[kind].records.values()))


def _known_keys(record: type[Record], node: Node) -> int:
    """How many keys of a mapping a record knows, and the records in it."""
    from sim.spec.walk import is_record, members

    fields = record.model_fields
    known = [(fields[key], inner) for key, inner in node.value.items() if key in fields]
    deeper = (
        max((_known_keys(option, inner) for option in members(field.annotation) if is_record(option)), default=0)
        for field, inner in known
        if isinstance(inner.value, dict)
    )
    return len(known) + sum(deeper)
