"""What the life of a job is made from, and what comes out of it.

Public: `LifeInputs`, `Saving`, `Outage`, `Slow`, `State`, `Life`, `Fault`, `Incident`, `Span`, `Repair`, `BADPUT`,
`called`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple

from sim.inputs.fault_log import Outage
from sim.inputs.reliability import Failures, Recovery
from sim.life.storage_costs import CheckpointCosts

BADPUT = (
    "initialisation",
    "input_stall",
    "checkpoint_blocking",
    "restore",
    "lost_work",
    "detection",
    "waiting",
    "slow_parts",
)


class Slow(NamedTuple):
    """A part that works, but slowly: accelerator, nic or cable `part` of the job's node `slot`; or a lost switch."""

    component: str
    slot: int  # place of the node in the job; the number of the switch
    part: int  # inside the node
    speed: float  # relative to a healthy part


class State(NamedTuple):
    """All that the step time depends on."""

    replicas: int
    slow: tuple[Slow, ...]  # sorted


@dataclass(frozen=True)
class Saving:
    """When the state is saved, and what that costs. `steps` between persistent saves, `keep` of them are held."""

    costs: CheckpointCosts
    steps: int
    peer_steps: int = 0  # between copies to a peer's memory; 0: none
    keep: int = 2


@dataclass(frozen=True)
class LifeInputs:
    """A job, its cluster and its troubles, as the run clock sees them. Times in seconds.

    step_time(state): seconds of one step; asked once for each state that occurs. It is called with
    the healthy state first. parts: number of each component in one node ("accelerator", "nic",
    "cable"; a node is 1). blast[i]: job nodes that switch i takes down, none if others carry on.
    names: of the job's nodes; empty if nobody asks.
    """

    target_steps: float
    nodes: int
    replicas: int
    ranks: int
    step_time: Callable[[State], float]
    failures: Failures
    recovery: Recovery
    parts: dict[str, int] = field(default_factory=dict)
    blast: tuple[tuple[int, ...], ...] = ()
    outages: tuple[Outage, ...] = ()
    names: tuple[str, ...] = ()
    saving: Saving | None = None
    input_stall_s: float = 0.0  # part of a healthy step
    time_limit_s: float | None = None
    most_strikes: float = inf  # candidates for a fault, after which a life ends
    bulk: bool = True  # pass many equal save cycles at once; exact

    @property
    def struck_by_name(self) -> bool:
        """Whether recorded faults name nodes of this job; else recorded nodes are dealt to them."""
        called = set(self.names)
        return any(outage.name in called for outage in self.outages)


class Span(NamedTuple):
    """`seconds` of one phase between `start` and `end`, with the state of the nodes then.

    phase: training, redo, or a key of BADPUT. Where training alternates with saves, a span of each
    covers the same stretch of time; over all spans, seconds add up to the elapsed time.
    """

    start: float
    end: float
    phase: str
    seconds: float
    busy_nodes: int  # in the job
    spare_nodes: int  # powered and idle: warm spares, and nodes that a shrunk job cannot use
    down_nodes: int
    state: State


class Fault(NamedTuple):
    """Something that struck the job, whatever came of it."""

    time: float
    cause: str
    component: str
    nodes: tuple[int, ...]
    effect: str  # stop, pause, slow, or planned


@dataclass
class Incident:
    """Something that stopped the job."""

    time: float
    cause: str
    component: str
    nodes: tuple[int, ...]
    action: str = ""  # what was done, in words; empty: started again on the same nodes
    downtime_s: float = 0.0  # until the job trained again, or was struck anew
    lost_steps: float = 0.0


class Repair(NamedTuple):
    """One visit to the repair queue."""

    asked: float
    began: float
    ended: float


Outcome = Literal["finished", "time_limit", "no_spares", "too_many_faults"]


@dataclass(frozen=True)
class Life:
    """A job from its start to its end. productive_s and the parts of badput_s add up to elapsed_s."""

    outcome: Outcome
    elapsed_s: float
    steps: int
    productive_s: float
    badput_s: dict[str, float]  # keys BADPUT
    steps_lost: float
    checkpoints: int  # persistent ones that became durable
    faults: tuple[Fault, ...]  # planned stops included
    incidents: tuple[Incident, ...]
    spans: tuple[Span, ...]
    repairs: tuple[Repair, ...]
    node_seconds: float  # nodes, spares included, times elapsed
    names: dict[int, str] = field(default_factory=dict)  # of nodes, where they have one; recorded ones as in the log

    @property
    def failures(self) -> int:
        """Events that struck the job."""
        return len(self.faults)

    @property
    def failures_by_cause(self) -> dict[str, int]:
        """How many there were of each."""
        return dict(sorted(Counter(fault.cause for fault in self.faults).items()))

    @property
    def goodput(self) -> float:
        """Productive share of the elapsed time."""
        return self.productive_s / self.elapsed_s if self.elapsed_s else 1.0

    @property
    def node_unavailability(self) -> float:
        """Share of node time in which nodes were down."""
        down = sum(span.seconds * span.down_nodes for span in self.spans)
        return down / self.node_seconds if self.node_seconds else 0.0


def called(nodes: Sequence[int], names: Mapping[int, str]) -> tuple[str, ...]:
    """What nodes of a job are called: as `Life.names` says, else by number."""
    return tuple(names.get(node) or f"node {node}" for node in nodes)
