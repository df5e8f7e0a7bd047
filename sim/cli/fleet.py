"""The verb `fleet`: many jobs on one cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from sim.cli import complete, output
from sim.cli.run import AsJson, Overrides


def fleet(
    source: Annotated[
        str,
        Argument(
            metavar="FILE|NAME",
            help="A fleet file, or a name from `clustersim list fleet`.",
            autocompletion=complete.fleets,
        ),
    ],
    overrides: Overrides = None,
    seed: Annotated[int | None, Option("--seed", min=0, help="Seed of all random streams.")] = None,
    json: AsJson = False,
    csv: Annotated[Path | None, Option("--csv", metavar="FILE", help="Also write a row for each job as CSV.")] = None,
    parquet: Annotated[
        Path | None, Option("--parquet", metavar="FILE", help="Also write a row for each job as Parquet.")
    ] = None,
    html: Annotated[Path | None, Option("--html", metavar="FILE", help="Also write a page for the browser.")] = None,
    events: Annotated[
        Path | None, Option("--events", metavar="FILE", help="Also write what happened, one JSON document a line.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        Option("--vary", metavar="KEY=A,B,...", help="Live it with each of these values. May be repeated."),
    ] = None,
    seeds: Annotated[
        int | None, Option("--seeds", metavar="N", min=1, help="Live it N times, under seeds that count up.")
    ] = None,
    workers: Annotated[
        int | None, Option("--workers", "-j", min=1, help="Processes for --vary and --seeds; as many as processors.")
    ] = None,
) -> int:
    """Simulate many jobs that share one cluster.

    With --vary or --seeds, a table with a row for each combination and seed; --csv and --parquet then write that table.
    Exit code 1 says that some job did not end.
    """
    from sim.ask.fleet.load import load_fleet
    from sim.report.files import deliver

    changes = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    if vary or seeds:
        return _many(source, changes, vary or [], seeds or 1, workers, json, csv, parquet, html)
    from sim.ask.fleet.files import write_events, write_page, write_rows
    from sim.ask.fleet.run import run_fleet
    from sim.cli.progress import bar
    from sim.report.fleet import print_fleet

    loaded = load_fleet(source, changes)
    lived = run_fleet(loaded, partial(bar, "simulating"), keep_events=bool(html or events))

    def show() -> None:
        if json:
            output.emit_json(lived.result.to_json())
        else:
            output.emit_rich(lambda console: print_fleet(lived.result, console))

    exports = (
        ("--csv", csv, write_rows), ("--parquet", parquet, write_rows), ("--html", html, write_page),
        ("--events", events, write_events),
    )  # fmt: skip
    deliver(*(partial(write, lived, file, option) for option, file, write in exports if file), show)
    return output.FINE if lived.result.finished == lived.result.jobs else output.MISSED


def _many(
    source: str,
    changes: list[str],
    vary: list[str],
    seeds: int,
    workers: int | None,
    json: bool,
    csv: Path | None,
    parquet: Path | None,
    html: Path | None,
) -> int:
    """A table of lives, printed and written."""
    from sim.ask.fleet.files import write_table, write_table_page
    from sim.ask.fleet.many import run_many
    from sim.cli.progress import told
    from sim.report.files import deliver
    from sim.report.fleet_table import print_table

    with told(Path(source).stem) as progress:
        table = run_many(source, changes, vary, seeds, workers, progress)

    def show() -> None:
        if json:
            output.emit_json(table.to_json())
        else:
            output.emit_rich(lambda console: print_table(table, console))

    exports = (("--csv", csv, write_table), ("--parquet", parquet, write_table), ("--html", html, write_table_page))
    deliver(*(partial(write, table, file, option) for option, file, write in exports if file), show)
    return output.FINE if all(row["finished"] == row["jobs"] for row in table.rows) else output.MISSED
