"""The verb `import chakra`: execution traces of Chakra as a step to be run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from sim.cli import complete, output
from sim.cli.import_files import Force
from sim.cli.import_traces import Called, RanOn, Target, deliver_recording


def chakra(
    where: Annotated[
        Path, Argument(metavar="DIR|FILE", help="Folder with PREFIX.RANK.et for each rank, or one such file.")
    ],
    target: Target = None,
    prefix: Annotated[
        str, Option("--prefix", metavar="PREFIX", help="Of the files, if the folder holds several traces.")
    ] = "",
    groups: Annotated[
        Path | None,
        Option("--groups", metavar="FILE", help="Communicators as JSON; PREFIX.json beside the files if absent."),
    ] = None,
    accelerator: Annotated[
        str,
        Option(
            "--accelerator",
            metavar="NAME",
            help="Prices computation without a duration by its operations and bytes.",
            autocompletion=complete.accelerators,
        ),
    ] = "",
    recorded_on: RanOn = "",
    name: Called = "",
    force: Force = False,
) -> int:
    """Read Chakra execution traces, one file for each rank, so that they can be run again.

    What converters are known to leave wrong is mended where the answer is certain, and counted; else nothing is
    imported, and the nodes are named. Then: workload: FILE in an experiment.
    """
    from sim.imports.chakra import import_chakra, roofline_of
    from sim.inputs.fragment import check_target

    if target:
        check_target(target, force)
    price = roofline_of(accelerator) if accelerator else None
    imported = import_chakra(where, name, prefix, groups, price)
    for remark in imported.remarks:
        output.say(remark)
    if target:
        deliver_recording(imported.recording, imported.fields, recorded_on, target)
    return output.FINE
