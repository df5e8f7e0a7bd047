"""Fleet files: many jobs on one cluster, and the rules by which they share it.

Public: `FleetSpec`, `BareCluster`, `FleetPart`, `JobEntry`, `JobFile`, `Arrivals`, `Scheduler`, `Quota`, `Preemption`,
`CarbonAware`, `BoardPower`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from sim.inputs.energy import Prices, Site
from sim.inputs.records import ClusterSpec
from sim.inputs.reliability import Delay, Failures
from sim.record import Name, Record, Reference
from sim.units import Bytes, CarbonPerKilowattHour, Count, Fraction, Seconds, Watts


class BareNode(Record):
    """A server of which nothing is known but its boards."""

    accelerators: Count = Field(ge=1, le=576, description="boards of the server")
    memory: Bytes = Field(default=0.0, ge=0, description="memory of one board, for jobs that share boards")
    cores: float | None = Field(default=None, gt=0, le=1e6, description="cores of the host, for jobs that ask for some; no limit if absent")


class BareCluster(Record):
    """A cluster of which nothing is known but its size: enough for jobs that say how long they run."""

    nodes: Count = Field(ge=1, le=200_000, description="servers")
    node: BareNode = Field(description="one of them")


def _form(value: object) -> str:
    """Which side of the union is meant: a cluster says what its servers are, by name or with their accelerator."""
    if isinstance(value, str):
        return "name"
    if isinstance(value, Record):
        return "bare" if isinstance(value, BareCluster) else "inline"
    node = value.get("node") if isinstance(value, dict) else None
    return "bare" if isinstance(node, dict) and "accelerator" not in node and "extends" not in node else "inline"


AnyCluster = Annotated[
    Annotated[BareCluster, Tag("bare")] | Annotated[str, Tag("name")] | Annotated[ClusterSpec, Tag("inline")],
    Discriminator(_form),
]


class FleetPart(Record):
    """Equal nodes of a fleet of several kinds."""

    kind: Name = Field(description="what jobs and tables call these nodes")
    cluster: AnyCluster = Field(description="cluster by name, path or inline, or nodes and node.accelerators alone")
    nodes: Count | None = Field(default=None, ge=1, le=200_000, description="servers; those of the cluster if absent")
    speed: float = Field(default=1.0, gt=0, le=1000, description="work in a second of jobs that give their duration, where no table of speeds says it")


class JobEntry(Record):
    """One job, or several equal ones, written in the file."""

    name: Name | None = Field(default=None, description="name in reports; its number if absent")
    experiment: str | dict[str, Any] | None = Field(default=None, description="a training as an experiment by name, path or inline: it runs at the pace that the simulator finds for the places that it gets; its own cluster does not count")
    steps: Count | None = Field(default=None, ge=1, description="steps of the experiment; those of training.tokens or samples if absent")
    duration: Seconds | None = Field(default=None, gt=0, description="run time, for a job without an experiment")
    gpus: Count = Field(default=1, ge=1, le=10_000_000, description="boards; those of the experiment, where there is one")
    submit: Seconds = Field(default=0.0, ge=0, description="when it is submitted, since the fleet began")
    copies: Count = Field(default=1, ge=1, le=100_000, description="equal jobs")
    every: Seconds = Field(default=0.0, ge=0, description="time between submissions of the copies")
    user: str = Field(default="", description="whose it is")
    group: str = Field(default="", description="group of the user")
    queue: str = Field(default="", description="virtual cluster or partition")
    priority: float = Field(default=0.0, ge=-1e9, le=1e9, description="larger goes first, where the policy looks at it")
    kinds: tuple[Name, ...] = Field(default=(), description="kinds of nodes that it can use; any if empty")
    model: str = Field(default="", description="what tables of speeds call it")
    deadline: Seconds | None = Field(default=None, gt=0, description="when it should have ended, since its submission")
    estimate: Seconds | None = Field(default=None, gt=0, description="run time that the scheduler is told; the true one if absent")
    share: Fraction = Field(default=1.0, gt=0, description="of one board, for a job that needs no whole one")
    memory: Bytes = Field(default=0.0, ge=0, description="of a shared board")
    cores: float = Field(default=0.0, ge=0, le=1e9, description="host cores, for all of its boards; they lie where its boards are")
    min_gpus: Count | None = Field(default=None, ge=1, description="boards of an elastic job, at least")
    max_gpus: Count | None = Field(default=None, ge=1, description="boards of an elastic job, at most")


class JobFile(Record):
    """A log of jobs in a file."""

    file: str = Field(description="path, relative to the fleet file")
    format: Literal["auto", "plain", "philly", "helios", "acme", "pai", "openb", "gavel", "tiresias", "sacct", "swf"] = Field(default="auto", description="whose columns it has; told by its header if auto")
    columns: dict[str, str] = Field(default={}, description="our names to those of the file, where its columns are others: {submit_s: start, duration_s: runtime, gpus: num_gpus}")
    first: Seconds = Field(default=0.0, ge=0, description="leave out what is submitted earlier, since the first job; time then begins here")
    last: Seconds | None = Field(default=None, gt=0, description="leave out what is submitted later, since the first job")
    most: Count | None = Field(default=None, ge=1, description="jobs at most, the first ones")
    queue: str | None = Field(default=None, description="only jobs of this virtual cluster or partition")
    load: float = Field(default=1.0, gt=0, le=1e6, description="how much faster jobs arrive than in the log")
    cancelled: bool = Field(default=True, description="jobs that failed or were cancelled count too, with the time that they ran")
    throughputs: str | None = Field(default=None, description="of a gavel trace, the table of steps/s in JSON: kind of board, (model, boards), null")


class Arrivals(Record):
    """Jobs that are drawn: when they come, what they ask for."""

    jobs: Count = Field(ge=1, le=10_000_000, description="how many")
    every: Seconds = Field(gt=0, description="mean time between two of them")
    pattern: Literal["poisson", "diurnal", "regular"] = Field(default="poisson", description="at random; at random with a day and night; or evenly")
    swing: Fraction = Field(default=0.6, description="diurnal: how far the rate at the height of the day (15 h) is above its mean, and at night below")
    gpus: dict[str, float] = Field(default={"1": 1.0}, min_length=1, description="boards to how often they are asked for")
    duration: Delay = Field(default=Delay.from_si({"mean": 3600}), description="run time")
    like: JobFile | None = Field(default=None, description="draw boards, run time, user, queue and model together from the jobs of a log instead")
    users: Count = Field(default=1, ge=1, le=100_000, description="users, who submit equally often; those of the log, where there is one")


class Quota(Record):
    """What a virtual cluster, group or user is entitled to."""

    gpus: Count | None = Field(default=None, ge=0, description="boards that are its own; none if absent")
    most: Count | None = Field(default=None, ge=0, description="boards that it may have, its own and borrowed; no limit if absent")
    weight: float = Field(default=1.0, gt=0, le=1e6, description="share of the cluster relative to others, for fair_share, themis and max_min")


class CarbonAware(Record):
    """Jobs that can wait start when the grid is clean: in the hour at which their run time has the least mean intensity."""

    patience: Seconds = Field(gt=0, description="longest time that a job is held back")
    priority_below: float = Field(default=1e-9, ge=-1e9, le=1e9, description="only jobs of a priority below this are held back")
    cleaner_than: CarbonPerKilowattHour | None = Field(default=None, gt=0, description="start at once while the grid is cleaner than this")


class Scheduler(Record):
    """Who gets boards, and which."""

    policy: str = Field(default="fifo", min_length=1, description="by name, or `module:function` of one's own: live jobs and the time to the order in which jobs get boards")
    placement: Literal["count", "pack", "topology", "spread", "random", "best_fit", "dot_product", "opened_first", "clustering", "random_node", "fgd"] = Field(default="pack", description="count: any free boards; pack: as few nodes as there can be; topology: and these near one another; spread: evenly; random. Of the nodes that hold a job alone, with host cores and parts of boards: best_fit: least is left over; dot_product: least aligned with what is asked for; opened_first: boards that are shared already; clustering: with jobs of its size; random_node; fgd: what no typical job can use grows least")
    backfill: bool = Field(default=True, description="priority, quota, fair_share and deadline: what does not fit is passed by")
    by: Literal["queue", "group", "user"] = Field(default="queue", description="whose quotas and shares count")
    quotas: dict[str, Quota] = Field(default={}, description="virtual cluster, group or user to what it is entitled to")
    borrow: bool = Field(default=True, description="quota: boards that others are entitled to and do not use are lent, and taken back when they do")
    round: Seconds = Field(default=360.0, gt=0, description="time between two looks at the cluster of policies that divide time")
    half_life: Seconds = Field(default=604800.0, gt=0, description="fair_share: time after which use counts half")
    limits: tuple[float, ...] = Field(default=(3250.0, 7200.0), description="dlas: seconds, or board-seconds, at which a job falls to the next queue")
    preempt: bool = Field(default=True, description="priority and deadline: running jobs are stopped for those that go first")
    reserve: Count = Field(default=0, ge=0, le=10_000_000, description="boards held back for jobs of a priority above 0")
    migrate: bool = Field(default=False, description="running jobs are moved together where one finds no node")
    carbon: CarbonAware | None = Field(default=None, description="jobs that wait for a clean grid")


NoLess = Annotated[Seconds, Field(ge=0)]  # a bound of a union would hold for its words too


class Preemption(Record):
    """What it costs to stop a job, to start it again, and to lose it."""

    save: NoLess | Literal["simulated"] = Field(default=0.0, description="a job holds its boards so long after it was told to stop; simulated: its checkpoint over the storage of the cluster, for experiments")
    load: NoLess | Literal["simulated"] = Field(default=0.0, description="from when a job has boards again until it goes on; simulated as save")
    interval: Seconds | None = Field(default=None, gt=0, description="time between saves, beyond which a failure costs nothing; no work is ever lost if absent")


class BoardPower(Record):
    """Power of a cluster that has no profile."""

    busy: Watts = Field(ge=0, description="one board at work, with its share of the node")
    idle: Watts = Field(default=0.0, ge=0, description="one board without work, with its share of the node")


class FleetSpec(Record):
    """Many jobs on one cluster."""

    name: Name = Field(default="fleet", description="name in reports; the file name if absent")
    description: str = Field(default="", description="one line for people")
    cluster: AnyCluster | None = Field(default=None, description="cluster by name, path or inline, or nodes and node.accelerators alone")
    parts: tuple[FleetPart, ...] = Field(default=(), description="nodes of several kinds, instead of one cluster")
    nodes: Count | None = Field(default=None, ge=1, le=200_000, description="servers; those of the cluster if absent")
    jobs: str | tuple[JobEntry, ...] | JobFile | Arrivals = Field(description="a log by its path, jobs one by one, a log with what to make of it, or jobs that are drawn")
    speeds: str | None = Field(default=None, description="CSV file of speeds of models: model, gpus, speed [, kind, nodes]; relative to what a job has at its own size on the fastest kind")
    scheduler: Scheduler = Field(default=Scheduler(), description="who gets boards, and which")
    preemption: Preemption = Field(default=Preemption.from_si({}), description="what it costs to move a job")
    contention: Literal["none", "simulated"] = Field(default="simulated", description="whether experiments that share links slow one another, as simulated together")
    contention_steps: Count = Field(default=32, ge=2, le=10_000, description="steps of the quickest job over which such a simulation takes means, where its states do not recur")
    failures: Reference[Failures] | None = Field(default=None, description="what fails: those modes that stop jobs, each at its mean rate")
    repair_crew: Count | None = Field(default=None, ge=1, description="repairs that go on at a time; no limit if absent")
    sleep_after: Seconds | None = Field(default=None, gt=0, description="an idle node is switched off after this time; never if absent")
    wake: Seconds = Field(default=0.0, ge=0, description="time that a node takes to wake")
    power: BoardPower | None = Field(default=None, description="power of boards; that of the profile of the cluster if absent")
    power_cap: Watts | None = Field(default=None, gt=0, description="of the site: a job that would exceed it waits")
    site: Reference[Site] | None = Field(default=None, description="cooling, grid, price of electricity")
    prices: Reference[Prices] | None = Field(default=None, description="price of accelerators")
    time_limit: Seconds | None = Field(default=None, gt=0, description="look at this time only")
    seed: int = Field(default=0, ge=0, description="seed of all random streams")
