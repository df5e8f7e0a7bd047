"""A lower bound on the step time of many plans of one shape at once.

For the first rank of each stage s of one pipeline, in the notation of `Times`:

- its first pass begins after the forward passes of the stages before it (and their sends): E(s);
- its compute stream holds every pass of every microbatch, and the sends that it waits for: B(s);
- after its last pass, the gradient of the last microbatch goes back through the stages before it: M(s);
- then come the last sum of gradients, the optimizer and what sends its result: the tail;
- a communicator runs its collectives one after the other, so that their sum bounds the step too, and what
  they take from the computation beside them adds to B(s).

Public: `Times`, `step_bound`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.ranks import Job
from sim.study.search.exchange import Exchange

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Times:
    """Seconds of K plans of one shape: (K, chunks) passes in model order, (K, stages) sends of each stage."""

    forward: Floats
    backward: Floats
    exposed: Floats  # (K, chunks) collectives in both passes that computation waits for
    send_forward: Floats
    send_backward: Floats
    microbatches: Floats  # (K, 1)
    waits_for_sends: bool


def step_bound(times: Times, exchange: Exchange, job: Job) -> Floats:
    """Seconds of a step at least, (K,)."""
    begin, passes, sends = _begin(times, exchange), *_busy(times)
    between = np.maximum(sends, times.microbatches * exchange.between - exchange.first)
    stream = passes + times.microbatches * exchange.serial + between
    tail = exchange.last.copy()
    tail[[0, -1]] = np.maximum(tail[[0, -1]], exchange.embedding)
    tail += exchange.optimizer + exchange.weights
    ended = _ended(begin + stream, times) + tail
    traffic = times.microbatches * exchange.each + exchange.opening + exchange.closing
    alone = traffic + exchange.optimizer + exchange.weights
    slowed = _slowed(times, begin, passes, sends, traffic, job.plan.software.overlap_slowdown) + exchange.optimizer
    bound: Floats = np.maximum.reduce([ended, np.broadcast_to(alone, ended.shape), slowed]).max(axis=1)
    bound += job.plan.software.step_overhead
    return bound


def _slowed(times: Times, begin: Floats, passes: Floats, sends: Floats, traffic: Floats, share: float) -> Floats:
    """What a compute stream takes when traffic takes its share of the computation beside it, (K, stages).

    Of the step, A is spent computing and the rest R otherwise: waiting, sending, in exposed collectives. The
    traffic C is beside A for C - R at least, so A = work + share (C - R), and the step takes at least
    work + share C + (1 - share) R.
    """
    count, stages = begin.shape
    exposed = times.microbatches * times.exposed.reshape(count, -1, stages).sum(axis=1)
    least: Floats = passes - exposed + share * traffic + (1 - share) * (begin + sends + exposed)
    return least


def _begin(times: Times, exchange: Exchange) -> Floats:
    """When the compute stream of each stage can begin, as if nothing later held it up, (K, stages)."""
    stages = times.send_forward.shape[1]
    begin = np.zeros_like(times.send_forward)
    arrival = np.zeros(len(begin))
    for stage in range(stages):
        forward = times.forward[:, stage]
        weights = np.maximum(exchange.first[stage], exchange.opening[stage] - forward)
        begin[:, stage] = np.maximum(arrival, weights)
        arrival = begin[:, stage] + forward + times.send_forward[:, stage]
    return begin


def _busy(times: Times) -> tuple[Floats, Floats]:
    """What the compute stream of each stage does in a step: passes, and sends it waits for, (K, stages) each."""
    count, stages = times.send_forward.shape
    passes = (times.forward + times.backward).reshape(count, -1, stages).sum(axis=1)
    virtual = times.forward.shape[1] // stages
    ahead, back = np.full(stages, virtual), np.full(stages, virtual)
    ahead[-1] -= 1
    back[0] -= 1
    sends = times.waits_for_sends * (ahead * times.send_forward + back * times.send_backward)
    return times.microbatches * passes, times.microbatches * sends


def _ended(own: Floats, times: Times) -> Floats:
    """When the last backward pass of each stage is over, given when its own stream can be, (K, stages)."""
    ended = own.copy()
    for stage in range(own.shape[1] - 2, -1, -1):
        after = ended[:, stage + 1] + times.backward[:, stage]
        if not times.waits_for_sends:
            after = after + times.send_backward[:, stage + 1]
        elif stage:
            after = after + times.send_backward[:, stage]
        ended[:, stage] = np.maximum(ended[:, stage], after)
    return ended
