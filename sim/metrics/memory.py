"""Memory of every pipeline stage, and whether the fullest fits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

from sim.memo import Memo
from sim.metrics.result import MemoryResult
from sim.models.family import Architecture
from sim.plan.plan import Plan
from sim.plan.schedule import layers_per_chunk
from sim.record import text_of
from sim.spec.setup import Setup
from sim.workload.inflight import microbatches_in_flight
from sim.workload.memory import StageMemory

_architectures: Memo[Architecture] = Memo(
    limit=64
)  # three times as long to make as to ask; plans of a search share them


def memory_result(plan: Plan) -> MemoryResult:
    """Bytes per accelerator by part for each stage; the result shows the fullest."""
    setup = Setup(plan.experiment)
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
    stages, virtual, microbatches = parallelism.pipeline, parallelism.virtual_stages, setup.microbatches
    reserved = setup.accelerator.memory.reserved
    architecture = architecture or Architecture(setup.workload, setup.shard)
    ends = list(accumulate(layers_per_chunk(len(architecture.layers), stages, virtual), initial=0))
    chunks = [range(start, stop) for start, stop in pairwise(ends)]
    memory = StageMemory(architecture, setup.training, parallelism, setup.software)
    for stage in range(stages):
        in_flight = microbatches_in_flight(parallelism.schedule, stages, virtual, stage, microbatches)
        held = memory.at(tuple(chunks[stage::stages]), in_flight, first=stage == 0, last=stage == stages - 1)
        yield {**held, "reserved": reserved}
