"""The verbs `check`, `explain` and `schema`: everything about the input files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter

from sim.cli import complete, output
from sim.cli.run import AsJson, Overrides
from sim.errors import ConfigError, Problem


def check(
    sources: Annotated[
        list[str],
        Argument(metavar="FILE|NAME...", help="Files of any kind, or names.", autocompletion=complete.definitions),
    ],
    overrides: Overrides = None,
    json: AsJson = False,
) -> int:
    """Find every mistake in input files, without simulating."""
    found = {source: _problems(source, overrides or []) for source in sources}
    problems = [problem for group in found.values() for problem in group]
    if json:
        output.emit_json({source: [vars(problem) for problem in group] for source, group in found.items()})
    else:
        fine = (source for source, group in found.items() if not group)
        output.emit_lines(f"{source}: fine{_unnamed_stack(source, overrides or [])}" for source in fine)
    if problems:
        output.say_problems([str(problem) for problem in problems])
    return output.INVALID if problems else output.FINE


def _problems(source: str, overrides: list[str]) -> list[Problem]:
    from sim.ask.run.check import check_definition
    from sim.cli.kinds import kind_of

    try:
        check_definition(kind_of(source), source, overrides)
    except ConfigError as error:
        return error.problems
    return []


def _unnamed_stack(source: str, overrides: list[str]) -> str:
    """What to name as the software of an experiment that names none."""
    from sim.cli.kinds import kind_of
    from sim.inputs.cases import is_table
    from sim.inputs.catalogue import is_path
    from sim.inputs.load import load_experiment

    if (is_path(source) and is_table(Path(source))) or kind_of(source) != "experiment":
        return ""
    setup = load_experiment(source, overrides)
    if not setup.software.assumed or setup.workload.replay:
        return ""
    from sim.ask.run.stacks import proposal

    return f"; no software is named, {setup.software.name} is assumed; {proposal(setup)}"


def explain(
    key: Annotated[
        str,
        Argument(
            metavar="KEY|run",
            help="A key path such as parallelism.tensor, or its end; a number such as mfu; or `run`.",
            autocompletion=complete.explainable,
        ),
    ] = "",
    source: Annotated[
        str, Argument(metavar="[FILE|NAME]", help="The experiment, after `run`.", autocompletion=complete.experiments)
    ] = "",
    overrides: Overrides = None,
    json: AsJson = False,
) -> int:
    """Explain a key of the input, a number of a result, or the time of a run.

    `explain KEY` prints its type, unit, bounds, default and purpose, or how a number such as mfu is defined; without a
    KEY the keys of an experiment, of a study and of a fleet. `explain run NAME` simulates the experiment and changes
    of it.
    """
    if key == "run":
        if not source:
            raise BadParameter("which one? `clustersim explain run NAME`", param_hint="[FILE|NAME]")
        return _explain_run(source, overrides or [], json)
    if source:
        raise BadParameter("only `explain run` takes an experiment", param_hint="[FILE|NAME]")
    from sim.report.definitions import explanation

    text = explanation(key)
    if json:
        output.emit_json({"key": key, "text": text})
    else:
        output.emit_lines([text])
    return output.FINE


def _explain_run(source: str, overrides: list[str], json: bool) -> int:
    from functools import partial

    from sim.ask.explain.why import why
    from sim.cli.progress import bar
    from sim.inputs.load import load_experiment
    from sim.report.why import print_why

    told = why(load_experiment(source, overrides).experiment, partial(bar, "simulating the run and changes of it"))
    if json:
        output.emit_json(told.to_json())
    else:
        output.emit_rich(lambda console: print_why(told, console))
    return output.FINE


def schema(
    kind: Annotated[
        str, Argument(metavar="KIND", help="The kind of file.", autocompletion=complete.kinds)
    ] = "experiment",
) -> int:
    """Print a JSON Schema for editors.

    Kinds are accelerator, node, cluster, workload, software and experiment.
    """
    from sim.inputs.document import json_schema
    from sim.inputs.load import CATALOGUE

    if kind not in CATALOGUE:
        raise BadParameter(f"{kind!r} is not one of {', '.join(CATALOGUE)}", param_hint="KIND")
    output.emit_json(json_schema(kind))
    return output.FINE
