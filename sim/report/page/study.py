"""The page of a study: which points are best, how the objectives hang together, every point with its numbers.

A point with several seeds is one row: the mean over those that came out, with its 95 % interval.

Public: `study_page`, `StudyView`, `Density`.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sim.metrics.long_run import half_width
from sim.report import human
from sim.report.labels import axis_unit, label, told
from sim.report.page.charts import BLUE, GREY, ORANGE, PALETTE
from sim.report.page.frame import Cell, Figure, Part, Section, cards, note, page, table

LEAST = 1e-6  # smaller numbers are told in powers of ten
LINES = 12  # curves in one figure
OK = "ok"
TOKENS, NODES = "step.tokens_per_s", ("nodes", "accelerators")
IDLE = "accelerators_idle"  # a column where any are
HALF = "half"  # of a row: half of the 95 % interval of each number that moves between seeds
RESULT = re.compile(r"[a-z]\w*(\.\w+)+")  # a key of a result; an objective may also be a formula
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
    points = [_over_seeds(rows) for rows in _by_point(view.rows)]
    good = [row for row in points if row["status"] == OK]
    sections = [
        Section("Result", [cards(_headlines(view, good)), *_sampled(view)]),
        Section("Objectives", list(_objectives(view, good))),
        Section("Scaling", list(_scaling(view, good))),
        Section("All parameters", list(_parallel(view, good))),
        Section("Points", [_table(view, points), _numbers(points, view.keys)]),
    ]
    return page(view.name, f"{view.description.rstrip('.')}. {_sentence(view, good)}".removeprefix(". "), sections)


# --- seeds and names ----------------------------------------------------------------------------


def _by_point(rows: Rows) -> Iterator[Rows]:
    found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["point"]].append(row)
    yield from found.values()


def _over_seeds(rows: Rows) -> dict[str, Any]:
    """One row for all seeds of a point: means of its numbers; under `HALF`, half of their 95 % intervals."""
    good = [row for row in rows if row["status"] == OK]
    shown = good or rows
    means: dict[str, Any] = dict(shown[0])
    means[HALF] = {}
    if len(shown) > 1:
        for key in means.keys() - {"point", "seed", HALF}:
            values = _plain_numbers(row.get(key) for row in shown)
            if len(values) == len(shown):
                mean = sum(values) / len(values)
                half = half_width(len(values), sum((value - mean) ** 2 for value in values))
                if half:
                    means[key] = mean
                    means[HALF][key] = half
    if 0 < len(good) < len(rows):
        failed = next(row for row in rows if row["status"] != OK)
        means["reason"] = f"{len(rows) - len(good)} of {len(rows)} seeds {failed['status']}: {failed.get('reason', '')}"
    means["pareto"] = any(row.get("pareto") for row in rows)
    return means


def _plain_numbers(values: Iterable[Any]) -> list[float]:
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]


def _name(column: str, keys: Sequence[str]) -> str:
    """What people call a column: of a key that varies its last part, where no other ends so."""
    if column not in keys:
        return label(column) if RESULT.fullmatch(column) else column
    end = column.rpartition(".")[2]
    alone = sum(key.rpartition(".")[2] == end for key in keys) == 1
    return (end if alone else column.replace(".", " ")).replace("_", " ")


def _value(row: Mapping[str, Any], column: str) -> str:
    """A result with its unit, and its interval over the seeds."""
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, int | float) or not RESULT.fullmatch(column):
        return "-" if value is None else human.digits(value) if isinstance(value, float) else str(value)
    half = row.get(HALF, {}).get(column)
    if isinstance(value, int) and not half:
        return human.count(value)
    if 0 < abs(value) < LEAST:  # also what has a unit within: no amount is told as nothing
        return f"{value:.4g}"
    return told(column, value) + (f" ± {told(column, half)}" if half else "")


def _axis(column: str, values: Sequence[float]) -> tuple[float, str]:
    """What values are divided by along an axis, and its title with the unit."""
    if not RESULT.fullmatch(column):
        return 1.0, column
    size, unit = axis_unit(column, values)
    return size, f"{label(column)}, {unit}" if unit else label(column)


def _sentence(view: StudyView, good: Rows) -> str:
    """What the study finds, for somebody who reads no more."""
    usable = f"{human.count(view.counts.get(OK, 0))} of {human.count(view.total)} runs are usable"
    found = [
        f"{'most' if more else 'least'} {_name(column, view.keys)} is {_value(best, column)}"
        + (f" with {where}" if (where := _choice(best, good, view.keys)) else "")
        for column, more, best in _bests(view, good)
    ]
    return "; ".join([usable, *found]) + "."


def _bests(view: StudyView, good: Rows) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    for column, more in view.objectives:
        known = [row for row in good if row.get(column) is not None]
        if known:
            yield column, more, (max if more else min)(known, key=lambda row: row[column])


def _choice(row: Mapping[str, Any], good: Rows, keys: Sequence[str]) -> str:
    return ", ".join(f"{_name(key, keys)} {_said(row.get(key))}" for key in _free(good, keys))


def _headlines(view: StudyView, good: Rows) -> Iterator[tuple[str, str, str]]:
    states = ", ".join(f"{human.count(count)} {status}" for status, count in view.counts.items())
    yield "runs", human.count(view.total), states
    for column, more, best in _bests(view, good):
        title = f"{'most' if more else 'least'} {_name(column, view.keys)}"
        yield title, _value(best, column), _choice(best, good, view.keys)


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
            yield _against(number, key, column, good, view.keys)


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
    (x_size, x_title), (y_size, y_title) = (_axis(column, [row[column] for row in good]) for column in (x, y))
    sizes = (x_size, y_size)
    data: list[dict[str, Any]] = []
    if view.density:
        data.append(
            {
                "type": "heatmap",
                "x": [value / x_size for value in view.density.x],
                "y": [value / y_size for value in view.density.y],
                "z": [[count or None for count in row] for row in view.density.counts],
                "colorscale": [[0, "#c9d6e2"], [1, BLUE]],
                "showscale": False,
                "hovertemplate": "%{z} points<extra></extra>",
            }
        )
    else:
        data.append(_dots(rest, (x, y), sizes, view.keys, "points", GREY, 6))
    best = _dots(front, (x, y), sizes, view.keys, "no other is better in all", ORANGE, 9)
    data.append(best | {"mode": "lines+markers"})
    layout = {"xaxis": {"title": {"text": x_title}}, "yaxis": {"title": {"text": y_title}}, "hovermode": "closest"}
    text = f"{_name(x, view.keys)} against {_name(y, view.keys)}; the line joins the points that no other beats."
    return Figure("pareto", text, data, layout, 440)


def _dots(
    rows: Rows,
    columns: tuple[str, str],
    sizes: tuple[float, float],
    keys: Sequence[str],
    name: str,
    colour: str,
    size: int,
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [row[columns[0]] / sizes[0] for row in rows],
        "y": [row[columns[1]] / sizes[1] for row in rows],
        "customdata": ["<br>".join([_where(row, keys), *_values(row, columns)]) for row in rows],
        "marker": {"size": size, "color": colour},
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _where(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return "<br>".join([f"point {row['point']}", *(f"{_name(key, keys)} {_said(row.get(key))}" for key in keys)])


def _values(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    return (f"{_name(column, ())} {_value(row, column)}" for column in columns)


def _against(number: int, key: str, column: str, good: Rows, keys: Sequence[str]) -> Figure:
    """One objective against one parameter: a dot for each point, with its interval over the seeds."""
    known = [row for row in good if row.get(column) is not None]
    numeric = all(isinstance(row.get(key), int | float) and not isinstance(row.get(key), bool) for row in known)
    size, title = _axis(column, [row[column] for row in known])
    halves = [row[HALF].get(column, 0.0) / size for row in known]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [row.get(key) if numeric else _said(row.get(key)) for row in known],
            "y": [row[column] / size for row in known],
            "error_y": {"array": halves, "visible": any(halves)},
            "text": ["<br>".join([_where(row, keys), *_values(row, [column])]) for row in known],
            "marker": {"color": BLUE, "size": 7, "opacity": 0.7},
            "hovertemplate": "%{text}<extra></extra>",
        }
    ]
    words = _name(key, keys)
    layout = {"xaxis": {"title": {"text": words}}, "yaxis": {"title": {"text": title}}, "showlegend": False}
    name = f"against-{number}-{''.join(letter if letter.isalnum() else '-' for letter in key)}"
    return Figure(name, f"{_name(column, keys)} against {words}.", data, layout, 300)


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
    if all(len(rows) < 2 for rows in curves.values()):
        return
    data: list[dict[str, Any]] = []
    for number, (choice, rows) in enumerate(list(curves.items())[:LINES]):
        rows.sort(key=lambda row: row[size])
        name = ", ".join(f"{_name(key, view.keys)} {_said(value)}" for key, value in zip(others, choice, strict=True))
        sizes, rates = [row[size] for row in rows], [row[TOKENS] for row in rows]
        colour = PALETTE[number % len(PALETTE)]
        data.append(_curve(name or "measured", sizes, rates, colour, "solid"))
        data.append(
            _curve("ideal", sizes, [rates[0] * each / sizes[0] for each in sizes], colour, "dot")
            | {"showlegend": False}
        )
    layout = {
        "xaxis": {"title": {"text": size}, "type": "log", "tickvals": sorted({row[size] for row in good})},
        "yaxis": {"title": {"text": "tokens/s"}, "type": "log", "dtick": 1},
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
            "dimensions": [_dimension(column, good, view.keys) for column in columns],
            "labelangle": -15,
        }
    ]
    layout = {"margin": {"l": 110, "r": 50, "t": 80, "b": 30}}
    yield Figure("parallel", "Each line is a point; drag along an axis to select.", data, layout, 440)


def _dimension(column: str, rows: Rows, keys: Sequence[str]) -> dict[str, Any]:
    values = [row.get(column) for row in rows]
    numbers = _plain_numbers(values)
    if len(numbers) == len(values):
        size, title = (1.0, _name(column, keys)) if column in keys else _axis(column, numbers)
        return {"label": title, "values": [number / size for number in numbers]}
    names = list(dict.fromkeys(_said(value) for value in values))
    places = [names.index(_said(value)) for value in values]
    return {"label": _name(column, keys), "values": places, "tickvals": list(range(len(names))), "ticktext": names}


def _varies(rows: Rows, key: str) -> bool:
    return len({str(row.get(key)) for row in rows}) > 1


def _said(value: Any) -> str:
    """A value of a key; a mapping that extends something by the name of that, with what it changes."""
    if isinstance(value, str) and value.startswith("{"):
        mapping = _mapping(value)
        name = mapping.pop("extends", None) or mapping.pop("name", None)
        changes = ", ".join(f"{key} {each}" for key, each in mapping.items())
        return f"{name} ({changes})" if name and changes else str(name or value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {}
    return found if isinstance(found, dict) else {}


def _table(view: StudyView, points: Rows) -> str:
    """All points, the best first, then by the first objective; what cannot be used last."""
    columns = [column for column, _ in view.objectives] or ["step.time_s", "step.mfu"]
    columns += [IDLE] if any(row.get(IDLE) for row in points) else []
    shown = (*view.keys, *(column for column in columns if column not in view.keys))
    sign = -1.0 if view.objectives and view.objectives[0][1] else 1.0

    def place(row: Mapping[str, Any]) -> tuple[bool, float]:
        value = row.get(view.objectives[0][0]) if view.objectives else row["point"]
        return row["status"] != OK, float("inf") if value is None else sign * value

    rows: Iterator[list[Cell]] = (
        [(float(row["point"]), str(row["point"])), *(_cell(row, column, view.keys) for column in shown), _status(row)]
        for row in sorted(points, key=place)
    )
    heads = [(_name(column, view.keys), column) for column in shown]
    return table(("point", *heads, "status"), rows, "points", filtered=True)


def _status(row: Mapping[str, Any]) -> str:
    status = "best" if row.get("pareto") else str(row["status"])
    return f"{status}: {row['reason']}" if row.get("reason") else status


def _cell(row: Mapping[str, Any], column: str, keys: Sequence[str]) -> Cell:
    value = row.get(column)
    text = _said(value) if column in keys and value is not None else _value(row, column)
    return text if isinstance(value, bool) or not isinstance(value, int | float) else (float(value), text)


def _numbers(rows: Rows, keys: Sequence[str]) -> str:
    """Every number of every shown point, told when its row is chosen."""
    data = {
        str(row["point"]): {
            key: _said(value) if key in keys else _value(row, key)
            for key, value in row.items()
            if value is not None and key != HALF
        }
        for row in rows
    }
    labels = {key: _name(key, keys) for numbers in data.values() for key in numbers}
    text = json.dumps({"labels": labels, "points": data}, separators=(",", ":"), default=str).replace("<", "\\u003c")
    hint = escape("Choose a point in the table to see all its numbers.")
    return (
        f'<script type="application/json" id="point-data">{text}</script>'
        f'<div id="point" class="wide" aria-live="polite"><p class="weak">{hint}</p></div>'
    )
