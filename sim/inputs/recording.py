"""A recorded step as plain data: what ran on each rank, in which queue, after what, and for how long.

The file has a line of JSON for each rank after a line about all of them; `.gz` is compressed. Nothing in it is a point
in time but `start`, which is for comparison and never drives a replay.

A **queue** is an in-order stream of a device or a thread of a host. A **node** is something that ran in a queue:
a kernel, a copy, a collective, or a stretch of host work up to a launch. It begins `lag` after everything that it waits
for has ended (the node before it in its queue, and those that edges lead from), and takes `seconds`. A node in no queue
(-1) waits for its edges alone. Edges lead from a lower to a higher number, so no recording has a cycle. Collectives of
different ranks are the same one if group and sequence number are.

Public: `Recording`, `RecordedRank`, `RecordedGroup`, `RecordedCollective`, `KnownShape`, `Queue`, `NODE_KINDS`,
`COLLECTIVE_KINDS`, `read_recording`, `recording_text`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from io import BytesIO
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from sim.errors import ConfigError, Problem
from sim.inputs.named_files import read_named
from sim.inputs.reader import shown_path

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NodeKind = Literal["host", "product", "attention", "memory", "copy", "collective", "other"]
CollectiveKind = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "send", "receive", "barrier"
]
NODE_KINDS: tuple[NodeKind, ...] = get_args(NodeKind)
COLLECTIVE_KINDS: tuple[CollectiveKind, ...] = get_args(CollectiveKind)
HOST, PRODUCT, ATTENTION, MEMORY, COPY, COLLECTIVE, OTHER = range(len(NODE_KINDS))
FORMAT, VERSION = "clustersim recording", 1
MOST_UNPACKED = 2**29  # of one file [B]
MOST_RANKS = 4096  # with lines of their own
KEY = "workload.recording"
WAY_OUT = "import the trace again"


class Queue(NamedTuple):
    """Where nodes run in order."""

    name: str
    kind: str  # device or host


class RecordedGroup(NamedTuple):
    """Ranks that communicate with each other, by their number in the recorded job; all of it if none are said."""

    name: str
    ranks: tuple[int, ...] = ()
    description: str = ""


class RecordedCollective(NamedTuple):
    """What a node of kind collective does. bytes: of the whole tensor: before a reduction, after a gather, sent to all.

    bytes below 0: not recorded. peer: rank of the job that a send goes to, or a receive comes from; -1: none.
    """

    node: int
    kind: CollectiveKind
    group: int
    sequence: int
    bytes: float = -1.0
    peer: int = -1


class KnownShape(NamedTuple):
    """Work of a node, where shapes were recorded: `batch` products (m x k) by (k x n), or bytes alone."""

    node: int
    flops: float = 0.0
    bytes: float = 0.0
    batch: int = 0
    m: int = 0
    n: int = 0
    k: int = 0
    precision: str = ""


@dataclass(frozen=True, eq=False)
class RecordedRank:
    """What ran on one rank. queue, kind (of `NODE_KINDS`), name (of `names`): (n,); seconds, lag, start [s]: (n,).

    before, after: (n_edges,) nodes, each `before` below its `after`. start is since the step began there; negative
    where it is not known. step: from the first host call to the last end [s].
    """

    rank: int
    step: float
    queues: tuple[Queue, ...]
    names: tuple[str, ...]
    queue: Ints
    kind: Ints
    name: Ints
    seconds: Floats
    lag: Floats
    start: Floats
    before: Ints
    after: Ints
    collectives: tuple[RecordedCollective, ...] = ()
    shapes: tuple[KnownShape, ...] = ()

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self.queue)


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded step. ranks: those of which there is a record, rising; world: ranks of the job. remarks: for people,
    what was not in the traces and what that means.
    """

    world: int
    ranks: tuple[RecordedRank, ...]
    groups: tuple[RecordedGroup, ...] = ()
    accelerator: str = ""  # as the profiler calls it
    source: str = ""
    remarks: tuple[str, ...] = field(default=())

    @property
    def step(self) -> float:
        """Of the rank that took longest [s]."""
        return max(rank.step for rank in self.ranks)


def recording_text(recording: Recording) -> Iterator[str]:
    """The lines of the file."""
    head = {name: getattr(recording, name) for name in ("world", "accelerator", "source", "remarks")}
    groups = [group._asdict() for group in recording.groups]
    yield _line({"format": FORMAT, "version": VERSION, **head, "groups": groups, "ranks": len(recording.ranks)})
    for rank in recording.ranks:
        yield _line({each.name: _written(getattr(rank, each.name)) for each in fields(rank)})


def _line(entries: dict[str, Any]) -> str:
    return json.dumps(entries, separators=(",", ":"), allow_nan=False) + "\n"


def _written(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [list(each) if isinstance(each, tuple) else each for each in value] if isinstance(value, tuple) else value


def read_recording(path: Path) -> Recording:
    """The recording in `path`. Raises ConfigError with the line and what is wrong there."""
    return _recording(read_named(path, KEY), path)


@lru_cache(maxsize=4)  # a file, shared by points of a sweep
def _recording(content: bytes, path: Path) -> Recording:
    number, place = 0, shown_path(path)
    head: dict[str, Any] = {}
    ranks: list[RecordedRank] = []
    try:
        for number, line in enumerate(_lines(content), 1):
            entries = json.loads(line)
            if number == 1:
                head = _checked_head(entries)
            else:
                ranks.append(_rank(entries, len(head["groups"]), head["world"]))
        return _whole(head, ranks)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, EOFError, OSError, zlib.error) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        message = f"cannot be read as a recording: {reason}"
        raise ConfigError(Problem(f"{place}:{number}" if number else place, KEY, message, WAY_OUT)) from None


def _lines(content: bytes) -> Iterator[bytes]:
    """The lines of a file, unpacked as they are asked for."""
    left = MOST_UNPACKED
    with gzip.GzipFile(fileobj=BytesIO(content)) if content[:2] == b"\x1f\x8b" else BytesIO(content) as stream:
        while line := stream.readline(left + 1):
            left -= len(line)
            _require(left >= 0, f"it is larger than {MOST_UNPACKED // 2**20} MiB")
            if line.strip():
                yield line


def _checked_head(entries: Any) -> dict[str, Any]:
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise ValueError(f"the first line does not say format {FORMAT!r}")
    if entries["version"] != VERSION:
        raise ValueError(f"version {entries['version']!r} is not {VERSION}")
    _require(_is_count(entries["world"]) and entries["world"] > 0, "world is not the number of ranks of the job")
    groups = [
        RecordedGroup(str(each["name"]), tuple(each["ranks"]), str(each["description"])) for each in entries["groups"]
    ]
    for group in groups:
        inside = all(_is_count(rank) and rank < entries["world"] for rank in group.ranks)
        _require(inside and len(set(group.ranks)) == len(group.ranks), f"group {group.name}: its ranks are not ranks")
    return entries | {"groups": tuple(groups)}


def _rank(entries: Any, groups: int, world: int) -> RecordedRank:
    """The rank that a line holds. Raises ValueError or TypeError that names the node."""
    _require(isinstance(entries, dict), "a rank is not a mapping")
    who = f"rank {entries['rank']}"
    _require(_is_count(entries["rank"]) and entries["rank"] < world, f"{who} is none of {world}")
    columns: dict[str, Any] = {}
    columns |= {name: np.array(entries[name], np.int64) for name in ("queue", "kind", "name", "before", "after")}
    columns |= {name: np.array(entries[name], np.float64) for name in ("seconds", "lag", "start")}
    n, queues, names = len(columns["queue"]), entries["queues"], entries["names"]
    for name in ("kind", "name", "seconds", "lag", "start"):
        _require(columns[name].shape == (n,), f"{who}: there are {n} nodes, but {columns[name].size} of {name}")
    _require(n > 0, f"{who} has no nodes")
    _bounded(columns["queue"], -1, len(queues), f"{who}: queue")
    _bounded(columns["kind"], 0, len(NODE_KINDS), f"{who}: kind")
    _bounded(columns["name"], 0, len(names), f"{who}: name")
    for name in ("seconds", "lag"):
        wrong = np.flatnonzero(~(np.isfinite(columns[name]) & (columns[name] >= 0)))
        _require(not len(wrong), f"{who}, node {wrong[:1]}: {name} is no time")
    before, after = columns["before"], columns["after"]
    _require(before.shape == after.shape, f"{who}: edges have one end")
    _bounded(after, 0, n, f"{who}: edge to")
    wrong = np.flatnonzero((before < 0) | (before >= after))
    _require(
        not len(wrong), f"{who}, node {after[wrong[:1]]}: it would wait for node {before[wrong[:1]]}, which comes later"
    )
    collectives = tuple(RecordedCollective(*each) for each in entries["collectives"])
    for each in collectives:
        fits = (
            0 <= each.node < n and each.kind in COLLECTIVE_KINDS and 0 <= each.group < groups and isfinite(each.bytes)
        )
        _require(fits and -1 <= each.peer < world, f"{who}, node {each.node}: {each} is no collective")
    _require(isinstance(entries["step"], int | float) and 0 < entries["step"] < inf, f"{who}: step is no time")
    shapes = tuple(KnownShape(*each) for each in entries["shapes"])
    return RecordedRank(
        entries["rank"],
        float(entries["step"]),
        tuple(Queue(*map(str, each)) for each in queues),
        tuple(map(str, names)),
        **columns,
        collectives=collectives,
        shapes=shapes,
    )


def _whole(head: dict[str, Any], ranks: list[RecordedRank]) -> Recording:
    _require(bool(head), "it is empty")
    _require(len(ranks) == head["ranks"], f"{len(ranks)} ranks are there of {head['ranks']}: the file is cut")
    numbers = [rank.rank for rank in ranks]
    _require(bool(numbers) and numbers == sorted(set(numbers)), "ranks are not in rising order")
    words = {name: str(head[name]) for name in ("accelerator", "source")}
    return Recording(head["world"], tuple(ranks), head["groups"], **words, remarks=tuple(map(str, head["remarks"])))


def _bounded(column: Ints, low: int, high: int, what: str) -> None:
    wrong = np.flatnonzero((column < low) | (column >= high))
    _require(not len(wrong), f"{what} of node {wrong[:1]} is {column[wrong[:1]]}, not one of {high - max(low, 0)}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(holds: object, message: str) -> None:
    if not holds:
        raise ValueError(message)
