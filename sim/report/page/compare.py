"""The page of two results side by side: what was asked differently, what came out differently.

Public: `compare_page`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.metrics.result import BREAKDOWN, Result
from sim.report.compare import Contrast, compare, plain, relative, show
from sim.report.page.charts import PART_COLOURS
from sim.report.page.frame import Cell, Figure, Part, Section, cards, note, page, table
from sim.report.text import LABELS

HEADLINES = (
    "step.time_s",
    "step.tokens_per_s",
    "step.mfu",
    "memory.peak_bytes_per_accelerator",
    "run.goodput",
    "energy.total_kwh",
    "cost.usd.total",
)


def compare_page(a: Result, b: Result) -> str:
    """The page of `a` and `b`."""
    contrast = compare(a, b)
    sections = [
        Section("Headlines", [cards(_headlines(contrast))]),
        Section("Where the step goes", [_breakdowns(a, b)]),
        Section("What was asked differently", [_changes(contrast)]),
        Section("What came out differently", [_metrics(contrast)]),
    ]
    return page(f"{a.name} and {b.name}", "A is the first, B the second", sections)


def _headlines(contrast: Contrast) -> Iterator[tuple[str, str, str]]:
    known = {metric.key: metric for metric in contrast.metrics}
    for key in HEADLINES:
        if key in known:
            metric = known[key]
            below = f"A {show(key, metric.a)}, {relative(metric)}"
            yield key.replace("_", " ").replace(".", " "), show(key, metric.b), below


def _breakdowns(a: Result, b: Result) -> Figure:
    parts = [part for part in BREAKDOWN if a.step.breakdown_s.get(part) or b.step.breakdown_s.get(part)]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": LABELS.get(part, part),
            "y": ["B", "A"],
            "x": [b.step.breakdown_s.get(part, 0.0), a.step.breakdown_s.get(part, 0.0)],
            "marker": {"color": PART_COLOURS[part]},
            "hovertemplate": f"{LABELS.get(part, part)}<br>%{{x:.4g}} s<extra></extra>",
        }
        for part in parts
    ]
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "seconds of one step"}}, "margin": {"l": 30}}
    return Figure("breakdowns", "Exposed time on the critical rank of both.", data, layout, 240)


def _changes(contrast: Contrast) -> Part:
    if not contrast.changes:
        return note("The input is the same.")
    rows = ([change.key, plain(change.a), plain(change.b)] for change in contrast.changes)
    return table(("input", "A", "B"), rows, "changes", filtered=True)


def _metrics(contrast: Contrast) -> Part:
    moved = [metric for metric in contrast.metrics if metric.difference]
    if not moved:
        return note("All numbers are the same.")
    rows: Iterator[list[Cell]] = (
        [
            metric.key,
            (metric.a, show(metric.key, metric.a)),
            (metric.b, show(metric.key, metric.b)),
            (abs(metric.ratio - 1) if metric.ratio is not None else 1e300, relative(metric)),
        ]
        for metric in moved
    )
    return table(("result", "A", "B", "change"), rows, "metrics", filtered=True)
