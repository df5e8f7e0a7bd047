"""A step as one SVG picture: ranks from top to bottom, time from left to right.

A rank has a high row for its computation and a low one for each other stream. What is forward, backward or the
optimizer is told by colour, the microbatch by its number where there is room. It stands by itself: no script, no font,
no other file.

Public: `timeline_picture`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from sim.metrics.timeline import Timeline, TimelineSpan
from sim.report import human
from sim.report.page.charts import BLUE, GREY, PART_COLOURS, PURPLE, SKY
from sim.report.text import LABELS

WIDTH, LEFT, RIGHT, TOP = 1000.0, 190.0, 12.0, 34.0  # user units; names of rows stand in LEFT
HIGH, LOW, GAP = 20.0, 8.0, 9.0
LEAST = 0.05  # narrower spans are drawn that wide, so that they are seen
LETTER = 6.5  # width of a digit at the size of the labels
TICKS = 8
PASSES = {"forward": SKY, "backward": BLUE}
COLOURS = {**PART_COLOURS, **PASSES, "optimizer": PURPLE}
HIDDEN = "receives"  # a copy of what the sender shows


@dataclass(frozen=True)
class _Row:
    rank: int
    track: str
    y: float
    height: float
    spans: tuple[TimelineSpan, ...]


def timeline_picture(timeline: Timeline) -> str:
    """The window of `timeline` as an SVG document, WIDTH units wide and as high as its rows are many."""
    rows = list(_rows(timeline))
    begin = min((span.start for row in rows for span in row.spans), default=0.0)
    end = max((span.end for row in rows for span in row.spans), default=timeline.step)
    scale = (WIDTH - LEFT - RIGHT) / ((end - begin) or 1.0)
    bottom = rows[-1].y + rows[-1].height if rows else TOP
    parts = [
        *_key(rows),
        *_axis(begin, end, scale, bottom),
        *(part for row in rows for part in _drawn(row, timeline, begin, scale)),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {bottom + 40:g}" role="img" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#1b1f24">'
    )
    title = f"<title>{len(timeline.places)} ranks over {human.step_time(end - begin)}</title>"
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([head, title, paper, *parts, "</svg>", ""])


def _rows(timeline: Timeline) -> Iterator[_Row]:
    y = TOP
    for rank in timeline.places:
        spans = [span for span in timeline.spans if span.rank == rank]
        for track in sorted({span.track for span in spans} - {HIDDEN}, key=lambda name: (name != "compute", name)):
            height = HIGH if track == "compute" else LOW
            yield _Row(rank, track, y, height, tuple(span for span in spans if span.track == track))
            y += height + 3
        y += GAP


def _kind(span: TimelineSpan) -> str:
    """What the colour of a span tells: the pass, or the part of the breakdown."""
    word = span.name.partition(" ")[0]
    return word if span.category == "compute" and word in PASSES else span.category


def _key(rows: list[_Row]) -> Iterator[str]:
    kinds = list(dict.fromkeys(_kind(span) for row in rows for span in row.spans if span.end > span.start))
    x = LEFT
    for kind in kinds:
        label = LABELS.get(kind, kind)
        yield f'<rect x="{x:.0f}" y="8" width="11" height="11" fill="{COLOURS.get(kind, GREY)}"/>'
        yield f'<text x="{x + 15:.0f}" y="17">{escape(label)}</text>'
        x += 30 + LETTER * len(label)


def _axis(begin: float, end: float, scale: float, bottom: float) -> Iterator[str]:
    """Lines and times at even numbers."""
    step = _even((end - begin) / TICKS)
    for number in range(ceil(begin / step), floor(end / step) + 1) if step else ():
        x = LEFT + (number * step - begin) * scale
        label = human.step_time(number * step) if number else "0"
        yield f'<path d="M{x:.2f} {TOP - 6:g}V{bottom + 6:.2f}" stroke="#d0d7de" stroke-width=".6"/>'
        yield f'<text x="{x:.2f}" y="{bottom + 20:.2f}" text-anchor="middle" fill="#59636e">{label}</text>'


def _even(rough: float) -> float:
    """The next of 1, 2 or 5 times a power of ten; 0 for 0."""
    if rough <= 0:
        return 0.0
    power = 10.0 ** floor(log10(rough))
    return next(power * size for size in (1, 2, 5, 10) if power * size >= rough)


def _drawn(row: _Row, timeline: Timeline, begin: float, scale: float) -> Iterator[str]:
    middle = row.y + row.height / 2 + 4
    if row.track == "compute":
        yield f'<text x="4" y="{middle:.1f}">rank {row.rank}, {escape(timeline.places[row.rank])}</text>'
    else:
        style = 'font-size="9" fill="#59636e" text-anchor="end"'
        yield f'<text x="{LEFT - 6:g}" y="{middle - 1:.1f}" {style}>{escape(row.track)}</text>'
    width = WIDTH - LEFT - RIGHT
    yield f'<rect x="{LEFT:g}" y="{row.y:g}" width="{width:g}" height="{row.height:g}" fill="#f3f5f7"/>'
    for span in row.spans:
        if span.end > span.start:
            yield from _span(span, row, LEFT + (span.start - begin) * scale, (span.end - span.start) * scale)


def _span(span: TimelineSpan, row: _Row, x: float, width: float) -> Iterator[str]:
    told = f"{span.name}, microbatch {span.index}: {human.step_time(span.end - span.start)}"
    yield (
        f'<rect x="{x:.2f}" y="{row.y:g}" width="{max(width - 0.3, LEAST):.2f}" height="{row.height:g}" '
        f'fill="{COLOURS.get(_kind(span), GREY)}"><title>{escape(told)}</title></rect>'
    )
    number = str(span.index)
    if row.height == HIGH and _kind(span) != span.category and width > LETTER * len(number) + 3:
        yield (
            f'<text x="{x + width / 2:.2f}" y="{row.y + 14:g}" text-anchor="middle" fill="#fff" '
            f'pointer-events="none">{number}</text>'
        )
