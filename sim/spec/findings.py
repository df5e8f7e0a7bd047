"""What checks are made of: a function from a setup to problems that have no place yet.

Public: `Check`, `finding`, `indivisible`, `listed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sim.errors import Problem
from sim.spec.setup import Setup

Check = Callable[[Setup], Iterator[Problem]]


def finding(key: str, message: str, suggestion: str) -> Problem:
    """A problem of the value at `key`; the loader adds where it was written."""
    return Problem("", key, message, suggestion)


def indivisible(key: str, whole: str, number: int, part: str, divisor: int) -> Problem:
    """`number` of something cannot be shared evenly by `divisor`; names the nearest that can."""
    fitting = [candidate for candidate in range(1, min(number, 4096) + 1) if number % candidate == 0]
    nearest = sorted(fitting, key=lambda candidate: abs(candidate - divisor))[:2]
    choice = " or ".join(str(candidate) for candidate in sorted(nearest))
    return finding(key, f"{whole} {number} cannot be divided by {part} {divisor}", f"use a {part} of {choice}")


def listed(numbers: Sequence[int]) -> str:
    """The first few of `numbers`, after a space; nothing if there are none."""
    shown = ", ".join(map(str, numbers[:5]))
    return f" {shown}{', ...' if len(numbers) > 5 else ''}" if numbers else ""
