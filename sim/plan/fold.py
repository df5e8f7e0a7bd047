"""Folding: one representative of each class of equal ranks, flows and links, exactly.

Colour refinement (1-WL) of the graph of ranks, flows and links gives a partition in which every
link of a class carries the same total coefficient from each flow class, every flow crosses the same
link classes, and every rank takes part in the same flow classes. Max-min rates and all times are
then constant on classes (Grohe, Kersting, Mladenov, Selman, ESA 2014, for linear programs).
`check_equitable` proves each partition, so a hash collision cannot break it silently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.errors import EngineError
from sim.plan.flows import FlowSet

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Colours = NDArray[np.uint64]


@dataclass(frozen=True)
class Structure:
    """Everything that can differ between ranks, and how it hangs together.

    rank_label: (n_ranks,) equal for ranks that do the same on equal hardware. capacity: (n_links,)
    B/s of the links in use; flows refer to them by position. flows: one FlowSet per kind.
    """

    rank_label: Ints
    capacity: Floats
    flows: tuple[FlowSet, ...]


@dataclass(frozen=True)
class Partition:
    """Class of each rank, link, and flow (per FlowSet), numbered from 0 by first occurrence."""

    rank: Ints
    link: Ints
    flow: tuple[Ints, ...]

    def representatives(self) -> Ints:
        """First rank of each rank class."""
        return first_of_class(self.rank)


def flow_label(flow_set: FlowSet) -> Floats:
    """What tells flows of one kind apart besides their links, (n,): latency and servers spanned."""
    return flow_set.latency + flow_set.nodes


def first_of_class(classes: Ints) -> Ints:
    """Index of the first member of each class, in class order."""
    return np.unique(classes, return_index=True)[1]


def identity_partition(structure: Structure) -> Partition:
    """Every rank, link and flow on its own."""
    flows, base = [], 0
    for flow_set in structure.flows:
        flows.append(np.arange(base, base + flow_set.n))
        base += flow_set.n
    return Partition(np.arange(len(structure.rank_label)), np.arange(len(structure.capacity)), tuple(flows))


def refine(structure: Structure) -> Partition:
    """The coarsest partition that is stable under refinement, proved equitable."""
    rank = _mix(structure.rank_label.astype(np.uint64))
    link = _mix(structure.capacity.view(np.uint64))
    flows = [flow_label(s).view(np.uint64) + _seed(i) for i, s in enumerate(structure.flows)]
    incidence = [_Incidence(s, len(structure.capacity), i) for i, s in enumerate(structure.flows)]
    count = -1
    while (new := _count(rank, link, flows)) != count:
        count = new
        flows = [side.flow_colours(colour, rank, link) for side, colour in zip(incidence, flows, strict=True)]
        for side, colour in zip(incidence, flows, strict=True):
            rank = side.add_to_ranks(rank, colour)
            link = side.add_to_links(link, colour)
        rank, link = _mix(rank), _mix(link)
    partition = _number(rank, link, flows)
    check_equitable(structure, partition)
    return partition


class _Incidence:
    """One FlowSet prepared for hashing: which way each sum runs."""

    def __init__(self, flow_set: FlowSet, n_links: int, number: int) -> None:
        self.members = flow_set.members
        columns = np.arange(flow_set.members.shape[1]) if flow_set.ordered else np.zeros(1, dtype=np.int64)
        self.role = _mix(columns.astype(np.uint64) + np.uint64(1 + 1000 * number))
        self.n = flow_set.n
        self.has_links = len(flow_set.link) > 0
        self.start = flow_set.start[:-1]
        self.empty = np.diff(flow_set.start) == 0
        self.link = flow_set.link
        self.label = _mix(flow_set.coefficient.view(np.uint64))
        self.owner = np.repeat(np.arange(flow_set.n), np.diff(flow_set.start))

    def flow_colours(self, own: Colours, rank: Colours, link: Colours) -> Colours:
        total = _mix(own) + _mix(rank[self.members] ^ self.role).sum(axis=1, dtype=np.uint64)
        if self.has_links:
            parts = _mix(link[self.link] ^ self.label)
            total = total + _sums(parts, self.start, self.empty)
        return _mix(total)

    def add_to_ranks(self, rank: Colours, colour: Colours) -> Colours:
        total = rank.copy()
        parts = _mix(colour[:, None] ^ self.role)
        for column in range(self.members.shape[1]):
            np.add.at(total, self.members[:, column], parts[:, column % parts.shape[1]])
        return total

    def add_to_links(self, link: Colours, colour: Colours) -> Colours:
        total = link.copy()
        if self.has_links:
            np.add.at(total, self.link, _mix(colour[self.owner] ^ self.label))
        return total


def _sums(parts: Colours, start: Ints, empty: NDArray[np.bool_]) -> Colours:
    """Sum of each CSR row, wrapping; reduceat would repeat a neighbour for an empty row."""
    sums = np.add.reduceat(parts, np.minimum(start, len(parts) - 1))
    sums[empty] = 0
    return sums


def _mix(x: Colours) -> Colours:
    """SplitMix64 finaliser: spreads any change over all 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _seed(number: int) -> np.uint64:
    return np.uint64(_mix(np.array([number + 77], dtype=np.uint64))[0])


def _count(rank: Colours, link: Colours, flows: list[Colours]) -> int:
    return len(np.unique(rank)) + len(np.unique(link)) + sum(len(np.unique(f)) for f in flows)


def _number(rank: Colours, link: Colours, flows: list[Colours]) -> Partition:
    """Class numbers by first occurrence; flow classes are numbered through all sets."""
    numbered, base = [], 0
    for colour in flows:
        classes = _by_first_occurrence(colour)
        numbered.append(classes + base)
        base += int(classes.max()) + 1 if len(classes) else 0
    return Partition(_by_first_occurrence(rank), _by_first_occurrence(link), tuple(numbered))


def _by_first_occurrence(colour: Colours) -> Ints:
    _, first, inverse = np.unique(colour, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def check_equitable(structure: Structure, partition: Partition) -> None:
    """Prove that classes cannot be told apart. Raises EngineError if they can."""
    _check_constant(structure.rank_label, partition.rank, "rank label")
    _check_constant(structure.capacity, partition.link, "link capacity")
    n_ranks, n_links = len(partition.rank), len(partition.link)
    for flow_set, classes in zip(structure.flows, partition.flow, strict=True):
        owner = np.repeat(np.arange(flow_set.n), np.diff(flow_set.start))
        weight = flow_set.coefficient
        base = int(classes.min()) if len(classes) else 0
        _check_constant(flow_label(flow_set), classes - base, "latency or span of a flow")
        _check_sums(owner, flow_set.n, classes, partition.link[flow_set.link], weight, "links of flows")
        _check_sums(flow_set.link, n_links, partition.link, classes[owner], weight, "flows on links")
        width = flow_set.members.shape[1]
        for column in range(width) if flow_set.ordered else range(1):
            member = flow_set.members[:, column : column + 1] if flow_set.ordered else flow_set.members
            group = np.repeat(np.arange(flow_set.n), member.shape[1])
            ones = np.ones(member.size)
            ranks = member.ravel()
            _check_sums(group, flow_set.n, classes, partition.rank[ranks], ones, "ranks of flows")
            _check_sums(ranks, n_ranks, partition.rank, classes[group], ones, "flows of ranks")


def _check_constant(value: NDArray[np.generic], classes: Ints, what: str) -> None:
    if len(classes) and not np.array_equal(value, value[first_of_class(classes)][classes]):
        raise EngineError(f"folding is not exact: {what} differs inside a class")


def _check_sums(item: Ints, n_items: int, classes: Ints, other: Ints, weight: Floats, what: str) -> None:
    """Every item of a class must see the same total weight from each class on the other side."""
    if not len(item):
        return
    width = int(other.max()) + 1
    pair, inverse = np.unique(item * width + other, return_inverse=True)
    total = np.bincount(inverse, weight, len(pair))
    class_pair = classes[pair // width] * width + pair % width
    unique, first, which, count = np.unique(class_pair, return_index=True, return_inverse=True, return_counts=True)
    size = np.bincount(classes, minlength=int(classes.max()) + 1)
    alike = np.allclose(total, total[first][which], rtol=1e-12, atol=0.0)
    if not alike or not np.array_equal(count, size[unique // width]):
        raise EngineError(f"folding is not exact: {what} differ inside a class")
