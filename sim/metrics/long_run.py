"""Many lives as one result: means in the order of their seeds, and how they scatter.

Public: `LifeSummary`, `Tally`, `half_width`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from sim.metrics.energy_run import SpanEnergy
from sim.metrics.result import RunResult, Spread
from sim.units import ENERGY

CONFIDENCE = 0.95
BINS = 24
KWH = ENERGY.units["kWh"]


@dataclass(frozen=True)
class LifeSummary:
    """What is kept of one life; fields as in `Life`. stops: incidents. usd: None without prices."""

    seed: int
    outcome: str
    elapsed_s: float
    productive_s: float
    steps: int
    steps_lost: float
    stops: int
    checkpoints: int
    badput_s: dict[str, float]
    failures_by_cause: dict[str, int]
    spent: SpanEnergy
    usd: float | None
    notes: tuple[str, ...]

    @property
    def goodput(self) -> float:
        """Productive share of the time."""
        return self.productive_s / self.elapsed_s if self.elapsed_s else 1.0


class Tally:
    """Lives added one by one; of each, little more is kept than six numbers."""

    def __init__(self) -> None:
        self.n = 0
        self.sums = Counter[str]()  # of what has one value a life
        self.badput: dict[str, float] = {}
        self.causes: dict[str, float] = {}
        self.outcomes = Counter[str]()
        self.notes: dict[str, None] = {}
        self.spent: SpanEnergy | None = None
        self.values: dict[str, array[float]] = {}

    def add(self, life: LifeSummary) -> None:
        """One more life."""
        self.n += 1
        for name in ("elapsed_s", "productive_s", "steps", "steps_lost", "stops", "checkpoints"):
            self.sums[name] += getattr(life, name)
        _add(self.badput, life.badput_s)
        _add(self.causes, life.failures_by_cause)
        self.outcomes[life.outcome] += 1
        self.notes |= dict.fromkeys(life.notes)
        self.spent = life.spent if self.spent is None else _both(self.spent, life.spent)
        for name, value in _scattering(life).items():
            self.values.setdefault(name, array("d")).append(value)

    def mean_spent(self) -> SpanEnergy:
        """Energy of a life on average."""
        spent = self.spent
        assert spent is not None, "no life was added"
        return replace(
            spent,
            seconds=spent.seconds / self.n,
            parts=self._mean(spent.parts),
            phases=self._mean(spent.phases),
            carbon=None if spent.carbon is None else spent.carbon / self.n,
        )

    def result(self) -> RunResult:
        """Means, quantiles and counts of all lives."""
        sums, n = self.sums, self.n
        elapsed = sums["elapsed_s"]
        spreads = {name: spread_of(np.frombuffer(values)) for name, values in self.values.items()} if n > 1 else {}
        time = spreads.get("time_to_train_s")
        return RunResult(
            time_to_train_s={name: getattr(time, name) if time else elapsed for name in ("mean", "p5", "p50", "p95")},
            steps=round(sums["steps"] / n),
            goodput=sums["productive_s"] / elapsed if elapsed else 1.0,
            badput_s=self._mean(self.badput),
            failures=round(sums["stops"] / n),
            checkpoints=round(sums["checkpoints"] / n),
            outcome=self.outcomes.most_common(1)[0][0],
            elapsed_s=elapsed / n,
            steps_lost=sums["steps_lost"] / n,
            failures_by_cause=self._mean(dict(sorted(self.causes.items()))),
            seeds=n,
            spreads=spreads,
            outcomes=dict(sorted(self.outcomes.items())),
        )

    def _mean(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {name: value / self.n for name, value in sums.items()}


def _scattering(life: LifeSummary) -> dict[str, float]:
    """The quantities whose distribution is told."""
    values = {
        "time_to_train_s": life.elapsed_s,
        "goodput": life.goodput,
        "lost_work_s": life.badput_s["lost_work"],
        "failures": float(life.stops),
        "energy_kwh": life.spent.joules / KWH,
    }
    return values if life.usd is None else values | {"usd": life.usd}


def spread_of(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Spread:
    """How values, (n,), are distributed."""
    p5, p50, p95 = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, BINS, (low, high if high > low else low + 1.0))
    mean = float(values.mean())
    squares = float(((values - mean) ** 2).sum())
    return Spread(mean, p5, p50, p95, half_width(len(values), squares), low, high, tuple(counts.tolist()))


def half_width(n: int, squares: float) -> float | None:
    """Half the 95 % confidence interval of the mean of `n` values, by Student's t; None for a single one.

    squares: sum of the squared differences from their mean.
    """
    if n < 2:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sqrt(squares / (n - 1) / n)


def _add(sums: dict[str, float], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value


def _both(one: SpanEnergy, other: SpanEnergy) -> SpanEnergy:
    """What was spent in two lives."""
    parts, phases, stretches = dict(one.parts), dict(one.phases), dict(one.stretches)
    _add(parts, other.parts)
    _add(phases, other.phases)
    for phase, (joules, seconds) in other.stretches.items():
        known = stretches.get(phase, (0.0, 0.0))
        stretches[phase] = known[0] + joules, known[1] + seconds
    carbon = None if one.carbon is None or other.carbon is None else one.carbon + other.carbon
    return SpanEnergy(one.seconds + other.seconds, parts, phases, stretches, carbon)
