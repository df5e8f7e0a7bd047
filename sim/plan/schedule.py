"""Pipeline schedules as plain lists: which stage does which pass of which microbatch, in order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Pass(NamedTuple):
    """One forward or backward pass of a microbatch through one model chunk of a stage."""

    backward: bool
    chunk: int  # virtual stage, 0 .. virtual_stages-1
    microbatch: int


class Order:
    """Passes of a stage in order, and the same as an array: `table` (n, 3) of backward, chunk, microbatch."""

    def __init__(self, passes: tuple[Pass, ...], table: Ints, chosen: Ints) -> None:
        """The passes numbered `chosen` of all."""
        self.passes, self.chosen, self.table = passes, chosen, table[chosen]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.chosen)

    def __getitem__(self, place: int) -> Pass:
        """The pass at a place."""
        return self.passes[int(self.chosen[place])]

    def __iter__(self) -> Iterator[Pass]:
        """All in order."""
        return map(self.passes.__getitem__, self.chosen.tolist())


@lru_cache(maxsize=1024)
def stage_order(schedule: str, stages: int, virtual: int, stage: int, microbatches: int) -> Order:
    """Passes of `stage` in order.

    gpipe: all forward, then all backward (Huang 2019). 1f1b: PipeDream-flush (Narayanan 2021,
    sec. 2.2.1). With virtual > 1 the interleaved form (sec. 2.2.2), which takes microbatches in
    groups of `stages` through each chunk in turn.
    """
    passes, table = _passes(stages, virtual, microbatches)
    n = microbatches * virtual
    ahead = _warmup(schedule, stages, virtual, stage, microbatches)
    turn = np.arange(n)
    steady = np.stack([turn[ahead:], n + turn[: n - ahead]], axis=1).ravel()
    return Order(passes, table, np.concatenate([turn[:ahead], steady, n + turn[n - ahead :]]))


@lru_cache(maxsize=8)
def _passes(stages: int, virtual: int, microbatches: int) -> tuple[tuple[Pass, ...], Ints]:
    """All forward, then all backward passes of any stage, each in order; stages differ in how they mix the two."""
    n = microbatches * virtual
    passes = tuple(_pass(backward, k, stages, virtual) for backward in (False, True) for k in range(n))
    return passes, np.array(passes, dtype=np.int64).reshape(-1, 3)


def _pass(backward: bool, k: int, stages: int, virtual: int) -> Pass:
    """The k-th forward (or backward) pass of a stage."""
    if virtual == 1:
        return Pass(backward, 0, k)
    chunk = k // stages % virtual
    microbatch = k // (stages * virtual) * stages + k % stages
    return Pass(backward, virtual - 1 - chunk if backward else chunk, microbatch)


def _warmup(schedule: str, stages: int, virtual: int, stage: int, microbatches: int) -> int:
    """Forward passes before the first backward pass."""
    everything = microbatches * virtual
    if schedule == "gpipe":
        return everything
    if virtual == 1:
        return min(everything, stages - stage - 1)
    if microbatches == stages:
        return everything
    return min(everything, 2 * (stages - stage - 1) + (virtual - 1) * stages)


def period(stages: int, virtual: int) -> tuple[int, int]:
    """Instructions of a stage per period of its steady state, and microbatches per period."""
    return (2, 1) if virtual == 1 else (2 * stages * virtual, stages)


def layers_per_chunk(layers: int, stages: int, virtual: int) -> list[int]:
    """Layers of each of the stages*virtual model chunks, in model order.

    What does not divide goes to the middle: the ends also hold embedding and head (Llama Team
    2024, sec. 3.3.2).
    """
    chunks = stages * virtual
    base, extra = divmod(layers, chunks)
    first = (chunks - extra) // 2
    return [base + (first <= chunk < first + extra) for chunk in range(chunks)]
