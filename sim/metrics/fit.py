"""Start-up, ramp and saturation of a measured collective by least squares of the relative error.

Time = max(floor, start + ramp sqrt(S) + bytes/rate). For a given number of sizes that the floor holds, the
rest is linear in start, ramp and 1/rate, so every such split is solved and the best one kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MIN_POINTS = 4
ROUNDS = 5
OUTLYING = 3.0  # times the median error, from which on a size counts for less


@dataclass(frozen=True)
class CollectiveFit:
    """Seconds, seconds per square root of byte, bytes per second; `error`: mean size of the relative error."""

    floor: float
    start: float
    ramp: float
    rate: float
    error: float
    worst: float

    def seconds(self, size: Floats, traffic: Floats) -> Floats:
        """Time of messages of `size` bytes that move `traffic` bytes, same shape."""
        return np.maximum(self.floor, self.start + self.ramp * np.sqrt(size) + traffic / self.rate)


def fit_collective(size: Floats, traffic: Floats, seconds: Floats) -> CollectiveFit:
    """The curve nearest to `seconds` (n,) at messages of `size` bytes (n,) that move `traffic` bytes (n,).

    Sizes far off the curve, as one disturbed measurement is, count for less (Huber's weights). Raises
    ValueError with fewer than four sizes, or if time does not grow with size.
    """
    order = np.argsort(size)
    size, traffic, seconds = size[order], traffic[order], seconds[order]
    if len(np.unique(size)) < MIN_POINTS:
        raise ValueError(f"{len(np.unique(size))} message sizes; at least {MIN_POINTS} are needed")
    weight, fit = np.ones(len(size)), None
    for _ in range(ROUNDS):
        fit = _best(size, traffic, seconds, weight)
        errors = np.abs(fit.seconds(size, traffic) / seconds - 1)
        far = OUTLYING * np.median(errors)
        weight = np.minimum(1.0, far / np.maximum(errors, far)) if far > 0 else weight
    assert fit is not None
    return replace(fit, error=float(errors.mean()), worst=float(errors.max()))


def _best(size: Floats, traffic: Floats, seconds: Floats, weight: Floats) -> CollectiveFit:
    """The best of all curves with 0, 1, 2, ... sizes held by the floor."""
    fits = [_with_floor(size, traffic, seconds, weight, n) for n in range(len(size) - MIN_POINTS + 2)]
    known = [fit for fit in fits if fit is not None]
    if not known:
        raise ValueError("time does not grow with the message size, so no rate can be told")
    return min(known, key=lambda fit: float(np.sum(weight * (fit.seconds(size, traffic) / seconds - 1) ** 2)))


def _with_floor(size: Floats, traffic: Floats, seconds: Floats, weight: Floats, n: int) -> CollectiveFit | None:
    """The best curve whose floor holds the `n` smallest sizes; None if it has no rate."""
    relative = np.sqrt(weight) / seconds
    floor = float(np.sum(weight[:n] / seconds[:n]) / np.sum(weight[:n] / seconds[:n] ** 2)) if n else 0.0
    columns = np.stack([np.ones(len(size) - n), np.sqrt(size[n:]), traffic[n:]], axis=1) * relative[n:, None]
    start, ramp, slowness = _non_negative(columns, np.sqrt(weight[n:]))
    return CollectiveFit(floor, start, ramp, 1 / slowness, 0.0, 0.0) if slowness > 0 else None


def _non_negative(columns: Floats, target: Floats) -> tuple[float, float, float]:
    """Least squares with no coefficient below 0: the best of all choices of columns in use."""
    best, least = np.zeros(columns.shape[1]), np.inf
    for used in (c for k in range(1, columns.shape[1] + 1) for c in combinations(range(columns.shape[1]), k)):
        part = columns[:, used]
        scale = np.linalg.norm(part, axis=0)
        solution = np.linalg.lstsq(part / scale, target, rcond=None)[0] / scale
        squares = float(np.sum((part @ solution - target) ** 2))
        if np.all(solution >= 0) and squares < least:
            best, least = np.zeros(columns.shape[1]), squares
            best[list(used)] = solution
    return float(best[0]), float(best[1]), float(best[2])
