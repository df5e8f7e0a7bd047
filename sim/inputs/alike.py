"""What somebody meant who asked for a name that there is not.

Public: `way_to`, `holders`, `told`, `nearest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from sim.inputs.catalogue import CATALOGUE, known_as, list_catalogue
from sim.inputs.reader import plain, read_file

HOLDERS = ("cluster", "instance", "node")  # kinds that are made of boards
MOST = 6  # names of a kind that are told

TAKEN_BY = {  # what is wanted, what a name is: the way on
    ("experiment", "study"): ": clustersim sweep takes it",
    ("experiment", "cluster"): ": clustersim list shows it, and an experiment names it as its cluster",
    ("experiment", "workload"): ": clustersim list shows it, and an experiment names it as its workload",
    ("study", "experiment"): ": clustersim run takes it",
}


def way_to(kind: str, reference: str, names: Iterable[str]) -> str:
    """What to do where no `kind` is called `reference`; `names` are all that it could have been."""
    holding = [name for each in (kind, *CATALOGUE[kind].also) for name in holders(each, reference)]
    other = next((each for each in CATALOGUE if reference in list_catalogue(each)), None)
    if other:
        article = "an" if other[0] in "aeiou" else "a"
        found = f"{reference} is {article} {other}{TAKEN_BY.get((kind, other), '')}"
        return f"{found}, of {told(holding)}" if holding else found
    if holding:
        return f"{reference} is in {told(holding)}"
    close = nearest(reference, names)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"`clustersim list` shows what there is; a path ends in .yaml, such as ./{kind}.yaml"


def nearest(reference: str, names: Iterable[str]) -> list[str]:
    """Up to three names that are written much the same, letters of either size."""
    written = {name.lower(): name for name in names}
    return [written[name] for name in get_close_matches(reference[:120].lower(), written, n=3, cutoff=0.5)]


def holders(kind: str, board: str) -> list[str]:
    """Definitions of `kind` with boards that `board`, such as H100, is the name or a part of it; shortest first."""
    asked = "-".join(board.lower().replace("_", " ").split())
    known = any(_is_part(asked, name) for name in list_catalogue("accelerator"))
    if kind not in HOLDERS or len(asked) < 2 or not known:
        return []
    return sorted((name for name in list_catalogue(kind) if _is_part(asked, _board_of(kind, name))), key=len)


def told(names: Sequence[str]) -> str:
    """The first of many names."""
    rest = len(names) - MOST
    return ", ".join(names) if rest <= 1 else f"{', '.join(names[:MOST])} and {rest} more"


def _is_part(asked: str, name: str) -> bool:
    return f"-{asked}-" in f"-{name}-"


def _board_of(kind: str, written: Any) -> str:
    """Name of the accelerator that a definition, by name or as written, is made of; empty where it does not say."""
    if isinstance(written, str):
        path = known_as(kind, written)
        if kind == "accelerator" or path is None:
            return written
        written = plain(read_file(path))
    inner = next((key for key in ("node", "accelerator") if key in written), None)
    found = _board_of(inner, written[inner]) if inner else ""
    return found or (_board_of(kind, written["extends"]) if "extends" in written else "")
