"""A replayed step beside what was recorded: how far begins are apart, and what each kind of node took.

Public: `replay_result`, `recorded_spans`, `both_ways`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sim.engine.category import Category
from sim.engine.trace import Trace
from sim.inputs.recording import COLLECTIVE, HOST, NODE_KINDS, RecordedRank
from sim.layout.recorded import assignment_of
from sim.metrics.result import ReplayedKind, ReplayResult
from sim.metrics.timeline import TimelineSpan
from sim.programs.ranks import Job
from sim.programs.replay import replayed_nodes, unmatched_collectives

Floats = NDArray[np.float64]
IDLE = "idle"
NAMES = {"product": "products", "memory": "bound by memory", "copy": "copies", "other": "other kernels"}


def replay_result(job: Job, trace: Trace) -> ReplayResult | None:
    """What a replay comes to beside its recording; None for a step that was not recorded."""
    replay = job.plan.model.replay
    if replay is None:
        return None
    done = replayed_nodes(job, trace)
    errors, kinds = [np.zeros(1)], defaultdict[str, list[Floats]](list)
    for each in done:
        record = each.recorded
        known = (record.kind != HOST) & (record.start >= 0)
        apart = (each.begin - record.start)[known]
        errors.append(np.abs(apart) / record.step)
        columns = np.stack([record.seconds[known], (each.end - each.begin)[known], apart])
        names = np.array(_kinds(record))[known]
        for name in np.unique(names).tolist():
            kinds[name].append(columns[:, names == name])
    error = np.concatenate(errors[1:] if kinds else errors)  # a generated trace says of nothing when it began
    recorded = max(each.recorded.step for each in done)
    levels = {name: float(np.quantile(error, share)) for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))}
    as_it_was = replay._replace(collectives="recorded", kernels="recorded", stragglers="kept", host=1.0)
    resized = job.plan.grid.n_ranks != replay.ranks
    return ReplayResult(
        recorded,
        trace.time,
        levels,
        {name: _kind(columns, len(done)) for name, columns in sorted(kinds.items())},
        unmatched_collectives(trace),
        sum(each.bytes <= 0 and each.kind != "barrier" for rank in done for each in rank.recorded.collectives),
        bool(replay != as_it_was or resized or job.plan.experiment.degradations),
    )


def _kinds(record: RecordedRank) -> list[str]:
    """What each node counts under: collectives by what they do."""
    names = [NAMES.get(NODE_KINDS[kind], NODE_KINDS[kind]) for kind in record.kind.tolist()]
    for each in record.collectives:
        names[each.node] = each.kind.replace("_", "-")
    return names


def _kind(columns: list[Floats], ranks: int) -> ReplayedKind:
    recorded, replayed, apart = np.concatenate(columns, axis=1)
    return ReplayedKind(len(apart), float(recorded.sum()) / ranks, float(replayed.sum()) / ranks, float(apart.mean()))


def both_ways(job: Job, trace: Trace, rank_class: int) -> tuple[list[TimelineSpan], list[TimelineSpan]]:
    """What the devices of a rank class did in the replay and as recorded, by kind; waits between are spans too."""
    done = next(each for each in replayed_nodes(job, trace) if each.rank_class == rank_class)
    record, names = done.recorded, _kinds(done.recorded)
    shown = np.flatnonzero((record.kind != HOST) & (record.start >= 0)).tolist()
    ways = (done.begin, done.end), (record.start, record.start + record.seconds)
    replayed, recorded = (
        [*_filled(sorted((float(begin[node]), float(end[node]), names[node]) for node in shown), rank_class)]
        for begin, end in ways
    )
    return replayed, recorded


def _filled(spans: list[tuple[float, float, str]], rank: int) -> Iterator[TimelineSpan]:
    """Spans of time, with what is between them."""
    reached = 0.0
    for begin, end, name in spans:
        if begin > reached:
            yield TimelineSpan(rank, "compute", IDLE, Category.BUBBLE, -1, reached, begin)
        yield TimelineSpan(rank, "compute", name, Category.COMPUTE, -1, begin, end)
        reached = max(reached, end)


def recorded_spans(job: Job, ranks: list[int]) -> Iterator[TimelineSpan]:
    """What ranks did when it was recorded; nothing of a step that was not."""
    assignment = assignment_of(job.plan.experiment)
    for rank in ranks if assignment else ():
        assert assignment is not None
        record = assignment.recording.ranks[assignment.programs[rank]]
        columns = (record.queue, record.kind, record.name, record.start, record.seconds)
        for queue, kind, name, start, seconds in zip(*(column.tolist() for column in columns), strict=True):
            if start < 0:
                continue
            track = record.queues[queue].name if queue >= 0 else "free"
            category = {HOST: Category.OTHER, COLLECTIVE: Category.DATA_COMM}.get(kind, Category.COMPUTE)
            yield TimelineSpan(rank, track, record.names[name], category, 0, start, start + seconds)
