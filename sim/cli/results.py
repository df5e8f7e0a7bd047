"""The verbs `report` and `compare`: stored results again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from sim.cli import output
from sim.cli.run import AsJson

Stored = Annotated[Path, Argument(metavar="RESULT", help="result.json, or the folder it is in.")]


Html = Annotated[Path | None, Option("--html", metavar="FILE", help="Write a page for the browser instead.")]


def report(source: Stored, json: AsJson = False, html: Html = None) -> int:
    """Print a stored result, or write it as a page."""
    from sim.report.jsonout import read_result, shown_from
    from sim.report.text import print_report

    result = read_result(source)
    with shown_from(source):
        if html:
            from sim.ask.run.page import page_of

            write_html(html, lambda: page_of(result))
        elif json:
            output.emit_json(result.to_json())
        else:
            output.emit_rich(lambda console: print_report(result, console))
    return output.FINE


def compare(a: Stored, b: Stored, json: AsJson = False, html: Html = None) -> int:
    """Set two stored results side by side."""
    from sim.report.compare import compare as contrast_of
    from sim.report.compare import print_contrast
    from sim.report.jsonout import read_result, shown_from

    left, right = read_result(a), read_result(b)
    with shown_from(a, b):
        contrast = contrast_of(left, right)
        if html:
            from sim.report.page.compare import compare_page

            write_html(html, lambda: compare_page(left, right))
        elif json:
            output.emit_json(contrast.to_json())
        else:
            output.emit_rich(lambda console: print_contrast(contrast, console))
    return output.FINE


def write_html(file: Path, page: Callable[[], str]) -> None:
    """Write a page and say where; a wrong folder is told before the page is made."""
    from sim.report.files import replacing, writing

    with writing(file, "--html"):
        file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, "--html") as part:
        part.write_text(page(), encoding="utf-8")
    output.say(f"wrote {file}")
