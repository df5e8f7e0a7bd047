"""The training state as the ranks hold it: what each of them saves, and what it must have to go on.

State is weights and optimizer state. With 16-bit weights, a 32-bit master copy and two 32-bit moments
it takes 14 bytes per parameter, 12 where only the 32-bit weights are kept; ZeRO decides which part of it
ranks share. Beside adapters, only they are saved, but frozen weights are read again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.inputs.storage import Checkpointing
from sim.layout.pieces import by_stage
from sim.layout.plan import Plan, ties_embeddings
from sim.transforms.reduction import GROUPS, GradientGroup
from sim.workload.memory import state_bytes as held_bytes
from sim.workload.memory import weight_bytes

Floats = NDArray[np.float64]
EXPERTS: GradientGroup = "expert_gradient"


def state_bytes(plan: Plan, save: Checkpointing) -> tuple[float, float]:
    """Saved bytes per parameter: of weights, of optimizer state."""
    weights, optimizer = held_bytes(plan.experiment.training, plan.software)
    if save.bytes_per_parameter is None:
        return float(weights), float(optimizer)
    return min(weights, save.bytes_per_parameter), max(0.0, save.bytes_per_parameter - weights)


def saved_bytes(plan: Plan, save: Checkpointing) -> Floats:
    """Bytes that each rank writes, (n_ranks,): every byte of the state is written by one rank."""
    if save.writers == "all":
        return distinct_bytes(plan, save)
    weights, optimizer = state_bytes(plan, save)
    dense = _parameters(plan) * (weights * _first(plan, 3) + optimizer * _first(plan, 1))
    experts = _experts(plan) * (weights * _first(plan, 3, EXPERTS) + optimizer * _first(plan, 1, EXPERTS))
    return np.asarray(dense + experts + _table_bytes(plan))


def distinct_bytes(plan: Plan, save: Checkpointing) -> Floats:
    """The state divided evenly over the replicas of each part, (n_ranks,)."""
    each = sum(state_bytes(plan, save))
    shared = each * (_parameters(plan) / _replicas(plan) + _experts(plan) / _replicas(plan, EXPERTS))
    return np.asarray(shared + _table_bytes(plan))


def needed_bytes(plan: Plan, save: Checkpointing) -> Floats:
    """Bytes that each rank must read to go on, (n_ranks,): its state, and weights that are frozen."""
    weights, optimizer = state_bytes(plan, save)
    state = _parameters(plan) * (weights / _sharers(plan, 3) + optimizer / _sharers(plan, 1))
    state = state + _experts(plan) * (weights / _sharers(plan, 3, EXPERTS) + optimizer / _sharers(plan, 1, EXPERTS))
    return state + _frozen_bytes(plan) / _sharers(plan, 3) + _table_bytes(plan)


def shared_bytes(plan: Plan, save: Checkpointing) -> Floats:
    """The same, where replicas read a part each, (n_ranks,)."""
    return distinct_bytes(plan, save) + _frozen_bytes(plan) / _replicas(plan)


def trained_shares(plan: Plan) -> tuple[float, Floats]:
    """Trained parameters of the model, and the part of them that each rank has alone in its worker, (n_ranks,)."""
    replicas = [_replicas(plan, group) // plan.experiment.setup.workers for group in ("gradient", EXPERTS)]
    own = _parameters(plan) / replicas[0] + _experts(plan) / max(1, replicas[1])
    return float(own.sum()) / plan.experiment.setup.workers, own


def _parameters(plan: Plan) -> Floats:
    """Trained parameters that the rank and its replicas stand for, (n_ranks,); tensor ranks share what all hold.

    Experts that lie on ranks in a way of their own are counted apart.
    """
    held = exchanged_parameters(plan, "gradient")
    experts = sum(exchanged_parameters(plan, EXPERTS)) * plan.shard.expert * plan.shard.expert_tensor
    if ties_embeddings(plan.experiment, plan.model):
        held[plan.course.ends[1]] -= plan.architecture.table.parameters
    dense = plan.architecture.undivided.whole.trained - experts
    share = np.array(held) / sum(held) * dense / plan.grid.size["tensor"]
    return np.asarray(share[plan.grid.coordinate["pipeline"]])


def _experts(plan: Plan) -> Floats:
    """The same of experts, where they lie on ranks in a way of their own, (n_ranks,)."""
    return np.asarray(np.array(exchanged_parameters(plan, EXPERTS))[plan.grid.coordinate["pipeline"]])


def exchanged_parameters(plan: Plan, group: GradientGroup) -> list[float]:
    """Trained parameters of a rank that a group exchanges, by stage."""
    return [
        float(sum(each.exchanged("trained", group) for chunk in chunks for each in chunk.segments))
        for chunks in by_stage(plan.chunks)
    ]


def _frozen_bytes(plan: Plan) -> Floats:
    """Bytes of frozen weights beside adapters that the rank and its replicas stand for, (n_ranks,)."""
    if plan.shard.lora is None:
        return np.zeros(plan.grid.n_ranks)
    layers = np.array([sum(chunk.layers for chunk in chunks) for chunks in by_stage(plan.chunks)]) / plan.model.layers
    every = plan.architecture.undivided.whole.parameters / plan.grid.size["tensor"]
    each = every * weight_bytes(plan.shard.precision, plan.shard.lora)
    return np.asarray(layers[plan.grid.coordinate["pipeline"]] * each)


def _table_bytes(plan: Plan) -> float:
    """Bytes of spread tables that a rank has, with what their optimizer keeps: no other rank has them."""
    return plan.architecture.undivided.whole.table_bytes / plan.grid.n_ranks


def _replicas(plan: Plan, group: GradientGroup = "gradient") -> int:
    """Ranks that hold the same stage and tensor part, data and context ranks; or the same experts."""
    return int(plan.grid.groups(*GROUPS[group]).shape[1])


def _sharers(plan: Plan, zero_stage: int, group: GradientGroup = "gradient") -> int:
    """Ranks that share what ZeRO `zero_stage` shards; 1 if the plan does not shard it."""
    parallelism, replicas = plan.experiment.parallelism, _replicas(plan, group)
    if parallelism.zero_stage < zero_stage:
        return 1
    replicas //= plan.experiment.setup.workers
    return min(parallelism.shard_group or replicas, replicas)


def _first(plan: Plan, zero_stage: int, group: GradientGroup = "gradient") -> Floats:
    """The part that the first holders of what ZeRO `zero_stage` shards write of it, (n_ranks,)."""
    sharers = _sharers(plan, zero_stage, group)
    part = np.zeros(plan.grid.n_ranks)
    part[plan.grid.groups(*GROUPS[group])[:, :sharers]] = 1 / sharers
    return part
