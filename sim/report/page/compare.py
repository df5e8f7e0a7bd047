"""The page of results side by side: what was asked differently, what came out differently.

Public: `compare_page`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from sim.metrics.result import BREAKDOWN, Result
from sim.report.compare import Contrast, Metric, cell, compare, plain
from sim.report.labels import FIRST, label
from sim.report.page.charts import PART_COLOURS
from sim.report.page.frame import Cell, Figure, Part, Section, cards, note, page, table
from sim.report.sentence import in_one_sentence
from sim.report.text import LABELS

LEAST_HEIGHT, ROW = 150, 46  # pixels of the chart, and of each design in it


def compare_page(results: Sequence[Result], names: Sequence[str] = ()) -> str:
    """The page of `results`, under `names` of one's own."""
    contrast = compare(results, names)
    sections = [
        Section("In a sentence each", ["".join(_sentences(results, contrast.names))]),
        Section("Headlines", [_headlines(contrast)]),
        Section("Where the step goes", [_breakdowns(results, contrast.names)]),
        Section("What was asked differently", [_changes(contrast)]),
        Section("What came out differently", [_metrics(contrast)]),
    ]
    return page(" and ".join(contrast.names), f"Differences are from {contrast.names[0]}.", sections)


def _sentences(results: Sequence[Result], names: Sequence[str]) -> Iterator[str]:
    for name, result in zip(names, results, strict=True):
        yield f"<p><b>{escape(name)}</b>: {escape(in_one_sentence(result))}</p>"


def _headlines(contrast: Contrast) -> Part:
    """One row for each design, what is asked first in columns."""
    known = {metric.key: metric for metric in contrast.metrics}
    asked = [known[key] for key in FIRST if key in known and (key != "accelerators_idle" or known[key].moves)]
    if len(contrast.names) == 2:
        return cards((label(metric.key), cell(metric, 1), f"{contrast.names[0]} {cell(metric, 0)}") for metric in asked)
    rows = ([name, *(_cell(metric, number) for metric in asked)] for number, name in enumerate(contrast.names))
    return table(("design", *(label(metric.key) for metric in asked)), rows, "headlines")


def _breakdowns(results: Sequence[Result], names: Sequence[str]) -> Figure:
    parts = [part for part in BREAKDOWN if any(result.step.breakdown_s.get(part) for result in results)]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": LABELS.get(part, part),
            "y": list(reversed(names)),
            "x": [result.step.breakdown_s.get(part, 0.0) for result in reversed(results)],
            "marker": {"color": PART_COLOURS[part]},
            "hovertemplate": f"{LABELS.get(part, part)}<br>%{{x:.4g}} s<extra></extra>",
        }
        for part in parts
    ]
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "seconds of one step"}}, "yaxis": {"automargin": True}}
    text = "Exposed time on the critical rank of each."
    return Figure("breakdowns", text, data, layout, LEAST_HEIGHT + ROW * len(results))


def _changes(contrast: Contrast) -> Part:
    if not contrast.changes:
        return note("The input is the same.")
    rows = ([change.key, *(plain(change.key, value) for value in change.values)] for change in contrast.changes)
    return table(("input", *contrast.names), rows, "changes", filtered=True)


def _metrics(contrast: Contrast) -> Part:
    shown = contrast.shown()
    if not shown:
        return note("All numbers are the same.")
    designs = range(len(contrast.names))
    rows: Iterator[list[Cell]] = (
        [label(metric.key), *(_cell(metric, number) for number in designs), metric.key] for metric in shown
    )
    return table(("result", *contrast.names, "key"), rows, "metrics", filtered=True)


def _cell(metric: Metric, number: int) -> Cell:
    value = metric.values[number]
    return "-" if value is None else (value, cell(metric, number))
