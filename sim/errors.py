"""Every error a user can meet, with the exit code the command line gives it.

SimError
├── ConfigError        the input is wrong (exit 3); carries a list of Problem
│   └── PlanError      the plan cannot be built on this cluster (exit 3)
├── OutputError        an output cannot be written (exit 2); carries a list of Problem
└── EngineError        the simulation itself failed (exit 4)
    ├── Deadlock       nothing can happen any more; says who waits for what
    └── CertificateError  a rate allocation is not max-min fair
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong in the input: where it is, what it is, and the way out."""

    where: str  # file:line:col, or the name of the override
    key: str  # dotted key path, "" for the whole file
    message: str  # what is wrong and what is allowed
    suggestion: str = ""

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.where, self.key, self.message) if part)
        return f"{text}; {self.suggestion}" if self.suggestion else text


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


class SimError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code = 4


class _Problems(SimError):
    """Several problems at once."""

    def __init__(self, problems: list[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem("", "", problems)
        self.problems = [problems] if isinstance(problems, Problem) else problems
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigError(_Problems):
    """The input is wrong. All problems found are kept, in file order."""

    exit_code = 3


class PlanError(ConfigError):
    """The parallel plan cannot be placed on this cluster or model."""


class OutputError(_Problems):
    """What was computed cannot be written where it was asked for. All outputs that failed are kept."""

    exit_code = 2


class EngineError(SimError):
    """The simulation failed; a defect of the program or of a custom plan."""


class Deadlock(EngineError):
    """The event queue ran dry before the work was done."""


class CertificateError(EngineError):
    """A rate allocation failed the max-min certificate."""
