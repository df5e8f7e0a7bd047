"""How much slower than the mean the board is that a job waits for.

At the power limit the clock follows the quality of the chip, so the sustained rates of boards are normally
distributed. A job waits for the largest of load times slowness over its pipeline stages: a slow board of a light
stage delays nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import log
from statistics import NormalDist

from sim.devices.roots import highest_within
from sim.inputs.records import Accelerator
from sim.layout.pieces import Chunks, by_stage

NORMAL = NormalDist()


def slowest_of(accelerator: Accelerator, boards: int, loads: tuple[float, ...] = (1.0,)) -> Accelerator:
    """The accelerator at the matrix rates of the slowest board that counts; arguments as of `slowest_pace`."""
    return at_pace(accelerator, slowest_pace(accelerator.matrix.spread, boards, loads))


@lru_cache(maxsize=1024)  # plans of a search with equal stages share it
def slowest_pace(spread: float, boards: int, loads: tuple[float, ...]) -> float:
    """Matrix rates of the slowest board that counts over those of the mean one; `spread` is their standard deviation.

    `loads`: matrix work of the pipeline stages (any unit), each of which has `boards` boards.
    """
    if spread == 0 or boards * len(loads) == 1:
        return 1.0
    return 1.0 - spread * _deviation(boards, loads, spread)


def at_pace(accelerator: Accelerator, pace: float) -> Accelerator:
    """The accelerator with `pace` times its matrix rates."""
    if pace == 1.0:
        return accelerator
    matrix = accelerator.matrix
    fp8, fp32 = matrix.fp8_efficiency, matrix.fp32_efficiency
    apart = {"fp8_efficiency": fp8 and fp8 * pace, "fp32_efficiency": fp32 and fp32 * pace}
    slower = {"efficiency": matrix.efficiency * pace, **apart}
    attention = {
        kernel: share.model_copy(update={"forward": share.forward * pace, "backward": share.backward * pace})
        for kernel, share in accelerator.attention.items()
    }
    return accelerator.model_copy(update={"matrix": matrix.model_copy(update=slower), "attention": attention})


def stage_loads(chunks: Chunks) -> tuple[float, ...]:
    """Matrix FLOPs of one microbatch in all passes, by stage; `chunks` as in `Plan`."""
    stages = by_stage(chunks)
    pieces = ([piece for chunk in stage for part in chunk.segments for piece in part.pieces] for stage in stages)
    return tuple(sum(piece.count * piece.passes.matrix_flops for piece in mine) for mine in pieces)


def _deviation(boards: int, loads: Sequence[float], spread: float) -> float:
    """By how many standard deviations the heaviest stage seems slower than on mean boards.

    The expected largest of n values lies at the quantile (n - 3/8) / (n + 1/4) of one (Blom 1958), so all stay below
    it with the n-th power of that. Here all stay below the wanted time with the same probability, a stage of
    relative load w as long as its boards are slower by less than 1/w times that.
    """
    n = boards * len(loads)
    quantile = (n - 0.375) / (n + 0.25)
    lighter = Counter(max(loads) / load for load in loads if load)

    def excess(deviation: float) -> float:
        slack = {((1.0 + spread * deviation) * factor - 1.0) / spread: stages for factor, stages in lighter.items()}
        return sum(boards * stages * log(NORMAL.cdf(each)) for each, stages in slack.items()) - n * log(quantile)

    most = NORMAL.inv_cdf(quantile)
    return highest_within(excess, 0.0, most) if len(lighter) > 1 else most
