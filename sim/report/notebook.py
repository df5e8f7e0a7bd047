"""Reports in a notebook: the text of the terminal as one piece of HTML, with nothing to load.

Public: `NotebookResult`, `notebook_html`.
"""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

from rich.console import Console

from sim.metrics.result import Result
from sim.report.text import print_report

WIDTH = 80  # columns
FRAME = '<pre style="line-height: normal; overflow-x: auto">{code}</pre>'


class NotebookResult(Result):
    """A result that notebooks show as its report."""

    def _repr_html_(self) -> str:
        return notebook_html(lambda console: print_report(self, console))


def notebook_html(print_to: Callable[[Console], None]) -> str:
    """What `print_to` prints, as HTML. Colours are those of the notebook, so that it is good on dark too."""
    console = Console(
        record=True, width=WIDTH, file=StringIO(), force_jupyter=False, highlight=False, emoji=False, markup=False
    )
    print_to(console)
    return console.export_html(inline_styles=True, code_format=FRAME)
