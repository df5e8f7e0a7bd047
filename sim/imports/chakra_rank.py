"""What a file of a Chakra trace holds of one rank: its nodes, what they wait for, and what of that cannot be right.

Public: `ChakraRank`, `Findings`, `link_nodes`, `sort_places`, and what is mended: `FOREIGN`, `GONE`, `BACK`,
`LAUNCHED`, `TWICE`, `BY_NAME`, `LOST`, `STREAM`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem
from sim.imports.chakra_file import COMM_COLL, COMM_RECV, COMM_SEND, COMP, MEM_LOAD, MEM_STORE, METADATA, ChakraNode
from sim.imports.kineto_step import kind_of_kernel
from sim.inputs.problems import MAX_PROBLEMS
from sim.inputs.reader import shown_path
from sim.inputs.recording import COLLECTIVE, COPY, HOST, MEMORY, OTHER, PRODUCT, RecordedCollective

NAMED = 5  # nodes in a message
KIND_OF_OPERATION = {"M": PRODUCT, "A": MEMORY, "E": MEMORY, "SLICE": MEMORY}  # `op_type` of STAGE
WAY_OUT = "write the trace again; see what the converter says of this node"
TRANSFERS = (COMM_SEND, COMM_RECV)
FOREIGN = "ctrl_deps were left out: nodes that wait for themselves show that they count the nodes of another trace"
GONE = "waits for nodes that are in no file, as converters leave them, were left out"
BACK = "waits for what began later, which cannot have been waited for, were left out"
LAUNCHED = "waits of host work for the kernel that it launched were left out"
TWICE = "nodes that stand in their file twice were taken once"
BY_NAME = "collectives without comm_type are what their kernel is called"
LOST = "broadcasts that other ranks of the group recorded were put in"
STREAM = "collectives that waited for no kernel wait for the last one launched before them, as c10d lets them"


@dataclass
class ChakraRank:
    """What one file holds: nodes in the order of their numbers, their waits as places among them."""

    rank: int
    path: Path
    nodes: list[ChakraNode]
    waits: list[list[int]] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    collectives: dict[int, RecordedCollective] = field(default_factory=dict)  # by place
    own: Mapping[str, Any] | None = None

    @property
    def ordered(self) -> bool:
        """Whether it was recorded: then nodes of a thread or stream ran in the order of their numbers."""
        return any("tid" in node.attributes or node.start_us for node in self.nodes)

    def told(self, place: int) -> str:
        """A node, for messages."""
        node = self.nodes[place]
        return f"node {node.id} ({node.name[:60]})"


@dataclass
class Findings:
    """What was mended, by what; and what could not be."""

    mended: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, rank: ChakraRank, place: int, message: str, way_out: str = WAY_OUT) -> None:
        """A node that stands in the way."""
        self.problems.append(Problem(shown_path(rank.path), rank.told(place), message, way_out))

    def raise_if_wrong(self) -> None:
        """Raise ConfigError with what was refused, by node and reason, and how often each reason was met."""
        if self.problems:
            counts = Counter(problem.message for problem in self.problems)
            rest = len(self.problems) - MAX_PROBLEMS
            more = (
                [Problem("", "", f"{count} x {message}") for message, count in counts.most_common(NAMED)]
                if rest > 0
                else []
            )
            raise ConfigError([*self.problems[:MAX_PROBLEMS], *more])


def link_nodes(rank: ChakraRank, findings: Findings) -> None:
    """Waits as places, without those that are certainly wrong; the kind of each node."""
    _drop_repeated(rank, findings)
    place_of = {node.id: place for place, node in enumerate(rank.nodes)}
    foreign = any(node.id in node.control for node in rank.nodes)
    for place, node in enumerate(rank.nodes):
        asked = dict.fromkeys(node.data if foreign else (*node.data, *node.control))
        known = [place_of[each] for each in asked if each in place_of]
        findings.mended[FOREIGN] += len(node.control) if foreign else 0
        findings.mended[GONE] += len(asked) - len(known)
        mine = [each for each in known if each != place and not _later(rank.nodes[each], node)]
        findings.mended[BACK] += len(known) - len(mine)
        rank.waits.append(mine)
        rank.kind.append(_kind(node))
    _launch_first(rank, findings)
    for place in _cycle(rank):
        findings.refuse(
            rank, place, "waits for itself through others", "a cycle cannot run: leave one of the waits out"
        )


def _launch_first(rank: ChakraRank, findings: Findings) -> None:
    """What a kernel waits for on the host launched it: that work cannot have waited for the kernel."""
    for place, kind in enumerate(rank.kind):
        if kind != HOST:
            for other in rank.waits[place]:
                if rank.kind[other] == HOST and place in rank.waits[other]:
                    rank.waits[other].remove(place)
                    findings.mended[LAUNCHED] += 1


def _drop_repeated(rank: ChakraRank, findings: Findings) -> None:
    """A node that stands there twice is one; different nodes of one number cannot be told apart."""
    kept: dict[int, ChakraNode] = {}
    clash = Counter[int]()
    for node in rank.nodes:
        if node.id not in kept:
            kept[node.id] = node
        elif kept[node.id] == node:
            findings.mended[TWICE] += 1
        else:
            clash[node.id] += 1
    rank.nodes = list(kept.values())
    place_of = {node.id: place for place, node in enumerate(rank.nodes)}
    for number, count in clash.items():
        findings.refuse(
            rank, place_of[number], f"{count + 1} different nodes have this number: what waits for which is lost"
        )


def _later(one: ChakraNode, other: ChakraNode) -> bool:
    """Whether `one` is recorded to have begun after `other`."""
    return one.start_us > other.start_us > 0


def _kind(node: ChakraNode) -> int:
    """What a node is here: work of the host issues transfers too."""
    if node.type == METADATA or node.attributes.get("is_cpu_op"):
        return HOST
    if node.type in (MEM_LOAD, MEM_STORE):
        return COPY
    if node.type in (COMM_COLL, *TRANSFERS):
        return COLLECTIVE
    operation = node.attributes.get("op_type")
    if isinstance(operation, str) and operation in KIND_OF_OPERATION:
        return KIND_OF_OPERATION[operation]
    found = kind_of_kernel(node.name, "gpu_memcpy" if node.name.startswith("Memcpy") else "kernel")
    return OTHER if found == COLLECTIVE or node.type != COMP else found


def _cycle(rank: ChakraRank) -> list[int]:
    """Places on a cycle of waits, none if there is none; at most NAMED of them."""
    order = sort_places(rank.waits)
    if len(order) == len(rank.nodes):
        return []
    left = set(range(len(rank.nodes))) - set(order)
    place, seen = min(left), list[int]()
    while place not in seen:
        seen.append(place)
        place = next(each for each in rank.waits[place] if each in left)
    return seen[seen.index(place) :][:NAMED]


def sort_places(waits: Sequence[Sequence[int]]) -> list[int]:
    """Places so that none comes before what it waits for, the lowest first; those on a cycle are missing."""
    after: list[list[int]] = [[] for _ in waits]
    left = [len(each) for each in waits]
    for place, each in enumerate(waits):
        for other in each:
            after[other].append(place)
    ready = [place for place, count in enumerate(left) if not count]
    heapify(ready)
    found: list[int] = []
    while ready:
        place = heappop(ready)
        found.append(place)
        for later in after[place]:
            left[later] -= 1
            if not left[later]:
                heappush(ready, later)
    return found
