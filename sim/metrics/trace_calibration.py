"""What recorded kernels tell of an accelerator, and how well its model explains them.

Public: `TimedShape`, `TraceCalibration`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TimedShape:
    """`batch` products (m x k) by (k x n) in a precision: how often, median seconds, and what the profile says.

    unseen: seconds by a profile that was fitted to the other shapes.
    """

    precision: str
    batch: int
    m: int
    n: int
    k: int
    count: int
    measured: float
    predicted: float
    unseen: float

    @property
    def flops(self) -> float:
        """Multiply and add counted apart."""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def error(self) -> float:
        """Of the time: positive is too slow."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class TraceCalibration:
    """An accelerator by its recorded kernels: its definition, and every shape, the one that took longest in all first.

    shares: of the peaks of the base. share_known: of the time of product kernels that have shapes.
    """

    base: str
    name: str
    text: str
    shares: dict[str, float]
    shapes: tuple[TimedShape, ...]
    share_known: float
    remarks: tuple[str, ...] = ()

    def error(self, unseen: bool = False) -> float:
        """Mean size of the errors of the shapes, by the time that each took in all."""
        weights = np.array([each.count * each.measured for each in self.shapes])
        told = np.array([each.unseen if unseen else each.predicted for each in self.shapes])
        errors = np.abs(told / np.array([each.measured for each in self.shapes]) - 1)
        return float((weights * errors).sum() / weights.sum())

    @property
    def bias(self) -> float:
        """Of the time of all shapes together."""
        measured = sum(each.count * each.measured for each in self.shapes)
        return sum(each.count * each.predicted for each in self.shapes) / measured - 1

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        fit = {"error": self.error(), "unseen_error": self.error(unseen=True), "bias": self.bias}
        return asdict(self) | fit
