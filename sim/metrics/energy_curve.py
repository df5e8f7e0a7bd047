"""Power over the time of a step, as means over equal samples, so that its integral is the energy.

Each row of the trace adds a constant power from its start to its end. The sum over rows up to a time
is t * P - Q, with P the powers and Q the powers times starts of the rows begun before t, less the same
for those ended; so it needs no sorting, only sums over the samples in which rows begin and end.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sim.engine.trace import Trace
from sim.metrics.energy_step import Activity

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SAMPLES = 128


def power_curves(activity: Activity, weights: Floats, samples: int = SAMPLES) -> Floats:
    """Power of sets of accelerators of the job over a step, (n_sets, samples), means over equal times [W].

    weights: (n_sets, n_rank_classes), how many accelerators of each class are in each set.
    """
    trace, joules = activity.trace, activity.added()
    duration = trace.end - trace.start
    base = activity.job.board.waiting * weights.sum(axis=1, keepdims=True)
    curves = np.empty((len(weights), samples))
    for number, weight in enumerate(weights):
        added = (joules * activity.spread(weight))[activity.of_row]
        watts = np.divide(added, duration, out=np.zeros_like(added), where=duration > 0)
        curves[number] = _means(trace, watts, samples)
    curves += base
    return curves


def _means(trace: Trace, watts: Floats, samples: int) -> Floats:
    """Mean over each sample of the power that rows add while they act, (samples,) [W]; watts: (n_rows,)."""
    total = np.zeros(samples)
    for rows, later in _copies(trace):
        acting = rows[watts[rows] != 0]
        start, end = (np.add.outer(later, times[acting]).ravel() for times in (trace.start, trace.end))
        total += sampled(start, end, np.tile(watts[acting], len(later)), trace.time, samples)
    return total


def sampled(start: Floats, end: Floats, watts: Floats, length: float, samples: int = SAMPLES) -> Floats:
    """Means over equal samples of 0 to `length` of what draws watts[i] from start[i] to end[i], (samples,) [W]."""
    width = length / samples
    edges = np.arange(1, samples + 1) * width
    energy = np.zeros(samples)
    for times, sign in ((start, 1.0), (end, -1.0)):
        place = np.minimum((times / width).astype(np.int64), samples - 1)
        begun = np.cumsum(np.bincount(place, watts, samples))
        before = np.cumsum(np.bincount(place, watts * times, samples))
        energy += sign * (edges * begun - before)
    return np.diff(energy, prepend=0.0) / width


def _copies(trace: Trace) -> Iterator[tuple[Ints, Floats]]:
    """Stored rows, and how much later each of their copies happened [s]."""
    yield np.arange(len(trace.start)), np.zeros(1)
    for repeat in trace.repeats:
        yield trace.repeated_rows(repeat), np.arange(1.0, repeat.times + 1.0) * repeat.period
