"""A replayed step beside its recording, as text.

Public: `replay_parts`, `starts_apart`, `signed_time`.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from sim.metrics.result import ReplayResult
from sim.report import human
from sim.report.layout import grid

NOTHING_RECORDED = "the trace was generated, or says of no node when it began: there is nothing to compare with"


def replay_parts(replay: ReplayResult) -> Iterator[RenderableType]:
    """The step both ways, kind by kind, and how far begins are apart."""
    if not replay.kinds:
        yield Text(NOTHING_RECORDED, style="dim")
        return
    table = grid("left", "right", "right", "right", "right")
    table.add_row("a rank", "nodes", "recorded", "replayed", "begins later by", style="dim")
    for name, each in replay.kinds.items():
        times = human.step_time(each.recorded_s), human.step_time(each.replayed_s)
        table.add_row(name, human.count(each.nodes), *times, signed_time(each.apart_s))
    change = human.signed_percent(replay.replayed_s / replay.recorded_s - 1)
    steps = human.step_time(replay.recorded_s), human.step_time(replay.replayed_s)
    table.add_row("step", "", *steps, change, style="bold")
    yield table
    yield Text(starts_apart(replay), style="dim")


def starts_apart(replay: ReplayResult) -> str:
    """How far begins are apart, in one line."""
    if not replay.kinds:
        return NOTHING_RECORDED
    error = replay.start_error
    text = f"begins are {error['p50']:.2%} of the step apart (median), {error['p95']:.2%} (95th percentile)"
    return text + ("" if replay.changed else "; nothing is other than it was recorded")


def signed_time(seconds: float) -> str:
    """A difference of times."""
    return ("-" if seconds < 0 else "+") + human.step_time(abs(seconds)) if seconds else "0"
