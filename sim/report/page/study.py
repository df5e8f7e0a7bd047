"""The page of a study: which points are best, how the objectives hang together, every point with its numbers.

Public: `study_page`, `StudyView`, `Density`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sim.report import human
from sim.report.page.charts import BLUE, GREY, ORANGE, PALETTE
from sim.report.page.frame import Cell, Figure, Part, Section, cards, note, page, table

LINES = 12  # curves in one figure
TOKENS, NODES = "step.tokens_per_s", ("nodes", "accelerators")
IDLE = "accelerators_idle"  # a column where any are
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Density:
    """How many points fall into each cell of two objectives: `counts[row][column]`, centres of rows and columns."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class StudyView:
    """What the page shows. rows: all points, or the best and a sample of the others where there are too many."""

    name: str
    description: str
    keys: tuple[str, ...]  # what varies
    objectives: tuple[tuple[str, bool], ...]  # column, whether more is better
    counts: Mapping[str, int]  # rows by status
    total: int
    rows: Rows
    density: Density | None = None  # of all points, where rows are a sample
    whole: str = ""  # the file with all rows


def study_page(view: StudyView) -> str:
    """The page of a study."""
    good = [row for row in view.rows if row["status"] == "ok"]
    sections = [
        Section("Result", [cards(_headlines(view, good)), *_sampled(view)]),
        Section("Objectives", list(_objectives(view, good))),
        Section("Scaling", list(_scaling(view, good))),
        Section("All parameters", list(_parallel(view, good))),
        Section("Points", [_table(view), _numbers(view.rows)]),
    ]
    return page(view.name, view.description, sections)


def _headlines(view: StudyView, good: Rows) -> Iterator[tuple[str, str, str]]:
    states = ", ".join(f"{human.count(count)} {status}" for status, count in view.counts.items())
    yield "points", human.count(view.total), states
    for column, more in view.objectives:
        known = [row for row in good if row.get(column) is not None]
        if known:
            best = (max if more else min)(known, key=lambda row: row[column])
            where = ", ".join(f"{_short(key)} {_said(best.get(key))}" for key in _free(good, view.keys))
            yield f"{'most' if more else 'least'} {_short(column)}", human.digits(best[column]), where


def _sampled(view: StudyView) -> Iterator[Part]:
    if view.density:
        text = f"Shown are the best points and a sample, {len(view.rows):,} of {view.total:,}; "
        yield note(text + f"all rows are in {view.whole}." if view.whole else text + "export all rows with --parquet.")


# --- objectives ------------------------------------------------------------------------------


def _objectives(view: StudyView, good: Rows) -> Iterator[Figure]:
    if len(view.objectives) >= 2:
        yield _pareto(view, good)
    for number, (column, _) in enumerate(view.objectives):
        for key in _free(good, view.keys):
            yield _against(number, key, column, good)


def _free(rows: Rows, keys: Sequence[str]) -> list[str]:
    """The keys that vary on their own: not those that follow from an earlier one."""
    free: list[str] = []
    for key in keys:
        if _varies(rows, key) and not any(_follows(rows, key, other) for other in free):
            free.append(key)
    return free


def _follows(rows: Rows, key: str, other: str) -> bool:
    """Whether each value of `other` goes with one value of `key`."""
    pairs = {(str(row.get(other)), str(row.get(key))) for row in rows}
    return len(pairs) == len({first for first, _ in pairs})


def _pareto(view: StudyView, good: Rows) -> Figure:
    (x, _), (y, _) = view.objectives[:2]
    front = sorted((row for row in good if row.get("pareto")), key=lambda row: row[x])
    rest = [row for row in good if not row.get("pareto")]
    data: list[dict[str, Any]] = []
    if view.density:
        data.append(
            {
                "type": "heatmap",
                "x": list(view.density.x),
                "y": list(view.density.y),
                "z": [[count or None for count in row] for row in view.density.counts],
                "colorscale": [[0, "#c9d6e2"], [1, BLUE]],
                "showscale": False,
                "hovertemplate": "%{z} points<extra></extra>",
            }
        )
    else:
        data.append(_dots(rest, x, y, view.keys, "points", GREY, 6))
    data.append(_dots(front, x, y, view.keys, "no other is better in all", ORANGE, 9) | {"mode": "lines+markers"})
    layout = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "hovermode": "closest"}
    return Figure("pareto", f"{x} against {y}; the line joins the points that no other beats.", data, layout, 440)


def _dots(rows: Rows, x: str, y: str, keys: Sequence[str], name: str, colour: str, size: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [row[x] for row in rows],
        "y": [row[y] for row in rows],
        "customdata": [_where(row, keys) for row in rows],
        "marker": {"size": size, "color": colour},
        "hovertemplate": "%{customdata}<br>%{x:.5g}, %{y:.5g}<extra></extra>",
    }


def _where(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return "<br>".join([f"point {row['point']}", *(f"{key} {_said(row.get(key))}" for key in keys)])


def _against(number: int, key: str, column: str, good: Rows) -> Figure:
    """One objective against one parameter: a dot for each point."""
    known = [row for row in good if row.get(column) is not None]
    numeric = all(isinstance(row.get(key), int | float) for row in known)
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [row.get(key) if numeric else str(row.get(key)) for row in known],
            "y": [row[column] for row in known],
            "text": [f"point {row['point']}" for row in known],
            "marker": {"color": BLUE, "size": 7, "opacity": 0.7},
            "hovertemplate": f"%{{text}}<br>{key} %{{x}}<br>{column} %{{y:.5g}}<extra></extra>",
        }
    ]
    layout = {"xaxis": {"title": {"text": key}}, "yaxis": {"title": {"text": column}}, "showlegend": False}
    name = f"against-{number}-{''.join(letter if letter.isalnum() else '-' for letter in key)}"
    return Figure(name, f"{column} against {key}.", data, layout, 300)


# --- scaling ---------------------------------------------------------------------------------


def _scaling(view: StudyView, good: Rows) -> Iterator[Figure]:
    """Throughput over the size of the job, one curve for each choice of the other parameters."""
    size = next((key for key in view.keys if key in NODES and _varies(good, key)), None)
    if size is None or not any(row.get(TOKENS) for row in good):
        return
    others = [key for key in _free(good, [size, *view.keys]) if key != size]
    curves: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in good:
        curves[tuple(row.get(key) for key in others)].append(row)
    data: list[dict[str, Any]] = []
    for number, (choice, rows) in enumerate(list(curves.items())[:LINES]):
        rows.sort(key=lambda row: row[size])
        name = ", ".join(f"{_short(key)} {_said(value)}" for key, value in zip(others, choice, strict=True))
        sizes, rates = [row[size] for row in rows], [row[TOKENS] for row in rows]
        colour = PALETTE[number % len(PALETTE)]
        data.append(_curve(name or "measured", sizes, rates, colour, "solid"))
        data.append(
            _curve("ideal", sizes, [rates[0] * each / sizes[0] for each in sizes], colour, "dot")
            | {"showlegend": False}
        )
    layout = {
        "xaxis": {"title": {"text": size}, "type": "log"},
        "yaxis": {"title": {"text": "tokens/s"}, "type": "log"},
    }
    yield Figure("scaling", "Throughput over size; dotted: ideal from the smallest size on.", data, layout, 420)


def _curve(name: str, x: Sequence[float], y: Sequence[float], colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if dash == "dot" else "lines+markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": colour, "dash": dash},
        "hovertemplate": f"{name}<br>%{{x}}: %{{y:,.5g}} tokens/s<extra></extra>",
    }


# --- everything -------------------------------------------------------------------------------


def _parallel(view: StudyView, good: Rows) -> Iterator[Figure]:
    """Parallel coordinates; dragging along an axis selects."""
    columns = [key for key in view.keys if _varies(good, key)] + [column for column, _ in view.objectives]
    if len(columns) < 2 or not good:
        return
    colour = [row.get(columns[-1]) or 0.0 for row in good]
    data = [
        {
            "type": "parcoords",
            "line": {"color": colour, "colorscale": "Viridis", "showscale": False},
            "dimensions": [_dimension(column, good) for column in columns],
            "labelangle": -15,
        }
    ]
    layout = {"margin": {"l": 70, "r": 70, "t": 80, "b": 30}}
    yield Figure("parallel", "Each line is a point; drag along an axis to select.", data, layout, 440)


def _dimension(column: str, rows: Rows) -> dict[str, Any]:
    values = [row.get(column) for row in rows]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {"label": _short(column), "values": values}
    names = list(dict.fromkeys(str(value) for value in values))
    places = [names.index(str(value)) for value in values]
    return {"label": _short(column), "values": places, "tickvals": list(range(len(names))), "ticktext": names}


def _varies(rows: Rows, key: str) -> bool:
    return len({str(row.get(key)) for row in rows}) > 1


def _short(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _said(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(view: StudyView) -> str:
    columns = [*view.keys, *(column for column, _ in view.objectives)] or []
    columns += [] if view.objectives else ["step.time_s", "step.mfu"]
    columns += [IDLE] if any(row.get(IDLE) for row in view.rows) else []
    rows: Iterator[list[Cell]] = (
        [(float(row["point"]), str(row["point"])), *(_cell(row.get(column)) for column in columns), _status(row)]
        for row in view.rows
    )
    return table(("point", *columns, "status"), rows, "points", filtered=True)


def _status(row: Mapping[str, Any]) -> str:
    if row.get("pareto"):
        return "best"
    return f"{row['status']}: {row['reason']}" if row.get("reason") else str(row["status"])


def _cell(value: Any) -> Cell:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return (float(value), human.digits(value) if isinstance(value, float) else f"{value:,}")


def _numbers(rows: Rows) -> str:
    """Every number of every shown point, told when its row is chosen."""
    data = {str(row["point"]): {key: value for key, value in row.items() if value is not None} for row in rows}
    text = json.dumps(data, separators=(",", ":"), default=str).replace("<", "\\u003c")
    hint = escape("Choose a point in the table to see all its numbers.")
    return (
        f'<script type="application/json" id="point-data">{text}</script>'
        f'<div id="point" class="wide" aria-live="polite"><p class="weak">{hint}</p></div>'
    )
