"""How gradients are made smaller before data-parallel ranks sum them.

Public: `Compression`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim.record import Record
from sim.units import Count, Fraction

CompressionKind = Literal["none", "fp16", "fp8", "int8", "one_bit", "top_k", "power_sgd"]


class Compression(Record):
    """How gradients are made smaller before data-parallel ranks sum them. What that does to learning is not simulated."""

    kind: CompressionKind = Field(default="none", description="none: as the stack sends them; fp16, fp8: cast, and added up in that format; int8: blocks of 256 with a scale, exchanged, added up, exchanged again; one_bit: signs, likewise, with what is lost added to the next gradient; top_k: the largest of them with their places, gathered; power_sgd: two thin factors of each matrix, summed one after the other")
    share: Fraction = Field(default=0.01, gt=0, description="share of the gradients that top_k sends")
    rank: Count = Field(default=4, ge=1, le=1024, description="columns of the factors of power_sgd; matrices that they do not halve, and vectors, are sent whole")
