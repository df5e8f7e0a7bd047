"""The verb `validate`: measured runs, predicted."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Option

from sim.cli import output
from sim.cli.run import AsJson, Overrides, writable

if TYPE_CHECKING:
    from rich.console import Console

    from sim.ask.validate.validate import Progress
    from sim.inputs.run_table import RunColumns
    from sim.metrics.validation import Row, Validation


def validate(
    paths: Annotated[
        list[Path] | None,
        Argument(
            metavar="[DIR|FILE]...",
            help="Experiments with `measured`, tables of them (YAML or CSV), of collectives, or folders of these.",
        ),
    ] = None,
    overrides: Overrides = None,
    jobs: Annotated[
        int | None, Option("--jobs", "-j", min=1, help="Processes; as many as processors if absent.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        Option(
            "--column", metavar="KEY=HEADER", help="What a header of a CSV table is, as measured.step_time='iter [ms]'."
        ),
    ] = None,
    ignored: Annotated[
        list[str] | None, Option("--ignore", metavar="HEADER", help="A header of a CSV table that is no key.")
    ] = None,
    json: AsJson = False,
    directory: Annotated[
        Path | None,
        Option("--output", "-o", metavar="DIR", help="Also write validation.json and validation.html there."),
    ] = None,
    residuals: Annotated[
        Path | None,
        Option("--residuals", metavar="FILE", help="Also write the errors as the table that trust bands are made of."),
    ] = None,
) -> int:
    """Predict measured runs, and tell how far off that is.

    Without an argument these are the published runs that come with the program. Exit code 1 says that a
    run failed or missed the tolerance that it names.
    """
    from sim.ask.validate.trust import write_residuals
    from sim.ask.validate.validate import validate as predict_all
    from sim.report.files import deliver, replacing

    folder = writable(directory) if directory else None
    said = _said(columns or [], ignored or [])
    with ExitStack() as stack:
        validation = predict_all(_existing(paths or []), overrides or [], jobs, _progress(stack), said)

    def keep() -> None:
        if folder:
            _write(validation, folder)

    def keep_residuals() -> None:
        if residuals:
            with replacing(residuals, "--residuals") as part:
                write_residuals(validation.rows, part)

    def show() -> None:
        if json:
            output.emit_json(validation.to_json())
        else:
            output.emit_rich(lambda console: _print(validation, console))

    deliver(keep, keep_residuals, show)
    if not validation.complete:
        output.say(f"interrupted after {len(validation.rows)} runs")
        return output.INTERRUPTED
    return output.FINE if validation.passed else output.MISSED


def _print(validation: Validation, console: Console) -> None:
    from sim.report.curves import print_curves
    from sim.report.validation import print_validation

    if validation.rows:
        print_validation(validation, console)
    if validation.curves:
        print_curves(validation.curves, console)


def _existing(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not path.exists():
            raise BadParameter(f"{path}: no such file or folder", param_hint="DIR|FILE")
    return paths


def _said(columns: list[str], ignored: list[str]) -> RunColumns:
    from sim.inputs.run_table import RunColumns

    pairs = [text.partition("=") for text in columns]
    for text, (key, mark, header) in zip(columns, pairs, strict=True):
        if not (key.strip() and mark and header.strip()):
            raise BadParameter(f"{text!r} is not KEY=HEADER, as measured.step_time='iter [ms]'", param_hint="--column")
    return RunColumns({key.strip(): header.strip() for key, _, header in pairs}, tuple(ignored))


def _progress(stack: ExitStack) -> Progress:
    """A bar on stderr from the first finished run on; silent where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = output.message_console()
    if not console.is_terminal:
        return lambda done, total, row: None
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("", total=None)

    def show(done: int, total: int, row: Row) -> None:
        if done == 1:
            stack.enter_context(bar)
        bar.update(task, completed=done, total=total, description=row.name)

    return show


def _write(validation: Validation, folder: Path) -> None:
    from sim.report.files import write_text
    from sim.report.jsonout import dumps
    from sim.report.validation_page import validation_page

    write_text(folder / "validation.json", dumps(validation.to_json()), "--output")
    write_text(folder / "validation.html", validation_page(validation), "--output")
