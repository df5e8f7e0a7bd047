"""What workers that do not step in lock-step have in common: how long their steps take, and what is told of them.

Public: `Paced`, `worker_seconds`, `draw`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.trace import Trace
from sim.layout.plan import Plan
from sim.rng import Generator

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paced:
    """How workers came on: means over their steps once all are under way, in s unless said.

    step_s: of a worker, so that all together take `workers` steps in it: exchange_s of it on the network and at
    servers, the rest computing or waiting for others. sent, received: bytes of a worker and step. staleness: (n,)
    updates by others between the weights that a gradient was made of and its own update. server_busy: share of the time
    in which a server works. carried: bytes over one link of each class of the exchange in a step; peak: largest share
    of its capacity. simulated: steps, of all workers.
    """

    step_s: float
    exchange_s: float
    sent: float
    received: float
    staleness: Ints
    server_busy: float
    carried: Floats
    peak: Floats
    simulated: int


def worker_seconds(plan: Plan, trace: Trace) -> Floats:
    """Seconds from the begin of a step until the last rank of each worker is through, (workers,)."""
    of_class = np.zeros(1 + int(plan.partition.rank.max()))
    rank_of = np.array([each.rank if each.kind == "compute" else -1 for each in trace.program.streams])
    ranks = rank_of[trace.stream]
    np.maximum.at(of_class, ranks[ranks >= 0], trace.end[ranks >= 0])
    setup = plan.experiment.setup
    worker = plan.grid.coordinate["data"] // (plan.grid.size["data"] // setup.workers)
    seconds = np.zeros(setup.workers)
    np.maximum.at(seconds, worker, of_class[plan.partition.rank])
    return seconds


def draw(generator: Generator, jitter: float, steps: int = 1) -> float:
    """How long so many steps take beside the mean of one: lognormal of mean 1 each."""
    if not jitter:
        return float(steps)
    return float(np.exp(jitter * generator.standard_normal(steps) - jitter * jitter / 2).sum())
