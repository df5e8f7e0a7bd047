"""Predicted collectives as text: one line for each platform, then the curves that stand out."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.metrics.curves import CurveScore, CurveValidation, PlatformScore
from sim.report import human

HEAD = ("platform", "curves", "sizes", "saturated", "worst", "whole curve", "worst")
FAR_SATURATED, FAR_CURVE = 0.05, 0.15  # errors from which a curve is named


def print_curves(validation: CurveValidation, console: Console) -> None:
    """Print the score of each platform and the curves with large errors."""
    console.print(Text("Error of collectives: saturated bus bandwidth, and time over all message sizes", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="right" if number else "left")
    for kind, cells in platform_rows(validation):
        table.add_row(*cells, style="bold" if kind == "total" else "")
    console.print(table)
    for score in far_curves(validation):
        console.print(Text(f"  {describe(score)}"))


def platform_rows(validation: CurveValidation) -> Iterator[tuple[str, list[str]]]:
    """Kind of the line ("total" for the last) and its cells under HEAD."""
    for name, score in validation.platforms.items():
        yield "", [name, *_cells(score)]
    yield "total", ["all", *_cells(validation.total)]


def far_curves(validation: CurveValidation) -> list[CurveScore]:
    """Curves whose saturated bandwidth or mean time is far off, the farthest first."""
    far = [s for s in validation.scores if s.mean_error > FAR_CURVE or abs(s.saturated_error or 0.0) > FAR_SATURATED]
    return sorted(far, key=lambda score: -score.mean_error)


def describe(score: CurveScore) -> str:
    """One curve in one line."""
    point = score.largest
    measured, predicted = (score.bus_bandwidth(t, point.size) / 1e9 for t in (point.measured, point.predicted))
    return (
        f"{score.name}: {score.collective} over {score.ranks}, {human.percent(score.mean_error)} over "
        f"{len(score.points)} sizes; {human.digits(predicted)} for {human.digits(measured)} GB/s at the largest"
    )


def _cells(score: PlatformScore) -> list[str]:
    saturated = "-" if score.saturated is None else human.percent(score.saturated)
    worst = "-" if score.worst_saturated is None else human.signed_percent(score.worst_saturated)
    return [
        str(score.curves),
        str(score.points),
        saturated,
        worst,
        human.percent(score.mean),
        human.percent(score.worst),
    ]
