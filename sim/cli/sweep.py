"""The verb `sweep`: every point of a study."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from sim.cli import complete, output
from sim.cli.run import AsJson, Overrides


class Where(StrEnum):
    """Where the points are simulated."""

    local = "local"
    dask = "dask"


def sweep(
    source: Annotated[
        str,
        Argument(
            metavar="FILE|NAME",
            help="A study file, or a name from `clustersim list study`.",
            autocompletion=complete.studies,
        ),
    ],
    overrides: Overrides = None,
    directory: Annotated[
        Path | None,
        Option("--output", "-o", metavar="DIR", help="Folder of the results; results/NAME if absent."),
    ] = None,
    workers: Annotated[
        int | None, Option("--workers", "-j", min=1, help="Processes; as many as processors if absent.")
    ] = None,
    on: Annotated[Where, Option("--on", help="In processes of this machine, or on a Dask cluster.")] = Where.local,
    scheduler: Annotated[
        str | None, Option("--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://head:8786.")
    ] = None,
    csv: Annotated[Path | None, Option("--csv", metavar="FILE", help="Also write the table as CSV.")] = None,
    parquet: Annotated[
        Path | None, Option("--parquet", metavar="FILE", help="Also write the table as Parquet.")
    ] = None,
    html: Annotated[Path | None, Option("--html", metavar="FILE", help="Also write a page for the browser.")] = None,
    json: AsJson = False,
) -> int:
    """Simulate every point of a study, and keep the results.

    The table of points is in DIR/sweep.duckdb. What is there already is not computed again, so the same
    command goes on after an interruption. A point that fails is a row with its reason. Exit code 1 says that
    no point met the constraints.
    """
    from sim.ask.workers.pool import start_workers

    if (on is Where.dask) != (scheduler is not None):
        raise BadParameter("`--on dask` and `--scheduler ADDRESS` belong together", param_hint="--scheduler")
    with closing(start_workers(workers, scheduler)) as crew:  # before what takes time, to be ready after it
        from sim.ask.sweep.sweep_file import load_study
        from sim.ask.sweep.sweep_start import default_folder, sweep_into
        from sim.cli.progress import counted
        from sim.report.files import deliver
        from sim.report.sweep import print_summary

        study = load_study(source, overrides or [])
        folder = directory or default_folder(study)
        with counted(study.name, "points", folder) as progress:
            table = sweep_into(folder, study, crew, progress)

    def write_page(file: Path) -> None:
        from sim.ask.sweep.study_page import study_view
        from sim.report.page.study import study_page

        view = study_view(table, study.name, study.study.description, str(parquet or table.path or ""))
        file.write_text(study_page(view), encoding="utf-8")

    def show() -> None:
        if json:
            output.emit_json(table.to_json())
        else:
            summary = table.summary(study.name, study.study.description)
            output.emit_rich(lambda console: print_summary(summary, console))

    exports = (("--csv", csv, table.to_csv), ("--parquet", parquet, table.to_parquet), ("--html", html, write_page))
    deliver(*(partial(_export, write, file, option) for option, file, write in exports if file), show)
    return output.FINE if table.counts().get("ok") else output.MISSED


def _export(write: Callable[[Path], None], file: Path, option: str) -> None:
    from sim.report.files import replacing, writing

    with writing(file, option):
        file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, option) as part:
        write(part)
