"""Power over the time of a step, as means over equal samples, so that its integral is the energy.

Each row of the trace adds a constant power from its start to its end. Up to a time, rows that are over
count as a whole and rows that act in part; so do the copies of rows in skipped periods.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.engine.trace import Repeat, Trace
from sim.metrics.energy_step import Activity
from sim.ragged import ranges

Floats = NDArray[np.float64]
SAMPLES = 128
BLOCK = 4096  # repeated rows that are looked at together


def power_curves(activity: Activity, weights: Floats, samples: int = SAMPLES) -> Floats:
    """Power of sets of accelerators of the job over a step, (n_sets, samples), means over equal times [W].

    weights: (n_sets, n_rank_classes), how many accelerators of each class are in each set.
    """
    trace = activity.trace
    duration, width = trace.end - trace.start, trace.time / samples
    rate = np.divide(1.0, duration, out=np.zeros_like(duration), where=duration > 0)
    added = np.stack([activity.added(weight) for weight in weights])
    watts = added.take(activity.of_row, axis=1) * rate
    draws = np.flatnonzero(watts.any(axis=0))  # a transfer draws nothing here
    edges = _edges(trace.time, samples)
    energy = _energy(edges, trace.start[draws], trace.end[draws], watts[:, draws])
    for repeat in trace.repeats:
        energy += _of_copies(edges, trace, repeat, watts)
    base = (weights @ activity.waiting)[:, None]
    curves: Floats = np.diff(energy, prepend=0.0) / width + base
    return curves


def sampled(start: Floats, end: Floats, watts: Floats, length: float, samples: int = SAMPLES) -> Floats:
    """Means over equal samples of 0 to `length` of what draws watts[i] from start[i] to end[i], (samples,) [W]."""
    width = length / samples
    energy = _energy(_edges(length, samples), start, end, watts[None])
    means: Floats = np.diff(energy[0], prepend=0.0) / width
    return means


def _edges(length: float, samples: int) -> Floats:
    """Ends of equal samples of 0 to `length`."""
    edges: Floats = np.linspace(0.0, length, samples + 1)[1:]
    return edges


def _energy(until: Floats, start: Floats, end: Floats, watts: Floats) -> Floats:
    """What draws watts[:, i] from start[i] to end[i] takes up to rising times, (n_sets, n_times) [J]."""
    first, over = np.searchsorted(until, start, "right"), np.searchsorted(until, end)
    acting = np.maximum(over - first, 0)  # times while a row acts: so many from the first on
    row = np.repeat(np.arange(len(start)), acting)
    time = ranges(first, acting)
    partly, whole = watts[:, row] * (until[time] - start[row]), watts * (end - start)
    energy: Floats = np.cumsum([np.bincount(over, each, len(until) + 1)[:-1] for each in whole], axis=1)
    energy += [np.bincount(time, each, len(until)) for each in partly]
    return energy


def _of_copies(edges: Floats, trace: Trace, repeat: Repeat, watts: Floats) -> Floats:
    """The same of all copies of repeated rows. Copies of a row follow one another, so at most one is under way."""
    rows = repeat.rows[watts[:, repeat.rows].any(axis=0)]
    energy = np.zeros((len(watts), len(edges)))
    for first in range(0, len(rows), BLOCK):
        block = rows[first : first + BLOCK]
        start, lasts, period = trace.start[block], trace.end[block] - trace.start[block], repeat.period
        since = np.maximum(edges[:, None] - (start + period), 0)  # the first copy began
        before = np.minimum(np.floor(since / period), repeat.times - 1)  # copies before the last that has begun
        energy += watts[:, block] @ (before * lasts + np.minimum(since - before * period, lasts)).T
    return energy
