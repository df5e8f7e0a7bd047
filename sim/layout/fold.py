"""Folding: one representative of each class of equal ranks, flows and links, exactly.

Colour refinement (1-WL) of the graph of ranks, flows and links gives a partition in which every
link of a class carries the same coefficients from each flow class, every flow crosses the same
link classes, and every rank takes part in the same flow classes. Max-min rates and all times are
then constant on classes (Grohe, Kersting, Mladenov, Selman, ESA 2014, for linear programs).
`check_equitable` proves each partition, so a hash collision cannot break it silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.errors import EngineError
from sim.layout.flows import FlowSet
from sim.layout.prune import Mask, distinct

Ints = NDArray[np.int64]
Index = NDArray[np.int32]
Floats = NDArray[np.float64]
Colours = NDArray[np.uint64]
LABEL = np.dtype(
    [
        ("set", np.int64),
        ("femtoseconds", np.float64),
        ("under_way", np.float64),
        ("nodes", np.int64),
        ("local", np.float64),
        ("network", np.float64),
    ]
)
FEMTOSECOND = 1e-15  # sums of the same hops in another order differ by far less, latencies of interest by far more


@dataclass(frozen=True)
class Structure:
    """Everything that can differ between ranks, and how it hangs together.

    rank_label: (n_ranks,) equal for ranks that do the same on equal hardware. capacity: (n_links,)
    B/s. flow_label: (n_flows,) records of LABEL: set, latency and span of each flow, and its rates if it is told apart
    by them, all sets in a row; set_start: (n_sets+1,) where each set begins. start, link, weight: CSR by flow of the
    links it crosses, with the number of the coefficient in `weights`. member_start, member, role: CSR by flow of its
    ranks.
    """

    rank_label: Ints
    capacity: Floats
    flow_label: NDArray[np.void]
    set_start: Ints
    start: Ints
    link: Index
    weight: Index
    weights: Floats
    member_start: Ints
    member: Index
    role: Index

    @property
    def n_flows(self) -> int:
        """Flows of all sets."""
        return len(self.flow_label)


@dataclass(frozen=True, eq=False)
class Partition:
    """Class of each rank, link, and flow (per FlowSet), numbered from 0 by first occurrence; equal only to itself."""

    rank: Ints
    link: Ints
    flow: tuple[Ints, ...]

    def representatives(self) -> Ints:
        """First rank of each rank class."""
        return first_of_class(self.rank)


def build_structure(
    rank_label: Ints,
    capacity: Floats,
    flow_sets: list[FlowSet],
    number: Ints,
    counts: Sequence[Mask] | None = None,
    alone: Sequence[tuple[Floats, Floats]] | None = None,
) -> Structure:
    """Join flow sets over the links l with number[l] >= 0, renumbered; `capacity` is theirs.

    counts: for each set which of its coefficients to take, (nnz,); all of these links if absent. alone: for each set
    rates by which its flows are told apart, (n,) in a node and (n,) between nodes [B/s].
    """
    widths, links, coefficients, members, roles, sizes, labels = [], [], [], [], [], [], []
    n_roles = 0
    for position, flow_set in enumerate(flow_sets):
        link = number[flow_set.link]
        kept = link >= 0 if counts is None else counts[position]
        widths.append(np.bincount(flow_set.owner[kept], minlength=flow_set.n))
        links.append(link[kept].astype(np.int32))
        coefficients.append(flow_set.coefficient[kept])
        width = flow_set.members.shape[1]
        role = n_roles + (np.arange(width) if flow_set.ordered else np.zeros(width, dtype=np.int64))
        members.append(flow_set.members.astype(np.int32).ravel())
        roles.append(np.tile(role.astype(np.int32), flow_set.n))
        sizes.append(np.full(flow_set.n, width))
        labels.append(flow_labels(position, flow_set, *(alone[position] if alone else ())))
        n_roles += width
    weights, weight = np.unique(_joined(coefficients, np.float64), return_inverse=True)
    set_sizes = [flow_set.n for flow_set in flow_sets]
    return Structure(
        rank_label=rank_label,
        capacity=capacity,
        flow_label=_joined(labels, LABEL),
        set_start=_starts(np.array(set_sizes, dtype=np.int64)),
        start=_starts(_joined(widths, np.int64)),
        link=_joined(links, np.int32),
        weight=weight.astype(np.int32),
        weights=weights,
        member_start=_starts(_joined(sizes, np.int64)),
        member=_joined(members, np.int32),
        role=_joined(roles, np.int32),
    )


def flow_labels(
    position: int, flow_set: FlowSet, local: Floats | float = 0.0, network: Floats | float = 0.0
) -> NDArray[np.void]:
    """What tells the flows of the set at `position` apart before any link is looked at, (n,) records of LABEL."""
    labels = np.empty(flow_set.n, dtype=LABEL)
    labels["set"] = position
    labels["femtoseconds"] = np.rint(flow_set.latency / FEMTOSECOND)
    labels["under_way"] = 0 if flow_set.under_way is None else np.rint(flow_set.under_way / FEMTOSECOND)
    labels["nodes"] = flow_set.nodes
    labels["local"], labels["network"] = local, network
    return labels


def _joined(parts: Sequence[NDArray[Any]], dtype: type | np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype, copy=False)


def _starts(counts: Ints) -> Ints:
    start = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=start[1:])
    return start


def first_of_class(classes: Ints) -> Ints:
    """Index of the first member of each class, in class order."""
    return np.unique(classes, return_index=True)[1]


def identity_partition(structure: Structure) -> Partition:
    """Every rank, link and flow on its own."""
    flows = _by_set(structure, np.arange(structure.n_flows))
    return Partition(np.arange(len(structure.rank_label)), np.arange(len(structure.capacity)), flows)


def _by_set(structure: Structure, flow: Ints) -> tuple[Ints, ...]:
    return tuple(flow[a:b] for a, b in zip(structure.set_start[:-1], structure.set_start[1:], strict=True))


def refine(structure: Structure) -> Partition:
    """The coarsest partition that is stable under refinement, proved equitable."""
    rank = mix(structure.rank_label.astype(np.uint64))
    link = mix(structure.capacity.view(np.uint64))
    flow = np.zeros(structure.n_flows, dtype=np.uint64)
    for name in LABEL.names or ():
        flow = mix(flow ^ np.ascontiguousarray(structure.flow_label[name]).view(np.uint64))
    weight = mix(structure.weights.view(np.uint64))[structure.weight]
    role = mix(np.arange(1, 2 + int(structure.role.max(initial=0)), dtype=np.uint64))[structure.role]
    of_link = np.repeat(np.arange(structure.n_flows, dtype=np.int32), np.diff(structure.start))
    of_member = np.repeat(np.arange(structure.n_flows, dtype=np.int32), np.diff(structure.member_start))
    count = -1
    while (new := _count(rank, link, flow)) != count:
        count = new
        flow = mix(flow)
        np.add.at(flow, of_link, mix(link[structure.link] ^ weight))
        np.add.at(flow, of_member, mix(rank[structure.member] ^ role))
        flow, link, rank = mix(flow), mix(link), mix(rank)
        np.add.at(link, structure.link, mix(flow[of_link] ^ weight))
        np.add.at(rank, structure.member, mix(flow[of_member] ^ role))
    partition = Partition(_numbered(rank), _numbered(link), _by_set(structure, _numbered(flow)))
    check_equitable(structure, partition)
    return partition


def mix(x: Colours) -> Colours:
    """SplitMix64 finaliser: spreads any change over all 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _count(*colours: Colours) -> int:
    return sum(len(distinct(colour)) for colour in colours)


def _numbered(colour: Colours) -> Ints:
    """Class numbers by first occurrence."""
    _, first, inverse = np.unique(colour, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def check_equitable(structure: Structure, partition: Partition) -> None:
    """Prove that members of a class cannot be told apart. Raises EngineError if they can."""
    flow = np.concatenate([np.zeros(0, dtype=np.int64), *partition.flow])
    _check_constant(structure.rank_label, partition.rank, "rank label")
    _check_constant(structure.capacity, partition.link, "link capacity")
    _check_constant(structure.flow_label, flow, "kind, latency or span of a flow")
    n_weights, n_roles = len(structure.weights), 1 + int(structure.role.max(initial=0))
    crossed = partition.link[structure.link] * n_weights + structure.weight
    _check_rows(structure.start, crossed, flow, "links of flows")
    del crossed
    taken = partition.rank[structure.member] * n_roles + structure.role
    _check_rows(structure.member_start, taken, flow, "ranks of flows")
    del taken
    carried = np.repeat(flow, np.diff(structure.start)) * n_weights + structure.weight
    _check_rows(*_transposed(structure.link, carried, len(partition.link)), partition.link, "flows on links")
    del carried
    shared = np.repeat(flow, np.diff(structure.member_start)) * n_roles + structure.role
    _check_rows(*_transposed(structure.member, shared, len(partition.rank)), partition.rank, "flows of ranks")


def _check_constant(value: NDArray[np.generic], classes: Ints, what: str) -> None:
    if len(classes) and not np.array_equal(value, value[first_of_class(classes)][classes]):
        raise EngineError(f"folding is not exact: {what} differs inside a class")


def _transposed(row: Index, key: NDArray[Any], n_rows: int) -> tuple[Ints, Ints]:
    """CSR of `key` grouped by `row`."""
    return _starts(np.bincount(row, minlength=n_rows)), key[np.argsort(row, kind="stable")]


def _check_rows(start: Ints, key: Ints, classes: Ints, what: str) -> None:
    """Rows of one class must hold the same keys, in any order."""
    if not len(classes):
        return
    width = np.diff(start)
    _check_constant(width, classes, f"number of {what}")
    for size in np.unique(width):
        rows = np.flatnonzero(width == size)
        table = np.sort(key[start[rows][:, None] + np.arange(size)], axis=1)
        _, first, inverse = np.unique(classes[rows], return_index=True, return_inverse=True)
        if not np.array_equal(table, table[first][inverse]):
            raise EngineError(f"folding is not exact: {what} differ inside a class")
