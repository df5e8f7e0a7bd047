"""A validation as text: scores by source, the worst runs with their parts, what failed."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.metrics.result import BREAKDOWN
from sim.metrics.validation import Miss, Row, Score, Validation
from sim.report import human

METRICS = {
    "step_time_s": "s/step",
    "samples_per_s": "samples/s",
    "tokens_per_s": "tokens/s",
    "tokens_per_s_per_accelerator": "tokens/s each",
    "model_tflops_per_accelerator": "TFLOP/s each",
}
BESIDE = {
    "exposed": "communication {:.1%} for {:.1%} of the step exposed",
    "overlapped": "{:.1%} for {:.1%} of it beside computation",
    "power": "{:.0f} W for {:.0f} W an accelerator",
}
SHOWN_PARTS = 4
SHOWN_PROBLEMS = 20


def print_validation(validation: Validation, console: Console) -> None:
    """Print scores, the worst ten and the failures."""
    if validation.total.n > validation.total.failed:
        console.print(Text("Error of the predicted step time (+ is too slow)", style="bold"))
        console.print(_score_table(validation))
        console.print(Text("in band: inside the trust band that the other sources alone give", style="dim"))
        console.print()
        console.print(Text("Largest errors", style="bold"))
        for miss in validation.worst:
            _print_miss(miss, console)
    _print_beside([row for row in validation.rows if row.beside], console)
    _print_problems([row for row in validation.rows if row.problem], console)
    _print_missed([row for row in validation.rows if row.missed and not row.problem], console)


def _print_beside(rows: list[Row], console: Console) -> None:
    """What was measured beside the step time, and what the simulated step has."""
    if not rows:
        return
    console.print(Text("Beside the step time, predicted for measured", style="bold"))
    for row in rows:
        told = (BESIDE[each.name].format(each.predicted, each.measured) for each in row.beside)
        console.print(Text(f"  {row.name}: {', '.join(told)}"))
    console.print()


def parts_of(row: Row) -> Iterator[str]:
    """The largest parts of the predicted step, as words."""
    shares = sorted(((row.shares.get(part, 0.0), part) for part in BREAKDOWN), reverse=True)
    return (f"{part} {share:.0%}" for share, part in shares[:SHOWN_PARTS] if share >= 0.005)


def score_cells(score: Score) -> list[str]:
    """The numbers of a score as text."""
    sizes = (score.mape, score.median, score.p95)
    signed = (score.worst, score.bias)
    cells = [human.percent(size) if size is not None else "-" for size in sizes]
    return [str(score.n), *cells, *(human.signed_percent(error) if error is not None else "-" for error in signed)]


def _score_table(validation: Validation) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("source", overflow="fold")
    for name in ("runs", "MAPE", "median", "p95", "worst", "bias", "in band"):
        table.add_column(name, justify="right")
    for source, score in validation.scores.items():
        inside = validation.coverage.get(source)
        table.add_row(source, *score_cells(score), "-" if inside is None else f"{inside:.0%}")
    table.add_row("all", *score_cells(validation.total), "", style="bold")
    return table


def _print_miss(miss: Miss, console: Console) -> None:
    row = miss.row
    unit = METRICS.get(row.metric, row.metric)
    numbers = f"{human.digits(row.predicted)} for {human.digits(row.measured)} {unit}"
    console.print(Text(f"{human.signed_percent(row.error):>8}  {row.name}: {numbers}"), soft_wrap=False)
    console.print(Padding(Text(", ".join(parts_of(row)), style="dim"), (0, 0, 0, 10)))
    for cause in miss.causes:
        console.print(Padding(Text(cause), (0, 0, 0, 10)))


def _print_problems(rows: list[Row], console: Console) -> None:
    if not rows:
        return
    console.print()
    console.print(Text(f"{len(rows)} could not be predicted", style="bold"))
    for row in rows[:SHOWN_PROBLEMS]:
        console.print(Text(f"  {row.source}/{row.name}: {row.problem}"))
    if len(rows) > SHOWN_PROBLEMS:
        console.print(Text(f"  and {len(rows) - SHOWN_PROBLEMS} more (--json lists all)"))


def _print_missed(rows: list[Row], console: Console) -> None:
    if not rows:
        return
    console.print()
    console.print(Text(f"{len(rows)} missed their tolerance", style="bold"))
    for row in rows:
        limit = human.percent(row.tolerance or 0.0)
        console.print(Text(f"  {row.source}/{row.name}: {human.signed_percent(row.error)}, outside {limit}"))
