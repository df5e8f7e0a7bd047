"""A scaling study for people, and as a table.

Public: `print_scaling`, `scaling_csv`, `scaling_rows`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict, fields
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sim.metrics.scaling import ScalePoint, ScalingStudy
from sim.report import human
from sim.report.visible import safe_cell

TITLES = {"strong": "Strong scaling: the batch stays", "weak": "Weak scaling: the batch grows with the cluster"}


def _shown(value: float | None, show: Callable[[float], str]) -> str:
    return "" if value is None else show(value)


def _number(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


Column = tuple[str, Callable[[ScalePoint], str]]
SIZE: tuple[Column, ...] = (
    ("nodes", lambda p: human.count(p.nodes)),
    ("accelerators", lambda p: human.count(p.accelerators)),
)
STEP: tuple[Column, ...] = (
    ("batch", lambda p: human.count(p.global_batch)),
    ("step", lambda p: _shown(p.step_s, human.step_time)),
    ("tokens/s", lambda p: _shown(p.tokens_per_s, _number)),
    ("efficiency", lambda p: _shown(p.efficiency, human.percent)),
    ("MFU", lambda p: _shown(p.mfu, human.percent)),
)
TRAINING: tuple[Column, ...] = (
    ("tokens", lambda p: _number(p.tokens)),
    ("training", lambda p: _shown(p.time_to_train_s, human.duration)),
    ("efficiency", lambda p: _shown(p.training_efficiency, human.percent)),
    ("energy", lambda p: _shown(p.energy_kwh, human.energy)),
    ("cost", lambda p: _shown(p.cost_usd, human.money)),
)


def scaling_csv(study: ScalingStudy) -> str:
    """A row for each size and mode, in SI; what is not known is empty."""
    out = StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(ScalePoint)], lineterminator="\n")
    writer.writeheader()
    for point in study.points:
        writer.writerow({name: safe_cell(value) for name, value in asdict(point).items()})
    return out.getvalue()


def scaling_rows(points: list[ScalePoint]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a mode, for people."""
    columns = SIZE + STEP + TRAINING
    return [title for title, _ in columns], [[show(point) for _, show in columns] for point in points]


def print_scaling(study: ScalingStudy, console: Console) -> None:
    """Print a table for each mode, and what the tokens rest on."""
    console.print(f"{study.name}  {study.description}".rstrip(), style="bold")
    for mode, title in TITLES.items():
        points = [point for point in study.points if point.mode == mode]
        if points:
            console.print(f"\n{title}{', each size with its best plan' if study.replanned else ''}", style="bold")
            console.print(_table(points, SIZE + STEP))
            console.print(_table(points, SIZE[:1] + TRAINING))
            _print_remarks(points, study.replanned, console)
    console.print(
        f"\n{_number(study.tokens)} tokens ({study.tokens_from}) at a batch of {_number(study.batch_tokens)} tokens,\n"
        f"for {_number(study.parameters)} parameters. A larger batch needs more: tokens x (1 + batch/critical),\n"
        f"critical batch {_number(study.critical_batch_tokens)} tokens. "
        "Efficiency is relative to the smallest size:\nof tokens/s, and of whole trainings."
    )


def _table(points: list[ScalePoint], columns: tuple[Column, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    known = [column for column in columns if any(column[1](point) for point in points)]
    for name, _ in known:
        table.add_column(name, justify="right", overflow="fold")
    for point in points:
        table.add_row(*(show(point) for _, show in known))
    return table


def _print_remarks(points: list[ScalePoint], with_plans: bool, console: Console) -> None:
    for point in points:
        if point.problem:
            console.print(f"  {human.count(point.nodes)} nodes: {point.problem}", soft_wrap=True)
        elif point.fits is False:
            console.print(f"  {human.count(point.nodes)} nodes: does not fit into memory")
        elif with_plans:
            console.print(f"  {human.count(point.nodes)} nodes: {point.plan}")
