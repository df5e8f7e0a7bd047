"""The verbs `check`, `explain` and `schema`: everything about the input files."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, BadParameter

from sim.cli import output
from sim.cli.run import AsJson, Overrides
from sim.errors import ConfigError, Problem


def check(
    sources: Annotated[list[str], Argument(metavar="FILE|NAME...", help="Files of any kind, or names.")],
    overrides: Overrides = None,
    json: AsJson = False,
) -> int:
    """Find every mistake in input files, without simulating."""
    found = {source: _problems(source, overrides or []) for source in sources}
    problems = [problem for group in found.values() for problem in group]
    if json:
        output.emit_json({source: [vars(problem) for problem in group] for source, group in found.items()})
    else:
        output.emit_lines(f"{source}: fine" for source, group in found.items() if not group)
    if problems:
        output.say_problems([str(problem) for problem in problems])
    return output.INVALID if problems else output.FINE


def _problems(source: str, overrides: list[str]) -> list[Problem]:
    from sim.cli.kinds import kind_of
    from sim.study.check import check_definition

    try:
        check_definition(kind_of(source), source, overrides)
    except ConfigError as error:
        return error.problems
    return []


def explain(
    key: Annotated[str, Argument(metavar="KEY", help="A key path such as parallelism.tensor, or its end.")] = "",
    json: AsJson = False,
) -> int:
    """Say what a key of the input means.

    Prints its type, unit, bounds, default and purpose; without a KEY the keys of an experiment.
    """
    from sim.spec.document import explain as explanation

    text = explanation(key)
    if json:
        output.emit_json({"key": key, "text": text})
    else:
        output.emit_lines([text])
    return output.FINE


def schema(
    kind: Annotated[str, Argument(metavar="KIND", help="The kind of file.")] = "experiment",
) -> int:
    """Print a JSON Schema for editors.

    Kinds are accelerator, node, cluster, workload, software and experiment.
    """
    from sim.spec.document import json_schema
    from sim.spec.load import CATALOGUE

    if kind not in CATALOGUE:
        raise BadParameter(f"{kind!r} is not one of {', '.join(CATALOGUE)}", param_hint="KIND")
    output.emit_json(json_schema(kind))
    return output.FINE
