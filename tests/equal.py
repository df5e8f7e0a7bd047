"""Two runs of one plan compared in everything that a user or a metric can see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plans import attached_links, bytes_by_link, peak_by_link

from sim.ask.run.step import Simulated
from sim.metrics.breakdown import rank_time
from sim.metrics.links import link_use

Column = NDArray[Any]
EXACT = 1e-9


@dataclass(frozen=True)
class Timeline:
    """Passes of one rank in order: whether backward, microbatch, start and end [s]."""

    backward: Column
    microbatch: Column
    start: Column
    end: Column


def timelines(step: Simulated) -> list[Timeline]:
    """Passes of each rank class, skipped periods included."""
    trace = step.trace
    rows = trace.unrolled()
    labels = np.array([trace.program.actions[template.action].label for template in trace.program.templates])
    found: dict[int, Timeline] = {}
    for number, stream in enumerate(trace.program.streams):
        if stream.kind == "compute":
            mine = rows["stream"] == number
            label = labels[rows["template"][mine].astype(np.int64)]
            passes = np.flatnonzero((label == "forward") | (label == "backward"))
            microbatch, start, end = (rows[name][mine][passes] for name in ("index", "start", "end"))
            found[stream.rank] = timeline(label[passes] == "backward", microbatch, start, end)
    return [found[number] for number in range(len(found))]


def timeline(backward: Column, microbatch: Column, start: Column, end: Column) -> Timeline:
    """Instructions in a row of the same pass made one."""
    begins = np.ones(len(start), dtype=bool)
    begins[1:] = (backward[1:] != backward[:-1]) | (microbatch[1:] != microbatch[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(start)) - 1
    return Timeline(backward[first], microbatch[first], start[first], end[last])


def assert_same(one: Simulated, other: Simulated, *, peaks: bool = True) -> None:
    """Two runs of one plan agree in everything a user or a metric can see.

    peaks: of links too, which an instant may move in which one transfer ends as another begins.
    """
    slack = EXACT * one.trace.time
    assert one.trace.time == pytest.approx(other.trace.time, rel=EXACT)
    pairs = sorted(set(zip(one.plan.partition.rank.tolist(), other.plan.partition.rank.tolist(), strict=True)))
    assert_same_passes(timelines(one), timelines(other), pairs, slack)
    assert_same_links(one, other, peaks)
    for a, b in ends_of_classes(pairs):
        mine, theirs = rank_time(one.trace, a), rank_time(other.trace, b)
        assert mine.exposed == pytest.approx(theirs.exposed, abs=slack), (a, b)
        assert mine.comm_total == pytest.approx(theirs.comm_total, abs=slack), (a, b)


def ends_of_classes(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Some pairs of classes that hold the same ranks: the first and the last of up to ten classes."""
    by_class: dict[int, list[int]] = {}
    for a, b in pairs:
        by_class.setdefault(a, []).append(b)
    chosen = list(by_class)[:: 1 + len(by_class) // 10]
    return [(a, b) for a in chosen for b in {by_class[a][0]: None, by_class[a][-1]: None}]


def assert_same_passes(one: list[Timeline], other: list[Timeline], pairs: list[tuple[int, int]], slack: float) -> None:
    for a, b in pairs:
        np.testing.assert_array_equal(one[a].backward, other[b].backward)
        np.testing.assert_array_equal(one[a].microbatch, other[b].microbatch)
        np.testing.assert_allclose(one[a].start, other[b].start, rtol=0, atol=slack)
        np.testing.assert_allclose(one[a].end, other[b].end, rtol=0, atol=slack)


def assert_same_links(one: Simulated, other: Simulated, peaks: bool) -> None:
    """Bytes of all links, and peaks of those that rates were shared on; sprayed spines may be drawn as one."""
    mine, theirs = (attached_links(each) for each in (one, other))
    if one.cluster.links.n == other.cluster.links.n:
        mine[:] = theirs[:] = True
    np.testing.assert_allclose(bytes_by_link(one)[mine], bytes_by_link(other)[theirs], rtol=EXACT)
    highest, others = peak_by_link(one)[mine], peak_by_link(other)[theirs]
    shared = np.isfinite(highest) & np.isfinite(others) & peaks
    np.testing.assert_allclose(highest[shared], others[shared], rtol=EXACT)
    through = [bytes_by_link(each)[~attached_links(each)].sum() for each in (one, other)]
    assert through[0] == pytest.approx(through[1], rel=EXACT)
    if one.cluster.links.n == other.cluster.links.n:
        np.testing.assert_allclose(mean_loads(one), mean_loads(other), rtol=EXACT)


def mean_loads(step: Simulated) -> Column:
    """Mean load of all reported links, sorted; both directions may be one class."""
    uses = link_use(step.trace, step.cluster)
    return np.sort(np.repeat([use.mean for use in uses], [use.count for use in uses]))
