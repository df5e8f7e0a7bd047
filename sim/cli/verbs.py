"""The verbs of `clustersim` and the options that all have. Heavy imports wait for the verb."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from sim import __version__
from sim.cli import (
    calibrate,
    calibrate_choices,
    catalogue,
    explore,
    exports,
    files,
    fleet,
    imports,
    init,
    output,
    plan,
    results,
    run,
    scale,
    sensitivity,
    sweep,
    timeline,
    validate,
)

app = typer.Typer(
    name="clustersim",
    help="Simulate the training of large models on a cluster described in YAML.",
    epilog="Exit codes: 0 fine; 1 ran, but does not fit or missed its tolerance; 2 usage, or an output cannot be "
    "written; 3 invalid input; 4 internal error or deadlock; 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("init")(init.init)
app.command("run")(run.run)
app.command("sweep")(sweep.sweep)
app.command("fleet")(fleet.fleet)
app.command("plan")(plan.plan)
app.command("scale")(scale.scale)
app.command("sensitivity")(sensitivity.sensitivity)
app.command("explore")(explore.explore)
app.command("check")(files.check)
app.command("list")(catalogue.list_)
app.command("explain")(files.explain)
app.command("schema")(files.schema)
app.command("timeline")(timeline.timeline)
app.command("validate")(validate.validate)
app.add_typer(calibrate.app, name="calibrate")
calibrate.app.command("nccl-log")(calibrate_choices.nccl_log)
app.add_typer(imports.app, name="import")
app.add_typer(exports.app, name="export")
app.command("report")(results.report)
app.command("compare")(results.compare)


def _show_version(wanted: bool) -> None:
    if wanted:
        output.emit_lines([f"clustersim {__version__}"])
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Simulate the training of large models on a cluster described in YAML."""
