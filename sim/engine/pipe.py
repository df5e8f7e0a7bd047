"""One resource that many readers share evenly, each with a limit of its own: processor sharing on the clock.

While n read, each gets the least of its own limit and an n-th of the whole. All get the same, so one
running sum of bytes per reader says who is done (virtual time; Parekh and Gallager, IEEE/ACM ToN 1993).
"""

from __future__ import annotations

import heapq
from math import inf

from simpy.core import Environment
from simpy.events import Event, Timeout


class SharedPipe:
    """`total` B/s for all readers together, `each` B/s for one."""

    def __init__(self, env: Environment, total: float, each: float = inf) -> None:
        self.env, self.total, self.each = env, total, each
        self.given = 0.0  # bytes that a reader present from the start has had
        self.since = 0.0
        self.waiting: list[tuple[float, int, Event]] = []
        self.number = 0
        self.alarm: Event | None = None

    def read(self, size: float) -> Event:
        """Happens when `size` bytes have been read."""
        self._advance()
        done = Event(self.env)
        self.number += 1
        heapq.heappush(self.waiting, (self.given + size, self.number, done))
        self._set_alarm()
        return done

    @property
    def _rate(self) -> float:
        return min(self.each, self.total / len(self.waiting))

    def _advance(self) -> None:
        now = self.env.now
        if self.waiting and now > self.since:
            self.given += self._rate * (now - self.since)
        self.since = now

    def _set_alarm(self) -> None:
        if not self.waiting:
            self.given, self.alarm = 0.0, None
            return
        self.alarm = Timeout(self.env, max(0.0, self.waiting[0][0] - self.given) / self._rate)
        self.alarm.callbacks.append(self._ring)

    def _ring(self, alarm: Event) -> None:
        if alarm is not self.alarm:
            return
        self._advance()
        self.given = max(self.given, self.waiting[0][0])
        while self.waiting and self.waiting[0][0] <= self.given * (1 + 1e-12):
            heapq.heappop(self.waiting)[2].succeed()
        self._set_alarm()
