"""Failures of nodes and jobs, and repair: processes beside the clock of the fleet.

Failures come as one Poisson process over all nodes, thinned where a node is in repair already: exact for exponential
laws, which others are taken for here.

Public: `begin_faults`.
"""

from __future__ import annotations

from collections.abc import Generator
from math import inf
from typing import TYPE_CHECKING

from simpy import Event, Resource

from sim.fleet.inputs import FaultKind, FleetFaults
from sim.inputs.fault_log import Outage
from sim.life.delay import draw
from sim.rng import stream

if TYPE_CHECKING:
    from sim.fleet.fleet import Fleet

Waiting = Generator[Event, None, None]


def begin_faults(fleet: Fleet, faults: FleetFaults) -> None:
    """Let things fail from now on."""
    crew = Resource(fleet.env, capacity=faults.crew) if faults.crew else None
    for number, sort in enumerate(fleet.inputs.sorts):
        first = sum(each.nodes for each in fleet.inputs.sorts[:number])
        for kind in faults.nodes[number] if faults.nodes else ():
            if kind.rate > 0:
                fleet.env.process(_fail_nodes(fleet, kind, first, sort.nodes, crew))
    if faults.jobs > 0:
        fleet.env.process(_fail_jobs(fleet, faults.jobs))
    for outage in faults.outages:
        if outage.node < len(fleet.sort_of):
            fleet.env.process(_replay(fleet, outage))


def _fail_nodes(fleet: Fleet, kind: FaultKind, first: int, nodes: int, crew: Resource | None) -> Waiting:
    random = stream(fleet.seed, f"fleet/faults/{kind.cause}/{first}")
    while True:
        yield fleet.env.timeout(float(random.exponential(1 / (kind.rate * nodes))))
        node = first + int(random.integers(nodes))
        repair = draw(kind.repair, random) if kind.repair else 0.0
        if fleet.boards.up >> node & 1:
            _break(fleet, node, kind.cause, kind.repair is not None)
            if kind.repair is not None:
                fleet.env.process(_repair(fleet, node, repair, crew))
            fleet.think()


def _break(fleet: Fleet, node: int, cause: str, out: bool) -> None:
    fleet.faults[cause] += 1
    fleet.strike(node, cause)
    if out:
        fleet.take_out(node)
        fleet.repairing += 1


def _repair(fleet: Fleet, node: int, seconds: float, crew: Resource | None) -> Waiting:
    if crew is None:
        yield fleet.env.timeout(seconds)
    else:
        with crew.request() as turn:
            yield turn
            yield fleet.env.timeout(seconds)
    fleet.repairing -= 1
    fleet.bring_back(node)


def _replay(fleet: Fleet, outage: Outage) -> Waiting:
    yield fleet.env.timeout(outage.start)
    if not fleet.boards.up >> outage.node & 1:
        return
    _break(fleet, outage.node, outage.cause, out=True)
    fleet.think()
    if outage.end < inf:
        yield fleet.env.timeout(outage.end - outage.start)
        fleet.repairing -= 1
        fleet.bring_back(outage.node)
    else:
        fleet.repairing -= 1


def _fail_jobs(fleet: Fleet, rate: float) -> Waiting:
    """Each running job fails at `rate`: as many candidates as there could be jobs, thinned to those there are."""
    random = stream(fleet.seed, "fleet/faults/jobs")
    most = max(1, sum(fleet.boards.sizes))
    while True:
        yield fleet.env.timeout(float(random.exponential(1 / (rate * most))))
        number = int(random.integers(most))
        if number < len(fleet.running):
            fleet.reach(fleet.env.now)
            fleet.faults["job"] += 1
            fleet.fail(list(fleet.running.values())[number], "job")
            fleet.think()
