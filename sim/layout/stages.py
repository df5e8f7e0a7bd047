"""How many layers each chunk of a model has: as the plan says, or evenly.

Public: `chunk_layers`.
"""

from __future__ import annotations

from sim.inputs.records import Parallelism
from sim.schedule.catalogue import course_of


def chunk_layers(parallelism: Parallelism, layers: int) -> list[int]:
    """Layers of each of the model chunks, in model order.

    What does not divide goes to the middle: the ends also hold embedding and head (Llama Team
    2024, sec. 3.3.2). Of a plan that passed its checks.
    """
    if parallelism.layers_per_stage is not None:
        return list(parallelism.layers_per_stage)
    chunks = len(course_of(parallelism.schedule, parallelism.pipeline, parallelism.virtual_stages).stage_of)
    first, last = parallelism.first_stage_layers, parallelism.last_stage_layers
    ends = [count for count in (first, last) if count is not None]
    inner = _evenly(layers - sum(ends), chunks - len(ends))
    return [*([] if first is None else [first]), *inner, *([] if last is None else [last])]


def _evenly(layers: int, chunks: int) -> list[int]:
    base, extra = divmod(layers, chunks) if chunks else (0, 0)
    first = (chunks - extra) // 2
    return [base + (first <= chunk < first + extra) for chunk in range(chunks)]
