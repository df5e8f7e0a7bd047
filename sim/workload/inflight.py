"""How many microbatches a pipeline stage holds activations of at its fullest."""

from __future__ import annotations


def microbatches_in_flight(schedule: str, pipeline: int, virtual_stages: int, stage: int, microbatches: int) -> int:
    """Model chunks whose activations stage `stage` (from 0) holds at the peak, one microbatch each.

    GPipe keeps all. 1F1B keeps one per stage downstream, itself included. Interleaved 1F1B runs
    2 (p - stage - 1) + (v - 1) p chunks ahead and holds one more (Narayanan 2021, section 2.2;
    p v (1 + (p - 1)/(p v)) on the first stage: Korthikanti 2022, section 4.2.3), but all when
    there are as many microbatches as stages.
    """
    everything = microbatches * virtual_stages
    if schedule == "gpipe" or (virtual_stages > 1 and microbatches == pipeline):
        return everything
    if virtual_stages == 1:
        return min(everything, pipeline - stage)
    return min(everything, 2 * (pipeline - stage - 1) + (virtual_stages - 1) * pipeline + 1)


def end_chunks_in_flight(in_flight: int, pipeline: int, virtual_stages: int) -> int:
    """Of `in_flight` chunks, those of the stage's first model chunk (or of its last, on the last stage).

    Warm-up runs `pipeline` microbatches through each chunk in turn, so what exceeds
    (v - 1) p chunks belongs to the chunk that holds the embedding, or the head.
    """
    return max(1, in_flight - (virtual_stages - 1) * pipeline)
