"""What the user says of a run, where its output does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Told:
    """Collective, ranks and servers; None where nobody said."""

    collective: str | None = None
    ranks: int | None = None
    nodes: int | None = None
