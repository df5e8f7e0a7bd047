"""How fast a job is at the most and at the least beside others, from itself alone, whatever the phases.

No flow is ever faster than alone on its links. Nor is a max-min rate ever below what each has if all who may be on a
link get as much: a flow is slowed by a full link on which nobody is faster. Streams have a fixed order, so a program
takes longer the longer its instructions do: one run at each of the two rates proves a bracket.

Public: `bracket`, `Tenant`, `alone`, `crowded`, `flows_of`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from sim.engine.category import Category
from sim.engine.executor import Executor
from sim.engine.fairness import Floats
from sim.engine.network import FlowTable, Network
from sim.engine.program import Action, Program


@dataclass(frozen=True)
class Tenant:
    """A job beside others: one step of it, the ranks of its flows, and what a collective beside work takes of it."""

    program: Program
    flow_ranks: tuple[tuple[int, ...], ...] = ()
    slowdown: float = 0.0
    skip: bool = True


def alone(tenant: Tenant, table: FlowTable) -> float:
    """Seconds of a step with nobody else there."""
    network = Network(table)
    run = Executor(tenant.program, network, flow_ranks=tenant.flow_ranks, slowdown=tenant.slowdown, skip=tenant.skip)
    network.env.run(until=run.begin())
    return float(network.env.now)


def bracket(tenants: Sequence[Tenant], table: FlowTable) -> list[tuple[float, float]]:
    """Least and most seconds of a step of each job beside all others. Inf: others go first and may take all."""
    least = _apart(table, table.solo_rates())
    most = _apart(table, crowded(tenants, table))
    found = []
    for tenant in tenants:
        low = alone(replace(tenant, slowdown=0.0), least)
        worst = replace(tenant, program=_slowed(tenant.program, tenant.slowdown), slowdown=0.0)
        found.append((low, inf if _may_starve(tenant, table) else alone(worst, most)))
    return found


def _apart(table: FlowTable, rates: Floats) -> FlowTable:
    """The same flows, each with a link to itself at these rates [B/s]."""
    flow = np.flatnonzero(np.isfinite(rates))
    link, ones = np.arange(len(flow)), np.ones(len(flow), dtype=np.int64)
    return FlowTable(table.n_flows, len(flow), flow, link, np.ones(len(flow)), rates[flow], ones, -ones)


def crowded(tenants: Sequence[Tenant], table: FlowTable) -> Floats:
    """Rate of each class if all streams of all jobs that move bytes over one of its links do so, (n_flows,) B/s."""
    flows = Counter(flow for tenant in tenants for stream in flows_of(tenant.program) for flow in stream)
    weight = np.array([float(flows[flow]) for flow in range(table.n_flows)])
    shared = table.link < table.n_shared
    flow, link = table.flow[shared], table.link[shared]
    load = np.bincount(link, table.coefficient[shared] * weight[flow], table.n_shared)
    rate = np.full(table.n_flows, np.inf)
    used = weight[flow] > 0
    np.minimum.at(rate, flow[used], table.capacity[link[used]] / load[link[used]])
    return rate


def flows_of(program: Program) -> list[set[int]]:
    """Flow classes of each stream."""
    actions = ([program.actions[program.templates[t].action] for t in stream.table] for stream in program.streams)
    return [{action.flow for action in mine if action.flow >= 0} for mine in actions]


def _may_starve(tenant: Tenant, table: FlowTable) -> bool:
    """Whether somebody goes before one of its flows on its links."""
    if not table.priority:
        return False
    mine = {flow for stream in flows_of(tenant.program) for flow in stream}
    return any(table.priority[other] < table.priority[flow] for flow in mine for other in table.sharing.near(flow))


def _slowed(program: Program, slowdown: float) -> Program:
    """The program as if every collective that takes processors ran all the time."""
    kinds = {action.category == Category.DATA_COMM for action in program.actions if action.steals}
    if not slowdown or not kinds:
        return program
    share = 1.0 - slowdown

    def speed(action: Action) -> float:
        return (share if True in kinds else 1.0) * (share if False in kinds and action.is_computation else 1.0)

    actions = [
        action._replace(duration=action.duration / speed(action), latency=action.latency / speed(action))
        for action in program.actions
    ]
    return replace(program, actions=actions)
