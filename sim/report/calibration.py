"""Calibrations as text: how well the fits hold."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.metrics.calibration import Calibration
from sim.report import human
from sim.units import DATA_RATE, TIME, format_quantity


def print_collectives(calibration: Calibration, console: Console) -> None:
    """One line for each table: what was fitted and how far the platform is from it."""
    console.print(Text(f"{calibration.name}, from {calibration.base}", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(("collective", "ranks", "sizes", "floor", "start", "saturated", "fit", "platform")):
        table.add_column(name, justify="right" if number else "left")
    for each in calibration.fitted:
        run, fit = each.table, each.fit
        table.add_row(
            run.collective,
            f"{run.ranks} on {run.nodes}",
            str(len(run.seconds)),
            format_quantity(fit.floor, TIME),
            format_quantity(fit.start, TIME),
            format_quantity(fit.rate, DATA_RATE),
            human.percent(fit.error),
            human.percent(each.check.mean_error) if each.check else "-",
        )
    console.print(table)
    console.print(
        Text("fit: mean error of the fitted curve; platform: of a simulation with the file below", style="dim")
    )
