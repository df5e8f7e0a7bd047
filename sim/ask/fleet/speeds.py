"""A table of speeds: what models do on so many boards, of a kind, on so many nodes.

Public: `SpeedTable`, `read_speeds`.
"""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from sim.errors import ConfigError, Problem
from sim.fleet.jobs import JobRequest
from sim.inputs.named_files import read_named

KEY = "speeds"
Curve = tuple[list[int], list[float]]  # boards in order, and the speed on each number of them


@dataclass(frozen=True)
class SpeedTable:
    """rows: (model, kind, nodes) to speed over boards; kind "" and nodes 0 stand for any."""

    rows: dict[tuple[str, str, int], Curve]

    def speed(self, job: JobRequest, kind: str, gpus: int, nodes: int) -> float | None:
        """Work in a second, relative to the job at its own size on the kind where that is fastest; None if unknown."""
        here = self._raw(job.model, kind, gpus, nodes)
        kinds = {key[1] for key in self.rows if key[0] == job.model}
        own = [value for each in kinds if (value := self._raw(job.model, each, job.gpus, 0)) is not None]
        return here / max(own) if here is not None and own else None

    def _raw(self, model: str, kind: str, gpus: int, nodes: int) -> float | None:
        """Speed as the table has it; between two rows on the line between them, beyond the last as there."""
        for where in (kind, ""):
            curve = self.rows.get((model, where, nodes)) or self._fewest(model, where)
            if curve is not None:
                return _between(curve, gpus)
        return None

    def _fewest(self, model: str, kind: str) -> Curve | None:
        """The curve for the fewest nodes, where nothing is said of as many as there are."""
        found = sorted(key[2] for key in self.rows if key[:2] == (model, kind))
        return self.rows[model, kind, found[0]] if found else None


def _between(curve: Curve, gpus: int) -> float:
    sizes, speeds = curve
    place = bisect_left(sizes, gpus)
    if place == len(sizes):
        return speeds[-1]
    if sizes[place] == gpus or place == 0:
        return speeds[place] * (gpus / sizes[0] if place == 0 else 1.0)
    left, right = sizes[place - 1], sizes[place]
    return speeds[place - 1] + (speeds[place] - speeds[place - 1]) * (gpus - left) / (right - left)


def read_speeds(path: Path) -> SpeedTable:
    """The table in a CSV file with columns model, gpus, speed and perhaps kind, nodes. Raises ConfigError."""
    text = read_named(path, KEY).decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(text.splitlines())
    missing = {"model", "gpus", "speed"} - set(reader.fieldnames or ())
    if missing:
        columns = "columns are model, gpus, speed and perhaps kind, nodes"
        raise ConfigError(Problem(f"{path}:1:1", KEY, f"the column {sorted(missing)[0]} is missing", columns))
    found: dict[tuple[str, str, int], dict[int, float]] = defaultdict(dict)
    problems = []
    for row in reader:
        try:
            gpus, speed, nodes = int(row["gpus"]), float(row["speed"]), int(row.get("nodes") or 0)
            if gpus < 1 or nodes < 0 or not (isfinite(speed) and speed > 0):
                raise ValueError("speeds and numbers of boards are above 0")
        except (ValueError, TypeError, OverflowError) as error:
            problems.append(Problem(f"{path}:{reader.line_num}", KEY, f"is no row of speeds: {error}"))
            continue
        found[row["model"], row.get("kind") or "", nodes][gpus] = speed
    if problems:
        raise ConfigError(problems[:20])
    return SpeedTable({key: (sorted(curve), [curve[g] for g in sorted(curve)]) for key, curve in found.items()})
