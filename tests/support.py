"""Names that tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    """What a call of the command printed, and its exit code."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]  # the command in this process
Command = Callable[..., "CompletedProcess[str]"]  # the command in a process of its own
