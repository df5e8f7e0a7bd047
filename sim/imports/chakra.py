"""Chakra execution traces, one file for each rank, as a recorded step that can be run again.

What is known to be wrong with traces that converters write is mended where the answer is certain, and counted; where it
is not, the node is named and nothing is imported. Attributes as ASTRA-sim reads them: `is_cpu_op`, `num_ops`,
`tensor_size`, `comm_type`, `comm_size` (of an all-gather what a rank contributes, else what it holds), `pg_name`,
`comm_src`, `comm_dst`, `comm_tag`.

Public: `ImportedChakra`, `import_chakra`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.errors import ConfigError, Problem
from sim.imports.chakra_file import COMM_RECV, COMP, ChakraNode, open_chakra
from sim.imports.chakra_groups import Communicators
from sim.imports.chakra_own import OWN, own_rank, own_recording
from sim.imports.chakra_rank import NAMED, STREAM, WAY_OUT, ChakraRank, Findings, link_nodes, sort_places
from sim.imports.foreign import plain_name
from sim.imports.issue_order import IssueNode, issue_order
from sim.inputs.load import load_definition
from sim.inputs.reader import read_bytes, shown_path
from sim.inputs.recording import COLLECTIVE, HOST, KnownShape, Queue, RecordedRank, Recording
from sim.inputs.records import Accelerator

MOST_NODES, MOST_WAITS = 1_000_000, 10_000_000  # of all ranks: a gigabyte or two
READ = frozenset(  # attributes; others take memory
    ("is_cpu_op", "num_ops", "tensor_size", "op_type", "tid", "comm_type", "comm_size", "comm_src", "comm_dst",
     "comm_tag", "pg_name")
)  # fmt: skip
MOST_GROUPS = 2**24  # bytes of a file of groups
SHORTEST = 1e-9  # s, of a step in which nothing has a duration
FILE = re.compile(r"(?P<prefix>.*?)\.?(?P<rank>\d+)\.(?:et|json)(?:\.gz)?$")


@dataclass(frozen=True)
class ImportedChakra:
    """A recorded step, the fields of the workload that names it, and what a reader should know of it."""

    recording: Recording
    fields: dict[str, Any]  # but for the file
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Roofline:
    """What prices computation that has operations and bytes but no time [FLOP/s, B/s]."""

    peak: float
    memory: float

    def seconds(self, operations: float, size: float) -> float:
        """The larger of arithmetic and memory time, as ASTRA-sim's roofline has it."""
        return max(operations / self.peak, size / self.memory)


def roofline_of(name: str) -> Roofline:
    """That of an accelerator in 16 bit, at the rates of its data sheet. Raises ConfigError."""
    accelerator = load_definition("accelerator", name)
    if not isinstance(accelerator, Accelerator):
        raise ConfigError(Problem("", "--accelerator", f"{name} is no accelerator", "clustersim list accelerators"))
    peak = accelerator.matrix.peak
    rate = peak.bf16 or peak.fp16 or peak.fp32
    if rate is None:
        raise ConfigError(Problem("", "--accelerator", f"{name} multiplies neither in 16 nor in 32 bit"))
    return Roofline(rate, accelerator.memory.bandwidth)


def import_chakra(
    where: Path, name: str = "", prefix: str = "", groups: Path | None = None, price: Roofline | None = None
) -> ImportedChakra:
    """The trace in a folder, or in one file. Raises ConfigError with file and node.

    prefix: of the files, if the folder holds several traces. groups: the file of communicators; PREFIX.json beside them
    if absent. price: for computation without a duration.
    """
    found, called = _find(where, prefix)
    ranks = _read(found)
    owned = [rank.own for rank in ranks if rank.own is not None]
    if len(owned) == len(ranks):
        recording = own_recording(owned, [own_rank(rank.own or {}, rank.nodes, rank.path) for rank in ranks])
        return _imported(recording, name or called, recording.remarks, recorded=True)
    findings = Findings()
    members = _groups(where, called, groups)
    for rank in ranks:
        link_nodes(rank, findings)
    findings.raise_if_wrong()
    known = Communicators(ranks, members, findings)
    known.match()
    findings.raise_if_wrong()
    prices = _NodePrices(price)
    drafts = _in_order(ranks, prices, findings)
    findings.raise_if_wrong()
    recorded = tuple(_recorded(rank, order, prices) for rank, order in zip(ranks, drafts, strict=True))
    remarks = tuple(_remarks(ranks, known, prices, findings))
    source = f"clustersim import chakra, {len(ranks)} of {known.world} ranks"
    recording = Recording(known.world, recorded, known.groups, "", source, remarks)
    return _imported(recording, name or called, remarks, recorded=not known.untimed)


def _imported(recording: Recording, name: str, remarks: tuple[str, ...], recorded: bool) -> ImportedChakra:
    fields: dict[str, Any] = {"kind": "trace", "name": plain_name(name), "ranks": recording.world}
    if recorded:
        fields["step"] = f"{recording.step * 1e3:.9g} ms"
    else:
        fields["collectives"] = "modelled"
    return ImportedChakra(recording, fields | {"notes": list(remarks[1:])}, remarks)


# --- files ----------------------------------------------------------------------------------


def _find(where: Path, prefix: str) -> tuple[dict[int, Path], str]:
    """The file of each rank, and what they are called. Raises ConfigError."""
    shown = shown_path(where)
    if where.is_file():
        match = FILE.match(where.name)
        return {int(match["rank"]) if match else 0: where}, match["prefix"] if match else where.stem
    if not where.is_dir():
        raise ConfigError(Problem(shown, "", "no such file or folder"))
    traces: defaultdict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(where.iterdir()):
        match = FILE.match(path.name)
        if match and (".et" in path.suffixes or prefix) and (not prefix or match["prefix"] == prefix):
            traces[match["prefix"]][int(match["rank"])].append(path)
    if not traces:
        message = f"holds no files called {prefix or 'PREFIX'}.RANK.et"
        raise ConfigError(Problem(shown, "", message, "a Chakra trace has a file for each rank"))
    if len(traces) > 1:
        message = f"holds {len(traces)} traces: {', '.join(sorted(traces)[:8])}"
        raise ConfigError(Problem(shown, "--prefix", message, f"say which: --prefix {min(traces)}"))
    ((called, ranks),) = traces.items()
    twice = [paths for paths in ranks.values() if len(paths) > 1]
    if twice:
        raise ConfigError(Problem(shown_path(twice[0][1]), "", f"is of the same rank as {twice[0][0].name}"))
    return {rank: paths[0] for rank, paths in sorted(ranks.items())}, called


def _read(files: Mapping[int, Path]) -> list[ChakraRank]:
    """All nodes, by their numbers. Raises ConfigError where there are more than memory is for."""
    ranks: list[ChakraRank] = []
    nodes = waits = 0
    for number, path in files.items():
        stream = open_chakra(path)
        kept: list[ChakraNode] = []
        for node in stream.nodes:
            kept.append(node if OWN in stream.attributes else _lean(node))
            nodes, waits = nodes + 1, waits + len(node.control) + len(node.data)
            if nodes > MOST_NODES or waits > MOST_WAITS:
                message = f"with it there are more than {MOST_NODES:,} nodes or {MOST_WAITS:,} waits"
                raise ConfigError(Problem(shown_path(path), "", message, "import fewer ranks, or one step"))
        if not kept:
            raise ConfigError(Problem(shown_path(path), "", "holds no node", WAY_OUT))
        said = stream.attributes.get(OWN)
        own = json.loads(said) if isinstance(said, str) else None
        if own is None:
            kept.sort(key=lambda node: node.id)
        ranks.append(ChakraRank(number, path, kept, own=own))
    return ranks


def _lean(node: ChakraNode) -> ChakraNode:
    """A node with those attributes that are read."""
    return replace(node, attributes={name: value for name, value in node.attributes.items() if name in READ})


def _groups(where: Path, called: str, wanted: Path | None) -> dict[str, tuple[int, ...]]:
    """Ranks of each communicator: {"1": [0, 1], ...}, from beside the trace if not wanted. Raises ConfigError."""
    path = wanted or (where if where.is_dir() else where.parent) / f"{called}.json"
    if not wanted and not path.is_file():
        return {}
    try:
        said = json.loads(read_bytes(path, MOST_GROUPS))
        return {str(name): tuple(int(rank) for rank in ranks) for name, ranks in said.items()}
    except (ValueError, TypeError, AttributeError) as error:
        message = f"cannot be read as groups: {error}"
        raise ConfigError(Problem(shown_path(path), "--groups", message, 'write {"1": [0, 1], "2": [2, 3]}')) from None


# --- order and times ------------------------------------------------------------------------


NOMINAL = Roofline(1e15, 1e12)  # of no device: decides an order where nothing says how long computation takes


class _NodePrices:
    """Seconds of nodes, and how many have none."""

    def __init__(self, price: Roofline | None) -> None:
        self.price = price
        self.priced = self.free = 0

    def nominal(self, node: ChakraNode) -> float:
        """Seconds that decide an order alone, where none are known."""
        return node.duration_us * 1e-6 or (self.price or NOMINAL).seconds(
            _amount(node, "num_ops"), _amount(node, "tensor_size")
        )

    def seconds(self, node: ChakraNode, kind: int) -> float:
        """As recorded, else by its operations and bytes."""
        if node.duration_us:
            return node.duration_us * 1e-6
        operations, size = _amount(node, "num_ops"), _amount(node, "tensor_size")
        if kind in (HOST, COLLECTIVE) or not operations + size:
            return 0.0
        if self.price is None:
            self.free += 1
            return 0.0
        self.priced += 1
        return self.price.seconds(operations, size)


def _amount(node: ChakraNode, name: str) -> float:
    value = node.attributes.get(name)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e30 else 0.0


def _in_order(ranks: list[ChakraRank], prices: _NodePrices, findings: Findings) -> list[list[int]]:
    """Places of each rank as they began: as recorded, else as ASTRA-sim would begin them."""
    if any(rank.ordered for rank in ranks):
        for rank in ranks:
            _wait_for_kernels(rank, findings)
        return [sort_places(rank.waits) for rank in ranks]
    nodes = [[_issue_node(rank, place, prices) for place in range(len(rank.nodes))] for rank in ranks]
    order, stuck = issue_order(nodes)
    for number, place in stuck[:NAMED]:
        findings.refuse(ranks[number], place, "never begins or ends: ranks wait for one another")
    return order


def _wait_for_kernels(rank: ChakraRank, findings: Findings) -> None:
    """A collective that waits for work of the host alone waits for the last kernel that was launched before it.

    So does ProcessGroupNCCL of PyTorch: its stream waits for the current one when a collective is issued.
    """
    last = -1
    for place in sort_places(rank.waits):
        if rank.kind[place] == COLLECTIVE:
            if last >= 0 and all(rank.kind[other] == HOST for other in rank.waits[place]):
                rank.waits[place].append(last)
                findings.mended[STREAM] += 1
        elif rank.kind[place] != HOST:
            last = place


def _issue_node(rank: ChakraRank, place: int, prices: _NodePrices) -> IssueNode:
    node, kind = rank.nodes[place], rank.kind[place]
    waits, each = tuple(rank.waits[place]), rank.collectives.get(place)
    if each is None:
        return IssueNode(_resource(node, kind), prices.nominal(node), waits)
    meeting, sends = (each.group, each.sequence), each.kind == "send"
    return IssueNode(_resource(node, kind), node.duration_us * 1e-6, waits, meeting, each.bytes, sends)


def _resource(node: ChakraNode, kind: int) -> int:
    """Host, device, network; receives occupy nothing."""
    if kind == HOST:
        return 0
    return 1 if kind != COLLECTIVE else -1 if node.type == COMM_RECV else 2


# --- the recording --------------------------------------------------------------------------


def _recorded(rank: ChakraRank, order: list[int], prices: _NodePrices) -> RecordedRank:
    """Nodes in the order in which they began; waits that a queue implies are left out."""
    nodes = [rank.nodes[place] for place in order]
    kinds = [rank.kind[place] for place in order]
    number = {place: node for node, place in enumerate(order)}
    queues: dict[Queue, int] = {}
    queue = [_queue(rank, node, kind, queues) for node, kind in zip(nodes, kinds, strict=True)]
    edges = [
        (number[other], node)
        for node, place in enumerate(order)
        for other in rank.waits[place]
        if queue[node] < 0 or queue[number[other]] != queue[node]
    ]
    names = {name: i for i, name in enumerate(dict.fromkeys(node.name for node in nodes))}
    seconds = [prices.seconds(node, kind) for node, kind in zip(nodes, kinds, strict=True)]
    starts = [node.start_us for node in nodes]
    first = min((start for start in starts if start), default=0)
    mine = sorted((number[place], each) for place, each in rank.collectives.items())
    return RecordedRank(
        rank=rank.rank,
        step=max(_makespan(queue, seconds, edges), SHORTEST),
        queues=tuple(queues),
        names=tuple(names),
        queue=np.array(queue),
        kind=np.array(kinds),
        name=np.array([names[node.name] for node in nodes]),
        seconds=np.array(seconds),
        lag=np.zeros(len(nodes)),
        start=np.array([(start - first) * 1e-6 if start else -1.0 for start in starts]),
        before=np.array([before for before, _ in edges], dtype=np.int64),
        after=np.array([after for _, after in edges], dtype=np.int64),
        collectives=tuple(each._replace(node=node) for node, each in mine),
        shapes=tuple(_shapes(nodes)),
    )


def _queue(rank: ChakraRank, node: ChakraNode, kind: int, queues: dict[Queue, int]) -> int:
    """Number of the thread or stream that a node ran in; of what it occupies where that was not recorded."""
    host = kind == HOST
    if rank.ordered:
        queue = Queue(f"{'thread' if host else 'stream'} {node.attributes.get('tid', 0)}", "host" if host else "device")
    else:
        resource = _resource(node, kind)
        if resource < 0:
            return -1
        queue = Queue(("host", "compute", "transfers")[resource], "host" if host else "device")
    return queues.setdefault(queue, len(queues))


def _makespan(queue: list[int], seconds: list[float], edges: list[tuple[int, int]]) -> float:
    """When the last node ends if ranks need not wait for one another [s]."""
    waits: defaultdict[int, list[int]] = defaultdict(list)
    for before, after in edges:
        waits[after].append(before)
    end: list[float] = []
    last: dict[int, float] = {}
    for node, (number, length) in enumerate(zip(queue, seconds, strict=True)):
        begin = max((end[other] for other in waits[node]), default=0.0)
        begin = max(begin, last.get(number, 0.0)) if number >= 0 else begin
        end.append(begin + length)
        last[number] = end[-1]
    return max(end)


def _shapes(nodes: Sequence[ChakraNode]) -> Iterator[KnownShape]:
    for place, node in enumerate(nodes):
        operations, size = _amount(node, "num_ops"), _amount(node, "tensor_size")
        if node.type == COMP and operations + size > 0:
            yield KnownShape(place, operations, size)


# --- the report -----------------------------------------------------------------------------


def _remarks(ranks: list[ChakraRank], known: Communicators, prices: _NodePrices, findings: Findings) -> Iterator[str]:
    """What was read, what was mended, and what is not there and what that means."""
    kinds = Counter(kind for rank in ranks for kind in rank.kind)
    transfers = sum(len(rank.collectives) for rank in ranks)
    devices = kinds.total() - kinds[HOST] - kinds[COLLECTIVE]
    yield f"{kinds.total():,} nodes of {len(ranks)} of {known.world} ranks: {devices:,} of devices, " + (
        f"{kinds[HOST]:,} of hosts, {transfers:,} transfers in {len(known.groups)} groups"
    )
    for what, count in findings.mended.items():
        if count:
            yield f"{count:,} {what}"
    if len(ranks) < known.world:
        yield f"{known.world - len(ranks)} ranks have no file: what they add to waiting is not known"
    if unsized := sum(each.bytes < 0 for rank in ranks for each in rank.collectives.values()):
        yield f"{unsized:,} transfers have no comm_size: they can only take the time that they took"
    messages = sum(each.kind in ("send", "receive") for rank in ranks for each in rank.collectives.values())
    if messages:
        yield f"{messages:,} sends and receives: a replay gives each its recorded time, none waits for its partner"
    if known.untimed:
        yield "transfers have no durations: their time is that of the cluster (collectives: modelled)"
    if prices.priced:
        yield f"{prices.priced:,} computations without a duration take that of a roofline over num_ops and tensor_size"
    if prices.free:
        yield f"{prices.free:,} computations have operations but no duration: they take none; --accelerator prices them"
    if any(rank.ordered for rank in ranks):
        yield "in a thread or stream nodes ran by number; a kernel may begin before a collective that it needs"
    else:
        yield "nodes begin by number as soon as they can, one of a device, one of its host, one transfer at a time"
