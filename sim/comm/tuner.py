"""Which pattern runs a collective: the one that the library of the platform takes to be quickest.

A platform file names the patterns that its library has (`node.collectives.patterns`); all there are stand in PATTERNS.
Time = max(floor, start + ramp + bytes/rate); the ramp stands for filling the chunk pipeline and for the change of
protocol with size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf, sqrt

from sim.comm.broadcast import Broadcast
from sim.comm.deduplicated import Deduplicated, deduplicated_cost
from sim.comm.direct import Direct
from sim.comm.exchange import Exchange
from sim.comm.hierarchical import Hierarchical
from sim.comm.in_network import InNetwork
from sim.comm.pattern import RING, Cost, Group, Pattern
from sim.comm.ring import Ring
from sim.comm.send import Send
from sim.comm.torus_rings import TorusRings
from sim.comm.tree import Tree
from sim.errors import PlanError, Problem
from sim.graph.operation import TokenRouting
from sim.inputs.records import CollectiveTuning, Node

PATTERNS: dict[str, Pattern] = {
    pattern.name: pattern
    for pattern in (
        Ring(),
        TorusRings(),
        Tree(),
        InNetwork(),
        Exchange(),
        Direct(),
        Hierarchical(),
        Deduplicated(),
        Broadcast(),
        Send(),
    )
}


OF_STACKS = (PATTERNS["deduplicated"],)  # kernels of a software stack, on whichever platform


def collective_cost(
    kind: str, message: float, group: Group, node: Node, algorithms: Collection[str] | None = None
) -> Cost:
    """The way that the library takes for `kind` with `message` bytes (nccl-tests convention) in `group`.

    `algorithms` limits the choice, where one of them can do it. Raises PlanError where none can.
    """
    there = [each for each in _library(node) if each.serves(kind, group, node)]
    there = [each for each in there if algorithms is None or each.name in algorithms] or there
    if not there:
        fault = f"none of {', '.join(node.collectives.patterns) or 'no patterns'} runs {kind}"
        raise PlanError(Problem("", "node.collectives.patterns", fault, "add ring, exchange or broadcast"))
    best = there[0] if len(there) == 1 else min(there, key=lambda each: each.believed(kind, message, group, node))
    first, *others = best.cost(kind, message, group, node)
    floor, ramp = floor_and_ramp(node.collectives, group.nodes, message)
    cost = Cost(best.name, (first._replace(latency=0.0), *others))
    start = max(first.latency + ramp, floor - cost.seconds(group))
    return Cost(best.name, (first._replace(latency=start), *others))


def cost_of(
    kind: str, message: float, group: Group, nodes: Sequence[Node], routing: TokenRouting | None = None
) -> Cost:
    """`kind` as the library runs it, or, of tokens that choose experts by `routing`, as kernels of a stack do.

    nodes: the kinds in the cluster. Members on several kinds run one that the libraries of all of them have, and go as
    fast as the slowest.
    """
    there = [nodes[number] for number in group.kinds]
    if routing is not None:
        costs = [deduplicated_cost(message, group, node, routing) for node in there]
    elif len(there) == 1:
        return collective_cost(kind, message, group, there[0])
    else:
        common = frozenset.intersection(*(_serving(kind, group, node) for node in there))
        costs = [collective_cost(kind, message, group, node, common) for node in there]
    return max(costs, key=lambda cost: cost.seconds(group))


def _serving(kind: str, group: Group, node: Node) -> frozenset[str]:
    """Patterns of the library of a platform that run a collective in a group."""
    return frozenset(each.name for each in _library(node) if each.serves(kind, group, node))


def send_cost(message: float, nodes: int, path_latency: float, *ends: Node) -> Cost:
    """A point-to-point send between two ranks, `path_latency` [s] apart, on nodes of these kinds: as the slowest."""
    send, group = PATTERNS["send"], Group(2, nodes, path_latency)
    costs = [Cost(send.name, send.cost("send", message, group, node)) for node in ends]
    return max(costs, key=lambda cost: cost.latency)


def carriers_on(collectives: Iterable[str], nodes: Iterable[Node], size: int) -> tuple[str, ...]:
    """Carriers that groups of `size` members on any of these kinds of node may need, the ring first."""
    asked = list(collectives)
    return tuple(dict.fromkeys(carrier for node in nodes for carrier in carriers(asked, node, size)))


def carriers(collectives: Iterable[str], node: Node, size: int) -> tuple[str, ...]:
    """Carriers that groups of `size` members may need for these collectives, the ring first."""
    asked = list(collectives)
    spread = [Group(size, nodes, 0.0) for nodes in {1, 2, size}]
    used = [
        carrier
        for pattern in (*_library(node), *OF_STACKS)
        if any(pattern.serves(kind, group, node) for kind in asked for group in spread)
        for carrier in pattern.carriers
    ]
    return tuple(dict.fromkeys([RING, *used]))


def layer_of(carrier: str) -> Pattern:
    """The pattern that lays a carrier."""
    return next(pattern for pattern in PATTERNS.values() if carrier in pattern.carriers)


def floor_and_ramp(tuning: CollectiveTuning, nodes: int, message: float) -> tuple[float, float]:
    """Least time of a collective over `nodes` servers and the ramp of `message` bytes [s].

    The best chunk grows with the square root of the message, and with it the time to fill the pipeline,
    until chunks are as large as the library's buffers.
    """
    floor, ramp, limit = tuning.floor, tuning.ramp, tuning.ramp_limit
    if nodes > 1:
        floor = floor if tuning.floor_network is None else tuning.floor_network
        ramp = ramp if tuning.ramp_network is None else tuning.ramp_network
        limit = limit if tuning.ramp_limit_network is None else tuning.ramp_limit_network
    return floor, min(inf if limit is None else limit, ramp * sqrt(message))


def _library(node: Node) -> list[Pattern]:
    return [PATTERNS[name] for name in node.collectives.patterns]
