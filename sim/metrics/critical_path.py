"""Why a step ends when it does: the chain of events without a gap that leads to its end, and the slack of the rest.

The path is walked backwards from the event that ends the step: each event began the instant another one
ended, so the lengths add up to the step time. Slack is how much later something could have begun without
the step ending later, everything lasting as long as it did (Kelley and Walker 1959, critical-path method).

Public: `PathPart`, `critical_path`, `Slack`, `slacks`, `Overlap`, `overlaps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim.engine.category import COMMUNICATION
from sim.engine.program import Action
from sim.engine.trace import Trace
from sim.metrics.breakdown import rank_time
from sim.metrics.history import Event, History
from sim.metrics.timeline import TimelineSpan


@dataclass(frozen=True)
class PathPart:
    """Time on the critical path [s]: a breakdown category, the pipeline stage, and what it is bound by."""

    category: str  # breakdown field
    stage: int  # -1 for a collective
    bound: str  # "work", "bandwidth" or "latency"
    seconds: float


@dataclass(frozen=True)
class Slack:
    """The least slack of a kind of stream of a stage [s], and how long such a stream is busy [s]."""

    kind: str  # of the stream: compute, send, gradient, tensor, ...
    stage: int
    slack: float
    busy: float


@dataclass(frozen=True)
class Overlap:
    """One kind of communication of one rank: seconds in flight, seconds exposed, and what hides the rest [s]."""

    category: str
    total: float
    exposed: float
    hidden_by: dict[str, float]  # what is computed meanwhile, exposed or not, or the bubble


def critical_path(trace: Trace, stage_of: Sequence[int]) -> tuple[PathPart, ...]:
    """The parts of the path, longest first; they sum to the step time. stage_of: stage of each rank class."""
    history, actions = History(trace), trace.program.actions
    parts: dict[tuple[str, int, str], float] = {}
    for event in _path(trace, history):
        row = event[0]
        action = actions[trace.program.templates[trace.template[row]].action]
        stream = trace.program.streams[trace.stream[row]]
        stage = stage_of[stream.rank] if stream.rank >= 0 else -1
        for category, bound, seconds in _divide(action, history.end(event) - history.start(event)):
            key = (category, stage, bound)
            parts[key] = parts.get(key, 0.0) + seconds
    found = (PathPart(*key, seconds) for key, seconds in parts.items())
    return tuple(sorted(found, key=lambda part: (-part.seconds, part.category, part.stage)))


def _path(trace: Trace, history: History) -> Iterator[Event]:
    """Events from the last one back to the start of the step."""
    if not len(trace.end):
        return
    last = max(((history.end(history.last(row)), row) for row in range(len(trace.end))), default=(0.0, -1))[1]
    event: Event | None = history.last(last)
    while event is not None:
        yield event
        event = history.blocker(event)


def _divide(action: Action, seconds: float) -> Iterator[tuple[str, str, float]]:
    """An event as categories with what bounds them; what slower processors add counts as computation."""
    if action.flow >= 0:
        latency = min(action.latency, seconds)
        yield action.category, "latency", latency
        yield action.category, "bandwidth", seconds - latency
    elif not action.parts:
        yield action.category, "work" if action.is_computation else "bandwidth", seconds
    else:
        for category, part in action.parts:
            yield category, "bandwidth" if category in COMMUNICATION else "work", part
        yield "compute", "work", seconds - sum(part for _, part in action.parts)


def slacks(trace: Trace, stage_of: Sequence[int]) -> tuple[Slack, ...]:
    """The least slack of each kind of stream and stage; 0 where the critical path runs."""
    table = trace.unrolled()
    start, end, stream = table["start"].astype(float), table["end"].astype(float), table["stream"].astype(int)
    latest = _latest_ends(trace, table)
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for number, each in enumerate(trace.program.streams):
        rows = np.flatnonzero(stream == number)
        if not len(rows):
            continue
        key = each.kind, stage_of[_rank_of(trace, number)]
        least, busy = found.get(key, (np.inf, 0.0))
        mine = float(np.min(latest[rows] - end[rows]))
        found[key] = min(least, mine), max(busy, float(np.sum(end[rows] - start[rows])))
    slack = (Slack(*key, max(0.0, least), busy) for key, (least, busy) in found.items())
    return tuple(sorted(slack, key=lambda each: (each.slack, -each.busy)))


def _rank_of(trace: Trace, number: int) -> int:
    """A rank class that a stream belongs to."""
    stream = trace.program.streams[number]
    if stream.rank >= 0:
        return stream.rank
    action = trace.program.actions[trace.program.templates[next(iter(stream.table))].action]
    return (trace.flow_ranks[action.flow] if action.flow >= 0 else action.ranks)[0]


def _latest_ends(trace: Trace, table: dict[str, np.ndarray]) -> np.ndarray:
    """When each row could have ended without delaying the step, (n,) s."""
    templates = trace.program.templates
    stream, template, index = (table[name].tolist() for name in ("stream", "template", "index"))
    duration = (table["end"] - table["start"]).tolist()
    makers: dict[tuple[int, int], int] = {}
    for row, (kind, at) in enumerate(zip(template, index, strict=True)):
        signal = templates[kind].signal
        if signal is not None:
            makers[signal[0], signal[1] + at] = row
    latest = [trace.time] * len(stream)
    # In order of time a row comes after all that it waits for; of equal times the longer row began before.
    for row in np.lexsort((table["start"], table["end"]))[::-1].tolist():
        begin = latest[row] - duration[row]
        if row and stream[row - 1] == stream[row]:
            latest[row - 1] = min(latest[row - 1], begin)
        for kind, at in templates[template[row]].waits:
            before = makers.get((kind, at + index[row]))
            if before is not None:
                latest[before] = min(latest[before], begin)
    return np.array(latest)


def overlaps(trace: Trace, rank: int, spans: Sequence[TimelineSpan]) -> tuple[Overlap, ...]:
    """Every kind of communication of a rank class, from its timeline: exposed, and hidden by what.

    What neither the rank itself computes beside nor waits for hides in the pipeline bubble.
    """
    exposed = rank_time(trace, rank).exposed
    computing = [span for span in spans if span.track == "compute" and span.category not in COMMUNICATION]
    begins, ends = (np.array([getattr(span, name) for span in computing]) for name in ("start", "end"))
    found = []
    for category in dict.fromkeys(span.category for span in spans if span.category in COMMUNICATION):
        mine = [span for span in spans if span.category == category]
        total = sum(span.end - span.start for span in mine)
        hidden: dict[str, float] = {}
        for span in mine:
            first, last = np.searchsorted(ends, span.start, "right"), np.searchsorted(begins, span.end, "left")
            for beside in computing[first:last]:
                seconds = min(beside.end, span.end) - max(beside.start, span.start)
                hidden[beside.name] = hidden.get(beside.name, 0.0) + seconds
        rest = total - exposed[category] - sum(hidden.values())
        if rest > 1e-3 * total:
            hidden["bubble"] = rest
        found.append(Overlap(category, total, exposed[category], hidden))
    return tuple(sorted(found, key=lambda each: -each.exposed))
