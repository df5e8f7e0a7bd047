"""A simulated step as a recording: what a profiler on each rank would have seen, with what waited for what.

Public: `record_step`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sim.engine.category import Category
from sim.engine.program import Action
from sim.engine.trace import Trace
from sim.inputs.recording import (
    COLLECTIVE,
    HOST,
    MEMORY,
    OTHER,
    CollectiveKind,
    Queue,
    RecordedCollective,
    RecordedGroup,
    RecordedRank,
    Recording,
)
from sim.layout.plan import Plan
from sim.metrics.breakdown import members_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
KINDS = {Category.OPTIMIZER: MEMORY, Category.OTHER: HOST, Category.INPUT_STALL: HOST}
ROUNDING = 1e-15  # s by which something may begin before what it waits for has ended


def record_step(trace: Trace, plan: Plan, ranks: Sequence[int], accelerator: str, name: str) -> Recording:
    """What `ranks` did in a step that was run with each collective as an event of its own.

    Nodes are the instructions of a rank and of the groups that it is in, edges the tokens that they waited for on this
    rank; times are those that the network gave them.
    """
    rows, groups = _StepRows(trace), _Groups(trace, plan)
    recorded = tuple(_rank(rows, groups, plan, rank) for rank in sorted(set(ranks)))
    world = plan.grid.n_ranks
    remarks = (f"a step of {name}, simulated; a node is a pass, or a part of one between two collectives",)
    return Recording(world, recorded, groups.known, accelerator, f"clustersim: {name}", remarks)


class _StepRows:
    """All rows of a trace, skipped ones written out, and the row that signals each token."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        table = trace.unrolled()
        self.stream, self.template, self.index = (
            table[name].astype(np.int64) for name in ("stream", "template", "index")
        )
        self.start, self.end = (table[name].astype(np.float64) for name in ("start", "end"))
        self.signaller: dict[tuple[int, int], int] = {}
        templates = trace.program.templates
        for row, (template, index) in enumerate(zip(self.template.tolist(), self.index.tolist(), strict=True)):
            signal = templates[template].signal
            if signal is not None:
                self.signaller[signal[0], index + signal[1]] = row

    def action(self, row: int) -> Action:
        """What a row did."""
        program = self.trace.program
        return program.actions[program.templates[int(self.template[row])].action]

    def awaited(self, row: int) -> Iterator[int]:
        """Rows that signalled what a row waited for."""
        for kind, relative in self.trace.program.templates[self.template[row]].waits:
            found = self.signaller.get((kind, int(self.index[row]) + relative))
            if found is not None:
                yield found

    def of_class(self, number: int) -> Iterator[tuple[int, int]]:
        """Number of the stream, and row, of all that a rank class does or takes part in."""
        bounds = np.searchsorted(self.stream, np.arange(len(self.trace.program.streams) + 1)).tolist()
        for place, stream in enumerate(self.trace.program.streams):
            for row in range(bounds[place], bounds[place + 1]):
                if stream.rank == number or number in members_of(self.trace, self.action(row)):
                    yield place, row


class _Groups:
    """Communicators as they are met: ranks that are in a flow together."""

    def __init__(self, trace: Trace, plan: Plan) -> None:
        self.place: dict[tuple[str, tuple[int, ...]], int] = {}
        self.members: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}
        for flows, classes in zip(plan.flows, plan.partition.flow, strict=True):
            for row, number in enumerate(classes.tolist()):
                ranks = tuple(flows.members[row].tolist())
                for rank in ranks:
                    self.members.setdefault((number, rank), (flows.kind, ranks))

    def number(self, flow: int, rank: int) -> int:
        """Number of the group of a rank in a flow class."""
        return self.place.setdefault(self.members[flow, rank], len(self.place))

    @property
    def known(self) -> tuple[RecordedGroup, ...]:
        """All that were met."""
        return tuple(RecordedGroup(str(i), ranks, kind) for i, (kind, ranks) in enumerate(self.place))


def _rank(rows: _StepRows, groups: _Groups, plan: Plan, rank: int) -> RecordedRank:
    number = int(plan.partition.rank[rank])
    places = list(rows.of_class(number))
    streams = {stream: i for i, stream in enumerate(dict.fromkeys(stream for stream, _ in places))}
    queue_of = {row: streams[stream] for stream, row in places}
    waits = {row: [other for other in dict.fromkeys(rows.awaited(row)) if other in queue_of] for row in queue_of}
    chosen = _in_order(rows, queue_of, waits)
    node_of = {row: node for node, row in enumerate(chosen)}
    edges = [(node_of[other], node) for node, row in enumerate(chosen) for other in waits[row]]
    queue = np.array([queue_of[row] for row in chosen])
    actions = [rows.action(row) for row in chosen]
    kind = np.array([_kind(action) for action in actions])
    names = {name: i for i, name in enumerate(dict.fromkeys(action.label for action in actions))}
    start, end = rows.start[chosen], rows.end[chosen]
    ready = _ready(end, queue, edges)
    start = np.where(kind == COLLECTIVE, np.minimum(ready, end), start)
    return RecordedRank(
        rank=rank,
        step=rows.trace.time,
        queues=tuple(_queue(rows, stream, number) for stream in streams),
        names=tuple(names),
        queue=queue,
        kind=kind,
        name=np.array([names[action.label] for action in actions]),
        seconds=end - start,
        lag=np.where(start - ready < ROUNDING, 0.0, start - ready),
        start=start,
        before=np.array([before for before, _ in edges], dtype=np.int64),
        after=np.array([after for _, after in edges], dtype=np.int64),
        collectives=tuple(_collectives(rows, groups, rank, number, chosen, actions)),
    )


def _in_order(rows: _StepRows, queue_of: dict[int, int], waits: dict[int, list[int]]) -> list[int]:
    """Rows by their begin, none before what it waits for or what is before it in its queue."""
    last: dict[int, int] = {}
    before = {row: list(others) for row, others in waits.items()}
    for row in sorted(queue_of):  # rows of a stream follow one another
        if queue_of[row] in last:
            before[row].append(last[queue_of[row]])
        last[queue_of[row]] = row
    missing = {row: len(set(others)) for row, others in before.items()}
    after: defaultdict[int, list[int]] = defaultdict(list)
    for row, others in before.items():
        for other in set(others):
            after[other].append(row)
    ready = [(rows.start[row], rows.end[row], row) for row, count in missing.items() if not count]
    heapify(ready)
    found: list[int] = []
    while ready:
        row = heappop(ready)[2]
        found.append(row)
        for later in after[row]:
            missing[later] -= 1
            if not missing[later]:
                heappush(ready, (rows.start[later], rows.end[later], later))
    return found


def _queue(rows: _StepRows, stream: int, number: int) -> Queue:
    each = rows.trace.program.streams[stream]
    if each.rank == number:
        return Queue("compute" if each.kind == "compute" else "sends", "device")
    return Queue("receives" if each.rank >= 0 else f"{each.kind} communicator", "device")


def _kind(action: Action) -> int:
    return KINDS.get(cast(Category, action.category), OTHER) if action.is_computation else COLLECTIVE


def _ready(end: Floats, queue: Ints, edges: list[tuple[int, int]]) -> Floats:
    """When all that a node waits for on this rank has ended [s]: a collective then waits for others."""
    ready = np.zeros(len(end))
    last: dict[int, int] = {}
    for node, number in enumerate(queue.tolist()):
        if number in last:
            ready[node] = end[last[number]]
        last[number] = node
    for before, after in edges:
        ready[after] = max(ready[after], end[before])
    return ready


def _collectives(
    rows: _StepRows, groups: _Groups, rank: int, number: int, chosen: list[int], actions: list[Action]
) -> Iterator[RecordedCollective]:
    """What the collectives of a rank are; sequence numbers follow the order of each communicator."""
    sequence: defaultdict[int, int] = defaultdict(int)
    for node, (row, action) in enumerate(zip(chosen, actions, strict=True)):
        if action.is_computation or not action.collective:
            continue
        flow = action.flow if action.flow >= 0 else action.carried[0][0]
        group = groups.number(flow, rank)
        kind, peer = cast(CollectiveKind, action.collective), -1
        if action.collective == "send":
            sends = rows.trace.program.streams[int(rows.stream[row])].rank == number
            ranks = groups.known[group].ranks
            kind, peer = ("send", ranks[1]) if sends and ranks[0] == rank else ("receive", ranks[0])
        yield RecordedCollective(node, kind, group, sequence[group], action.message, peer)
        sequence[group] += 1
