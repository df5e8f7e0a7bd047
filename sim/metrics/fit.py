"""Start-up, ramp and saturation of a measured collective by least squares of the relative error.

Time = max(floor, start + min(limit, ramp sqrt(S)) + bytes/rate). For a given number of sizes that the floor
holds and a given end of the ramp, the rest is linear in start, ramp and 1/rate, so these are tried out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MIN_POINTS = 4
ROUNDS = 5
ENDING = 0.6  # share of the squares that the end of a ramp must leave at most, to be believed
EXACT = 1e-4  # relative error that is none
OUTLYING = 3.0  # times the median error, from which on a size counts for less


@dataclass(frozen=True)
class CollectiveFit:
    """Seconds, seconds per square root of byte, bytes per second; `error`: mean size of the relative error.

    `limit`: longest ramp [s], None if it goes on to the largest message.
    """

    floor: float
    start: float
    ramp: float
    rate: float
    limit: float | None = None
    error: float = 0.0
    worst: float = 0.0

    def seconds(self, size: Floats, traffic: Floats) -> Floats:
        """Time of messages of `size` bytes that move `traffic` bytes, same shape."""
        ramp = np.minimum(np.inf if self.limit is None else self.limit, self.ramp * np.sqrt(size))
        return np.maximum(self.floor, self.start + ramp + traffic / self.rate)


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
    """The best of all curves; one whose ramp ends must be much better than one whose ramp goes on."""

    def squares(fit: CollectiveFit) -> float:
        return float(np.sum(weight * (fit.seconds(size, traffic) / seconds - 1) ** 2))

    def tried(floors: Iterable[int], ends: Iterable[float]) -> list[tuple[float, CollectiveFit, int, float]]:
        found = [(_with_floor(size, traffic, seconds, weight, n, end), n, end) for n in floors for end in ends]
        return [(squares(fit), fit, n, end) for fit, n, end in found if fit is not None]

    floors = range(len(size) - MIN_POINTS + 2)
    going_on = tried(floors, [np.inf])
    if not going_on:
        raise ValueError("time does not grow with the message size, so no rate can be told")
    least, best, held, _ = min(going_on, key=lambda each: each[0])
    ending = tried([held], size[held:])
    if ending:
        end = min(ending, key=lambda each: each[0])[3]
        less, other, _, _ = min(tried(floors, [end]), key=lambda each: each[0])
        if less < ENDING * least - len(size) * EXACT**2:
            return other
    return best


def _with_floor(
    size: Floats, traffic: Floats, seconds: Floats, weight: Floats, n: int, end: float
) -> CollectiveFit | None:
    """The best curve with the `n` smallest sizes on its floor and a ramp up to `end` bytes; None without a rate."""
    relative = np.sqrt(weight) / seconds
    floor = float(np.sum(weight[:n] / seconds[:n]) / np.sum(weight[:n] / seconds[:n] ** 2)) if n else 0.0
    columns = [np.ones(len(size) - n), np.sqrt(np.minimum(size[n:], end)), traffic[n:]]
    weighted = np.stack(columns, axis=1) * relative[n:, None]
    start, ramp, slowness = _non_negative(weighted, np.sqrt(weight[n:]))
    limit = float(ramp * np.sqrt(end)) if ramp > 0 and np.isfinite(end) else None
    return CollectiveFit(floor, start, ramp, 1 / slowness, limit) if slowness > 0 else None


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
