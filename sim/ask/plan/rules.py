"""Which plans of a table a rule forbids: each rule is asked once for each set of values that it reads.

The rules are the checks of any experiment, run as they are. What a check reads is recorded; plans that
agree in it get the same answer, since a check has nothing else to go by. A check that reads an axis which
the table does not have yet is asked again later.

Public: `Rule`, `forbidden`, `meaning`, `no_repeats`, `offered_only`, `rules_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, cast

import numpy as np

from sim.ask.plan.axes import NEAREST, ORDER, SCHEDULE, PlanAxis
from sim.ask.plan.table import Mask, PlanTable
from sim.errors import Problem, finding
from sim.inputs.checks import CHECKS
from sim.inputs.findings import Check
from sim.inputs.plan_checks import check_model
from sim.inputs.records import Experiment
from sim.inputs.setup import Setup
from sim.schedule.catalogue import SCHEDULES

Rule = Check


def _one_copy(setup: Setup) -> bool:
    return setup.data * setup.parallelism.context == 1


def _one_turn(setup: Setup) -> bool:
    """One microbatch through one chunk a stage: there is one order, if weight gradients are not put off."""
    parallel = setup.parallelism
    return setup.microbatches == parallel.virtual_stages == 1 and not SCHEDULES[parallel.schedule].splits


def _never(setup: Setup) -> bool:
    return False


WITHOUT_EFFECT: Mapping[str, Callable[[Setup], bool]] = {
    "parallelism.sequence_parallel": lambda setup: setup.parallelism.tensor == 1,
    "parallelism.zero_stage": _one_copy,
    "parallelism.schedule": _one_turn,
    "parallelism.order": lambda setup: setup.parallelism.pipeline == 1 or setup.data == 1,
    "software.tensor_overlap": lambda setup: setup.parallelism.tensor == 1,
    "software.pipeline_overlap": lambda setup: setup.parallelism.pipeline == 1,
    "software.scatter_gather": lambda setup: (
        setup.parallelism.pipeline == 1 or setup.parallelism.tensor == 1 or setup.parallelism.sequence_parallel
    ),
    "software.gradient_overlap": lambda setup: setup.parallelism.zero_stage == 3 or _one_copy(setup),
    "software.parameter_prefetch": lambda setup: setup.parallelism.zero_stage == 0 or _one_copy(setup),
}
"""Keys whose value changes nothing in some plans, and in which; of `order` those that begin with tensor and context."""


def no_repeats(axes: Sequence[PlanAxis], base: Setup) -> Rule:
    """The rule that a key has the first of its values where it has no effect."""
    first = {axis.key: axis.values(base, {})[0] for axis in axes if axis.key in WITHOUT_EFFECT}
    if not all(tuple(order[:2]) == NEAREST for axis in axes if axis.key == ORDER for order in axis.values(base, {})):
        del first[ORDER]

    def check_repeats(setup: Setup) -> Iterator[Problem]:
        """A plan that works exactly as another is not tried twice."""
        for key, value in first.items():
            if attrgetter(key)(setup.experiment) != value and WITHOUT_EFFECT[key](setup):
                yield finding(key, "has no effect in this plan", "")

    return check_repeats


def offered_only(axes: Sequence[PlanAxis]) -> Rule:
    """The rule that a plan keeps to what its software can do, where that has an effect."""
    offered = {axis.key: axis.offered for axis in axes if axis.offered}

    def check_offered(setup: Setup) -> Iterator[Problem]:
        """A plan keeps to what its software offers (--space wide goes beyond that)."""
        for key, values in offered.items():
            value = attrgetter(key)(setup.experiment)
            if value not in values and not WITHOUT_EFFECT.get(key, _never)(setup):
                yield finding(key, f"{value} is nothing that {setup.software.name} offers", "")

    return check_offered


def schedules_need_pipelines(axes: Sequence[PlanAxis], base: Setup) -> Rule:
    """The rule that there is one schedule, the first of its axis, where no stages take turns."""
    first = {axis.key: axis.values(base, {})[0] for axis in axes if axis.key == SCHEDULE}

    def check_schedule(setup: Setup) -> Iterator[Problem]:
        """Without a pipeline there is nothing to schedule: microbatches follow one another."""
        if setup.parallelism.pipeline == 1 and setup.parallelism.schedule != first.get(SCHEDULE):
            yield finding(SCHEDULE, "orders the microbatches of a pipeline", "")

    return check_schedule


def rules_of(axes: Sequence[PlanAxis], base: Setup) -> tuple[Rule, ...]:
    """All rules for plans that differ in `axes`."""
    checks = [each for check in CHECKS for each in (family_rules(base) if check is check_model else (check,))]
    return (*checks, offered_only(axes), schedules_need_pipelines(axes, base), no_repeats(axes, base))


def family_rules(base: Setup) -> Iterator[Rule]:
    """The rules of the model's family, one by one."""
    for demand in base.workload.rules:

        def check(setup: Setup, demand: Callable[..., Iterator[Problem]] = demand) -> Iterator[Problem]:
            return demand(setup.workload, setup.parallelism, setup.training)

        check.__doc__ = demand.__doc__
        yield check


def meaning(rule: Rule) -> str:
    """What a rule demands, in a few words."""
    text = " ".join((rule.__doc__ or rule.__name__).split())
    return text.split(";")[0].split(". ")[0].rstrip(".")


class _Unknown(Exception):
    """A rule asked for an axis that has no values yet."""


class _Watched:
    """A record whose axes have the values of one plan; notes which of them are read."""

    def __init__(
        self, record: Any, prefix: str, axes: frozenset[str], choice: Mapping[str, Any], read: dict[str, None]
    ):
        self._parts = record, prefix, axes, choice, read

    @property
    def setup(self) -> Setup:
        """As `Experiment.setup`, watched too."""
        return Setup(cast(Experiment, self))

    def __getattr__(self, name: str) -> Any:
        record, prefix, axes, choice, read = self._parts
        path = f"{prefix}{name}"
        if path in axes:
            if path not in choice:
                raise _Unknown
            read[path] = None
            return choice[path]
        value = getattr(record, name)
        inner = any(axis.startswith(f"{path}.") for axis in axes)
        return _Watched(value, f"{path}.", axes, choice, read) if inner else value


def forbidden(rule: Rule, table: PlanTable, base: Experiment, axes: frozenset[str]) -> tuple[Mask, bool]:
    """Plans of `table` that `rule` forbids, (n,), and whether it has judged all of them.

    `axes` are the keys of all axes, those that the table does not have yet too.
    """
    bad, complete = np.zeros(table.n, dtype=bool), True
    waiting: list[tuple[PlanTable, np.ndarray[Any, Any], tuple[str, ...]]] = [(table, np.arange(table.n), ())]
    while waiting:
        part, rows, keys = waiting.pop()
        for group in part.groups(keys):
            verdict, read = _judge(rule, part.choice(int(group[0])), base, axes)
            if not set(read) <= set(keys):
                waiting.append((part.take(group), rows[group], (*keys, *(key for key in read if key not in keys))))
            elif verdict is None:
                complete = False
            else:
                bad[rows[group]] = verdict
    return bad, complete


def _judge(
    rule: Rule, choice: Mapping[str, Any], base: Experiment, axes: frozenset[str]
) -> tuple[bool | None, list[str]]:
    """Whether the rule forbids a plan, None if that hangs on later axes; and the axes it read."""
    read: dict[str, None] = {}
    setup = _Watched(base, "", axes, choice, read).setup
    try:
        return next(iter(rule(setup)), None) is not None, list(read)
    except _Unknown:
        return None, list(read)
