"""Carbon intensity of the grid over time: a constant, or a file that gives it hour by hour.

Public: `Grid`, `grid_of`.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from math import isfinite
from pathlib import Path

from sim.errors import ConfigError, Problem
from sim.inputs.energy import Site
from sim.inputs.named_files import read_named
from sim.units import CARBON_INTENSITY

HOUR = 3600.0


@dataclass(frozen=True)
class Grid:
    """Intensity by hour [kg/J], again and again; one value is a constant."""

    hours: tuple[float, ...]
    start: int = 0  # hour in which the run begins

    def mean(self, start: float, end: float) -> float:
        """Mean intensity between two times of the run [kg/J]."""
        if len(self.hours) == 1 or end <= start:
            return self.hours[(self.start + int(start // HOUR)) % len(self.hours)]
        return (self._until(end) - self._until(start)) / (end - start)

    def _until(self, time: float) -> float:
        """Integral of the intensity from the first hour of the file."""
        at = self.start * HOUR + time
        hour = int(at // HOUR)
        turns, last = divmod(hour, len(self.hours))
        sums = self._sums
        return (turns * sums[-1] + sums[last]) * HOUR + self.hours[last] * (at - hour * HOUR)

    @cached_property  # 8,760 hours, for each span of a life
    def _sums(self) -> tuple[float, ...]:
        return tuple(accumulate(self.hours, initial=0.0))


def grid_of(site: Site) -> Grid | None:
    """The grid of a site; None if it says nothing. Raises ConfigError for a file that cannot be read."""
    if site.carbon_file is not None:
        return Grid(_read_hours(Path(site.carbon_file)), site.start_hour)
    return None if site.carbon_intensity is None else Grid((site.carbon_intensity,))


def _read_hours(path: Path) -> tuple[float, ...]:
    """The last column of a CSV file, g/kWh, without its header."""
    return _hours(read_named(path, "site.carbon_file"), path)


@lru_cache(maxsize=8)  # a file, shared by points of a sweep
def _hours(content: bytes, path: Path) -> tuple[float, ...]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
        rows = [(number, row[-1]) for number, row in enumerate(csv.reader(lines), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        reason = "is not text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(Problem(str(path), "site.carbon_file", f"cannot be read: {reason}")) from None
    hours = tuple(_intensity(path, number, text) for number, text in rows[1:])
    if not hours:
        raise ConfigError(
            Problem(str(path), "site.carbon_file", "holds no hours", "a header, then a line for each hour")
        )
    return hours


def _intensity(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (isfinite(value) and 0 <= value <= CARBON_INTENSITY.most / CARBON_INTENSITY.units["g/kWh"]):
        message = f"{text[:40]!r} is not a carbon intensity"
        raise ConfigError(Problem(f"{path}:{line}", "site.carbon_file", message, "the last column is in g/kWh"))
    return value * CARBON_INTENSITY.units["g/kWh"]
