"""Our own recordings as Chakra traces that ASTRA-sim's feeder reads, and back without loss.

A node waits for the one before it in its queue (`ctrl_deps`) and for those that edges lead from (`data_deps`).
Durations are whole microseconds in the schema: what is left over goes to the next node of the queue. What the schema
has no word for (exact times, queues, kinds) is in attributes that others pass over.

Public: `OWN`, `chakra_nodes`, `rank_attributes`, `group_file`, `own_rank`, `own_recording`, `unsupported`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.errors import ConfigError, Problem
from sim.imports.chakra_file import COMM_COLL, COMM_RECV, COMM_SEND, COMM_TYPES, COMP, ChakraNode, Value
from sim.inputs.reader import shown_path
from sim.inputs.recording import (
    HOST,
    KnownShape,
    Queue,
    RecordedCollective,
    RecordedGroup,
    RecordedRank,
    Recording,
)

OWN = "clustersim"  # attribute of the trace
NOT_RUN = {"reduce", "barrier"}  # collectives that ASTRA-sim refuses (facts of its sources, 2026)


def rank_attributes(recording: Recording, rank: RecordedRank) -> dict[str, Value]:
    """What is said of a whole file."""
    head = {name: getattr(recording, name) for name in ("world", "accelerator", "source", "remarks", "groups")}
    own = head | {"rank": rank.rank, "step": rank.step, "queues": rank.queues, "names": rank.names}
    return {OWN: json.dumps(own, separators=(",", ":"), allow_nan=False)}


def group_file(recording: Recording) -> str:
    """Ranks of each communicator, as ASTRA-sim reads them."""
    return json.dumps({str(number + 1): list(group.ranks) for number, group in enumerate(recording.groups)})


def unsupported(recording: Recording) -> Counter[str]:
    """Collectives that ASTRA-sim does not run, by kind."""
    return Counter(each.kind for rank in recording.ranks for each in rank.collectives if each.kind in NOT_RUN)


def chakra_nodes(recording: Recording, rank: RecordedRank) -> Iterator[ChakraNode]:
    """The nodes of a rank; their numbers are those in the recording."""
    waits: list[list[int]] = [[] for _ in range(rank.nodes)]
    for before, after in zip(rank.before.tolist(), rank.after.tolist(), strict=True):
        waits[after].append(before)
    collectives = {each.node: each for each in rank.collectives}
    shapes = {each.node: each for each in rank.shapes}
    last: dict[int, int] = {}
    over: dict[int, float] = {}
    columns = (rank.queue, rank.kind, rank.name, rank.seconds, rank.lag, rank.start)
    for node, (queue, kind, name, seconds, lag, start) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        exact = seconds * 1e6 + over.get(queue, 0.0)
        whole = max(round(exact), 0)
        over[queue] = exact - whole
        control = (last[queue],) if queue in last else ()
        if queue >= 0:
            last[queue] = node
        said: dict[str, Value] = {"is_cpu_op": kind == HOST}
        each, shape, form = collectives.get(node), shapes.get(node), COMP
        if shape is not None:
            said |= {"num_ops": round(shape.flops), "tensor_size": round(shape.bytes), "own_shape": json.dumps(shape)}
        if each is not None:
            form, more = _transfer(recording, rank.rank, each)
            said |= more
        own = {"queue": queue, "kind": kind, "seconds": seconds, "lag": lag, "start": start}
        said |= {f"own_{key}": value for key, value in own.items()}
        begun = max(round(start * 1e6), 0)
        yield ChakraNode(node, rank.names[name], form, control, tuple(waits[node]), begun, whole, said)


def _transfer(recording: Recording, rank: int, each: RecordedCollective) -> tuple[int, dict[str, Value]]:
    """Type of node and attributes of a collective or a message."""
    own: dict[str, Value] = {"own_collective": json.dumps(each)}
    size = max(round(each.bytes), 0)
    if each.kind in ("send", "receive"):
        ends = (
            {"comm_src": rank, "comm_dst": each.peer}
            if each.kind == "send"
            else {"comm_src": each.peer, "comm_dst": rank}
        )
        return COMM_SEND if each.kind == "send" else COMM_RECV, {
            "comm_size": size,
            "comm_tag": each.sequence,
            **ends,
            **own,
        }
    group = recording.groups[each.group]
    if each.kind == "all_gather":
        size = round(size / (len(group.ranks) or recording.world))
    said: dict[str, Value] = {"comm_type": COMM_TYPES.index(each.kind), "comm_size": size}
    return COMM_COLL, said | {"pg_name": str(each.group + 1)} | own


# --- back -----------------------------------------------------------------------------------


def own_recording(heads: Sequence[Mapping[str, Any]], ranks: Sequence[RecordedRank]) -> Recording:
    """The recording that files of ours were made of."""
    head = dict(heads[0])
    groups = tuple(RecordedGroup(each[0], tuple(each[1]), each[2]) for each in head["groups"])
    return Recording(head["world"], tuple(ranks), groups, head["accelerator"], head["source"], tuple(head["remarks"]))


def own_rank(head: Mapping[str, Any], nodes: Sequence[ChakraNode], path: Path) -> RecordedRank:
    """A rank as it was recorded. Raises ConfigError where a file of ours was changed."""
    try:
        return _own_rank(head, nodes)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        message = f"was written by clustersim and changed since: {reason}"
        raise ConfigError(Problem(shown_path(path), OWN, message, "export it again")) from None


def _own_rank(head: Mapping[str, Any], nodes: Sequence[ChakraNode]) -> RecordedRank:
    columns: dict[str, list[Any]] = {name: [] for name in ("queue", "kind", "seconds", "lag", "start")}
    names = {each: number for number, each in enumerate(head["names"])}
    edges: list[tuple[int, int]] = []
    collectives: list[RecordedCollective] = []
    shapes: list[KnownShape] = []
    name: list[int] = []
    for number, node in enumerate(nodes):
        if node.id != number:
            raise ValueError(f"node {number} has the number {node.id}")
        for key, column in columns.items():
            column.append(node.attributes[f"own_{key}"])
        name.append(names[node.name])
        edges += [(before, number) for before in node.data]
        if said := node.attributes.get("own_collective"):
            collectives.append(RecordedCollective(*json.loads(str(said))))
        if said := node.attributes.get("own_shape"):
            shapes.append(KnownShape(*json.loads(str(said))))
    return RecordedRank(
        rank=head["rank"],
        step=head["step"],
        queues=tuple(Queue(*each) for each in head["queues"]),
        names=tuple(names),
        queue=np.array(columns["queue"], dtype=np.int64),
        kind=np.array(columns["kind"], dtype=np.int64),
        name=np.array(name),
        seconds=np.array(columns["seconds"], dtype=np.float64),
        lag=np.array(columns["lag"], dtype=np.float64),
        start=np.array(columns["start"], dtype=np.float64),
        before=np.array([before for before, _ in edges], dtype=np.int64),
        after=np.array([after for _, after in edges], dtype=np.int64),
        collectives=tuple(collectives),
        shapes=tuple(shapes),
    )
