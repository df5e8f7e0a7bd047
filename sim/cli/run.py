"""The verb `run`: simulate one experiment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from sim.cli import output

Source = Annotated[str, Argument(metavar="FILE|NAME", help="An experiment file, or a name from `clustersim list`.")]
Overrides = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Change a value, such as training.microbatch=2. May be repeated."),
]
AsJson = Annotated[bool, Option("--json", help="Print one JSON document instead of text.")]


def run(
    source: Source,
    overrides: Overrides = None,
    seed: Annotated[int | None, Option("--seed", min=0, help="Seed of all random streams.")] = None,
    json: AsJson = False,
    directory: Annotated[
        Path | None, Option("--output", "-o", metavar="DIR", help="Also write result.json and manifest.json there.")
    ] = None,
) -> int:
    """Simulate one experiment.

    Exit code 1 says that it ran, but does not fit into memory or missed the tolerance of its measurement.
    """
    from sim.cli.progress import bar
    from sim.study.single import meets_expectations, run_experiment, write_result

    folder = writable(directory) if directory else None
    result = run_experiment(source, overrides or [], seed, partial(bar, "simulating one step"))
    if folder:
        write_result(result, folder)
    if json:
        output.emit_json(result.to_json())
    else:
        from sim.report.text import print_report

        output.emit_rich(lambda console: print_report(result, console))
    return output.FINE if meets_expectations(result) else output.MISSED


def writable(directory: Path) -> Path:
    """Make the folder before the simulation starts, so that a wrong name costs nothing."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadParameter(f"{directory}: {error.strerror}", param_hint="--output") from None
    return directory
