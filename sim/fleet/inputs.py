"""What a fleet needs to live, and what is left of its life.

Public: `FleetInputs`, `FleetFaults`, `FaultKind`, `Moving`, `Sleep`, `FleetLife`, `FleetEvent`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from sim.fleet.boards import NodeSort
from sim.fleet.jobs import FleetJob, JobRequest, Places
from sim.fleet.placements.placement import Placement
from sim.fleet.policies.policy import Policy
from sim.fleet.tally import BoardTally, FleetSeries, NodeDraw, PowerAccount
from sim.inputs.fault_log import Outage
from sim.inputs.reliability import Delay


class Pacing(Protocol):
    """How fast jobs get on where they are."""

    def alone(self, job: JobRequest, places: Places) -> float:
        """Work in a second while nobody else is on the links of the job."""

    def together(self, jobs: Sequence[FleetJob], now: float) -> Sequence[float] | None:
        """The same for all that run, with the links that they share; None if they do not slow one another."""


@dataclass(frozen=True)
class Moving:
    """Costs of moving a job, s. interval: between saves; inf: it saves only when stopped; 0: nothing is lost."""

    save: float = 0.0
    load: float = 0.0
    interval: float = 0.0


class FaultKind(NamedTuple):
    """Failures that stop jobs: in a second on one node, and the work on the node afterwards; None: it goes on."""

    cause: str
    rate: float
    repair: Delay | None


@dataclass(frozen=True)
class FleetFaults:
    """What fails: kinds of faults by sort of node; running jobs, whatever their size [1/s]; recorded outages."""

    nodes: tuple[tuple[FaultKind, ...], ...] = ()
    jobs: float = 0.0
    outages: tuple[Outage, ...] = ()
    crew: int | None = None


@dataclass(frozen=True)
class Sleep:
    """Idle nodes sleep after a time, and take another to wake [s]."""

    after: float = inf
    wake: float = 0.0


@dataclass(frozen=True)
class FleetInputs:
    """Jobs by time of submission, nodes, rules. units: see `Placement`; power_cap: of the site [W]."""

    jobs: Sequence[JobRequest]
    sorts: tuple[NodeSort, ...]
    policy: Callable[[], Policy]
    placement: type[Placement]
    units: tuple[tuple[int, ...], ...] = ()
    moving: Moving = Moving()
    pacing: Pacing | None = None
    faults: FleetFaults | None = None
    sleep: Sleep = Sleep()
    draws: tuple[NodeDraw, ...] = ()
    overhead: Callable[[float], float] = float
    carbon: Callable[[float, float], float] | None = None
    power_cap: float = inf
    until: float = inf
    reserved: int = 0  # boards held back for jobs of a priority above 0
    migrate: bool = False  # move running jobs together where a job finds no place
    keep_events: bool = False


class FleetEvent(NamedTuple):
    """Something that happened to a job or node."""

    time: float
    what: str
    job: str
    boards: float
    nodes: tuple[int, ...]
    detail: str = ""


@dataclass(frozen=True)
class FleetLife:
    """What is left of the life of a fleet. refused: jobs that could never run here; unfinished: at the time limit."""

    inputs: FleetInputs
    seed: int
    elapsed: float
    jobs: tuple[FleetJob, ...]
    tally: BoardTally
    series: FleetSeries
    power: PowerAccount | None
    events: tuple[FleetEvent, ...]
    faults: dict[str, int]
    passes: int
    migrations: int
