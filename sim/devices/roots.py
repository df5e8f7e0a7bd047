"""Where a rising function crosses zero."""

from __future__ import annotations

from collections.abc import Callable

CLOSE = 1e-10  # of the function's value, or of what is left of the range


def highest_within(excess: Callable[[float], float], low: float, high: float) -> float:
    """The highest x up to `high` at which `excess`, rising and of the order of 1, is at most 0; `low` if none is.

    Regula falsi in the Illinois form (Dowell and Jarratt 1971).
    """
    over, last = excess(high), 0.0
    if over <= 0:
        return high
    under = excess(low)
    while under < -CLOSE and high - low > CLOSE:
        middle = (low * over - high * under) / (over - under)
        value = excess(middle)
        if value <= 0:
            low, under, over = middle, value, over * (0.5 if last < 0 else 1.0)
        else:
            high, over, under = middle, value, under * (0.5 if last > 0 else 1.0)
        last = value or -1.0
    return low
