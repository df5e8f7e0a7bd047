"""What the SimPy clock is asked for beside plain timeouts: alarms that may be set anew, and the end of an instant."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from simpy.core import Environment
from simpy.events import Event, Timeout

NEVER = -1.0


class Sleeper:
    """Somebody who is woken at the time set last; what was set before does not ring any more."""

    def __init__(self) -> None:
        self.alarm: Timeout | None = None
        self.rings_at = NEVER

    def sleep_until(self, env: Environment, time: float, wake: Callable[[Event], Any]) -> None:
        """Have `wake` called with the alarm at `time` [s]; never, if that is infinite."""
        if self.alarm is not None and self.alarm.callbacks:
            self.alarm.callbacks.clear()
        self.rings_at = time
        if time < inf:
            self.alarm = env.timeout(max(0.0, time - env.now))
            self.alarm.callbacks.append(wake)


class Settling:
    """Calls those who ask for it when nothing else is left at this instant, lower ranks first.

    One for each environment: two would wait for each other.
    """

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.asked: list[tuple[int, Callable[[], object]]] = []

    def after_all(self, rank: int, act: Callable[[], object]) -> None:
        """Call `act` at the end of the instant."""
        if not self.asked:
            self._come_again()
        self.asked.append((rank, act))

    def _come_again(self) -> None:
        self.env.timeout(0.0).callbacks.append(self._look)

    def _look(self, _: Event) -> None:
        if self.env.peek() > self.env.now:
            first = min(self.asked, key=lambda asked: asked[0])
            first[1]()
            self.asked.remove(first)
            if not self.asked:
                return
        self._come_again()
