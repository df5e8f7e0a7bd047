"""A lower bound on the step time of many plans at once whose schedules begin and end alike.

For the first rank of each stage s of one pipeline, in the notation of `TaskTimes`:

- its first task begins after the forward tasks of the chunks before it (and their sends): E(s);
- its compute stream holds every task of every microbatch, and the sends that it waits for: B(s);
- after its last input gradient, that gradient goes back through the chunks before it, and weight gradients that were
  put off follow: M(s);
- then come the last sum of gradients, the optimizer and what sends its result: the tail;
- a communicator runs its collectives one after the other, so that their sum bounds the step too, and what
  they take from the computation beside them adds to B(s).

Which chunk comes first and last, and what was put off, is read from the table of the schedule (`Schedule.ends`).

Public: `TaskTimes`, `step_bound`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.ask.plan.exchange import ExchangeTime
from sim.programs.ranks import Job
from sim.schedule.course import Course
from sim.schedule.table import Ends

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TaskTimes:
    """Seconds of K plans, (K, chunks) each in model order: tasks by phase, and sends of their results."""

    course: Course
    ends: Ends
    forward: Floats
    backward: Floats
    weight: Floats  # gradients of weights, where they are tasks of their own
    exposed: Floats  # collectives in all of them that computation waits for
    send_forward: Floats
    send_backward: Floats
    microbatches: Floats  # (K, 1)
    waits_for_sends: bool

    def by_stage(self, chunks: Floats) -> Floats:
        """Sums over the chunks of each stage, (K, stages)."""
        return np.stack([chunks[:, list(own)].sum(axis=1) for own in self.course.chunks], axis=1)


def step_bound(times: TaskTimes, exchange: ExchangeTime[Floats], embedding: float, job: Job) -> Floats:
    """Seconds of a step at least, (K,); embedding: of the sum of a tied table over both ends."""
    begin, passes, sends = _begin(times, exchange), *_busy(times)
    between = np.maximum(sends, times.microbatches * exchange.between - exchange.first)
    stream = passes + times.microbatches * exchange.serial + between
    tail = exchange.last.copy()
    for stage in times.course.ends:
        tail[stage] = max(tail[stage], embedding)
    tail += exchange.optimizer + exchange.weights
    ended = _ended(begin + stream, times) + tail
    traffic = times.microbatches * exchange.each + exchange.opening + exchange.closing
    alone = traffic + exchange.optimizer + exchange.weights
    slowed = _slowed(times, begin, passes, sends, traffic, job.plan.software.overlap_slowdown) + exchange.optimizer
    bound: Floats = np.maximum.reduce([ended, np.broadcast_to(alone, ended.shape), slowed]).max(axis=1)
    bound += job.plan.software.step_overhead
    return bound


def _slowed(times: TaskTimes, begin: Floats, passes: Floats, sends: Floats, traffic: Floats, share: float) -> Floats:
    """What a compute stream takes when traffic takes its share of the computation beside it, (K, stages).

    Of the step, A is spent computing and the rest R otherwise: waiting, sending, in exposed collectives. The
    traffic C is beside A for C - R at least, so A = work + share (C - R), and the step takes at least
    work + share C + (1 - share) R.
    """
    exposed = times.microbatches * times.by_stage(times.exposed)
    least: Floats = passes - exposed + share * traffic + (1 - share) * (begin + sends + exposed)
    return least


def _begin(times: TaskTimes, exchange: ExchangeTime[Floats]) -> Floats:
    """When the compute stream of each stage can begin, as if nothing later held it up, (K, stages)."""
    begin = np.zeros((len(times.forward), times.course.stages))
    arrival = np.zeros(len(begin))
    for chunk, stage in enumerate(times.course.stage_of[: max(times.ends.first) + 1]):
        forward = times.forward[:, chunk]
        if times.ends.first[stage] == chunk:
            weights = np.maximum(exchange.first[stage], exchange.opening[stage] - forward)
            begin[:, stage] = np.maximum(arrival, weights)
        arrival = np.maximum(arrival, begin[:, stage]) + forward + times.send_forward[:, chunk]
    return begin


def _busy(times: TaskTimes) -> tuple[Floats, Floats]:
    """What the compute stream of each stage does in a step: tasks, and sends it waits for, (K, stages) each."""
    passes = times.by_stage(times.forward + times.backward + times.weight)
    sends = times.waits_for_sends * times.by_stage(times.send_forward + times.send_backward)
    return times.microbatches * passes, times.microbatches * sends


def _ended(own: Floats, times: TaskTimes) -> Floats:
    """When the last task of each stage is over, given when its own stream can be, (K, stages)."""
    ended, arrival = own.copy(), np.zeros(len(own))
    for chunk in reversed(range(len(times.course.stage_of))):
        stage = times.course.stage_of[chunk]
        over = arrival + times.backward[:, chunk] + times.waits_for_sends * times.send_backward[:, chunk]
        ended[:, stage] = np.maximum(ended[:, stage], over + times.weight[:, chunk])
        if times.ends.last[stage] == chunk:
            over = np.maximum(over, ended[:, stage] - times.weight @ np.array(times.ends.after[stage], dtype=float))
        arrival = over if times.waits_for_sends else over + times.send_backward[:, chunk]
    return ended
