"""Bounds of a step time as text."""

from __future__ import annotations

from sim.metrics.result import BoundedResult
from sim.report import human


def bounds_text(result: BoundedResult) -> str:
    """What is proved, how wide that is, and how to get the exact number."""
    lower, upper = result.exactness.lower_s or 0.0, result.exactness.upper_s or 0.0
    return (
        f"{result.name} on {result.accelerators:,} accelerators\n"
        f"step time between {human.duration(lower)} and {human.duration(upper)}, {upper / lower - 1:.2%} apart\n"
        "Proved: every transfer at its rate alone, and at the least that sharing can give it. "
        "The same command without --bounds simulates the step."
    )
