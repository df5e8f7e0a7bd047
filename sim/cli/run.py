"""The verb `run`: simulate one experiment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Option

from sim.cli import complete, output

if TYPE_CHECKING:
    from sim.metrics.result import Result

Source = Annotated[
    str,
    Argument(
        metavar="FILE|NAME",
        help="An experiment file, or a name from `clustersim list`.",
        autocompletion=complete.experiments,
    ),
]
Overrides = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value, such as training.microbatch=2. May be repeated.",
        autocompletion=complete.keys,
    ),
]
MOST = 1000  # lives if only a precision is given
AsJson = Annotated[bool, Option("--json", help="Print one JSON document instead of text.")]


def run(
    source: Source,
    overrides: Overrides = None,
    seed: Annotated[int | None, Option("--seed", min=0, help="Seed of all random streams.")] = None,
    seeds: Annotated[
        int | None, Option("--seeds", metavar="N", min=1, help="Live the run N times, under seeds that count up.")
    ] = None,
    precision: Annotated[
        str | None,
        Option("--precision", metavar="SHARE", help="Stop when the mean is known to this share, such as 1 %."),
    ] = None,
    jobs: Annotated[
        int | None, Option("--jobs", "-j", min=1, help="Processes for --seeds; as many as processors if absent.")
    ] = None,
    json: AsJson = False,
    directory: Annotated[
        Path | None,
        Option("--output", "-o", metavar="DIR", help="Also write result.json, manifest.json and events.jsonl there."),
    ] = None,
    bounds: Annotated[
        bool, Option("--bounds", help="Only bound the step time, where the exact one would cost too much.")
    ] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask before a step that takes more than a minute.")] = False,
) -> int:
    """Simulate one experiment.

    With --seeds, lives are kept as they end, in DIR or results/NAME, and the same command goes on after an
    interruption. Exit code 1 says that it ran, but does not fit into memory, never comes to its end, or missed the
    tolerance of its measurement. Bounds of the step time are proved in a moment, whatever the shape.
    """
    from sim.ask.run.single import default_folder, meets_expectations, run_experiment
    from sim.ask.seeds.seeds import Seeds
    from sim.cli.progress import bar, counted

    changes = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    if bounds:
        return _bound(source, changes, json, alone=not (seeds or precision or directory))
    folder = writable(directory) if directory else None
    close = share(precision, "--precision") if precision else None
    many = Seeds(seeds or MOST, close, jobs) if seeds or close else None
    show = partial(_show, json=json)
    if many:
        with counted(Path(source).stem, "lives", folder or default_folder(Path(source).stem)) as progress:
            result = run_experiment(source, changes, None, many, progress, folder, show)
    else:
        result = run_experiment(source, changes, partial(bar, "simulating", sure=yes), folder=folder, show=show)
    return output.FINE if meets_expectations(result) else output.MISSED


def _bound(source: str, changes: list[str], json: bool, *, alone: bool) -> int:
    """Bounds of the step time, printed. Raises as loading and planning do."""
    from sim.ask.run.bounds import bounded
    from sim.report.bounds import bounds_text

    if not alone:
        raise BadParameter("a bounded step has no lives and no files", param_hint="--bounds")
    found = bounded(source, changes)
    if json:
        output.emit_json(found.to_json())
    else:
        output.emit_rich(lambda console: console.print(bounds_text(found), highlight=False, markup=False))
    return output.FINE


def _show(result: Result, json: bool) -> None:
    from sim.report.text import print_report

    if json:
        output.emit_json(result.to_json())
    else:
        output.emit_rich(lambda console: print_report(result, console))


def share(text: str, option: str) -> float:
    """The share that `option` gives, such as `1 %` or 0.01; not 0."""
    from sim.units import QuantityError, parse_fraction

    try:
        value = parse_fraction(text)
    except QuantityError as error:
        raise BadParameter(str(error), param_hint=option) from None
    if value == 0:
        raise BadParameter("0 changes nothing", param_hint=option)
    return value


def writable(directory: Path) -> Path:
    """Make the folder before the simulation starts, so that a wrong name costs nothing."""
    from sim.report.files import writing

    with writing(directory, "--output"):
        directory.mkdir(parents=True, exist_ok=True)
    return directory
