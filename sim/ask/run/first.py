"""How a first run of a model might begin, before anybody has thought about a plan.

Public: `FirstPlan`, `first_plan`.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.ask.run.stacks import stacks_for
from sim.graph.operation import Shard
from sim.models.family import Architecture, Workload

SMALL = 3e9  # parameters that one accelerator of 80 GB holds with their optimizer sharded


class FirstPlan(NamedTuple):
    """A software stack by name, tensor ranks, ZeRO stage."""

    software: str
    tensor: int
    zero_stage: int


def first_plan(model: Workload, accelerators: int) -> FirstPlan:
    """Data parallel where a model is small or of a kind that only that is known of; else divided within a server."""
    own = stacks_for(model.kind)
    if own:
        return FirstPlan(own[0], 1, 0)
    if not model.tokens:
        return FirstPlan("pytorch-ddp", 1, 0)
    parameters = Architecture(model, Shard()).whole.parameters
    return FirstPlan("megatron-core", 1 if parameters < SMALL else min(8, accelerators), 1)
