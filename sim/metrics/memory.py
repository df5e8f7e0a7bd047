"""Memory of every pipeline stage, and whether the fullest fits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from sim.inputs.setup import Setup
from sim.inputs.synchronization import LocalSteps
from sim.memo import Memo
from sim.metrics.result import MemoryResult
from sim.models.family import Architecture
from sim.record import text_of
from sim.schedule.catalogue import course_of, held_of
from sim.workload.memory import Parts, StageMemory

_architectures: Memo[Architecture] = Memo(64)  # three times as long to make as to ask; a search shares them


ERROR, SHARDED_ERROR = 0.1, 0.2
NOT_HELD = {"global_batch", "tokens", "samples", "time_limit"}  # of the training, beside how many microbatches it makes
UNKNOWN = "unknown"  # verdict on a step of which nobody knows
EXACT = 1 + 1e-12  # parts of a full accelerator add up to it but for rounding


def memory_result(
    setup: Setup, architecture: Architecture | None = None, there: Collection[int] | None = None
) -> MemoryResult:
    """Bytes per accelerator by part for each stage; the result shows the fullest, among those that are `there`."""
    places = list(_places(setup, architecture))
    stages = tuple(_moments(setup, place) for place in places)
    peaks = tuple(max(moments.values(), key=_total) for moments in stages)
    fullest = max(range(len(stages)) if there is None else there, key=lambda stage: _total(peaks[stage]))
    peak, capacity, error = _total(peaks[fullest]), setup.accelerator.memory.capacity, error_of(setup)
    lacks = peak - capacity * EXACT
    asked = (place.memory.host_bytes(place.layers, place.held, first=place.first, last=place.last) for place in places)
    host = 0.0 if setup.has_servers else max(asked)
    return MemoryResult(
        peak,
        capacity,
        lacks <= 0,
        peaks[fullest],
        peaks,
        stages[fullest],
        (host + _outer_bytes(setup, places)) * min(setup.ranks, setup.node.accelerators),
        error,
        _verdict(peak, capacity, error),
    )


def tightest(results: Sequence[MemoryResult]) -> MemoryResult:
    """Of the same job on several kinds of accelerator the one that has least room."""
    return max(results, key=lambda result: result.peak_bytes_per_accelerator / result.capacity_bytes)


def _outer_bytes(setup: Setup, places: Sequence[_Place]) -> float:
    """Host memory of a rank for what workers that exchange now and then keep of the last time."""
    way = setup.experiment.synchronization
    if not isinstance(way, LocalSteps):
        return 0.0
    sharers = setup.data // way.workers * setup.parallelism.context
    trained = max(place.memory.trained(place.layers, first=place.first, last=place.last) for place in places)
    return way.outer_bytes * trained / (sharers if way.carried_by == "all" else 1)


def unknown_memory(setup: Setup) -> MemoryResult:
    """That of a recorded step: no trace of kernels says what lies in memory."""
    capacity = setup.accelerator.memory.capacity
    return MemoryResult(0.0, capacity, True, {}, ({},), verdict=UNKNOWN)


def _verdict(peak: float, capacity: float, error: float) -> str:
    """Tight on both sides of the capacity, as far as predictions err: what is said to lack that little may run."""
    if peak * (1 + error) <= capacity:
        return "fits"
    return "tight" if peak <= capacity * (1 + error) else "does not fit"


def memory_key(setup: Setup) -> tuple[object, ...]:
    """All that `memory_result` depends on: of the batch, only how much of it is held at a time."""
    plan, memory, microbatches = setup.parallelism, setup.accelerator.memory, setup.microbatches
    shape = plan.schedule, plan.pipeline, plan.virtual_stages
    held = tuple(held_of(*shape, microbatches, stage) for stage in range(plan.pipeline))
    records = text_of(setup.workload), text_of(setup.software), setup.training.model_dump_json(exclude=NOT_HELD), plan
    numbers = setup.data, microbatches > 1, held, memory.capacity, memory.reserved, setup.node.accelerators
    teacher = text_of(setup.taught.workload) if setup.experiment.teacher is not None else ""
    return *records, *numbers, setup.experiment.synchronization, teacher


def error_of(setup: Setup) -> float:
    """Relative error of memory predictions of such runs.

    On one board the allocator takes 1.02 to 1.05 times what tensors need, and twelve measured runs lie within 10 %;
    where units are gathered and freed it is 1.15 to 1.36 (TorchTitan; llama-cookbook, PR 41).
    """
    return SHARDED_ERROR if setup.parallelism.zero_stage >= 2 and setup.data > 1 else ERROR


def lacking_bytes(setup: Setup) -> float:
    """What the accelerators of the first stage that does not fit lack at least; 0 if the valid plan fits [B]."""
    capacity = setup.accelerator.memory.capacity
    key = text_of(setup.workload), setup.shard
    architecture = _architectures.get(key, lambda: Architecture(setup.workload, setup.shard), lambda _: 1.0)
    lacking = (_total(parts) - capacity * EXACT for parts in memory_by_stage(setup, architecture))
    return next((each for each in lacking if each > 0), 0.0)


def memory_by_stage(setup: Setup, architecture: Architecture | None = None) -> Iterator[Parts]:
    """Bytes per accelerator by part at the fullest moment of each stage, stage after stage."""
    for moments in moments_by_stage(setup, architecture):
        yield max(moments.values(), key=_total)


def moments_by_stage(setup: Setup, architecture: Architecture | None = None) -> Iterator[dict[str, Parts]]:
    """Bytes per accelerator by moment and part; of the `architecture` if the model was split already."""
    for place in _places(setup, architecture):
        yield _moments(setup, place)


class _Place(NamedTuple):
    """A stage, as `StageMemory` is asked for it."""

    memory: StageMemory
    layers: tuple[range, ...]
    held: Sequence[Sequence[int]]
    first: bool
    last: bool
    teacher: float = 0.0  # bytes of its weights


def _places(setup: Setup, architecture: Architecture | None) -> Iterator[_Place]:
    parallelism = setup.parallelism.model_copy(update={"data": setup.data // setup.workers})
    training = setup.training.model_copy(update={"global_batch": setup.training.global_batch // setup.workers})
    if setup.has_servers:  # what is not on the board lies at the servers
        training = training.model_copy(update={"offload": training.offload.model_copy(update={"optimizer": True})})
    shape = parallelism.schedule, parallelism.pipeline, parallelism.virtual_stages
    course = course_of(*shape)
    architecture = architecture or Architecture(setup.workload, setup.shard)
    ends = list(accumulate(course.layers(len(architecture.layers), parallelism.layers_per_stage), initial=0))
    parts = [range(start, stop) for start, stop in pairwise(ends)]
    memory = StageMemory(architecture, training, parallelism, setup.software)
    teacher = _teacher_bytes(setup)
    for stage, chunks in enumerate(course.chunks):
        held = held_of(*shape, setup.microbatches, stage)
        layers = tuple(parts[chunk] for chunk in chunks)
        yield _Place(memory, layers, held, chunks[0] == 0, chunks[-1] == len(parts) - 1, teacher[stage])


def _teacher_bytes(setup: Setup) -> list[float]:
    """Weights of a teacher on a rank of each stage."""
    if setup.experiment.teacher is None:
        return [0.0] * setup.parallelism.pipeline
    places = _places(setup.taught, None)
    each = (place.memory.at(place.layers, place.held, first=place.first, last=place.last) for place in places)
    return [moments["loss"]["weights"] for moments in each]


def _moments(setup: Setup, place: _Place) -> dict[str, Parts]:
    """With what is reserved. An allocator that finds no room gives back what it keeps beside tensors, and tries again.

    PyTorch documentation, CUDA semantics, memory management; c10/cuda/CUDACachingAllocator.cpp, release_cached_blocks.
    """
    found = place.memory.at(place.layers, place.held, first=place.first, last=place.last)
    memory, moments = setup.accelerator.memory, {}
    for moment, student in found.items():
        parts = {**student, "weights": student["weights"] + place.teacher}
        room = memory.capacity - memory.reserved - _total(parts) + parts["allocator"]
        kept = min(parts["allocator"], max(0.0, room))
        moments[moment] = {**parts, "allocator": kept, "reserved": memory.reserved}
    return moments


def _total(parts: Parts) -> float:
    return sum(parts.values())
