"""The verbs `report` and `compare`: stored results again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from sim.cli import output
from sim.cli.run import AsJson

Stored = Annotated[Path, Argument(metavar="RESULT", help="result.json, or the folder it is in.")]


def report(source: Stored, json: AsJson = False) -> int:
    """Print a stored result again."""
    from sim.report.jsonout import read_result
    from sim.report.text import print_report

    result = read_result(source)
    if json:
        output.emit_json(result.to_json())
    else:
        output.emit_rich(lambda console: print_report(result, console))
    return output.FINE


def compare(a: Stored, b: Stored, json: AsJson = False) -> int:
    """Set two stored results side by side."""
    from sim.report.compare import compare as contrast_of
    from sim.report.compare import print_contrast
    from sim.report.jsonout import read_result

    contrast = contrast_of(read_result(a), read_result(b))
    if json:
        output.emit_json(contrast.to_json())
    else:
        output.emit_rich(lambda console: print_contrast(contrast, console))
    return output.FINE
