"""Which kind of definition a name or a file is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.errors import ConfigError, Problem

if TYPE_CHECKING:
    from sim.inputs.reader import SourceNode
    from sim.record import Record

# Where a name has several kinds, the first of these is meant.
ORDER = (
    "cluster", "instance", "workload", "experiment", "software", "node", "accelerator", "storage", "failures", "site",
    "prices", "study", "fleet",
)  # fmt: skip

ALIASES = {  # what people call them
    "gpu": "accelerator", "gpus": "accelerator", "tpus": "accelerator", "boards": "accelerator", "chips": "accelerator",
    "servers": "node", "machines": "cluster", "models": "workload", "stacks": "software", "frameworks": "software",
    "clouds": "instance",
}  # fmt: skip


def kind_called(word: str) -> str | None:
    """The kind that `word` names, in the singular or the plural."""
    from sim.inputs.load import CATALOGUE

    plurals = {f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s": kind for kind in CATALOGUE}
    return word if word in CATALOGUE else plurals.get(word) or ALIASES.get(word)


def kind_of(name: str) -> str:
    """The kind of a name in the catalogue, or of a file by the keys that it has. Raises ConfigError."""
    from sim.inputs.catalogue import is_path

    return _kind_of_file(Path(name)) if is_path(name) else _kind_of_name(name)


def _kind_of_name(name: str) -> str:
    from sim.inputs.alike import holders, nearest, told
    from sim.inputs.catalogue import known_as
    from sim.inputs.load import CATALOGUE, list_catalogue

    names = {kind: list_catalogue(kind) for kind in ORDER}
    found = [kind for kind in ORDER if name in names[kind]] or [kind for kind in ORDER if known_as(kind, name)]
    if found:
        return found[0]
    close = nearest(name, sorted({*CATALOGUE, *(known for kind in ORDER for known in names[kind])}))
    way_out = f"did you mean {' or '.join(close)}?" if close else "`clustersim list` shows what there is"
    holding = [f"{kind} {told(having)}" for kind in ORDER if (having := holders(kind, name))]
    if holding:
        way_out = f"what has it: {'; '.join(holding)}"
    raise ConfigError(Problem(name, "", "is neither a kind nor a name in the catalogue", way_out))


def _kind_of_file(path: Path, depth: int = 0) -> str:
    """The kind whose record knows most of the keys, those inside too; of equal ones the first in ORDER.

    A file that extends another is of a kind that this can be. One without a known key is meant as an experiment.
    """
    from sim.inputs.load import CATALOGUE
    from sim.inputs.reader import read_file

    root = read_file(path)
    kinds = _kinds_of_base(root, path, depth) or ORDER
    known = {kind: max(_known_keys(record, root) for record in CATALOGUE[kind].records.values()) for kind in kinds}
    if not any(known.values()) and "experiment" in kinds:
        return "experiment"
    return max(kinds, key=lambda kind: known[kind])


def _kinds_of_base(root: SourceNode, path: Path, depth: int) -> tuple[str, ...]:
    """The kinds that what a file extends can be; none if it extends nothing that is known."""
    from sim.inputs.catalogue import is_path
    from sim.inputs.load import list_catalogue
    from sim.inputs.resolve import MAX_CHAIN

    base = root.value["extends"].value if "extends" in root.value else None
    if not isinstance(base, str):
        return ()
    if not is_path(base):
        return tuple(kind for kind in ORDER if base in list_catalogue(kind))
    try:
        return (_kind_of_file(path.parent / base, depth + 1),) if depth < MAX_CHAIN else ()
    except ConfigError:
        return ()


def _known_keys(record: type[Record], node: SourceNode) -> int:
    """How many keys of a mapping a record knows, and the records in it."""
    from sim.inputs.walk import is_record, members

    fields = record.model_fields
    known = [(fields[key], inner) for key, inner in node.value.items() if key in fields]
    deeper = (
        max((_known_keys(option, inner) for option in members(field.annotation) if is_record(option)), default=0)
        for field, inner in known
        if isinstance(inner.value, dict)
    )
    return len(known) + sum(deeper)
