"""How the parts of a text report are laid out: sections, tables without lines, bars.

Public: `section`, `grid`, `labelled`, `columns`, `share_row`, `BLOCK_FILL`, `ASCII_FILL`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.report import human

BAR_WIDTH = 34
BLOCK_FILL = "▏▎▍▌▋▊▉█"
ASCII_FILL = "#"


def section(title: str, *body: RenderableType | None) -> Iterator[RenderableType]:
    """A title and what stands under it; nothing if there is nothing."""
    shown = [part for part in body if part is not None]
    if shown:
        yield Text(f"\n{title}", style="bold")
        yield Padding(Group(*shown), (0, 0, 0, 2))


def grid(*justify: str, gap: int = 2) -> Table:
    """A table without lines; each column is left, right, or fold: left and broken where it is too long."""
    table = Table.grid(padding=(0, gap))
    for side in justify:
        table.add_column(justify="right" if side == "right" else "left", no_wrap=side != "fold", overflow="fold")
    return table


def labelled(rows: Iterable[tuple[str, str, str]]) -> RenderableType | None:
    """Rows of label, value and remark."""
    table = grid("left", "right", "fold")
    for row in rows:
        table.add_row(*row)
    return table if table.row_count else None


def columns(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> RenderableType:
    """A label, then numbers."""
    table = grid("fold", *["right"] * (len(head) - 1))
    table.add_row(*head, style="dim")
    for row in rows:
        table.add_row(*row)
    return table


def share_row(label: str, part: float, whole: float, size: float, unit: str, fill: str) -> tuple[str, str, str, str]:
    """A part of a whole in `unit` of `size`, its share, and a bar."""
    share = part / whole
    return label, f"{part / size:,.3f} {unit}", human.percent(share), _bar(share, fill)


def _bar(share: float, fill: str) -> str:
    """A bar of `share` of the full width; `fill` lists the parts of a cell, emptiest first."""
    full, part = divmod(round(BAR_WIDTH * len(fill) * min(share, 1.0)), len(fill))
    return fill[-1] * full + (fill[part - 1] if part else "")
