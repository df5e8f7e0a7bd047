"""The verbs `report` and `compare`: stored results again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from sim.cli import complete, output
from sim.cli.run import AsJson

Stored = Annotated[Path, Argument(metavar="RESULT", help="result.json, or the folder it is in.")]


Designs = Annotated[
    list[str],
    Argument(
        metavar="DESIGN DESIGN...",
        help="result.json or its folder, or an experiment; NAME=DESIGN names it.",
        autocompletion=complete.experiments,
    ),
]
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


def compare(designs: Designs, json: AsJson = False, html: Html = None) -> int:
    """Set designs side by side: what was asked differently, and what that changed.

    A design is a stored result, or an experiment, which is simulated now; NAME=DESIGN gives it a name of your own. The
    others are set against the first.
    """
    from sim.ask.run.designs import named_designs
    from sim.report.compare import compare as contrast_of
    from sim.report.compare import print_contrast
    from sim.report.jsonout import shown_from

    if len(designs) < 2:
        raise BadParameter("needs two designs or more", param_hint="DESIGN")
    names, results = named_designs(designs)
    with shown_from(*map(Path, designs)):
        if html:
            from sim.report.page.compare import compare_page

            write_html(html, lambda: compare_page(results, names))
            return output.FINE
        contrast = contrast_of(results, names)
        if json:
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
