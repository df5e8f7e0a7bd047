"""The outcome of a plan search for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sim.metrics.planning import Alternative, FoundPlan, PlanSearch
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
        console.print(
            "\nNo plan fits into memory." if search.complete else "\nInterrupted before a plan was simulated."
        )
        return
    title = "The best plans" if len(search.objectives) == 1 else f"Best in {' and '.join(search.objectives)}"
    console.print(f"\n{title}{'' if search.complete else ', of those tried so far'}", style="bold")
    console.print(_plans(search))
    console.print(f"  {_shared(search)}")
    console.print(f"\nThe step of the {'best plan' if len(search.objectives) == 1 else 'first'}", style="bold")
    console.print(_step(search.plans[0]))
    if search.alternatives:
        console.print("\nWhy not another: step time of the best plan with it, everything else free", style="bold")
        console.print(_alternatives(search))


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
        yield number, f"not valid: {rule[0].lower()}{rule[1:]}"
    yield search.no_fit, "need more memory than an accelerator has"
    yield search.bounded, "cannot be better: the least they can take is more than what was found"
    for reason, number in search.failed.items():
        yield number, f"failed: {reason}"
    yield search.untried, "not tried"
    yield search.simulated, "simulated"


def _plans(search: PlanSearch) -> Table:
    keys = _differing(search)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in (*(WORTH[objective][0] for objective in search.objectives), "MFU", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for key in keys:
        table.add_column(_name(key), justify="right")
    for plan in search.plans:
        worth = [WORTH[objective][1](plan.worth[objective]) for objective in search.objectives]
        memory = human.percent(plan.memory_bytes / search.capacity_bytes)
        table.add_row(*worth, human.percent(plan.mfu), memory, *(_value(plan.values[key]) for key in keys))
    return table


def _differing(search: PlanSearch) -> list[str]:
    """Keys in which the plans shown differ."""
    first = search.plans[0].values
    return [key for key in first if any(plan.values[key] != first[key] for plan in search.plans)]


def _shared(search: PlanSearch) -> str:
    """What all plans shown have in common."""
    different, first = _differing(search), search.plans[0].values
    shared = {key: value for key, value in first.items() if key not in different and value is not None}
    return ", ".join(f"{_name(key)} {_value(value)}" for key, value in shared.items())


def _name(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
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
    for each in sorted(search.alternatives, key=lambda each: each.step_s):
        chosen = f"{_name(each.key)} {_value(best.values[each.key])}"
        table.add_row(f"  {chosen}", f"with {_value(each.value)}", _loss(each, best))
    return table


def _loss(each: Alternative, best: FoundPlan) -> str:
    slower = human.signed_percent(each.step_s / best.step_s - 1)
    return f"{slower} or more" if each.proven else slower
