"""How the actions of a program come from the costs of a job; the script of a program does not depend on them.

A recipe says where in a job its numbers come from (rank and flow classes, chunks and segments by number), so it
serves any job of the same shape.
"""

from __future__ import annotations

from sim.comm.pattern import Cost
from sim.engine.costs import Costs, Message, Place
from sim.engine.program import Action


def given_action(action: Action, costs: Costs) -> Action:
    """An action that is the same for every job."""
    return action


def chain_action(label: str, place: Place, costs: Costs) -> Action:
    """A chain of block passes that meets nobody."""
    chain, flows = costs.chain(place), costs.job.ranks[place.rank].flows
    return Action(
        label,
        "compute",
        (place.rank,),
        chain.seconds,
        parts=chain.parts,
        comm=chain.comm,
        carried=tuple([(flows[group], size) for group, size in chain.sizes]),
        operations=chain.operations,
        joules=chain.joules,
        busy=chain.busy,
    )


def step_action(label: str, place: Place, number: int, costs: Costs) -> Action:
    """The computation in a step of a cut pass."""
    step = costs.steps(place)[number]
    return Action(
        label,
        "compute",
        (place.rank,),
        sum(step.parts.values()),
        parts=tuple(step.parts.items()),
        operations=len(step.parts),
        joules=tuple(step.spent.joules.items()),
        busy=step.spent.busy,
    )


def inner_action(place: Place, number: int, flow: int, costs: Costs) -> Action:
    """The collective that a step of a cut pass issues; with its links to itself it takes a known time."""
    operation = costs.steps(place)[number].issue
    assert operation is not None
    members = costs.job.flows[flow].members
    action = Action(operation.name, operation.category, steals=members if operation.hidden_by else (), operations=1)
    way = costs.job.ranks[place.rank].flows[operation.carrier]
    if costs.job.is_apart(flow):
        return action._replace(ranks=members, duration=operation.seconds, carried=((way, operation.size),))
    return action._replace(flow=way, size=operation.size, latency=operation.latency)


def send_action(label: str, flow: int, costs: Costs) -> Action:
    """What a stage sends to its neighbour."""
    cost = costs.job.cost(flow, "send", costs.stage_message)
    return Action(label, "pipeline_comm", flow=flow, size=cost.size, latency=cost.latency)


def exchange_action(
    label: str, flow: int, kind: str, message: Message, beside: tuple[int, ...], costs: Costs
) -> Action:
    """A data-parallel collective; it slows the work of `beside`."""
    return _exchange(label, flow, costs.job.cost(flow, kind, costs.message(message)), beside, costs)


def embedding_action(flow: int, costs: Costs) -> Action:
    """The sum of the gradients of a tied embedding."""
    cost = costs.job.cost(flow, "all_reduce", costs.embedding_bytes)
    return _exchange("embedding gradients", flow, cost, (), costs)


def _exchange(label: str, flow: int, cost: Cost, beside: tuple[int, ...], costs: Costs) -> Action:
    """One instruction, as all collectives of data-parallel ranks have one phase."""
    (phase,) = cost.phases
    way = costs.job.way(flow, phase.carrier)
    return Action(label, "data_comm", flow=way, size=phase.size, latency=phase.latency, steals=beside)


def optimizer_action(rank: int, costs: Costs) -> Action:
    """The optimizer step of a rank."""
    chain = costs.update(rank)
    parts = (("optimizer", chain.seconds),)
    return Action("optimizer", "optimizer", (rank,), chain.seconds, parts=parts, joules=chain.joules, busy=chain.busy)


def overhead_action(rank: int, costs: Costs) -> Action:
    """What the host does between two steps."""
    overhead = costs.job.plan.software.step_overhead
    return Action("step overhead", "other", (rank,), overhead, parts=(("other", overhead),))
