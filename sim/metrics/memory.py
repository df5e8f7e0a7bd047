"""Memory of every pipeline stage, and whether the fullest fits."""

from __future__ import annotations

from sim.metrics.result import MemoryResult
from sim.plan.plan import Plan
from sim.workload.inflight import microbatches_in_flight
from sim.workload.memory import stage_memory


def memory_result(plan: Plan) -> MemoryResult:
    """Bytes per accelerator by part for each stage; the result shows the fullest."""
    accelerator = plan.cluster.accelerator
    parallelism = plan.experiment.parallelism.model_copy(update={"data": plan.grid.size["data"]})
    stages = []
    for stage, chunks in enumerate(plan.chunks):
        in_flight = microbatches_in_flight(
            parallelism.schedule, parallelism.pipeline, parallelism.virtual_stages, stage, plan.microbatches
        )
        layers = sum(chunk.layers for chunk in chunks)
        parts = stage_memory(
            plan.model, plan.shard, plan.experiment.training, parallelism, plan.software, stage, layers, in_flight
        )
        stages.append({**parts, "reserved": accelerator.memory.reserved})
    fullest = max(stages, key=lambda parts: sum(parts.values()))
    peak = sum(fullest.values())
    capacity = accelerator.memory.capacity
    return MemoryResult(peak, capacity, peak <= capacity, fullest, tuple(stages))
