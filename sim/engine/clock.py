"""Events at a given time of the SimPy clock, to the last bit."""

from __future__ import annotations

from heapq import heappush
from typing import Any

from simpy.core import Environment
from simpy.events import NORMAL, Event

NEVER = -1.0


class Bell(Event):
    """An event that rings again and again. Only a ring at `rings_at` counts: one set before may still come."""

    _value = None

    def __init__(self) -> None:
        self.callbacks: Any = None
        self._ok, self.rings_at = True, NEVER


def ring_at(env: Environment, event: Event, time: float) -> None:
    """Schedule `event` for `time` [s]; `Environment.schedule` would add a rounded delay to the clock."""
    heappush(env._queue, (time, NORMAL, next(env._eid), event))
