"""The verb `sensitivity`: what a little more of each resource is worth."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from sim.cli import output
from sim.cli.run import AsJson, Overrides, Source, share


def sensitivity(
    source: Source,
    overrides: Overrides = None,
    by: Annotated[
        str, Option("--by", metavar="SHARE", help="How much more of each resource, as 10 % or 0.1.")
    ] = "10 %",
    workers: Annotated[
        int | None, Option("--workers", "-j", min=1, help="Processes; as many as processors if absent.")
    ] = None,
    json: AsJson = False,
) -> int:
    """Tell what a little more of each resource is worth.

    The experiment is simulated again with more of each: rates, links, memory, storage, reliability.
    Resources that the experiment does not have are left out.
    """
    from sim.ask.explain.sensitivity import sensitivity_report
    from sim.cli.progress import told
    from sim.inputs.load import load_experiment
    from sim.report.sensitivity import print_sensitivity

    experiment = load_experiment(source, overrides or []).experiment
    more = share(by, "--by")
    with told(experiment.name) as progress:
        report = sensitivity_report(experiment, more, workers, progress)
    if json:
        output.emit_json(report.to_json())
    else:
        output.emit_rich(lambda console: print_sensitivity(report, console))
    return output.FINE
