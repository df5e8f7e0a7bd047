"""The verbs under `calibrate`: measurements of the user's own hardware, as files to build on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, BadParameter, Option, Typer

from sim.cli import complete, output
from sim.cli.run import AsJson

if TYPE_CHECKING:
    from contextlib import ExitStack

    from rich.console import Console

    from sim.ask.calibrate.device import Progress
    from sim.metrics.calibration import Calibration, DeviceCalibration
    from sim.metrics.trace_calibration import TraceCalibration

app = Typer(
    name="calibrate",
    help="Make hardware files from measurements of your own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Target = Annotated[Path | None, Option("--output", "-o", metavar="FILE", help="Write the definition there.")]
Force = Annotated[bool, Option("--force", help="Replace the file if it exists.")]


@app.command("collectives")
def collectives(
    files: Annotated[list[Path], Argument(metavar="FILE...", help="Output of a benchmark, one or more runs.")],
    node: Annotated[
        str,
        Option(
            "--node",
            metavar="NAME",
            help="Kind of server it ran on, as in `clustersim list`.",
            autocompletion=complete.nodes,
        ),
    ],
    collective: Annotated[
        Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"] | None,
        Option("--collective", help="What was run, where the output does not say it."),
    ] = None,
    ranks: Annotated[
        int | None, Option("--ranks", min=2, help="Ranks that took part, where the output does not say it.")
    ] = None,
    nodes: Annotated[
        int | None, Option("--nodes", min=1, help="Servers that they were on, where the output does not say it.")
    ] = None,
    in_place: Annotated[bool, Option("--in-place", help="Take the in-place columns.")] = False,
    name: Annotated[str, Option("--name", help="Name of the new server kind; NODE-measured if absent.")] = "",
    target: Target = None,
    force: Force = False,
    json: AsJson = False,
) -> int:
    """Fit start-up, ramp and saturation of your collectives.

    Reads nccl-tests, rccl-tests, nccom-test, hccl_demo, hccl_test, the OSU and Intel MPI benchmarks and that of
    oneCCL. The result is a kind of server that extends NODE. Give runs inside one server and over several, an
    all-reduce and an all-gather, to learn most. Without --output the definition is printed. Exit code 1 says that
    no algorithm explains all runs together; then nothing is written.
    """
    from sim.ask.calibrate.calibrate_collectives import calibrate_collectives
    from sim.ask.calibrate.tables import read_tables
    from sim.ask.calibrate.told import Told
    from sim.inputs.fragment import check_target
    from sim.report.calibration import contradiction, print_collectives

    if target:
        check_target(target, force)
    column = "in-place" if in_place else "out-of-place"
    told = Told(collective, ranks, nodes)
    tables = [table for file in files for table in read_tables(file, column, told)]
    calibration = calibrate_collectives(tables, node, name)
    for remark in calibration.remarks:
        output.say(remark)
    if calibration.unexplained:
        _show(calibration, lambda console: print_collectives(calibration, console), json)
        output.say(contradiction(calibration))
        return output.MISSED
    _deliver(calibration, lambda console: print_collectives(calibration, console), target, json)
    return output.FINE


@app.command("device")
def device(
    where: Annotated[
        str,
        Option("--device", metavar="DEVICE", help="cuda or cuda:1 (ROCm too), xla, or cpu: this host's."),
    ] = "cuda",
    base: Annotated[
        str,
        Option(
            "--base",
            metavar="NAME",
            help="Accelerator with the data sheet to lay the measurements over.",
            autocompletion=complete.accelerators,
        ),
    ] = "",
    name: Annotated[str, Option("--name", help="Name of the new accelerator.")] = "",
    traces: Annotated[
        list[Path] | None,
        Option("--from-trace", metavar="FILE", help="Time nothing: take kernels of a step that was imported."),
    ] = None,
    target: Target = None,
    force: Force = False,
    json: AsJson = False,
) -> int:
    """Time an accelerator or this host's processor with PyTorch and write an accelerator file.

    Matrix products, attention, memory, launches, power; then a whole layer and training steps of two small models,
    measured and predicted. With --base the peaks are those of its data sheet, without it the best rates that were seen.
    """
    from contextlib import ExitStack

    from sim.ask.calibrate.calibrate_device import calibrate_device
    from sim.ask.calibrate.device import measure_device
    from sim.ask.calibrate.torch_device import torch_backend
    from sim.inputs.fragment import check_target
    from sim.inputs.load import load_definition
    from sim.report.calibration import print_device

    if target:
        check_target(target, force)
    if base:
        load_definition("accelerator", base)
    if traces:
        return _from_traces(traces, base, name, target, json)
    with ExitStack() as stack:
        measured = measure_device(torch_backend(where), _progress(stack))
    calibration = calibrate_device(measured, base, name)
    _deliver(calibration, lambda console: print_device(calibration, console), target, json)
    return output.FINE


def _from_traces(traces: list[Path], base: str, name: str, target: Path | None, json: bool) -> int:
    from sim.ask.calibrate.from_trace import calibrate_from_traces
    from sim.report.trace_calibration import print_trace_calibration

    if not base:
        raise BadParameter(
            "--from-trace needs the data sheet of the accelerator that was recorded", param_hint="--base"
        )
    calibration = calibrate_from_traces(traces, base, name)
    for remark in calibration.remarks:
        output.say(remark)
    _deliver(calibration, lambda console: print_trace_calibration(calibration, console), target, json)
    return output.FINE


def _progress(stack: ExitStack) -> Progress:
    """A bar on stderr; silent where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = output.message_console()
    if not console.is_terminal:
        return lambda done, total, what: None
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    bar = stack.enter_context(Bar(*columns, console=console, transient=True))
    task = bar.add_task("", total=None)
    return lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


def _show(
    calibration: Calibration | DeviceCalibration | TraceCalibration, print_to: Callable[[Console], None], json: bool
) -> None:
    """What was found, on stdout."""
    if json:
        output.emit_json(calibration.to_json())
    else:
        output.emit_rich(print_to)


def _deliver(
    calibration: Calibration | DeviceCalibration | TraceCalibration,
    print_to: Callable[[Console], None],
    target: Path | None,
    json: bool,
) -> None:
    """The definition into its file, what was found on stdout; both there if there is no file and it is no JSON."""
    from sim.report.files import deliver, write_text

    def keep() -> None:
        if target:
            write_text(target, calibration.text, "--output")
            output.say(f"wrote {target}")
        elif not json:
            output.emit(f"\n{calibration.text}")

    deliver(lambda: _show(calibration, print_to, json), keep)
