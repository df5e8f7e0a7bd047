"""Events at a given time of the SimPy clock, to the last bit."""

from __future__ import annotations

from heapq import heappush

from simpy.core import Environment
from simpy.events import NORMAL, Event


def ring_at(env: Environment, event: Event, time: float) -> None:
    """Schedule `event` for `time` [s]; `Environment.schedule` would add a rounded delay to the clock."""
    heappush(env._queue, (time, NORMAL, next(env._eid), event))
