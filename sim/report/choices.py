"""What NCCL chose beside what we choose, as text.

Public: `print_choices`.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.metrics.choices import ChoiceComparison
from sim.report import human
from sim.units import DATA, TIME, format_quantity

COLUMNS = ("collective", "ranks", "size", "times", "NCCL", "channels", "expects", "here", "takes")


def print_choices(comparison: ChoiceComparison, console: Console) -> None:
    """A row for each collective, size and choice; what differs is marked."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number in (0, 4, 7) else "right")
    for each in comparison.choices:
        said = each.said
        table.add_row(
            said.collective,
            f"{said.ranks} on {said.nodes}",
            format_quantity(float(said.bytes), DATA),
            human.count(said.count),
            f"{said.algorithm.lower()}, {said.protocol.lower()}",
            str(said.channels or "-"),
            "-" if said.seconds is None else format_quantity(said.seconds, TIME),
            each.ours if each.agrees else f"{each.ours} !",
            format_quantity(each.seconds, TIME),
        )
    console.print(table)
    agreeing = human.percent(comparison.agreeing)
    console.print(Text(f"{agreeing} of the collectives run by the same algorithm on {comparison.platform}"))
