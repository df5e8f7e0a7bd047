"""The verb `timeline`: one step for Perfetto, chrome://tracing, or readers of profiler traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import BadParameter, Option

from sim.cli import output
from sim.cli.run import Overrides, Source, writable

DEFAULTS = {"chrome": Path("timeline.json.gz"), "pytorch": Path("timeline"), "svg": Path("timeline.svg")}


def timeline(
    source: Source,
    overrides: Overrides = None,
    chosen: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="Where to write, .gz compresses; timeline.json.gz, a folder timeline or timeline.svg if absent.",
        ),
    ] = None,
    form: Annotated[
        Literal["chrome", "pytorch", "svg"],
        Option(
            "--format",
            help="chrome: one file for Perfetto; pytorch: a folder with a profiler trace per rank; svg: a picture.",
        ),
    ] = "chrome",
    ranks: Annotated[
        str, Option("--ranks", metavar="LIST", help="Such as 0,8,16..23; one rank of each kind if absent.")
    ] = "",
    begin: Annotated[str, Option("--from", metavar="TIME", help="Begin of the window, such as 1.5 s.")] = "0",
    end: Annotated[str, Option("--to", metavar="TIME", help="End of the window; the end of the step if absent.")] = "",
    limit: Annotated[str, Option("--max-size", metavar="SIZE", help="Largest file, before compression.")] = "256 MB",
) -> int:
    """Write what ranks do during one step as a timeline.

    Open it at https://ui.perfetto.dev or chrome://tracing. A folder of profiler traces is what
    HolisticTraceAnalysis reads; a picture goes into a page or a paper.
    """
    from math import inf

    from sim.ask.run import timeline as study
    from sim.inputs.load import load_experiment
    from sim.units import DATA, TIME, format_quantity

    shown_ranks = _ranks(ranks)
    window = _quantity(begin, TIME, "--from"), _quantity(end, TIME, "--to") if end else inf
    largest = _quantity(limit, DATA, "--max-size")
    if window[1] <= window[0]:
        raise BadParameter("the window ends before it begins", param_hint="--to")
    target = chosen or DEFAULTS[form]
    experiment = load_experiment(source, overrides or []).experiment
    writable(target if form == "pytorch" else target.parent)
    run = study.simulated_for_timeline(experiment)
    shown = study.window(run, shown_ranks, *window)
    if form == "pytorch":
        files = study.write_profiler_traces(run, shown, target)
        output.say(f"wrote {len(files)} profiler traces to {target}")
    elif form == "svg":
        study.write_picture(shown, target, largest)
        output.say(f"wrote {target}: {len(shown.places)} ranks")
    else:
        size = study.write_timeline(shown, target, largest)
        said = f"{len(shown.places)} ranks, {len(shown.spans):,} spans, {format_quantity(float(size), DATA)}"
        output.say(f"wrote {target} ({said}); open it at https://ui.perfetto.dev")
    return output.FINE


def _ranks(text: str) -> list[int]:
    from sim.ask.run.timeline import parse_ranks

    try:
        return parse_ranks(text) if text else []
    except ValueError:
        raise BadParameter(f"{text!r} is no list of ranks such as 0,8,16..23", param_hint="--ranks") from None


def _quantity(text: str, dimension: object, option: str) -> float:
    from sim.units import Dimension, QuantityError, parse_quantity

    assert isinstance(dimension, Dimension)
    try:
        return parse_quantity(text, dimension)
    except QuantityError as error:
        raise BadParameter(str(error), param_hint=option) from None
