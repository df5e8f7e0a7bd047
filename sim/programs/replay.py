"""The program of a step that was recorded: its queues are streams, its nodes instructions, its edges tokens.

A collective is one transfer that all its ranks wait for. Each rank's node of it is there when the kernel begins; the
transfer begins when it has on all of them, and what comes after waits for its end. A collective that only some ranks
know of takes its recorded time alone.

Public: `replay_program`, `replayed_nodes`, `unmatched_collectives`, `ReplayedNodes`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sim.devices.replayed import KernelScale, Scaled
from sim.engine.category import Category
from sim.engine.program import Action, Program, Script, Stream, Token, token
from sim.engine.trace import Trace
from sim.inputs.load import load_definition
from sim.inputs.recording import (
    COLLECTIVE,
    COPY,
    HOST,
    KnownShape,
    RecordedCollective,
    RecordedRank,
)
from sim.inputs.records import Accelerator
from sim.layout.recorded import Assignment, Members, assignment_of, kind_of_group
from sim.models.family import Replay
from sim.programs.costs import given_action
from sim.programs.ranks import Job, RankClass

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WORDS = (  # of what a group is called, and the part of the breakdown that it counts under
    ("tensor", Category.TENSOR_COMM), ("context", Category.CONTEXT_COMM), ("expert", Category.EXPERT_COMM),
    ("pipeline", Category.PIPELINE_COMM), ("tp", Category.TENSOR_COMM), ("ep", Category.EXPERT_COMM),
    ("pp", Category.PIPELINE_COMM), ("cp", Category.CONTEXT_COMM),
)  # fmt: skip
OF_KIND = {"all_to_all": Category.EXPERT_COMM, "send": Category.PIPELINE_COMM, "receive": Category.PIPELINE_COMM}
PRICED = {  # what is priced as what else: the same bytes go over each link
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "all_to_all": "all_to_all", "broadcast": "broadcast", "reduce": "broadcast",
}  # fmt: skip
Waits = Sequence[tuple[str, Category, float]]  # label, category and seconds of each
Key = tuple[int, int, int]  # a collective: flow class of its ranks, which group of them, and which of its own


class ReplayedNodes(NamedTuple):
    """What nodes of a rank class did, (n,) each; begin and end in s, by node. recorded: the rank it does as."""

    rank_class: int
    recorded: RecordedRank
    begin: Floats
    end: Floats


@dataclass
class Meeting:
    """A collective that is written: what of it each rank class brings, and the token of its end. size: ranks of it."""

    done: Token
    size: int
    nodes: dict[int, tuple[RecordedCollective, float]] = field(default_factory=dict)  # with recorded seconds
    waits: list[Token] = field(default_factory=list)
    instructions: int = 0


# who wrote a program knows which of its rows are which nodes
_writers: WeakKeyDictionary[Script, ReplayWriter] = WeakKeyDictionary()


def replay_program(job: Job, waits: Waits = ()) -> Program:
    """The program of a step of a job that replays, with what all wait for at its end. Raises PlanError, ConfigError."""
    writer = ReplayWriter(job, waits)
    program = writer.write().priced(None)
    _writers[program.script] = writer
    return program


class ReplayWriter:
    """Writes the streams of all rank classes, then those of what they do together."""

    def __init__(self, job: Job, waits: Waits = ()) -> None:
        self.job, self.script, self.waits = job, Script(), waits
        assignment, replay = assignment_of(job.plan.experiment), job.plan.model.replay
        assert assignment is not None
        assert replay is not None
        self.assignment, self.replay = assignment, replay
        self.meetings: dict[Key, Meeting] = {}
        self.rows: dict[str, dict[Members, int]] = {}  # of groups in their flow sets
        self.shared = self._shared()
        self.timer = NodeTimer(job, assignment, replay)

    def write(self) -> Script:
        """The script."""
        for rank in self.job.ranks:
            self._write_rank(rank)
        streams: dict[tuple[int, int], Stream] = {}
        for (flow, twin, _), meeting in self.meetings.items():
            if (flow, twin) not in streams:
                name = f"group {flow}.{twin} of {meeting.size} ranks"
                streams[flow, twin] = self.script.new_stream(name, "collective")
            self._write_meeting(streams[flow, twin], flow, meeting)
        return self.script

    def record(self, rank: RankClass) -> RecordedRank:
        """What a rank class does."""
        return self.assignment.recording.ranks[int(self.assignment.programs[rank.representative])]

    def key(self, rank: RankClass, each: RecordedCollective) -> Key | None:
        """Which collective of the job it is, if all ranks of its group know of it."""
        members = self.assignment.members(rank.representative, each.group)
        twin = self.assignment.twin(rank.representative, each.group)
        if (members, twin, each.sequence) not in self.shared or each.kind in ("send", "receive"):
            return None
        kind = kind_of_group(self.assignment, members)
        if kind not in self.rows:
            rows = self.job.plan.flows[self.job.plan.flow_sets[kind]].members.tolist()
            self.rows[kind] = {tuple(row): place for place, row in enumerate(rows)}
        classes = self.job.plan.partition.flow[self.job.plan.flow_sets[kind]]
        return int(classes[self.rows[kind][members]]), twin, each.sequence

    @property
    def unmatched(self) -> int:
        """Collectives of recorded ranks that not all of their ranks know of, sends aside."""
        job, every = self.job, 0
        for rank in job.ranks:
            collectives = [each for each in self.record(rank).collectives if each.kind not in ("send", "receive")]
            alone = (len(self.assignment.members(rank.representative, each.group)) == 1 for each in collectives)
            every += sum(self.key(rank, each) is None for each in collectives) - sum(alone)
        return every

    def _shared(self) -> set[tuple[Members, int, int]]:
        """Collectives that all ranks of their group know of."""
        seen: dict[tuple[Members, int, int], set[int]] = defaultdict(set)
        ranks = [
            {(each.group, each.sequence) for each in rank.collectives if each.kind not in ("send", "receive")}
            for rank in self.assignment.recording.ranks
        ]
        for number, program in enumerate(self.assignment.programs.tolist()):
            for group, sequence in ranks[program]:
                place = self.assignment.members(number, group), self.assignment.twin(number, group)
                seen[*place, sequence].add(number)
        return {key for key, known in seen.items() if len(key[0]) > 1 and known == set(key[0])}

    def _write_rank(self, rank: RankClass) -> None:
        """The queues of a rank class."""
        record, script = self.record(rank), self.script
        streams = [script.new_stream(*named, rank.number) for named in stream_names(rank, record)]
        kinds = [script.new_kind(rank.number, queue.name) for queue in record.queues]
        awaited = waits_of(record)
        collectives = {each.node: each for each in record.collectives}
        ends: list[Token] = []
        ordinal, behind = [0] * len(kinds), dict[int, Token]()
        for node, (queue, action) in enumerate(
            zip(record.queue.tolist(), self.timer.actions(rank, record), strict=True)
        ):
            waits = [ends[each] for each in awaited.get(node, ())]
            if queue < 0:
                stream = script.new_stream(f"rank class {rank.number} node {node}", "free", rank.number)
                signal = token(script.new_kind(rank.number, node))
            else:
                stream, signal = streams[queue], token(kinds[queue], ordinal[queue])
                ordinal[queue] += 1
                waits = [each for each in waits if each[0] != kinds[queue]]  # order does that
                waits += [behind.pop(queue)] if queue in behind else []
            end, each = signal, collectives.get(node)
            key = self.key(rank, each) if each else None
            if each and key:
                meeting = self._join(key, rank, each, float(record.seconds[node]), signal)
                lag = float(record.lag[node])
                action = Action(action.label, Category.OTHER, (rank.number,), lag, parts=((Category.OTHER, lag),))
                end = meeting.done
                if queue >= 0:
                    behind[queue] = end
            stream.add(script.new_template(tuple(waits), partial(given_action, action), signal))
            ends.append(end)
        for label, category, seconds in self.waits:
            action = Action(label, category, (rank.number,), seconds, parts=((category, seconds),))
            last = {int(queue): ends[node] for node, queue in enumerate(record.queue)}
            template = script.new_template(tuple(last.values()), partial(given_action, action))
            streams[main_queue(record)].add(template)

    def _join(self, key: Key, rank: RankClass, each: RecordedCollective, seconds: float, arrived: Token) -> Meeting:
        """A rank class takes part in a collective."""
        size = len(self.assignment.members(rank.representative, each.group))
        meeting = self.meetings.get(key) or Meeting(token(self.script.new_kind("collective", *key)), size)
        self.meetings[key] = meeting
        meeting.nodes[rank.number] = each, seconds
        meeting.waits.append(arrived)
        return meeting

    def _write_meeting(self, stream: Stream, flow: int, meeting: Meeting) -> None:
        """What moves between ranks, once all are there; those of a group one after the other, as on a communicator."""
        each = max((one for one, _ in meeting.nodes.values()), key=lambda one: one.bytes)
        label = f"{each.kind.replace('_', '-')} {each.sequence}"
        actions = [*self._moves(flow, meeting, each, label)]
        meeting.instructions = len(actions)
        for number, action in enumerate(actions):
            waits = tuple(meeting.waits) if number == 0 else ()
            signal = meeting.done if number == len(actions) - 1 else None
            stream.add(self.script.new_template(waits, partial(given_action, action), signal))

    def _moves(self, flow: int, meeting: Meeting, each: RecordedCollective, label: str) -> Iterator[Action]:
        """The legs of a collective in our model of it, or the time it took on the rank that waited least."""
        kind, category = PRICED.get(each.kind, ""), self._category(each)
        if self.replay.collectives == "modelled" and kind and each.bytes > 0:
            for latency, size, carrier in self.job.cost(flow, kind, each.bytes).legs:
                yield Action(label, category, flow=self.job.way(flow, carrier), size=size, latency=latency)
            return
        seconds = min(seconds for _, seconds in meeting.nodes.values())
        yield Action(label, category, tuple(sorted(meeting.nodes)), seconds)

    def _category(self, each: RecordedCollective) -> Category:
        """What it counts under: by what its group is called, else by what it does."""
        group = self.assignment.recording.groups[each.group]
        words = group.description.lower().replace("_", " ").split()
        named = (category for word, category in WORDS if word in words)
        return next(named, OF_KIND.get(each.kind, Category.DATA_COMM))


def main_queue(record: RecordedRank) -> int:
    """The queue that tells where time goes: that in which devices are busy longest, collectives aside."""
    counted = (record.kind != HOST) & (record.kind != COLLECTIVE) & (record.queue >= 0)
    busy = np.bincount(record.queue[counted], record.seconds[counted], max(1, len(record.queues)))
    return int(busy.argmax())


def stream_names(rank: RankClass, record: RecordedRank) -> list[tuple[str, str]]:
    """Name and kind of the stream of each queue."""
    own = main_queue(record)
    kinds = ["compute" if number == own else queue.kind for number, queue in enumerate(record.queues)]
    return [(f"rank class {rank.number} {each.name}", kind) for each, kind in zip(record.queues, kinds, strict=True)]


def waits_of(record: RecordedRank) -> dict[int, list[int]]:
    """Nodes that each node waits for, beside the one before it in its queue."""
    awaited: dict[int, list[int]] = defaultdict(list)
    for before, after in zip(record.before.tolist(), record.after.tolist(), strict=True):
        awaited[after].append(before)
    return awaited


class NodeTimer:
    """What nodes take: as recorded, or on the accelerators of the cluster, or without what was slow on one rank."""

    def __init__(self, job: Job, assignment: Assignment, replay: Replay) -> None:
        self.assignment, self.replay = assignment, replay
        setup = job.plan.experiment.setup
        there = None
        if replay.kernels == "rescaled" and replay.recorded_on:
            found = load_definition("accelerator", replay.recorded_on)
            there = found if isinstance(found, Accelerator) else None
        settings = setup.experiment.power, job.plan.software.attention_kernel, setup.training.precision
        self.scales = [KernelScale(kind.accelerator, *settings, there) for kind in setup.kinds]
        self.scaled: dict[tuple[int, int, str], Scaled | None] = {}
        self.medians = _medians(assignment) if replay.stragglers == "removed" else {}

    def actions(self, rank: RankClass, record: RecordedRank) -> Iterator[Action]:
        """What each node does."""
        seconds, shapes = self._seconds(record), {each.node: each for each in record.shapes}
        where, columns = (rank.number,), (record.kind, record.name, record.lag, seconds)
        for node, (kind, name, lag, lasts) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            label = record.names[name]
            if kind == HOST:
                lasts = lag + lasts * self.replay.host
                yield Action(label, Category.OTHER, where, lasts, parts=((Category.OTHER, lasts),))
                continue
            if kind in (COLLECTIVE, COPY):
                category = Category.DATA_COMM if kind == COLLECTIVE else Category.OTHER
                yield Action(label, category, where, lag + lasts)
                continue
            scaled = self._scaled(rank.kind, kind, label, shapes.get(node))
            lasts *= (scaled.factor if scaled else 1.0) / rank.speed
            joules = ((scaled.phase, lasts * scaled.watts),) if scaled else ()
            parts = ((Category.OTHER, lag), (Category.COMPUTE, lasts))
            busy = lasts if scaled else 0.0
            yield Action(label, Category.COMPUTE, where, lag + lasts, parts=parts, joules=joules, busy=busy)

    def _scaled(self, server: int, kind: int, name: str, shape: KnownShape | None) -> Scaled | None:
        """A kernel on a kind of server."""
        if shape is not None:
            return self.scales[server].of(kind, name, shape)
        key = server, kind, name
        if key not in self.scaled:
            self.scaled[key] = self.scales[server].of(kind, name)
        return self.scaled[key]

    def _seconds(self, record: RecordedRank) -> Floats:
        """Recorded seconds, (n,); without stragglers those of the median rank."""
        if not self.medians:
            return record.seconds
        seconds, seen = record.seconds.copy(), defaultdict[str, int](int)
        for node in kernels_of(record):
            name = record.names[record.name[node]]
            seconds[node] = self.medians[name, seen[name]]
            seen[name] += 1
        return seconds


def kernels_of(record: RecordedRank) -> list[int]:
    """Nodes that compute on a device."""
    nodes: list[int] = np.flatnonzero(~np.isin(record.kind, (HOST, COLLECTIVE, COPY))).tolist()
    return nodes


def _medians(assignment: Assignment) -> dict[tuple[str, int], float]:
    """Median over recorded ranks of the n-th kernel of each name."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for record in assignment.recording.ranks:
        seen = defaultdict[str, int](int)
        for node in kernels_of(record):
            name = record.names[record.name[node]]
            found[name, seen[name]].append(float(record.seconds[node]))
            seen[name] += 1
    return {key: float(np.median(values)) for key, values in found.items()}


def unmatched_collectives(trace: Trace) -> int:
    """Collectives of rank classes that not all of their ranks know of, sends aside."""
    return _writers[trace.program.script].unmatched


def replayed_nodes(job: Job, trace: Trace) -> list[ReplayedNodes]:
    """When nodes of each rank class began and ended; a collective ends when it has for all its ranks."""
    writer = _writers[trace.program.script]
    order = np.lexsort((trace.position, trace.stream))
    start, end, stream = trace.start[order], trace.end[order], trace.stream[order]
    first = np.searchsorted(stream, np.arange(len(trace.program.streams) + 1))
    done, number = [], 0
    met: list[tuple[int, int, Key]] = []
    for place, rank in enumerate(job.ranks):
        record = writer.record(rank)
        begins, ends = np.zeros(record.nodes), np.zeros(record.nodes)
        for queue in range(len(record.queues)):
            mine = record.queue == queue
            rows = slice(first[number], first[number] + np.count_nonzero(mine))
            begins[mine], ends[mine] = start[rows], end[rows]
            number += 1
        for node in np.flatnonzero(record.queue < 0).tolist():
            begins[node], ends[node] = start[first[number]], end[first[number]]
            number += 1
        keys = ((each.node, writer.key(rank, each)) for each in record.collectives)
        met += [(place, node, key) for node, key in keys if key]
        done.append(ReplayedNodes(rank.number, record, begins + record.lag, ends))
    last: dict[Key, int] = {}
    streams = {group: number + row for row, group in enumerate(dict.fromkeys(key[:2] for key in writer.meetings))}
    used: dict[tuple[int, int], int] = defaultdict(int)
    for key, meeting in writer.meetings.items():
        used[key[:2]] += meeting.instructions
        last[key] = int(first[streams[key[:2]]]) + used[key[:2]] - 1
    for place, node, key in met:
        done[place].end[node] = end[last[key]]
    return done
