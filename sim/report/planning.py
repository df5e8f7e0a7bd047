"""The outcome of a plan search for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sim.metrics.planning import FoundPlan, PlanSearch
from sim.metrics.result import BREAKDOWN
from sim.report import human
from sim.report.text import LABELS

TOLD = 2  # twins of a plan that are told
SMALL = 1e-4  # share of a step that is not worth a word
WORTH = {"time": ("step", human.step_time), "energy": ("energy/step", human.energy), "cost": ("USD/step", human.digits)}


def print_search(search: PlanSearch, console: Console) -> None:
    """Print what became of all plans, the best ones, and why the first is the best."""
    console.print(f"{search.name}  {search.description}".rstrip(), style="bold")
    console.print(f"\n{human.count(search.enumerated)} plans in {search.wall_s:.1f} s", style="bold")
    console.print(_counts(search))
    if not search.plans:
        console.print(f"\n{_nothing(search)}")
        return
    console.print(f"\n{_title(search)}", style="bold")
    console.print(_plans(search))
    if search.choice:
        console.print(f"{_choice(search)}\n")
    console.print(f"The {_called(search)}", style="bold")
    console.print(_values(search.plans[search.choice]))
    console.print("\nWhere its step goes", style="bold")
    console.print(_step(search.plans[search.choice]))
    if search.alternatives:
        what = WORTH[search.objectives[0]][0]
        console.print(
            f"\nWhat another value costs: {what} of the best plan with it, everything else free", style="bold"
        )
        console.print(_alternatives(search))


def _called(search: PlanSearch) -> str:
    if len(search.objectives) > 1:
        return "first of them"
    return "plan that is taken" if search.choice else "best plan"


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
    for title, _ in _columns(search):
        table.add_column(title, justify="right")
    table.add_column("differs from the first in", overflow="fold")
    for plan in search.plans:
        table.add_row(*(cell(plan) for _, cell in _columns(search)), _difference(plan, search))
    return table


def _columns(search: PlanSearch) -> Iterator[tuple[str, Callable[[FoundPlan], str]]]:
    """What is told of each plan: its objectives, then what follows from them, where it is known."""
    for objective in search.objectives:
        title, words = WORTH[objective]
        yield title, lambda plan, objective=objective, words=words: words(plan.worth[objective])  # type: ignore[misc]
    if search.plans[0].time_to_train_s is not None:
        yield "training", lambda plan: human.duration(plan.time_to_train_s or 0.0)
    rate = "samples/s" if search.plans[0].tokens_per_s is None else "tokens/s"
    yield rate, lambda plan: human.digits(plan.tokens_per_s or plan.samples_per_s)
    if search.plans[0].usd is not None:
        yield "cost", lambda plan: human.money(plan.usd or 0.0)
    yield "memory", lambda plan: human.percent(plan.memory_bytes / search.capacity_bytes)
    if any(plan.accelerators_idle for plan in search.plans):
        yield "idle", lambda plan: human.count(plan.accelerators_idle)


def _choice(search: PlanSearch) -> str:
    """Which plan is taken where several are as good, and why."""
    first, chosen = search.plans[0], search.plans[search.choice]
    objective = search.objectives[0]
    slower = human.signed_percent(chosen.worth[objective] / first.worth[objective] - 1)
    used, before = (human.percent(plan.memory_bytes / search.capacity_bytes) for plan in (chosen, first))
    return f"Row {search.choice + 1} is taken: {slower} by {objective}, memory {used} full instead of {before}."


def print_reasons(search: PlanSearch, console: Console) -> None:
    """Print why the second is not first: what its step takes more of, and less, in the order of size."""
    console.print("\nWhy not another", style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for number, plan in enumerate(search.plans[1:], 2):
        table.add_row(f"  {number}", _reason(plan, search.plans[0]))
    console.print(table)


def _reason(plan: FoundPlan, first: FoundPlan) -> str:
    gaps = {part: plan.breakdown_s.get(part, 0.0) - first.breakdown_s.get(part, 0.0) for part in BREAKDOWN}
    kept = sorted((part for part in gaps if abs(gaps[part]) > first.step_s * SMALL), key=lambda part: -abs(gaps[part]))
    told = [f"{LABELS[part]} {'+' if gaps[part] > 0 else '-'}{human.step_time(abs(gaps[part]))}" for part in kept]
    return f"{_changes(plan.values, first.values)}: {', '.join(told) or 'the same step in all its parts'}"


def _difference(plan: FoundPlan, search: PlanSearch) -> str:
    told = _changes(plan.values, search.plans[0].values)
    if plan.twins:
        others = "; ".join(_changes(twin, {}) for twin in plan.twins[:TOLD])
        more = f" and {len(plan.twins) - TOLD} others" if len(plan.twins) > TOLD else ""
        told += f"{' ' if told else ''}(just as well: {others}{more})"
    return told


def _changes(values: Mapping[str, Any], from_: Mapping[str, Any]) -> str:
    changed = {key: value for key, value in values.items() if key not in from_ or value != from_[key]}
    return ", ".join(f"{_name(key)} {_value(value)}" for key, value in changed.items())


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
