"""Storage systems, and the two kinds of traffic they see: checkpoints and training data.

Public: `Storage`, `Checkpointing`, `InputPipeline`.
"""

from __future__ import annotations

from pydantic import Field

from sim.spec.record import Name, Record
from sim.units import BytesPerSecond, Seconds


class Storage(Record):
    """One storage system of a cluster."""

    name: Name = Field(description="the name it is found by")
    description: str = Field(default="", description="one line for people")
    read_bandwidth: BytesPerSecond = Field(gt=0, description="all servers together")
    write_bandwidth: BytesPerSecond = Field(gt=0, description="all servers together")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")


class Checkpointing(Record):
    """How the state of a training is saved."""

    interval: Seconds | None = Field(default=None, gt=0, description="time between saves")


class InputPipeline(Record):
    """How training data comes to the accelerators."""

    prefetch: int = Field(default=2, ge=0, description="batches that are prepared ahead")
