"""Timing: repeat, take the minimum and the median; peak memory in a process of its own."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Sample:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def least(self) -> float:
        """The smallest value: what the machine can do when nothing disturbs it."""
        return min(self.values)

    @property
    def most(self) -> float:
        """The largest value, for rates what `least` is for times."""
        return max(self.values)

    @property
    def median(self) -> float:
        """The middle value: what to expect."""
        return statistics.median(self.values)


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call [s]."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Callable[[], object], repetitions: int) -> Sample:
    """Wall-clock times of repeated calls [s]."""
    return Sample(tuple(seconds(work) for _ in range(repetitions)))


def command(*arguments: str) -> Callable[[], object]:
    """A call of `clustersim` in a fresh process; fails loudly if the command does."""
    line = [sys.executable, "-m", "sim.cli", *arguments]
    return lambda: subprocess.run(line, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def in_child(case: str, *arguments: str) -> Any:
    """Run `case` of bench.child in a fresh process; returns the JSON it prints."""
    line = [sys.executable, "-m", "bench.child", case, *arguments]
    output = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output)


def peak_memory() -> float:
    """Largest resident size of this process so far [B]."""
    kilo = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo)


def points_in(folder: Path) -> int:
    """Points that a sweep has simulated into `folder`."""
    import duckdb

    with duckdb.connect(str(folder / "sweep.duckdb"), read_only=True) as connection:
        row = connection.execute("SELECT count(*) FROM results").fetchone()
    return int(row[0]) if row else 0
