"""What the pictures of one run show: stages over time, traffic on the network, operations against the roof.

Plain data from a simulated step; drawing is done elsewhere.

Public: `Pictures`, `pictures`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.devices.compute import matrix_rate
from sim.engine.category import Category
from sim.engine.trace import Trace
from sim.inputs.board import streaming_rate
from sim.layout.plan import Plan
from sim.metrics.breakdown import critical_rank
from sim.metrics.critical_path import Overlap, overlaps
from sim.metrics.links import flow_bytes
from sim.metrics.replay import IDLE, both_ways
from sim.metrics.timeline import TimelineSpan, rank_spans
from sim.programs.ranks import Job, RankClass

COLUMNS = 1500  # moments of the pipeline picture
DRAWN = 400  # links that are drawn one by one; more are drawn by kind


@dataclass(frozen=True)
class Pipeline:
    """What one rank of each stage does: `activity[stage][column]` indexes `kinds`, `index` is the microbatch.

    rows: what they are where they are no stages: one rank in a replay, and as it was recorded.
    """

    kinds: tuple[str, ...]
    activity: tuple[tuple[int, ...], ...]
    index: tuple[tuple[int, ...], ...]
    step: float  # s, over all columns
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """Links between two vertices, or all links between two kinds of vertices: mean and largest mean load."""

    source: str
    target: str
    count: int
    capacity: float  # of one link [B/s]
    mean: float  # share of capacity over the step, mean of the links
    most: float  # of the busiest link
    busiest: str
    bytes: float  # through the busiest link in a step


@dataclass(frozen=True)
class NetworkPicture:
    """Vertices by kind, from accelerators up, and the edges between them."""

    tiers: tuple[tuple[str, tuple[str, ...], int], ...]  # kind, names if drawn one by one, how many there are
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class OperationTotal:
    """One operation of the busiest rank class, all its runs of a step together."""

    name: str
    kind: str
    flops: float  # of one run
    bytes: float
    seconds: float
    times: int


@dataclass(frozen=True)
class Pictures:
    """Everything that is drawn of one step."""

    pipeline: Pipeline
    network: NetworkPicture
    work: tuple[OperationTotal, ...]
    matrix_rate: float  # peak at the training precision [FLOP/s]
    memory_rate: float  # streaming bandwidth [B/s]
    overlaps: tuple[Overlap, ...]  # communication of the busiest rank class


def pictures(trace: Trace, plan: Plan, job: Job, cluster: Cluster) -> Pictures:
    """The pictures of a step that was simulated with each collective as an event of its own."""
    busiest = critical_rank(trace)
    rank = job.ranks[busiest]
    accelerator = cluster.kinds[rank.kind].accelerator
    first = {each.stage: each.representative for each in reversed(job.ranks)}
    shown = rank_spans(trace, plan, list(dict.fromkeys([*first.values(), rank.representative])))
    return Pictures(
        pipeline=_stages(job, trace, busiest, [shown[first[stage]] for stage in sorted(first)]),
        network=_network(trace, plan, cluster),
        work=tuple(_work(job, rank)),
        matrix_rate=matrix_rate(plan.experiment.training.precision, accelerator),
        memory_rate=streaming_rate(accelerator),
        overlaps=overlaps(trace, busiest, shown[rank.representative]),
    )


# --- stages over time -------------------------------------------------------------------------


def _stages(job: Job, trace: Trace, rank: int, stages: Sequence[Sequence[TimelineSpan]]) -> Pipeline:
    """Stage by stage; of a recorded step the rank that is busiest, replayed and recorded."""
    if job.plan.model.replay is None:
        return _pipeline(stages, trace.time)
    ways = both_ways(job, trace, rank)
    last = max(trace.time, *(span.end for way in ways for span in way))
    return replace(_pipeline(ways, last), rows=("replayed", "recorded"))


def _pipeline(stages: Sequence[Sequence[TimelineSpan]], seconds: float) -> Pipeline:
    """The picture from the spans of one rank of each stage."""
    computing = [[span for span in spans if span.track == "compute" and span.end > span.start] for spans in stages]
    labels = dict.fromkeys(_label(span) for spans in computing for span in spans)
    kinds = (IDLE, *(label for label in labels if label != IDLE))
    columns = [_column(spans, kinds, seconds) for spans in computing]
    return Pipeline(kinds, tuple(column[0] for column in columns), tuple(column[1] for column in columns), seconds)


def _label(span: TimelineSpan) -> str:
    return "send" if span.category == Category.PIPELINE_COMM else span.name


def _column(
    spans: Sequence[TimelineSpan], kinds: tuple[str, ...], seconds: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    """What lasts longest in each column; a wait inside a pass for its own collective belongs to the pass."""
    longest = np.full(COLUMNS, 0.0)
    kind, index = np.zeros(COLUMNS, dtype=np.int64), np.full(COLUMNS, -1)
    width = seconds / COLUMNS
    for label, number, start, end in _passes(spans):
        first, last = int(start / width), min(COLUMNS - 1, int(end / width))
        edges = np.arange(first, last + 1) * width
        lasts = np.minimum(edges + width, end) - np.maximum(edges, start)
        better = np.flatnonzero(lasts > longest[first : last + 1]) + first
        longest[better] = lasts[better - first]
        kind[better], index[better] = kinds.index(label), number
    idle = longest < width / 2
    kind[idle], index[idle] = 0, -1
    return tuple(kind.tolist()), tuple(index.tolist())


def _passes(spans: Sequence[TimelineSpan]) -> Iterator[tuple[str, int, float, float]]:
    """Runs of spans of one pass as one: label, microbatch, start, end [s]."""
    current: tuple[str, int, float, float] | None = None
    for span in spans:
        label = _label(span)
        if current and current[:2] == (label, span.index):
            current = (*current[:3], span.end)
        else:
            if current:
                yield current
            current = (label, span.index, span.start, span.end)
    if current:
        yield current


# --- network ---------------------------------------------------------------------------------


def _network(trace: Trace, plan: Plan, cluster: Cluster) -> NetworkPicture:
    carried = _link_bytes(trace, plan, cluster)
    used = np.flatnonzero(carried > 0)
    single = len(used) <= DRAWN
    groups: dict[tuple[str, str], list[int]] = {}
    for link in used.tolist():
        ends = int(cluster.links.source[link]), int(cluster.links.target[link])
        name = cluster.vertex_name if single else cluster.vertex_kind
        groups.setdefault((name(ends[0]), name(ends[1])), []).append(link)
    share = carried / (cluster.links.capacity * trace.time)
    edges = tuple(_edge(ends, np.array(links), share, carried, cluster) for ends, links in groups.items())
    return NetworkPicture(tuple(_tiers(cluster, used, single)), edges)


def _edge(
    ends: tuple[str, str], links: NDArray[np.int64], share: NDArray[np.float64], carried: NDArray[np.float64],
    cluster: Cluster,
) -> Edge:  # fmt: skip
    busiest = int(links[np.argmax(share[links])])
    return Edge(
        *ends, len(links), float(cluster.links.capacity[busiest]), float(share[links].mean()),
        float(share[busiest]), cluster.link_name(busiest), float(carried[busiest]),
    )  # fmt: skip


def _link_bytes(trace: Trace, plan: Plan, cluster: Cluster) -> NDArray[np.float64]:
    """Bytes over every link of the cluster in a step, (n_links,)."""
    per_class, total = flow_bytes(trace), np.zeros(cluster.links.n)
    for flows, classes in zip(plan.flows, plan.partition.flow, strict=True):
        np.add.at(total, flows.link, flows.coefficient * per_class[classes[flows.owner]])
    return total


def _tiers(cluster: Cluster, used: NDArray[np.int64], single: bool) -> Iterator[tuple[str, tuple[str, ...], int]]:
    ends = np.unique(np.concatenate([cluster.links.source[used], cluster.links.target[used]]))
    for block in cluster.blocks:
        mine = ends[(ends >= block.first) & (ends < block.end)].tolist()
        if mine:
            yield block.kind, tuple(map(block.name, mine)) if single else (), len(mine)


# --- operations ------------------------------------------------------------------------------


def _work(job: Job, rank: RankClass) -> Iterator[OperationTotal]:
    """Operations of a step of one rank with their times."""
    times: Counter[tuple[str, str, float, float, float]] = Counter()
    microbatches = rank.microbatches or job.plan.microbatches[0]
    for chunk in (chunk for chunk in job.plan.chunks if chunk.stage == rank.stage):
        for piece in (piece for segment in chunk.segments for piece in segment.pieces):
            for sequence in piece.passes.by_phase:
                for operation, timed in zip(sequence.operations, job.timed(rank, sequence), strict=False):
                    if operation.kind != "collective":
                        key = (operation.name, operation.kind, operation.flops, operation.bytes_moved, timed.seconds)
                        times[key] += piece.count * microbatches
    for (name, kind, flops, moved, seconds), count in times.items():
        yield OperationTotal(name, kind, flops, moved, seconds, count)
