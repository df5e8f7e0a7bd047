"""What the instructions of a program cost a job: the numbers in a program, whose structure does not depend on them."""

from __future__ import annotations

from sim.engine.program import Action
from sim.engine.ranks import Job, RankClass
from sim.plan.pieces import Sequence, Work


def chain_action(label: str, rank: RankClass, work: Work, job: Job) -> Action:
    """A chain of block passes that meets nobody."""
    alone = job.alone(rank, work)
    return Action(
        label,
        "compute",
        (rank.number,),
        alone.seconds,
        parts=tuple(alone.parts.items()),
        comm=alone.comm,
        carried=tuple([(rank.flows[group], size) for group, size in alone.sizes.items()]),
        operations=alone.operations,
        joules=tuple(alone.spent.joules.items()),
        busy=alone.spent.busy,
    )


def send_action(label: str, flow: int, message: float, job: Job) -> Action:
    """A send of `message` bytes to a neighbouring stage."""
    cost = job.cost(flow, "send", message)
    return Action(label, "pipeline_comm", flow=flow, size=cost.size, latency=cost.latency)


def exchange_action(label: str, flow: int, kind: str, message: float, beside: tuple[int, ...], job: Job) -> Action:
    """A data-parallel collective, `message` in the convention of nccl-tests [B]; it slows the work of `beside`."""
    cost = job.cost(flow, kind, message)
    return Action(label, "data_comm", flow=flow, size=cost.size, latency=cost.latency, steals=beside)


def optimizer_action(rank: RankClass, update: Sequence, job: Job) -> Action:
    """The optimizer step of a rank."""
    alone = job.alone(rank, [(update, 1)])
    return Action(
        "optimizer",
        "optimizer",
        (rank.number,),
        alone.seconds,
        parts=(("optimizer", alone.seconds),),
        joules=tuple(alone.spent.joules.items()),
        busy=alone.spent.busy,
    )
