"""A calibration from recorded kernels as text.

Public: `print_trace_calibration`.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.metrics.trace_calibration import TraceCalibration
from sim.report import human
from sim.units import TIME, format_quantity

SHOWN = 12  # shapes


def print_trace_calibration(calibration: TraceCalibration, console: Console) -> None:
    """Shares of the peaks, how well they explain each shape, and how well shapes that they were not made from."""
    console.print(
        Text(f"{calibration.name}, from {calibration.base} and {len(calibration.shapes)} shapes", style="bold")
    )
    for key, share in calibration.shares.items():
        console.print(Text(f"  {key:<28}{human.percent(share):>12}"))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(("products, m x n x k", "kernels", "recorded", "predicted", "error")):
        table.add_column(name, justify="right" if number else "left")
    for each in calibration.shapes[:SHOWN]:
        batch = f"{each.batch} x " if each.batch > 1 else ""
        table.add_row(
            f"{each.precision} {batch}({each.m} x {each.n} x {each.k})",
            human.count(each.count),
            format_quantity(each.measured, TIME),
            format_quantity(each.predicted, TIME),
            human.signed_percent(each.error),
        )
    console.print(table)
    if len(calibration.shapes) > SHOWN:
        console.print(Text(f"  and {len(calibration.shapes) - SHOWN} shapes that took less", style="dim"))
    bias = human.signed_percent(calibration.bias)
    fit = f"{human.percent(calibration.error())} off on average by time, all together {bias}"
    console.print(
        Text(f"  fit: {fit}; each shape by a fit to the others: {human.percent(calibration.error(unseen=True))}")
    )
    console.print(Text(f"  {human.percent(calibration.share_known)} of the time of products has shapes", style="dim"))
