"""The frame of every page: one HTML file with its style, its data and its scripts inside.

A page is a title and sections of HTML; a figure is a Plotly figure as plain data, drawn in the colours
of the reader's theme. The page asks for nothing from the network.

Public: `Figure`, `Part`, `Section`, `page`, `table`, `cards`, `note`, `code`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

Cell = str | tuple[float, str]  # text, or a number with its text, by which columns sort
Head = str | tuple[str, str]  # the title of a column, or the title and the key that its tooltip tells


@dataclass(frozen=True)
class Figure:
    """A Plotly figure: traces and layout; `text` says in words what it shows, `height` is in pixels."""

    name: str
    text: str
    data: Sequence[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 360


Part = str | Figure  # HTML, or a figure


@dataclass(frozen=True)
class Section:
    """A heading with HTML and figures under it."""

    title: str
    parts: Sequence[Part]


def page(title: str, subtitle: str, sections: Iterable[Section]) -> str:
    """The whole page."""
    shown = [section for section in sections if section.parts]
    figures = [part for section in shown for part in section.parts if isinstance(part, Figure)]
    links = "".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in shown)
    body = "\n".join(_section(section) for section in shown)
    drawn = {f.name: {"data": f.data, "layout": f.layout | {"height": f.height}} for f in figures}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>\n<style>{_asset('page.css')}</style></head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n<nav>{links}</nav>\n"
        f"<main>\n{body}\n</main>\n"
        f'<script type="application/json" id="figures">{_safe(drawn)}</script>\n'
        + (f'<script type="text/plain" id="plotly">{_plotly()}</script>\n' if figures else "")
        + f"<script>{_asset('page.js')}</script>\n</body></html>\n"
    )


def _section(section: Section) -> str:
    parts = "\n".join(_figure(part) if isinstance(part, Figure) else part for part in section.parts)
    return f'<section id="{_anchor(section.title)}"><h2>{escape(section.title)}</h2>\n{parts}\n</section>'


def _figure(figure: Figure) -> str:
    text = escape(figure.text)
    return (
        f'<figure><div class="plot" id="plot-{figure.name}" data-figure="{figure.name}" role="img"'
        f' aria-label="{text}" style="height:{figure.height}px"></div><figcaption>{text}</figcaption></figure>'
    )


def table(head: Sequence[Head], rows: Iterable[Sequence[Cell]], name: str = "", filtered: bool = False) -> str:
    """A table whose columns sort at a click; numbers stand right. `filtered` adds a field to search rows."""
    titles = "".join(map(_head, head))
    lines = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    field_ = (
        '<input class="filter" type="search" placeholder="filter rows" aria-label="filter rows">' if filtered else ""
    )
    ident = f' id="{name}"' if name else ""
    return (
        f'<div class="wide">{field_}<div class="rows"><table class="sortable"{ident}><thead><tr>{titles}</tr></thead>'
        f"<tbody>\n{lines}\n</tbody></table></div></div>"
    )


def _head(head: Head) -> str:
    title, key = (head, "") if isinstance(head, str) else head
    hint = f' title="{escape(key)}"' if key else ""
    return f'<th scope="col"{hint}><button type="button">{escape(title)}</button></th>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    return f'<td class="n" data-value="{cell[0]!r}">{escape(cell[1])}</td>'


def cards(items: Iterable[tuple[str, str, str]]) -> str:
    """Headline numbers: label, value, and a line below each."""
    boxes = "".join(
        f"<div class='card'><span>{escape(label)}</span><b>{escape(value)}</b><small>{escape(below)}</small></div>"
        for label, value, below in items
    )
    return f'<div class="cards">{boxes}</div>'


def note(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def code(text: str, name: str) -> str:
    """Text to copy, folded away."""
    return (
        f"<details><summary>{escape(name)}</summary><button type='button' class='copy'>copy</button>"
        f"<pre><code>{escape(text)}</code></pre></details>"
    )


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _safe(data: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("sim.report.page").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # 5 MB of script: only when a page is written

    return str(get_plotlyjs())
