"""Where the time of a job went: seconds by kind, and the timeline.

Public: `Ledger`.
"""

from __future__ import annotations

from sim.life.life_inputs import BADPUT, Span, State


class Ledger:
    """Accounts of one life. Every second is entered once."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.seconds = dict.fromkeys(BADPUT, 0.0)  # as they pass; lost work and input stalls are known at the end only

    def stand(self, phase: str, start: float, end: float, counts: tuple[int, int, int], state: State) -> None:
        """No training between `start` and `end`; `phase` is a key of BADPUT."""
        if end > start:
            self.seconds[phase] += end - start
            self.spans.append(Span(start, end, phase, end - start, *counts, state))

    def train(
        self, spent: dict[str, float], start: float, end: float, counts: tuple[int, int, int], state: State
    ) -> None:
        """Training and saving between `start` and `end`; `spent` as `Pace.advance` returns it."""
        self.seconds["checkpoint_blocking"] += spent["blocking"] + spent["peer"]
        self.seconds["slow_parts"] += spent["extra"]
        for phase, kind in (("training", "steps"), ("redo", "redo"), ("checkpoint_blocking", "blocking")):
            if spent[kind] > 0:
                self.spans.append(Span(start, end, phase, spent[kind], *counts, state))

    def close(self, done: float, trained: float, healthy_s: float, stall_s: float) -> tuple[float, dict[str, float]]:
        """Productive seconds and badput, of `trained` steps of which `done` count; a step has `stall_s` of waiting."""
        badput = dict(self.seconds)
        badput["input_stall"] += done * stall_s
        badput["lost_work"] += (trained - done) * healthy_s
        return done * (healthy_s - stall_s), badput
