"""What breaks, how often, and what is done about it.

Public: `Failures`, `FailureMode`, `Delay`, `Frailty`, `Batch`, `FailingStarts`, `FaultLog`, `Recovery`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim.record import Name, Record
from sim.units import Count, Fraction, Seconds


class Delay(Record):
    """A time that varies."""

    kind: Literal["fixed", "exponential", "weibull", "lognormal"] = Field(default="fixed", description="distribution of the time")
    mean: Seconds = Field(ge=0, description="its mean")
    shape: float = Field(default=1.0, ge=0.01, le=20, description="weibull: shape, below 1 many short and few very long; lognormal: standard deviation of the logarithm, sqrt(2*ln(mean/median))")


class Batch(Record):
    """Faults that come together, such as those of one rack or one delivery."""

    probability: Fraction = Field(description="share of the events that strike several nodes")
    nodes: Count = Field(ge=2, le=200_000, description="neighbouring nodes that such an event strikes")


class FailureMode(Record):
    """One way in which one kind of part fails."""

    cause: Name = Field(description="what it is counted as")
    component: Literal["accelerator", "nic", "cable", "switch", "node", "job"] = Field(description="the part that fails; cable: adapter to switch; node: whatever a server has once; job: the software, whatever the size of the job")
    mtbf: Seconds = Field(gt=0, description="mean time between failures of one such part")
    law: Literal["exponential", "weibull", "lognormal"] = Field(default="exponential", description="distribution of the time between failures of one part, in use for long when the job starts")
    shape: float = Field(default=1.0, ge=0.01, le=20, description="weibull: shape, below 1 failures follow failures; lognormal: standard deviation of the logarithm")
    effect: Literal["stop", "pause", "slow", "corrupt", "planned"] = Field(default="stop", description="stop: the job dies; pause: it stands still for duration (link flap); slow: the part works at speed for duration; corrupt: wrong results, found after duration, so that only older checkpoints are good; planned: the job saves, stops for duration, and starts again")
    duration: Delay = Field(default=Delay.from_si({"mean": 0}), description="how long the effect lasts; corrupt: until it is found")
    speed: Fraction = Field(default=0.5, gt=0, lt=1, description="slow: speed relative to a healthy part")
    repair: Delay | None = Field(default=None, description="work on the node (switch) before it can be used again; if absent the job starts again on the same nodes")
    batch: Batch | None = Field(default=None, description="events that strike several nodes at once")


class Frailty(Record):
    """Lemon nodes: few nodes that have many of the faults."""

    nodes: Fraction = Field(gt=0, lt=1, description="share of the nodes")
    faults: Fraction = Field(gt=0, lt=1, description="share of the faults of nodes that they have")


class FailingStarts(Record):
    """Infant mortality: a job that has just started often fails at once."""

    probability: Fraction = Field(description="share of starts that fail")
    after: Delay = Field(description="training time until such a failure")


class FaultLog(Record):
    """Recorded faults, replayed: every node goes down when one in the log did, for as long.

    Nodes of the cluster that the log names are struck themselves; else those of the log are dealt to them by the seed.
    """

    file: str = Field(description="path, relative to the definition: JSON as published with InfiniteHBD (node_id, event_time in days, event_type fault_start or fault_end), or CSV with columns node, start, end (dates, or times with units; or start_days, end_days), cause")
    nodes: Count = Field(ge=1, le=10_000_000, description="nodes that were observed, those without a fault included")
    columns: dict[str, str] = Field(default={}, description="our names to those of the file, where its columns are others: {node: hostname, start: down_since, end: up_since, cause: reason}")
    begin: str | None = Field(default=None, max_length=64, description="when observation began, where the log has dates: 2024-05-01; with the first fault if absent")


class Failures(Record):
    """How the parts of a cluster and the software of a job fail."""

    name: Name = Field(description="the name it is found by")
    description: str = Field(default="", description="one line for people")
    modes: tuple[FailureMode, ...] = Field(default=(), description="ways to fail, independent of one another")
    frailty: Frailty | None = Field(default=None, description="unequal nodes; all alike if absent")
    starts: FailingStarts | None = Field(default=None, description="failures right after a start")
    log: FaultLog | None = Field(default=None, description="recorded faults, beside the modes")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")


class Recovery(Record):
    """What happens after a failure: detect, diagnose, replace, reschedule, initialise, load, redo."""

    warm_spares: Count = Field(default=0, ge=0, le=200_000, description="nodes beside those of the job that wait, powered and checked, to replace a failed one")
    cold_spares: Count = Field(default=0, ge=0, le=200_000, description="nodes beside those of the job that are off")
    detect: Delay = Field(default=Delay.from_si({"mean": 60}), description="from the failure until somebody or something notices")
    diagnose: Delay = Field(default=Delay.from_si({"mean": 60}), description="until it is known what to replace")
    swap: Delay = Field(default=Delay.from_si({"mean": 60}), description="until a warm spare is in the job")
    boot: Delay = Field(default=Delay.from_si({"mean": 1200}), description="until a cold spare is on, checked and in the job")
    reschedule: Delay = Field(default=Delay.from_si({"mean": 30}), description="until processes are started again")
    initialise: Seconds = Field(default=5.0, ge=0, description="communicators and libraries, whatever the size of the job")
    initialise_per_rank: Seconds = Field(default=0.0025, ge=0, description="the part of it that grows with ranks; 2.5 ms: MegaScale, under 5 s at 2,048 and 30 s at 10,000; 0.5 s: a stock TCP store")
    repair_crew: Count | None = Field(default=None, ge=1, description="repairs that go on at a time; no limit if absent")
    when_short: Literal["wait", "shrink", "stop"] = Field(default="wait", description="spares run out: wait for repairs, go on with fewer data-parallel replicas until the next restart, or give up")
    min_replicas: Count = Field(default=1, ge=1, description="shrink: replicas below which the job waits")
