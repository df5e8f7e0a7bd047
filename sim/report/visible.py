"""Text of others on a terminal: control characters are shown, not obeyed.

Names, descriptions and keys come from files that may be anybody's, and a terminal takes escape sequences for orders.

Public: `visible`, `visible_console`, `safe_cell`, `ORDERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# C0, DEL, C1, and what turns the direction of writing
ORDERS = (*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = {order: "\ufffd" for order in ORDERS if chr(order) not in "\n\t"}


def visible(text: str) -> str:
    """`text` with a mark in place of each character that a terminal would obey; lines and tabs stay."""
    return text.translate(_SHOWN)


def safe_cell(value: object) -> object:
    """A cell of a table that no spreadsheet takes for a formula; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def visible_console(file: TextIO) -> Console:
    """A console of rich on `file` that prints texts as they are, without markup, and `visible`."""
    from rich.console import Console
    from rich.segment import Segment

    class VisibleConsole(Console):
        def render(self, *arguments: Any, **options: Any) -> Any:
            for text, style, control in super().render(*arguments, **options):
                yield Segment(text if control else visible(text), style, control)

        def on_broken_pipe(self) -> None:
            raise  # rich would end the process

    return VisibleConsole(file=file, highlight=False, emoji=False, markup=False)
