"""What breaks, how often, and what is done about it.

Public: `Failures`, `Recovery`.
"""

from __future__ import annotations

from pydantic import Field

from sim.spec.record import Name, Record
from sim.units import Count


class Failures(Record):
    """How the parts of a cluster and the software of a job fail."""

    name: Name = Field(description="the name it is found by")
    description: str = Field(default="", description="one line for people")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")


class Recovery(Record):
    """What happens after a failure."""

    warm_spares: Count = Field(default=0, ge=0, description="nodes that wait, powered and checked, to replace a failed one")
