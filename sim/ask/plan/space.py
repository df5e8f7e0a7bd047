"""The space of plans: how many there are, which of them a rule forbids, and the rest as a table.

Public: `Space`, `open_space`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.ask.plan.axes import SHAPE, PlanAxis
from sim.ask.plan.rules import Rule, forbidden, meaning, rules_of
from sim.ask.plan.table import PlanTable
from sim.inputs.records import Experiment
from sim.inputs.setup import Setup


@dataclass(frozen=True)
class Space:
    """All plans: `enumerated` in number, forbidden ones by rule, and those that remain."""

    base: Experiment
    enumerated: int
    forbidden: dict[str, int]  # what a rule demands -> plans that do not meet it
    table: PlanTable


def open_space(base: Experiment, axes: Sequence[PlanAxis]) -> Space:
    """Enumerate the plans that `axes` span around `base`, which is resolved.

    PlanAxis by axis; a rule is asked as soon as the axes that it reads are there, and a partial plan that it
    forbids counts for all the plans it would have grown into.
    """
    setup, keys = base.setup, frozenset(axis.key for axis in axes)
    table, rest = PlanTable({}, {}), list(axes)
    while rest and rest[0].key in SHAPE:
        table = table.with_axis(rest.pop(0), setup)
    enumerated = _grown(table, rest, setup)
    counts: dict[str, int] = {}
    rules: list[Rule] = list(rules_of(axes, setup))
    while True:
        table, rules = _apply(rules, table, rest, base, keys, counts)
        if not rest or not table.n:
            return Space(base, enumerated, counts, table)
        table = table.with_axis(rest.pop(0), setup)


def _apply(
    rules: Sequence[Rule],
    table: PlanTable,
    rest: Sequence[PlanAxis],
    base: Experiment,
    keys: frozenset[str],
    counts: dict[str, int],
) -> tuple[PlanTable, list[Rule]]:
    """`table` without what the rules forbid, which is added to `counts`; and the rules to ask again."""
    again: list[Rule] = []
    for rule in rules:
        bad, complete = forbidden(rule, table, base, keys)
        if bad.any():
            name = meaning(rule)
            counts[name] = counts.get(name, 0) + _grown(table.take(bad), rest, base.setup)
            table = table.take(~bad)
        if not complete:
            again.append(rule)
    return table, again


def _grown(table: PlanTable, rest: Sequence[PlanAxis], base: Setup) -> int:
    """Plans that the rows of `table` grow into along `rest`."""
    sizes = np.ones(table.n, dtype=np.int64)
    for axis in rest:
        sizes = sizes * table.sizes(axis, base)
    return int(sizes.sum())
