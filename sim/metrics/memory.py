"""Memory of every pipeline stage, and whether the fullest fits."""

from __future__ import annotations

from collections.abc import Iterator

from sim.metrics.result import MemoryResult
from sim.plan.pieces import layers_per_chunk, shard_of
from sim.plan.plan import Plan
from sim.schedule.catalogue import course_of, held_of
from sim.spec.setup import Setup
from sim.workload.memory import StageMemory


def memory_result(plan: Plan) -> MemoryResult:
    """Bytes per accelerator by part for each stage; the result shows the fullest."""
    setup = Setup(plan.experiment)
    stages = tuple(memory_by_stage(setup))
    fullest = max(stages, key=lambda parts: sum(parts.values()))
    peak, capacity = sum(fullest.values()), setup.accelerator.memory.capacity
    return MemoryResult(peak, capacity, peak <= capacity, fullest, stages)


def lacking_bytes(setup: Setup) -> float:
    """What the accelerators of the first stage that does not fit lack at least; 0 if the valid plan fits [B]."""
    capacity = setup.accelerator.memory.capacity
    lacking = (sum(parts.values()) - capacity for parts in memory_by_stage(setup))
    return next((each for each in lacking if each > 0), 0.0)


def memory_by_stage(setup: Setup) -> Iterator[dict[str, float]]:
    """Bytes per accelerator by part, stage after stage."""
    training, software, model = setup.training, setup.software, setup.workload
    parallelism = setup.parallelism.model_copy(update={"data": setup.data})
    shape = parallelism.schedule, parallelism.pipeline, parallelism.virtual_stages
    course = course_of(*shape)
    layers = layers_per_chunk(model.layers, len(course.stage_of))
    shard = shard_of(parallelism, training, software)
    memory = StageMemory(model, shard, training, parallelism, software)
    for stage, chunks in enumerate(course.chunks):
        held = held_of(*shape, setup.microbatches, stage)
        ends = chunks[0] == 0, chunks[-1] == len(layers) - 1
        parts = memory.at([layers[chunk] for chunk in chunks], held, *ends)
        yield {**parts, "reserved": setup.accelerator.memory.reserved}
