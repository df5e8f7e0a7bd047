"""Rank classes with their hardware: what an operation costs them, and which flows they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster, Links, NodeKind
from sim.comm.pattern import RING, Carrier, Cost, Group, Leg
from sim.comm.tuner import cost_of, send_cost
from sim.devices.boards import at_pace, slowest_pace, stage_loads
from sim.devices.power import Board
from sim.engine.category import Category
from sim.engine.fairness import totals
from sim.engine.network import FlowTable
from sim.graph.operation import Operation, TokenRouting
from sim.inputs.board import transfer_rate
from sim.inputs.records import Node
from sim.layout.flows import FlowSet, flow_key
from sim.layout.fold import Partition, first_of_class, mix
from sim.layout.host import HOST_KINDS
from sim.layout.pieces import Sequence, Work
from sim.layout.plan import Plan
from sim.memo import Memo
from sim.programs.chains import Alone, Timed, run_alone
from sim.ragged import ranges
from sim.record import text_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CATEGORY = {
    "tensor": Category.TENSOR_COMM,
    "context": Category.CONTEXT_COMM,
    "ulysses": Category.CONTEXT_COMM,
    "expert": Category.EXPERT_COMM,
    "expert_tensor": Category.EXPERT_COMM,
}
GROUP_KINDS = (
    "tensor", "context", "ulysses", "expert", "expert_tensor", "gradient", "replica", "embedding", "expert_gradient",
    "second_copy", *HOST_KINDS,
)  # fmt: skip
# Seconds a kernel that the host waits for, beside issuing it: 9.6 us a kernel with, 3.8 us without waiting (NVIDIA,
# Getting Started with CUDA Graphs, 2019).
SYNCHRONIZATION = 5.8e-6
NO_LINK = -1  # example of a link class that stands for the window of connections


@dataclass(frozen=True)
class FlowClass:
    """A class of equal flows: its kind of group, its communicator, and the rank classes in it.

    A communicator has a flow class on each of its carriers; the one on the ring stands for it. others: its other
    carriers, with their flow classes.
    """

    kind: str
    group: Group
    rate: float  # of each flow when all of the class run and nothing else [B/s]
    members: tuple[int, ...]  # rank classes, sorted
    sender: int = -1  # rank classes of a send
    receiver: int = -1
    carrier: str = RING
    others: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> str:
        """Its kind, with its carrier where that is not the ring."""
        return flow_key(self.kind, self.carrier)


@dataclass(frozen=True)
class Profile:
    """What tells how long a rank takes for a chain: its speed, and communicators inside a layer with their rates.

    inner: kind with carrier, communicator, and rate of its flow, of each. kind: of its node.
    """

    speed: float
    inner: tuple[tuple[str, Group, float], ...]
    kind: int = 0

    @cached_property  # a walk over all operations, asked for at each look-up
    def _hash(self) -> int:
        return hash((self.speed, self.inner, self.kind))

    def __hash__(self) -> int:
        """Known after the first time: it is asked for at every look-up."""
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:
        """Without the hash, which is another one in another process."""
        return Profile, (self.speed, self.inner, self.kind)


@dataclass(frozen=True)
class RankClass:
    """Equal ranks, of which one is simulated. Rank classes of one profile take equal time for a chain."""

    number: int
    representative: int
    stage: int
    count: int
    speed: float  # relative to a healthy accelerator
    flows: dict[str, int]  # kind of group (with carrier), or of what it sends -> flow class, where there is one
    profile: Profile
    microbatches: int = 0  # that it runs in a step, where replicas have different numbers of them

    @property
    def kind(self) -> int:
        """Kind of its node, by its number in the cluster."""
        return self.profile.kind


@dataclass(frozen=True, eq=False)
class Known:
    """Times of operations in sequences, of sequences and of chains of them, by the profile of the rank.

    costs: of collectives, by communicator, kind and bytes.
    """

    times: dict[tuple[Profile, Sequence], list[Timed]] = field(default_factory=dict)
    alone: dict[tuple[Profile, Sequence], Alone] = field(default_factory=dict)
    chains: dict[tuple[object, ...], Alone] = field(default_factory=dict)
    costs: dict[tuple[Group, str, float, TokenRouting | None], Cost] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """The folded job with its costs: rank classes, flow classes, and the table the network needs.

    boards: the accelerator of each kind of node.
    """

    plan: Plan
    ranks: tuple[RankClass, ...]
    flows: tuple[FlowClass, ...]
    table: FlowTable
    boards: tuple[Board, ...]
    known: Known = field(default_factory=Known)
    in_step: frozenset[int] = frozenset()  # tensor flow classes whose ranks are taken to be slowed alike within passes

    @property
    def board(self) -> Board:
        """The accelerator; where there are several kinds of node, that of the first."""
        return self.boards[0]

    @cached_property  # read for each collective that is priced
    def nodes(self) -> tuple[Node, ...]:
        """Kinds of node."""
        return tuple(kind.node for kind in self.plan.cluster.kinds)

    @property
    def stages(self) -> list[list[RankClass]]:
        """Rank classes by pipeline stage."""
        by_stage: list[list[RankClass]] = [[] for _ in range(self.plan.course.stages)]
        for rank in self.ranks:
            by_stage[rank.stage].append(rank)
        return by_stage

    def is_apart(self, flow: int) -> bool:
        """Whether the flows of this kind have their links to themselves, each of them."""
        return self.plan.apart[self.plan.flow_sets[self.flows[flow].kind]]

    def way(self, flow: int, carrier: str) -> int:
        """Flow class of a communicator on a carrier."""
        return flow if carrier == RING else dict(self.flows[flow].others)[carrier]

    def seconds(self, flow: int, kind: str, message: float) -> float:
        """A collective or a send with nothing else on its links."""
        legs = self.cost(flow, kind, message).legs
        return sum(leg.latency + leg.size / self.flows[self._carrying(flow, leg)].rate for leg in legs)

    def _carrying(self, flow: int, leg: Leg) -> int:
        return flow if self.flows[flow].sender >= 0 else self.way(flow, leg.carrier)

    def rivals(self, flow: int) -> frozenset[int]:
        """Flow classes of other communicators that share links with this one, whatever carries either."""
        own = {flow, *(number for _, number in self.flows[flow].others)}
        return frozenset().union(*(self.table.sharing.near(number) for number in own)) - own

    def timed(self, rank: RankClass, sequence: Sequence) -> list[Timed]:
        """A block pass with times; a host that issues too slowly adds what it lags behind."""
        key = (rank.profile, sequence)
        timed = self.known.times.get(key)
        if timed is None:
            operations = sequence.operations
            timed = self._all_timed(rank, operations)
            lag = self._host_lag(rank, operations, timed)
            if lag > 0:
                timed.append(Timed("host issue", Category.OTHER, lag))
            self.known.times[key] = timed
        return timed

    def alone(self, rank: RankClass, work: Work) -> Alone:
        """A chain of block passes run with nothing beside it."""
        key = (rank.profile, *work)
        total = self.known.chains.get(key)
        if total is None:
            times = dict[Sequence, int]()
            for sequence, count in work:
                times[sequence] = times.get(sequence, 0) + count
            self.known.chains[key] = total = Alone()
            for sequence, count in times.items():
                total.add(self._sequence_alone(rank, sequence), count)
        return total

    def _sequence_alone(self, rank: RankClass, sequence: Sequence) -> Alone:
        key = (rank.profile, sequence)
        alone = self.known.alone.get(key)
        if alone is None:
            alone = run_alone(self.timed(rank, sequence), self.plan.software.overlap_slowdown)
            self.known.alone[key] = alone
        return alone

    def all_timed(self, rank: RankClass, work: Work) -> list[Timed]:
        """All operations of a chain, one after the other."""
        return [operation for sequence, count in work for _ in range(count) for operation in self.timed(rank, sequence)]

    def lead(self, rank: RankClass, work: Work, kind: str) -> float:
        """Seconds of computation in a chain before its first collective of a kind."""
        seconds = 0.0
        for sequence, count in work:
            timed = self.timed(rank, sequence)
            first = next((place for place, each in enumerate(timed) if each.group == kind), None)
            before = sum(each.seconds for each in timed[:first] if not each.group)
            if first is not None:
                return seconds + before
            seconds += count * before
        return seconds

    def _all_timed(self, rank: RankClass, operations: tuple[Operation, ...]) -> list[Timed]:
        """Operations with their times; a collective of several legs is as many in a row."""
        legs = [self._time(rank, operation) for operation in operations]
        ends = list(accumulate(map(len, legs)))
        timed: list[Timed] = []
        for position, (operation, mine) in enumerate(zip(operations, legs, strict=True)):
            if operation.hidden_by and mine[0].group:
                last = ends[min(position + operation.hidden_by, len(ends) - 1)]
                first = ends[position] - len(mine)
                mine = [each._replace(hidden_by=last - first - 1 - place) for place, each in enumerate(mine)]
            timed += mine
        return timed

    def _time(self, rank: RankClass, operation: Operation) -> list[Timed]:
        if operation.kind != "collective":
            work = self.boards[rank.kind].run(operation, rank.speed)
            return [Timed(operation.name, Category.COMPUTE, work.seconds, joules=work.joules, phase=work.phase)]
        kind = operation.group or ""
        flow = rank.flows.get(kind, -1)
        if flow < 0:
            return [Timed(operation.name, Category.COMPUTE, 0.0)]
        timed = []
        cost = self.cost(flow, operation.collective or "", operation.message, operation.routing)
        for latency, size, carrier in cost.legs:
            key = flow_key(kind, carrier)
            seconds = latency + size / self.flows[rank.flows[key]].rate
            timed.append(Timed(operation.name, CATEGORY[kind], seconds, kind, key, latency, size))
        timed[0] = timed[0]._replace(collective=operation.collective or "", message=operation.message)
        return timed

    def cost(self, flow: int, kind: str, message: float, routing: TokenRouting | None = None) -> Cost:
        """Start-up and bytes of a collective (or a send) on the communicator of flow class `flow`."""
        each = self.flows[flow]
        if each.sender >= 0:
            ends = (self.nodes[kind] for kind in each.group.kinds)
            return send_cost(message, each.group.nodes, each.group.hop_latency, *ends)
        key = (each.group, kind, message, routing)
        cost = self.known.costs.get(key)
        if cost is None:
            cost = self.known.costs[key] = cost_of(kind, message, each.group, self.nodes, routing)
        return cost

    def _host_lag(self, rank: RankClass, operations: tuple[Operation, ...], timed: list[Timed]) -> float:
        """What eager issue adds: kernels times issue cost, less what the device needs anyway.

        Launches that block hide nothing: the host learns that a kernel has ended before it issues the next. What
        the device needs, at least its computation, is with each collective alone on its links: who shares them must
        not depend on folding.
        """
        issue = self.plan.software.host_issue
        if issue == 0:
            return 0.0
        kernels = sum(operation.kernels for operation in operations)
        if self.plan.software.blocking_launches:
            return kernels * (issue + SYNCHRONIZATION)
        needed = kernels * issue + sum(operation.waits for operation in operations)  # it issues nothing while it waits
        if needed <= sum(t.seconds for t in timed if not t.group):
            return 0.0
        rate = {key: self.flows[flow].group.rate_of(self.flows[flow].carrier) for key, flow in rank.flows.items()}
        alone = [t._replace(seconds=t.latency + t.size / rate[t.carrier]) if t.group else t for t in timed]
        return needed - run_alone(alone, self.plan.software.overlap_slowdown).seconds


@dataclass(frozen=True)
class Quotient:
    """What folding leaves of a layout: the part of a job that knows no work."""

    links: Links
    ranks: tuple[RankClass, ...]
    flows: tuple[FlowClass, ...]
    table: FlowTable


_quotients: WeakKeyDictionary[Partition, Quotient] = WeakKeyDictionary()  # of the layouts that are kept
KEPT_BOARDS = 128  # with the times that are known on them: up to 0.1 MB each
_boards: Memo[Board] = Memo(KEPT_BOARDS)  # their times of operations go along
_known: Memo[Known] = Memo(KEPT_BOARDS)  # times of chains hold for all plans on a board
KNOWN_TIMES = 500  # so many of each kind are kept for a board


def build_job(plan: Plan) -> Job:
    """Representatives of the folded plan, with what they need to know about the network."""
    folded = _quotients.get(plan.partition)
    if folded is None or folded.links is not plan.cluster.links:
        folded = _quotients[plan.partition] = quotient(plan, flow_table(plan))
    return job_of(plan, folded)


def job_of(plan: Plan, folded: Quotient) -> Job:
    """The job of a plan whose layout is folded."""
    boards = _boards_of(plan)
    return Job(plan, folded.ranks, folded.flows, folded.table, boards, _known_to(plan, boards))


def _known_to(plan: Plan, boards: tuple[Board, ...]) -> Known:
    """Times that earlier jobs have found; they follow from boards, the collectives of nodes, and the stack."""
    if plan.experiment.simulation.reuse == "off":
        return Known()
    nodes = tuple((kind.node.collectives, kind.node.local) for kind in plan.cluster.kinds)
    known = _known.get((boards, nodes, text_of(plan.software)), Known, lambda _: 1.0)
    if max(len(known.times), len(known.chains), len(known.costs)) > KNOWN_TIMES:
        for table in (known.times, known.alone, known.chains, known.costs):
            table.clear()
    return known


def _boards_of(plan: Plan) -> tuple[Board, ...]:
    """The accelerator of each kind of node."""
    return tuple(_board(plan, number, kind) for number, kind in enumerate(plan.cluster.kinds))


def _board(plan: Plan, number: int, kind: NodeKind) -> Board:
    """The accelerator of a kind of node that the job waits for; kept with its times unless nothing is used again."""
    accelerator, setting, kernel = kind.accelerator, plan.experiment.power, plan.software.attention_kernel
    boards, loads = _boards_at_work(plan, number)
    pace = slowest_pace(accelerator.matrix.spread, boards, loads)
    sends = transfer_rate(kind.node, plan.cluster.spec.fabric)

    def make() -> Board:
        return Board(at_pace(accelerator, pace), setting, kernel, sends)

    if plan.experiment.simulation.reuse == "off":
        return make()
    return _boards.get((text_of(accelerator), pace, setting, kernel, sends), make, lambda board: 1.0)


def _boards_at_work(plan: Plan, number: int) -> tuple[int, tuple[float, ...]]:
    """Accelerators a stage like those of a kind of node, and loads of the stages that have some: see `slowest_pace`."""
    loads, kinds = stage_loads(plan.chunks), plan.cluster.kinds
    if len(kinds) == 1:
        return plan.grid.n_ranks // len(loads), loads
    alike = np.array([kind.accelerator == kinds[number].accelerator for kind in kinds])
    mine = alike[plan.cluster.kind_of(plan.grid.accelerator)]
    there = np.bincount(plan.grid.coordinate["pipeline"][mine], minlength=len(loads))
    stages = np.flatnonzero(there).tolist()
    return int(there.sum()) // max(1, len(stages)), tuple(loads[stage] for stage in stages) or loads


def quotient(plan: Plan, table: FlowTable, flows: tuple[FlowClass, ...] = ()) -> Quotient:
    """What folding leaves of a plan, with the flow classes of `table`: those given, else all of the plan's own."""
    rank_of = plan.partition.rank
    columns = _flow_columns(plan)
    speed, kind = plan.cluster.speed[plan.grid.accelerator], plan.cluster.kind_of(plan.grid.accelerator)
    counts = np.bincount(rank_of)
    flows = flows or tuple(flow_classes(plan, table))
    ranks, known = [], dict[Profile, Profile]()
    for number, rank in enumerate(plan.partition.representatives().tolist()):
        mine = {key: int(column[rank]) for key, column in columns.items() if column[rank] >= 0}
        profile = Profile(float(speed[rank]), inner_of(mine, flows), int(kind[rank]))
        profile = known.setdefault(profile, profile)
        count, stage, runs = int(counts[number]), plan.stage_of(rank), plan.own_microbatches(rank)
        ranks.append(RankClass(number, rank, stage, count, profile.speed, mine, profile, runs))
    return Quotient(plan.cluster.links, tuple(ranks), flows, table)


def _flow_columns(plan: Plan) -> dict[str, Ints]:
    """Flow class of each rank's group of each kind, and of what it sends, (n_ranks,) each."""
    columns = {
        flow_set.key: plan.flow_classes(flow_set.key)
        for kind in GROUP_KINDS
        for flow_set in plan.flows
        if flow_set.kind == kind
    }
    sends = [flows.kind for flows in plan.flows if flows.ordered]
    return columns | {kind: plan.flow_classes(kind, 0) for kind in sends}


def inner_of(classes: Mapping[str, int], flows: Iterable[FlowClass]) -> tuple[tuple[str, Group, float], ...]:
    """The communicators inside the layers of a rank that is in these flow classes, as a `Profile` wants them."""
    every = tuple(flows)
    mine = [every[number] for number in classes.values()]
    return tuple((flow.key, flow.group, flow.rate) for kind in CATEGORY for flow in mine if flow.kind == kind)


def flow_classes(plan: Plan, table: FlowTable) -> list[FlowClass]:
    """The plan's own flow classes, in the order of their numbers."""
    rates, rank_of = table.solo_rates(), plan.partition.rank
    classes: list[FlowClass] = []
    for flow_set, flow_of in zip(plan.flows, plan.partition.flow, strict=True):
        alike = [number for number, other in enumerate(plan.flows) if other.kind == flow_set.kind]
        beside = [number for number in alike if plan.flows[number].carrier != RING]
        first = first_of_class(flow_of)
        columns = zip(
            groups_of([plan.flows[number] for number in alike], first, plan.cluster),
            rates[flow_of[first]].tolist(),
            rank_of[flow_set.members[first]].tolist(),
            *(plan.partition.flow[number][first].tolist() for number in beside),
            strict=True,
        )
        carriers = [plan.flows[number].carrier for number in beside]
        for group, rate, members, *others in columns:
            sender, receiver = members if flow_set.ordered else (-1, -1)
            laid, every = tuple(zip(carriers, others, strict=True)), tuple(sorted(set(members)))
            classes.append(
                FlowClass(flow_set.kind, group, rate, every, sender, receiver, flow_set.carrier, others=laid)
            )
    return classes


def groups_of(flow_sets: list[FlowSet], numbers: Ints, cluster: Cluster) -> list[Group]:
    """The communicators with the flows `numbers` in each of the sets of their kind, the ring first.

    They have what their links allow them when nothing else runs.
    """
    ring, *others = flow_sets
    size, nodes, latency = ring.members.shape[1], ring.nodes[numbers].tolist(), ring.latency[numbers].tolist()
    laid: list[tuple[Carrier, ...]] = [()] * len(numbers)
    for other in others:
        columns = _alone(other, numbers, cluster).min(axis=0).tolist(), other.latency[numbers].tolist()
        added = (Carrier(other.carrier, *each) for each in zip(*columns, strict=True))
        laid = [(*before, carrier) for before, carrier in zip(laid, added, strict=True)]
    columns = nodes, latency, *_alone(ring, numbers, cluster).tolist(), laid, ring.kinds_of(numbers)
    return [Group(size, *each) for each in zip(*columns, strict=True)]


def _alone(flow_set: FlowSet, numbers: Ints, cluster: Cluster) -> Floats:
    """What links in nodes, and those between them, allow flows alone, (2, n) [B/s]; inf where there are none."""
    width = flow_set.start[numbers + 1] - flow_set.start[numbers]
    entry, flow = ranges(flow_set.start[numbers], width), np.repeat(np.arange(len(numbers)), width)
    link = flow_set.link[entry]
    outside = link >= cluster.servers.n_links
    alone = np.full((2, len(numbers)), np.inf)
    np.minimum.at(alone, (outside.astype(np.int64), flow), cluster.links.capacity[link] / flow_set.coefficient[entry])
    alone[1] = np.minimum(alone[1], flow_set.most(numbers))
    return alone


def flow_table(plan: Plan) -> FlowTable:
    """The quotient: what all flows of a class put on one link of a class.

    Links left out of rate sharing follow the others, in classes of equal capacity and load; a link of which a part
    counts there is among them, and its row stands for no link. Where the window of its connections holds a flow back,
    that is a link of its own, which is in no cluster (`NO_LINK`).
    """
    partition, capacity = plan.partition, plan.structure.capacity
    n_flows = 1 + max((int(f.max()) for f in partition.flow), default=-1)
    examples, whole = first_of_class(partition.link), whole_links(plan)
    flow, link, coefficient = _loads_on(plan, plan.links[examples], n_flows, plan.rows.counts if plan.rows else None)
    held, most, flows = _held_back(plan, flow, capacity[examples][link] / coefficient, n_flows)
    n_shared = len(examples) + len(held)
    count = np.bincount(partition.link[whole], minlength=len(examples))
    examples[partition.link[whole][::-1]] = np.flatnonzero(whole)[::-1]
    passive = _passive_links(plan, n_flows, plan.links[whole])
    table = FlowTable(
        n_flows=n_flows,
        n_shared=n_shared,
        flow=np.concatenate([flow, held, passive.flow]),
        link=np.concatenate([link, np.arange(len(examples), n_shared), passive.link + n_shared]),
        coefficient=np.concatenate([coefficient, np.ones(len(held)), passive.load]),
        capacity=np.concatenate([capacity[examples], most, plan.cluster.links.capacity[passive.example]]),
        link_count=np.concatenate([count, flows, passive.links]),
        link_example=np.concatenate([plan.links[examples], np.full(len(held), NO_LINK), passive.example]),
    )
    if plan.rows is None:
        return table
    place = np.where(passive.place < 0, -1, passive.place + n_shared)
    place[plan.links[whole]] = partition.link[whole]
    return replace(
        table,
        left_out=np.concatenate([np.zeros(n_shared, dtype=bool), passive.left_out]),
        inside=np.concatenate([np.zeros(len(flow) + len(held)), passive.inside]),
        place=place,
    )


def _held_back(plan: Plan, flow: Ints, rate: Floats, n_flows: int) -> tuple[Ints, Floats, Ints]:
    """Flow classes that the window of their connections keeps below what links allow them alone.

    flow, rate: (nnz,) what each link allows each class [B/s]. Returns the classes, what their windows allow, and how
    many flows each stands for.
    """
    most, flows = np.full(n_flows, np.inf), np.zeros(n_flows, dtype=np.int64)
    for flow_set, flow_of in zip(plan.flows, plan.partition.flow, strict=True):
        first = first_of_class(flow_of)
        most[flow_of[first]] = flow_set.most(first)
        flows += np.bincount(flow_of, minlength=n_flows)
    alone = np.full(n_flows, np.inf)
    np.minimum.at(alone, flow, rate)
    held = np.flatnonzero(most < alone)
    return held, most[held], flows[held]


def whole_links(plan: Plan) -> NDArray[np.bool_]:
    """Which of the links in the structure count there with all that crosses them, (n,)."""
    whole = np.ones(plan.cluster.links.n, dtype=bool)
    if plan.rows is not None:
        for flow_set, counts in zip(plan.flows, plan.rows.counts, strict=True):
            whole[flow_set.link[~counts]] = False
    chosen: NDArray[np.bool_] = whole[plan.links]
    return chosen


def _loads_on(
    plan: Plan, links: Ints, n_flows: int, counts: tuple[NDArray[np.bool_], ...] | None = None
) -> tuple[Ints, Ints, Floats]:
    """Total coefficient of each flow class on each of `links`: flow class, position in `links`, load.

    counts: of each flow set, which coefficients to take, (nnz,).
    """
    place = np.full(plan.cluster.links.n, -1)
    place[links] = np.arange(len(links))
    keys, loads = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for number, (flow_set, flow_of) in enumerate(zip(plan.flows, plan.partition.flow, strict=True)):
        where = place[flow_set.link]
        chosen = np.flatnonzero(where >= 0 if counts is None else (where >= 0) & counts[number])
        owner = np.searchsorted(flow_set.start, chosen, side="right") - 1
        keys.append(where[chosen] * n_flows + flow_of[owner])
        loads.append(flow_set.coefficient[chosen])
    key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    return key % max(n_flows, 1), key // max(n_flows, 1), totals(inverse, np.concatenate(loads), len(key))


class Passive(NamedTuple):
    """Links in use that take no part in rate sharing, in classes of equal capacity and load.

    example, links, left_out: (n,) one link of each class, how many it stands for, whether it may fill. flow, link,
    load, inside: (nnz,) flow class, link class, coefficient, and what of it counts in a row. place: (n_links,) class
    of each link of the cluster, -1 for others.
    """

    example: Ints
    links: Ints
    left_out: NDArray[np.bool_]
    flow: Ints
    link: Ints
    load: Floats
    inside: Floats
    place: Ints


def _passive_links(plan: Plan, n_flows: int, whole: Ints) -> Passive:
    """All links in use but those that share rates with all that crosses them."""
    used = np.zeros(plan.cluster.links.n, dtype=bool)
    for flow_set in plan.flows:
        used[flow_set.link] = True
    used[whole] = False
    links = np.flatnonzero(used)
    flow, link, load = _loads_on(plan, links, n_flows)
    inside, left_out = np.zeros(len(flow)), np.zeros(len(links), dtype=bool)
    if plan.rows is not None:
        their_flow, their_link, counted = _loads_on(plan, links, n_flows, plan.rows.counts)
        inside[np.searchsorted(link * n_flows + flow, their_link * n_flows + their_flow)] = counted
        left_out = plan.rows.can_fill[links]
    signature = mix(plan.cluster.links.capacity[links].view(np.uint64)) + left_out
    content = mix(mix(flow.astype(np.uint64)) ^ load.view(np.uint64))
    if inside.any():
        content = mix(content ^ inside.view(np.uint64))
    np.add.at(signature, link, content)
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    kept = np.isin(link, first)
    order = np.argsort(first)
    rank = np.empty(len(links), dtype=np.int64)
    rank[first[order]] = np.arange(len(first))
    place = np.full(len(used), -1)
    place[links] = rank[first[inverse]]
    example = first[order]
    return Passive(
        links[example],
        np.bincount(inverse)[order],
        left_out[example],
        flow[kept],
        rank[link[kept]],
        load[kept],
        inside[kept],
        place,
    )


def guilty_rows(plan: Plan, table: FlowTable, link: Ints, flow: Ints) -> tuple[NDArray[np.bool_], ...]:
    """Which coefficients are those of flow classes `flow` on link classes `link` of the table, (nnz,) of each set."""
    guilty = np.zeros(len(table.capacity) + 1, dtype=bool)
    guilty[link] = True
    pairs, masks = np.unique(link * table.n_flows + flow), []
    for flow_set, flow_of in zip(plan.flows, plan.partition.flow, strict=True):
        mask = guilty[table.place[flow_set.link]]
        chosen = np.flatnonzero(mask)
        owner = np.searchsorted(flow_set.start, chosen, side="right") - 1
        key = table.place[flow_set.link[chosen]] * table.n_flows + flow_of[owner]
        mask[chosen] = np.isin(key, pairs)
        masks.append(mask)
    return tuple(masks)
