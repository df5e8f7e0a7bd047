"""The verb `calibrate nccl-log`: what NCCL chose, beside what the model of a server chooses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from sim.cli import complete, output
from sim.cli.run import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from sim.metrics.choices import ChoiceComparison


def nccl_log(
    file: Annotated[
        Path, Argument(metavar="FILE", help="Output with NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,COLL,TUNING.")
    ],
    node: Annotated[
        str,
        Option("--node", metavar="NAME", help="Kind of server it ran on.", autocompletion=complete.nodes),
    ],
    ranks: Annotated[int, Option("--ranks", min=0, help="Of all communicators, where the log does not say.")] = 0,
    nodes: Annotated[int, Option("--nodes", min=0, help="Servers that they span, where the log does not say.")] = 0,
    json: AsJson = False,
) -> int:
    """Compare what NCCL chose for each collective with what the model of a server chooses.

    For each size: algorithm, protocol, channels and the time that NCCL expects, beside ours.
    """
    from sim.ask.calibrate.nccl_log import compare_choices

    comparison = compare_choices(file, node, ranks, nodes)
    for remark in comparison.remarks:
        output.say(remark)
    if json:
        output.emit_json(comparison.to_json())
    else:
        output.emit_rich(lambda console: _print(comparison, console))
    return output.FINE


def _print(comparison: ChoiceComparison, console: Console) -> None:
    from sim.report.choices import print_choices

    print_choices(comparison, console)
