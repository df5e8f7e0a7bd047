"""A step as spans on tracks, for chosen ranks and a window of time: what timeline viewers show.

A rank has a track for each of its streams: `compute`, the queues of its communicators, its sends, and
`receives` for what its neighbours send. Skipped periods are written out; a rank shows what the
representative of its class did.

Public: `TimelineSpan`, `Arrow`, `Load`, `Timeline`, `timeline`, `rank_spans`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.engine.category import Category
from sim.engine.network import Key, solve
from sim.engine.program import Action, Stream
from sim.engine.trace import Trace
from sim.layout.plan import Plan
from sim.metrics.breakdown import members_of
from sim.metrics.links import link_use

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BUSIEST = 8  # classes of links whose load is shown
TRACKS = {
    "tensor": "tensor parallel",
    "context": "context parallel",
    "ulysses": "context parallel",
    "expert": "expert parallel",
    "gradient": "data parallel",
    "replica": "data parallel replicas",
    "second_copy": "second copy of weights",
    "embedding": "embedding gradients",
}


@dataclass(frozen=True, slots=True)
class TimelineSpan:
    """Something that a rank does from `start` to `end` [s]. parts: its exposed seconds by category."""

    rank: int
    track: str
    name: str
    category: str
    index: int  # microbatch
    start: float
    end: float
    size: float = 0.0  # bytes on the network
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Arrow:
    """A message: sent from a track of one rank [s], used by the computation of another [s]."""

    sender: int
    track: str
    sent: float
    receiver: int
    used: float


@dataclass(frozen=True)
class Load:
    """Share of its capacity that a link carries: `share[i]` from `time[i]` [s] on."""

    link: str
    count: int  # links of the class
    time: Floats
    share: Floats


@dataclass(frozen=True)
class Timeline:
    """Everything in the window. places: where each rank runs. step: length of the whole step [s].

    recorded: of a step that is a replay, what the ranks did when it was recorded.
    """

    spans: tuple[TimelineSpan, ...]
    arrows: tuple[Arrow, ...]
    loads: tuple[Load, ...]
    places: dict[int, str]
    step: float
    recorded: tuple[TimelineSpan, ...] = ()


def rank_spans(trace: Trace, plan: Plan, ranks: Sequence[int]) -> dict[int, list[TimelineSpan]]:
    """What each of `ranks` does in the whole step, track by track."""
    rows = _Rows(trace)
    return _spans_of(rows, plan, ranks, rows.end >= 0)


def _spans_of(
    rows: _Rows, plan: Plan, ranks: Sequence[int], inside: NDArray[np.bool_]
) -> dict[int, list[TimelineSpan]]:
    """The spans of each rank: those of its class, found once."""
    classes = {rank: int(plan.partition.rank[rank]) for rank in ranks}
    known = {number: list(rows.spans(number, inside)) for number in dict.fromkeys(classes.values())}
    return {rank: [replace(span, rank=rank) for span in known[number]] for rank, number in classes.items()}


def timeline(
    trace: Trace, plan: Plan, cluster: Cluster, ranks: Sequence[int], begin: float = 0.0, end: float = np.inf
) -> Timeline:
    """What `ranks` do between `begin` and `end` [s]; spans that reach into the window are kept whole."""
    rows = _Rows(trace)
    inside = (rows.end > begin) & (rows.start < end)
    spans = chain.from_iterable(_spans_of(rows, plan, ranks, inside).values())
    places = {rank: cluster.vertex_name(int(plan.grid.accelerator[rank])) for rank in ranks}
    arrows = tuple(_arrows(rows, plan, ranks, inside))
    return Timeline(tuple(spans), arrows, tuple(_loads(rows, cluster, inside)), places, trace.time)


class _Rows:
    """All rows of a trace, skipped ones written out, sorted by (stream, position)."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        table = trace.unrolled()
        self.stream, self.template, self.index = (
            table[name].astype(np.int64) for name in ("stream", "template", "index")
        )
        self.start, self.end = (table[name].astype(np.float64) for name in ("start", "end"))
        acts = np.array([template.action for template in trace.program.templates], dtype=np.int64)
        self.action = acts[self.template] if len(self.template) else self.template

    def actions(self) -> list[Action]:
        """The action of each row."""
        return [self.trace.program.actions[number] for number in self.action.tolist()]

    def spans(self, rank: int, inside: NDArray[np.bool_]) -> Iterator[TimelineSpan]:
        """What a rank class does, stream by stream."""
        actions = self.trace.program.actions
        bounds = np.searchsorted(self.stream, np.arange(len(self.trace.program.streams) + 1))
        for number, stream in enumerate(self.trace.program.streams):
            first, last = int(bounds[number]), int(bounds[number + 1])
            kinds = np.unique(self.action[first:last])
            tracks = {kind: self._track(rank, stream, actions[kind]) for kind in kinds.tolist()}
            shown = np.isin(self.action[first:last], [kind for kind, track in tracks.items() if track])
            for row in (first + np.flatnonzero(shown & inside[first:last])).tolist():
                kind = int(self.action[row])
                action = actions[kind]
                yield TimelineSpan(
                    rank, tracks[kind], action.label, action.category, int(self.index[row]),
                    float(self.start[row]), float(self.end[row]), _size(action), action.parts,
                )  # fmt: skip

    def _track(self, rank: int, stream: Stream, action: Action) -> str:
        """The track of `rank` that shows an action of a stream; empty if it is none of its business."""
        kind = stream.kind
        if stream.rank == rank:
            queue = stream.name.removeprefix(f"rank class {rank}").strip()
            return "sends" if kind == "send" else queue or kind
        if rank not in members_of(self.trace, action):
            return ""
        return "receives" if action.category == Category.PIPELINE_COMM else TRACKS.get(kind, kind)


def _size(action: Action) -> float:
    return action.size if action.flow >= 0 else sum(size for _, size in action.carried)


def _arrows(rows: _Rows, plan: Plan, ranks: Sequence[int], inside: NDArray[np.bool_]) -> Iterator[Arrow]:
    """From each send to the pass that waits for it, where both ranks are shown."""
    program = rows.trace.program
    users: dict[tuple[int, int], int] = {}
    for row in np.flatnonzero(inside).tolist():
        for kind, relative in program.templates[rows.template[row]].waits:
            users.setdefault((kind, int(rows.index[row]) + relative), row)
    shown, class_of = set(ranks), plan.partition.rank
    partner = _partners(plan, ranks)
    for row in np.flatnonzero(inside).tolist():
        action, signal = program.actions[rows.action[row]], program.templates[rows.template[row]].signal
        if action.category != Category.PIPELINE_COMM or signal is None:
            continue
        user = users.get((signal[0], int(rows.index[row]) + signal[1]))
        if user is None:
            continue
        stream = program.streams[rows.stream[row]]
        for rank in (rank for rank in ranks if class_of[rank] == stream.rank):
            receiver = partner[action.flow, rank]
            if receiver in shown:
                track = "compute" if stream.kind == "compute" else "sends"
                yield Arrow(rank, track, float(rows.start[row]), receiver, float(rows.start[user]))


def _partners(plan: Plan, ranks: Sequence[int]) -> dict[tuple[int, int], int]:
    """Receiver of what each of these ranks sends, by flow class and sender."""
    partner = {}
    for flows, classes in zip(plan.flows, plan.partition.flow, strict=True):
        for row in np.flatnonzero(np.isin(flows.members[:, 0], ranks)).tolist() if flows.ordered else ():
            sender, receiver = flows.members[row].tolist()
            partner[int(classes[row]), sender] = receiver
    return partner


def _loads(rows: _Rows, cluster: Cluster, inside: NDArray[np.bool_]) -> Iterator[Load]:
    """The load of the busiest classes of links over time."""
    names = {use.name: use for use in link_use(rows.trace, cluster)[:BUSIEST]}
    table = rows.trace.table
    examples = [cluster.link_name(link) if link >= 0 else "" for link in table.link_example.tolist()]
    whole = table.link_count.tolist()
    links = [number for number, name in enumerate(examples) if whole[number] and name in names]
    times, loads = _load_over_time(rows, links, inside)
    for column, link in enumerate(links):
        use = names[examples[link]]
        changed = np.flatnonzero(np.diff(loads[:, column], prepend=-1.0))
        yield Load(use.name, use.count, times[changed], loads[changed, column])


def _load_over_time(rows: _Rows, links: list[int], inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Times (n,) and shares of capacity (n, links) from each on: the fair rates of what moves at that time.

    Collectives that have their links to themselves count at their mean rate.
    """
    table = rows.trace.table
    per_rate = np.zeros((table.n_flows, len(links)))  # load per B/s of each flow class
    for column, link in enumerate(links):
        mine = table.link == link
        np.add.at(per_rate[:, column], table.flow[mine], table.coefficient[mine] / table.capacity[link])
    known: dict[Key, Floats] = {(): np.zeros(len(links))}
    active: Counter[int] = Counter()
    alone = np.zeros(len(links))
    times, loads = [0.0], [np.zeros(len(links))]
    for time, changes in groupby(sorted(_transfers(rows, inside)), key=lambda change: change[0]):
        for _, flow, count, rate in changes:
            if rate:
                alone = alone + rate * per_rate[flow]
            else:
                active[flow] += count
        key = tuple(sorted((flow, count) for flow, count in active.items() if count))
        if key not in known:
            known[key] = sum(
                (dict(key)[flow] * rate * per_rate[flow] for flow, rate in solve(table, key).items()),
                start=np.zeros(len(links)),
            )
        times.append(time)
        loads.append((known[key] + alone).round(9) + 0.0)
    return np.array(times), np.array(loads)


def _transfers(rows: _Rows, inside: NDArray[np.bool_]) -> Iterator[tuple[float, int, int, float]]:
    """Begins and ends of transfers: time [s], flow class, +1 or -1, change of the mean rate if it meets nobody."""
    actions = rows.trace.program.actions
    for row in np.flatnonzero(inside).tolist():
        action = actions[rows.action[row]]
        first, last = float(rows.start[row]) + action.latency, float(rows.end[row])
        if last > first and action.flow >= 0 and action.size:
            yield from ((first, action.flow, 1, 0.0), (last, action.flow, -1, 0.0))
        elif last > first:
            for flow, size in rows.trace.carried(action):
                rate = size / (last - first)
                yield from ((first, flow, 1, rate), (last, flow, -1, -rate))
