"""A validation as one HTML page: scores, predicted against measured as a picture, every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10

from sim.metrics.validation import Row, Validation
from sim.report import human
from sim.report.curves import HEAD, describe, far_curves, platform_rows
from sim.report.validation import METRICS, parts_of, score_cells

WIDTH, HEIGHT, MARGIN = 720, 480, 72
BAND = 0.1  # relative error drawn around the diagonal
COLOURS = 12

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de; --soft: #eef1f4; --dot: 42%; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; --soft: #161b22; --dot: 65%; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.total { font-weight: 600; }
tr.missed { background: var(--soft); }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
.grid { stroke: var(--line); } .even { stroke: currentColor; } .band { fill: var(--soft); }
.wide { overflow-x: auto; } small { opacity: .75; }
"""


def validation_page(validation: Validation) -> str:
    """The whole page; it needs no other file."""
    done = [row for row in validation.rows if not row.problem]
    body = "\n".join(
        [
            "<h1>Predicted and measured step times</h1>",
            _summary(validation),
            _table(("source", *("runs", "MAPE", "median", "p95", "worst", "bias")), _score_rows(validation), text=1),
            *(["<h2>All runs</h2>", _scatter(done)] if done else []),
            *(["<h2>Largest errors</h2>", _misses(validation)] if validation.worst else []),
            _failures([row for row in validation.rows if row.problem]),
            _collectives(validation),
            "<h2>Every run</h2>",
            _runs(done),
        ]
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>Validation</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _summary(validation: Validation) -> str:
    total = validation.total
    text = f"{total.n} runs; the error is that of the step time, plus is too slow."
    return f"<p>{text}{'' if validation.complete else ' The validation was interrupted.'}</p>"


def _score_rows(validation: Validation) -> Iterator[tuple[str, list[str]]]:
    for source, score in validation.scores.items():
        yield "", [source, *score_cells(score)]
    yield "total", ["all", *score_cells(validation.total)]


def _table(head: Sequence[str], rows: Iterator[tuple[str, list[str]]], text: int) -> str:
    """A table of (class of the row, cells); the first `text` columns are text, the others numbers."""

    def cells(tag: str, values: Sequence[str]) -> str:
        kinds = ["" if number < text else ' class="n"' for number in range(len(values))]
        return "".join(f"<{tag}{kind}>{escape(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True))

    lines = [f'<tr class="{kind}">{cells("td", values)}</tr>' for kind, values in rows]
    return f'<div class="wide"><table><tr>{cells("th", head)}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def _collectives(validation: Validation) -> str:
    if validation.curves is None:
        return ""
    table = _table(HEAD, platform_rows(validation.curves), text=1)
    far = "".join(f"<li>{escape(describe(score))}</li>" for score in far_curves(validation.curves))
    return f"<h2>Collectives</h2>\n{table}\n<ul>{far}</ul>"


def _misses(validation: Validation) -> str:
    items = (
        f"<li><b>{human.signed_percent(miss.row.error)}</b> {escape(miss.row.name)}: {_numbers(miss.row)}"
        f"<br/><small>{escape(', '.join(parts_of(miss.row)))}</small><br/>{escape('; '.join(miss.causes))}</li>"
        for miss in validation.worst
    )
    return "<ol>\n" + "\n".join(items) + "\n</ol>"


def _numbers(row: Row) -> str:
    unit = METRICS.get(row.metric, row.metric)
    return f"{human.digits(row.predicted)} for {human.digits(row.measured)} {unit}"


def _failures(rows: list[Row]) -> str:
    if not rows:
        return ""
    items = "\n".join(f"<li>{escape(row.source)}/{escape(row.name)}: {escape(row.problem)}</li>" for row in rows)
    return f"<h2>Not predicted</h2>\n<ul>\n{items}\n</ul>"


def _runs(rows: list[Row]) -> str:
    head = ("source", "run", "plan", "unit", "measured", "predicted", "error")
    lines = (
        (
            "missed" if row.missed else "",
            [
                row.source,
                row.name,
                _plan(row),
                METRICS.get(row.metric, row.metric),
                human.digits(row.measured),
                human.digits(row.predicted),
                human.signed_percent(row.error),
            ],
        )
        for row in rows
    )
    return _table(head, lines, text=4)


def _plan(row: Row) -> str:
    plan = row.plan
    if plan is None:
        return ""
    split = {"tensor": plan.tensor, "pipeline": plan.pipeline, "context": plan.context, "data": plan.data}
    shape = ", ".join(f"{name} {size}" for name, size in split.items() if size > 1)
    return f"{plan.accelerators} x {plan.accelerator}: {shape or 'one rank'}; microbatch {plan.microbatch}"


# --- the picture ------------------------------------------------------------------------------


def _scatter(rows: list[Row]) -> str:
    """Predicted over measured step time, both logarithmic, with the diagonal and a band around it."""
    points = [(row.step_s / (1 + row.error), row.step_s, row) for row in rows]
    values = [value for measured, predicted, _ in points for value in (measured, predicted)]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high = max(high, low + 1)

    def across(value: float) -> float:
        return MARGIN + (log10(value) - low) / (high - low) * (WIDTH - 2 * MARGIN)

    def up(value: float) -> float:
        return HEIGHT - MARGIN - (log10(value) - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    first, last = 10.0**low, 10.0**high

    def line(kind: str, *ends: tuple[float, float]) -> str:
        (x1, y1), (x2, y2) = ((across(x), up(y)) for x, y in ends)
        return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'

    corners = [(first, first), (first, first * (1 + BAND)), (last / (1 + BAND), last), (last, last)]
    corners += [(last, last * (1 - BAND)), (first / (1 - BAND), first)]
    band = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in corners)
    parts = [f'<polygon class="band" points="{band}"/>']
    for value in (10.0**power for power in range(low, high + 1)):
        label = human.step_time(value)
        parts += [
            line("grid", (value, first), (value, last)),
            line("grid", (first, value), (last, value)),
            _text(across(value), up(first) + 18, label, "middle"),
            _text(MARGIN - 6, up(value) + 4, label, "end"),
        ]
    parts.append(line("even", (first, first), (last, last)))
    sources = list(dict.fromkeys(row.source for row in rows))
    for measured, predicted, row in points:
        title = escape(f"{row.source}/{row.name}: {human.signed_percent(row.error)}")
        place = f'cx="{across(measured):.1f}" cy="{up(predicted):.1f}" r="3.5"'
        parts.append(f"<circle {place} {_colour(sources.index(row.source))}><title>{title}</title></circle>")
    parts += [
        _text(WIDTH / 2, HEIGHT - 14, "measured step time", "middle"),
        f'<g transform="rotate(-90 14 {HEIGHT / 2})">{_text(14, HEIGHT / 2, "predicted step time", "middle")}</g>',
        *_legend(sources),
    ]
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="predicted against measured">'
    return "\n".join([picture, *parts, "</svg>", "<p><small>The band is 10 % to either side.</small></p>"])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _colour(number: int) -> str:
    return f'style="fill: hsl({number * 360 // COLOURS % 360} 65% var(--dot)); fill-opacity: .75"'


def _legend(sources: list[str]) -> Iterator[str]:
    for number, source in enumerate(sources):
        y = MARGIN + 6 + 16 * number
        yield f'<circle cx="{MARGIN + 12}" cy="{y}" r="4" {_colour(number)}/>'
        yield f'<text x="{MARGIN + 22}" y="{y + 4}">{escape(source)}</text>'
