"""Jobs that prepare training data on host cores, before training or beside it.

Public: `Preparation`, `PreparingStage`, `PREPARATION_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sim.errors import Problem, finding
from sim.inputs.synchronization import used_nodes
from sim.record import Name, Record
from sim.units import Bytes, BytesPerSecond, Count, Fraction, Seconds

if TYPE_CHECKING:  # setups hold experiments, which hold these records
    from sim.inputs.setup import Setup

KEY = "preparation"
MOST_TASKS = 50_000  # simulated one by one: some milliseconds each


class PreparingStage(Record):
    """One thing that is done to all data: decode, filter, shuffle, tokenise."""

    name: Name = Field(description="what it does")
    rate: BytesPerSecond | None = Field(default=None, gt=0, description="bytes that come in, a second and core; no cost if absent")
    output: float = Field(default=1.0, gt=0, le=1e6, description="bytes that come out over bytes that come in: below 1 for a filter")
    shuffle: bool = Field(default=False, description="its partitions are made of parts of all those before, which cross the network first, when all of these are done")
    partitions: Count | None = Field(default=None, ge=1, le=MOST_TASKS, description="partitions from here on (shuffle); as many as before if absent")


class Preparation(Record):
    """A job of stages over partitions, as Spark and Ray run them: stages between two shuffles are one task a partition."""

    when: Literal["before", "beside"] = Field(default="before", description="before: training begins when it is done; beside: both at once, over the same links and storage")
    placement: Literal["job", "idle"] = Field(default="job", description="hosts of the nodes of the job, or of those that it leaves idle")
    nodes: Count | None = Field(default=None, ge=1, le=10_000, description="nodes that work on it; all of those if absent")
    cores: Count | None = Field(default=None, ge=1, le=100_000, description="cores of each node that work on it; all that are known if absent")
    input: Bytes = Field(gt=0, description="all data, as stored")
    partitions: Count = Field(ge=1, le=MOST_TASKS, description="partitions of it, a task each")
    skew: float = Field(default=0.0, ge=0, le=3, description="standard deviation of the logarithm of the size of a partition, their sum unchanged; 0: all alike")
    compression_ratio: float = Field(default=1.0, ge=1, le=1e6, description="bytes after decompression over bytes stored, on the way in")
    decompression_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="output rate of decompression on one core; no cost if absent")
    output_compression: float = Field(default=1.0, ge=1, le=1e6, description="bytes before compression over bytes written, on the way out")
    stages: tuple[PreparingStage, ...] = Field(min_length=1, description="what is done, in order")
    overhead: Seconds = Field(default=0.0, ge=0, description="of each task, until it reads")
    reads_ahead: bool = Field(default=False, description="a core reads its next partition while it works on one (Ray Data), not one after the other (Spark)")
    slow_share: Fraction = Field(default=0.0, lt=1, description="share of tasks that straggle")
    slow_factor: float = Field(default=1.0, ge=1, le=1e4, description="how many times as long a straggler computes")
    speculation: bool = Field(default=False, description="a task that runs for more than 1.5 times the median, once three quarters are done, is begun again on a free core (Spark's spark.speculation and its defaults)")


def check_preparation(setup: Setup) -> Iterator[Problem]:
    """Data lies somewhere, nodes with cores work on it, and stages say what partitions they have."""
    job = setup.experiment.preparation
    if job is None:
        return
    if setup.storage is None:
        yield finding(KEY, "data is read from storage, and the cluster has none", "give cluster.storage, by name or inline")
    nodes, used, known = len(setup.node_sizes), used_nodes(setup), setup.node.host.cores
    free = used if job.placement == "job" else nodes - used
    if free < 1:
        yield finding(f"{KEY}.placement", f"the job takes all {nodes} nodes", "use placement: job, or more nodes")
    elif job.nodes and job.nodes > free:
        yield finding(f"{KEY}.nodes", f"{job.nodes} nodes of {free} that may work on it", f"use at most {free}")
    if not (job.cores or known):
        yield finding(f"{KEY}.cores", f"{setup.node.name} has no known cores", "give cores, or host.cores of the node")
    data = setup.experiment.input
    taken = (data.cores or 0) if data and job.placement == "job" and job.when == "beside" else 0
    if known and (job.cores or 0) + taken > known:
        beside = f" beside {taken} of input" if taken else ""
        yield finding(f"{KEY}.cores", f"{job.cores} cores{beside} of {known}", f"use at most {known - taken}")
    for number, stage in enumerate(job.stages):
        if stage.partitions and not stage.shuffle:
            message = "partitions change at a shuffle alone"
            yield finding(f"{KEY}.stages.{number}.partitions", message, "say shuffle: true, or leave it out")
    if job.slow_share and job.slow_factor == 1:
        yield finding(f"{KEY}.slow_factor", "stragglers that are not slow", "give a factor above 1")


PREPARATION_CHECKS = (check_preparation,)
