"""The value of resources for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sim.metrics.sensitivity import SensitivityReport
from sim.report import human

LABELS = {"step_time": "step", "time_to_train": "training", "energy": "energy", "cost": "cost", "memory": "memory"}
LEAST = 5e-5  # relative changes below it are shown as none


def print_sensitivity(report: SensitivityReport, console: Console) -> None:
    """Print the relative change of each quantity by resource, and elasticities of the first quantity."""
    console.print(f"{report.name}  {report.description}".rstrip(), style="bold")
    console.print(f"\nWith {human.signed_percent(report.by)} of each resource", style="bold")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("resource", overflow="fold")
    for name in report.base:
        table.add_column(LABELS[name], justify="right", no_wrap=True)
    leading = "time_to_train" if "time_to_train" in report.base else "step_time"
    table.add_column("elasticity", justify="right")
    for each in report.resources:
        if each.problem:
            table.add_row(each.resource, each.problem)
            continue
        cells = [_cell(each.change.get(name)) for name in report.base]
        table.add_row(each.resource, *cells, f"{each.elasticity.get(leading, 0.0):+.3f}")
    console.print(table)
    console.print(
        f"Elasticity: relative change of the {'time to train' if leading == 'time_to_train' else 'step time'} "
        "over that of the resource; -1 halves it when the resource doubles.\n"
        "More of a delay or an oversubscription means less of it."
    )


def _cell(change: float | None) -> str:
    if change is None:
        return ""
    return "-" if abs(change) < LEAST else f"{100 * change:+.2f} %"
