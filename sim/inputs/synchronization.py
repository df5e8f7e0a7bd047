"""How workers exchange what they learn where they do not sum gradients in lock-step.

Public: `ParameterServers`, `LocalSteps`, `Synchronization`, `SYNCHRONIZATION_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sim.errors import Problem, finding, indivisible
from sim.record import Record
from sim.units import BytesPerSecond, Count

if TYPE_CHECKING:  # setups hold experiments, which hold these records
    from sim.inputs.setup import Setup

Width = Annotated[float, Field(ge=1e-6, le=1000)]
KEY = "synchronization"


class ParameterServers(Record):
    """Workers push gradients to servers, which keep weights and optimizer, and pull weights; each replica is a worker."""

    kind: Literal["parameter_server"]
    mode: Literal["synchronous", "asynchronous", "stale_synchronous"] = Field(default="synchronous", description="synchronous: servers wait for all workers, then update; asynchronous: each gradient is an update, and nobody waits; stale_synchronous: the same, but no worker is more than `bound` steps ahead of the slowest")
    bound: Count = Field(default=0, ge=0, le=1_000_000, description="steps that a worker may be ahead of the slowest (mode stale_synchronous)")
    servers: Count | None = Field(default=None, ge=1, le=10_000, description="servers, one a node, which hold an even part of the weights each; as many as nodes that may hold them if absent")
    placement: Literal["own", "colocated"] = Field(default="colocated", description="own: on nodes of the cluster that the job leaves idle; colocated: on hosts of the job's own nodes")
    push_bytes: Width | None = Field(default=None, description="bytes on the network per parameter of a gradient; gradient_comm_bytes of the software if absent")
    pull_bytes: Width | None = Field(default=None, description="bytes on the network per parameter of the weights; as stored if absent")
    slices: Count = Field(default=1, ge=1, le=1_000, description="parts of the weights, each pushed as soon as the last backward pass leaves it and pulled when its servers have it; 1: all of them when the step is over")
    update_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="host memory bandwidth at which a server adds gradients and updates weights; 25 GB/s for each accelerator of the node if absent, as for an optimizer on the host")
    jitter: float = Field(default=0.0, ge=0, le=3, description="standard deviation of the logarithm of a worker's time from step to step, mean unchanged; 0: all steps take equally long")


class LocalSteps(Record):
    """Groups of replicas that take steps of their own and average what they learned now and then (local SGD, DiLoCo)."""

    kind: Literal["local_steps"]
    workers: Count = Field(ge=2, le=100_000, description="groups of neighbouring replicas, in lock-step inside; each is a worker, in a site of its own perhaps")
    every: Count = Field(ge=1, le=1_000_000_000, description="steps of a worker between two exchanges of the same weights")
    bytes_per_parameter: Width = Field(default=4.0, description="bytes on the network per parameter of an outer gradient: 4 in 32 bit, 1 in 8 bit")
    fragments: Count = Field(default=1, ge=1, le=10_000, description="parts of the model that are exchanged in turn, evenly over the steps (streaming)")
    overlap_steps: Count = Field(default=0, ge=0, le=1_000_000, description="steps that a worker takes beside an exchange before it waits for it; 0: it stands still")
    carried_by: Literal["all", "first"] = Field(default="all", description="all: each rank of a worker exchanges a part of what its replicas hold in common, and hands it on inside (hierarchical); first: the first replica exchanges all of it")
    outer_bytes: Width = Field(default=8.0, description="bytes per parameter of what an exchange needs beside the step, in host memory: weights of the last one and momentum")
    jitter: float = Field(default=0.0, ge=0, le=3, description="standard deviation of the logarithm of a worker's time from step to step, mean unchanged; 0: all steps take equally long")


Synchronization = Annotated[ParameterServers | LocalSteps, Field(discriminator="kind")]


def used_nodes(setup: Setup) -> int:
    """Nodes that a packed job has ranks on."""
    return next((place for place, room in enumerate(accumulate(setup.node_sizes), 1) if room >= setup.ranks), 0)


def check_workers(setup: Setup) -> Iterator[Problem]:
    """Replicas make whole workers, which hold all of a model."""
    way, plan = setup.experiment.synchronization, setup.parallelism
    if isinstance(way, LocalSteps) and setup.data % way.workers:
        yield indivisible(f"{KEY}.workers", "data", setup.data, "workers", way.workers)
        return
    if way is None:
        return
    inside = setup.ranks_per_replica * (setup.data // setup.workers)
    divided = plan.expert * plan.expert_tensor
    if setup.workload.spreads:
        message = f"tables of {setup.workload.name} lie on all ranks, so no worker holds a whole model"
        yield finding(f"{KEY}.kind", message, "leave synchronization out")
    elif divided > 1 and (inside // plan.pipeline) % divided:
        message = f"{divided} ranks hold the experts of a layer, a stage of a worker has {inside // plan.pipeline}"
        yield finding("parallelism.expert", message, "let each worker hold all experts, or use fewer workers")
    elif divided > 1 and plan.order.index("data") < max(plan.order.index("tensor"), plan.order.index("context")):
        way_out = "name data after tensor and context"
        yield finding("parallelism.order", "the ranks of a worker do not lie side by side", way_out)


def check_servers(setup: Setup) -> Iterator[Problem]:
    """Servers have nodes to run on, and nothing else divides gradients or optimizer."""
    way = setup.experiment.synchronization
    if not isinstance(way, ParameterServers):
        return
    if setup.parallelism.zero_stage:
        message = f"zero_stage {setup.parallelism.zero_stage} shards what servers keep"
        yield finding("parallelism.zero_stage", message, "set it to 0")
    if setup.training.lora is None and setup.training.offload.optimizer:
        yield finding("training.offload.optimizer", "servers have the optimizer", "leave it out")
    if way.mode != "stale_synchronous" and "bound" in way.model_fields_set and way.bound:
        message = f"a bound of {way.bound} steps in mode {way.mode}"
        yield finding(f"{KEY}.bound", message, "use mode: stale_synchronous, or leave it out")
    if setup.training.compression.kind != "none":
        message = f"compression {setup.training.compression.kind} is of sums that servers take the place of"
        yield finding("training.compression.kind", message, f"leave it out, and say {KEY}.push_bytes")
    nodes, used = len(setup.node_sizes), used_nodes(setup)
    free = nodes - used if way.placement == "own" else used
    if way.placement == "own" and free < 1:
        message = f"the job takes all {nodes} nodes, none is left for servers"
        yield finding(f"{KEY}.placement", message, "use placement: colocated, more nodes, or less parallelism.data")
    elif way.servers and way.servers > free:
        message = f"{way.servers} servers, {free} nodes that may hold one"
        yield finding(f"{KEY}.servers", message, f"use at most {free}")


def check_local_steps(setup: Setup) -> Iterator[Problem]:
    """Parts are exchanged evenly over the steps, each before its next turn."""
    way = setup.experiment.synchronization
    if not isinstance(way, LocalSteps):
        return
    if way.every % way.fragments:
        yield indivisible(f"{KEY}.fragments", "every", way.every, "fragments", way.fragments)
    elif way.overlap_steps > way.every:
        message = f"an exchange beside {way.overlap_steps} steps, the next of the same part begins after {way.every}"
        yield finding(f"{KEY}.overlap_steps", message, f"use at most {way.every}")


SYNCHRONIZATION_CHECKS = (check_workers, check_servers, check_local_steps)
