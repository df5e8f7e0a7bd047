"""The page of a scaling study.

Public: `scaling_page`.
"""

from __future__ import annotations

from typing import Any

from sim.metrics.scaling import ScalingStudy
from sim.report.page.charts import PALETTE
from sim.report.page.frame import Figure, Section, note, page, table
from sim.report.scaling import TITLES, scaling_rows


def scaling_page(study: ScalingStudy) -> str:
    """Efficiency over size, and a table for each mode."""
    sections = [Section("Efficiency", [_efficiency(study)])]
    for mode, title in TITLES.items():
        points = [point for point in study.points if point.mode == mode]
        if points:
            head, rows = scaling_rows(points)
            problems = [note(f"{point.nodes} nodes: {point.problem}") for point in points if point.problem]
            sections.append(Section(title.partition(":")[0], [note(title), table(head, rows, mode), *problems]))
    return page(f"{study.name}: scaling", study.description, sections)


def _efficiency(study: ScalingStudy) -> Figure:
    """Tokens per second and accelerator, relative to the smallest size."""
    data: list[dict[str, Any]] = []
    for number, mode in enumerate(dict.fromkeys(point.mode for point in study.points)):
        known = [point for point in study.points if point.mode == mode and point.efficiency is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": mode,
                "x": [point.accelerators for point in known],
                "y": [point.efficiency for point in known],
                "marker": {"color": PALETTE[number]},
                "hovertemplate": "%{x:,} accelerators<br>%{y:.1%}<extra></extra>",
            }
        )
    axes = {
        "xaxis": {"title": {"text": "accelerators"}, "type": "log"},
        "yaxis": {"title": {"text": "efficiency"}, "tickformat": ".0%", "rangemode": "tozero"},
    }
    return Figure("efficiency", "Tokens/s of an accelerator, relative to the smallest size.", data, axes, 360)
