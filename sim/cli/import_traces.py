"""The verbs under `import` that read what profilers recorded, as a step to be run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from sim.cli import complete, output
from sim.cli.import_files import Force

if TYPE_CHECKING:
    from typing import Any

    from sim.inputs.recording import Recording

Recordings = Annotated[
    list[Path], Argument(metavar="FILE...", help="Traces of the PyTorch profiler, one for each rank; .gz as well.")
]
Target = Annotated[
    Path | None,
    Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the workload there, and beside it what ran, as NAME.jsonl.gz; only looked at if absent.",
    ),
]
Called = Annotated[str, Option("--name", help="Name of the workload; that of the first file if absent.")]
RanOn = Annotated[
    str,
    Option(
        "--recorded-on",
        metavar="NAME",
        help="Accelerator that it ran on, as in `clustersim list accelerators`.",
        autocompletion=complete.accelerators,
    ),
]


def kineto(
    files: Recordings,
    target: Target = None,
    step: Annotated[
        int | None,
        Option("--step", metavar="N", help="ProfilerStep#N; that in which most is launched if absent."),
    ] = None,
    recorded_on: RanOn = "",
    name: Called = "",
    force: Force = False,
) -> int:
    """Read a step that the PyTorch profiler recorded, CUDA or ROCm, so that it can be run again.

    Then: workload: FILE in an experiment, which runs it as it was, on another network, or on other accelerators.
    """
    from sim.imports.kineto import import_kineto
    from sim.inputs.fragment import check_target

    if target:
        check_target(target, force)
    imported = import_kineto(files, name, step)
    for remark in imported.remarks:
        output.say(remark)
    if target:
        deliver_recording(imported.recording, imported.fields, recorded_on, target)
    return output.FINE


def deliver_recording(recording: Recording, fields: dict[str, Any], recorded_on: str, target: Path) -> None:
    """Write what ran, then the workload that names it."""
    from sim.inputs.fragment import fragment_text
    from sim.inputs.load import load_definition
    from sim.inputs.recording import recording_text
    from sim.report.files import write_packed, write_text

    if recorded_on:
        load_definition("accelerator", recorded_on)
        fields = fields | {"recorded_on": recorded_on}
    beside = target.with_name(f"{target.stem}.jsonl.gz")
    write_packed(beside, recording_text(recording), "--output")
    comment = f"A recorded step ({recording.source}); what ran is in {beside.name}."
    write_text(target, fragment_text(comment, fields | {"recording": beside.name}), "--output")
    output.say(f"wrote {target} and {beside}")
