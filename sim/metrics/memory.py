"""Memory of every pipeline stage, and whether the fullest fits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

from sim.inputs.setup import Setup
from sim.memo import Memo
from sim.metrics.result import MemoryResult
from sim.models.family import Architecture
from sim.plan.pieces import layers_per_chunk
from sim.plan.plan import Plan
from sim.record import text_of
from sim.schedule.catalogue import course_of, held_of
from sim.workload.memory import StageMemory

_architectures: Memo[Architecture] = Memo(64)  # three times as long to make as to ask; a search shares them


def memory_result(plan: Plan) -> MemoryResult:
    """Bytes per accelerator by part for each stage; the result shows the fullest."""
    setup = plan.experiment.setup
    stages = tuple(memory_by_stage(setup, plan.architecture))
    fullest = max(stages, key=lambda parts: sum(parts.values()))
    peak, capacity = sum(fullest.values()), setup.accelerator.memory.capacity
    return MemoryResult(peak, capacity, peak <= capacity, fullest, stages)


def lacking_bytes(setup: Setup) -> float:
    """What the accelerators of the first stage that does not fit lack at least; 0 if the valid plan fits [B]."""
    capacity = setup.accelerator.memory.capacity
    key = text_of(setup.workload), setup.shard
    architecture = _architectures.get(key, lambda: Architecture(setup.workload, setup.shard), lambda _: 1.0)
    lacking = (sum(parts.values()) - capacity for parts in memory_by_stage(setup, architecture))
    return next((each for each in lacking if each > 0), 0.0)


def memory_by_stage(setup: Setup, architecture: Architecture | None = None) -> Iterator[dict[str, float]]:
    """Bytes per accelerator by part, stage after stage; of the `architecture` if the model was split already."""
    parallelism = setup.parallelism.model_copy(update={"data": setup.data})
    shape = parallelism.schedule, parallelism.pipeline, parallelism.virtual_stages
    course = course_of(*shape)
    architecture = architecture or Architecture(setup.workload, setup.shard)
    ends = list(accumulate(layers_per_chunk(len(architecture.layers), len(course.stage_of)), initial=0))
    parts = [range(start, stop) for start, stop in pairwise(ends)]
    memory = StageMemory(architecture, setup.training, parallelism, setup.software)
    for stage, chunks in enumerate(course.chunks):
        held = held_of(*shape, setup.microbatches, stage)
        opens, closes = chunks[0] == 0, chunks[-1] == len(parts) - 1
        found = memory.at(tuple(parts[chunk] for chunk in chunks), held, first=opens, last=closes)
        yield {**found, "reserved": setup.accelerator.memory.reserved}
