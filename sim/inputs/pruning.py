"""Weights that are left out of products.

Public: `Pruning`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim.record import Record
from sim.units import Fraction


class Pruning(Record):
    """Weights that are left out of products. What that does to learning is not simulated."""

    kind: Literal["none", "2:4", "columns"] = Field(default="none", description="2:4: two of four weights in a row of each matrix of layers are 0, chosen anew in each forward pass, and tensor cores skip them there and for the gradient of the input (Ampere and later; weight gradients are dense); columns: a share of the inner columns of feed-forward blocks is gone")
    share: Fraction = Field(default=0.25, gt=0, lt=1, description="columns: those that are gone")
    gain: float = Field(default=1.5, ge=1, le=2, description="2:4: rate of a product with such weights over that of a dense one; 1.5 (assumption: 1.3 for forward and backward pass of the linear layers of ViT-L on A100, PyTorch 2024, with weight gradients dense; products alone 1.1 to 1.6, recalled)")
