"""The outcome of a plan search for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sim.metrics.planning import FoundPlan, PlanSearch
from sim.metrics.result import BREAKDOWN
from sim.report import human
from sim.report.text import LABELS

WORTH = {"time": ("step", human.step_time), "energy": ("energy/step", human.energy), "cost": ("USD/step", human.digits)}


def print_search(search: PlanSearch, console: Console) -> None:
    """Print what became of all plans, the best ones, and why the first is the best."""
    console.print(f"{search.name}  {search.description}".rstrip(), style="bold")
    console.print(f"\n{human.count(search.enumerated)} plans in {search.wall_s:.1f} s", style="bold")
    console.print(_counts(search))
    if not search.plans:
        console.print(f"\n{_nothing(search)}")
        return
    single = len(search.objectives) == 1
    console.print(f"\n{_title(search)}", style="bold")
    console.print(_plans(search))
    console.print(f"The {'best plan' if single else 'first of them'}", style="bold")
    console.print(_values(search.plans[0]))
    console.print("\nWhere its step goes", style="bold")
    console.print(_step(search.plans[0]))
    if search.alternatives:
        what = WORTH[search.objectives[0]][0]
        console.print(
            f"\nWhat another value costs: {what} of the best plan with it, everything else free", style="bold"
        )
        console.print(_alternatives(search))


def _nothing(search: PlanSearch) -> str:
    if not search.complete:
        return "Interrupted before a plan was simulated."
    if not search.no_fit:
        return "No plan could be simulated."
    lacking, capacity = human.size(search.lacking_bytes), human.size(search.capacity_bytes)
    return f"No plan fits into memory: the leanest lacks {lacking} or more beside the {capacity} of an accelerator."


def _title(search: PlanSearch) -> str:
    best = f"The best {len(search.plans)}" if len(search.plans) > 1 else "The best"
    by = f" by {search.objectives[0]}" if len(search.objectives) == 1 else f" in {' and '.join(search.objectives)}"
    return f"{best}{by}{'' if search.complete else ', of those tried so far'}"


def _counts(search: PlanSearch) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for number, what in _fates(search):
        if number:
            table.add_row(f"  {human.count(number)}", what)
    return table


def _fates(search: PlanSearch) -> Iterator[tuple[int, str]]:
    for rule, number in sorted(search.forbidden.items(), key=lambda item: -item[1]):
        yield number, f"left out: {rule[0].lower()}{rule[1:]}"
    yield search.no_fit, "need more memory than an accelerator has"
    yield search.bounded, "cannot be among those below: a lower bound proves it"
    for reason, number in search.failed.items():
        yield number, f"failed: {reason}"
    yield search.untried, "not tried"
    yield search.simulated, "simulated"


def _plans(search: PlanSearch) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    idle = any(plan.accelerators_idle for plan in search.plans)
    for name in (*(WORTH[objective][0] for objective in search.objectives), "MFU", "memory", *["idle"] * idle):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("differs from the first in")
    for plan in search.plans:
        worth = [WORTH[objective][1](plan.worth[objective]) for objective in search.objectives]
        memory = human.percent(plan.memory_bytes / search.capacity_bytes)
        unused = [human.count(plan.accelerators_idle)] * idle
        table.add_row(*worth, human.percent(plan.mfu), memory, *unused, _difference(plan, search.plans[0]))
    return table


def _difference(plan: FoundPlan, first: FoundPlan) -> str:
    return ", ".join(
        f"{_name(key)} {_value(value)}" for key, value in plan.values.items() if value != first.values[key]
    )


def _values(plan: FoundPlan) -> Table:
    """All values of a plan, two in a line."""
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(overflow="fold")
    cells = [(f"  {_name(key)}", _value(value)) for key, value in plan.values.items() if value is not None]
    half = (len(cells) + 1) // 2
    for left, right in zip_longest(cells[:half], cells[half:], fillvalue=("", "")):
        table.add_row(*left, *right)
    return table


def _name(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return "-" if value is None else str(value)


def _step(plan: FoundPlan) -> Table:
    table = Table.grid(padding=(0, 2))
    for part in BREAKDOWN:
        seconds = plan.breakdown_s.get(part, 0.0)
        if seconds > 0:
            table.add_row(f"  {LABELS[part]}", human.step_time(seconds), human.percent(seconds / plan.step_s))
    return table


def _alternatives(search: PlanSearch) -> Table:
    """What the best plan with another value of each key loses."""
    table = Table.grid(padding=(0, 2))
    best = search.plans[0]
    for each in sorted(search.alternatives, key=lambda each: each.worth):
        lost = human.signed_percent(each.worth / best.worth[search.objectives[0]] - 1)
        table.add_row(f"  {_name(each.key)} {_value(each.value)}", f"{lost} or more" if each.proven else lost)
    return table
