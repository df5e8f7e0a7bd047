"""The best plan of a space, exactly: bound every plan, simulate in order of the bound, stop when it is proven.

A plan is left out only because a rule forbids it, because it needs more memory than there is, or because
its bound is above what has been simulated already. So the answer is that of simulating all of them.

Public: `search_plans`, `winner_of`.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from sim.ask.plan.axes import CONTEXT, TENSOR, axes_of, with_values
from sim.ask.plan.best import TWINS, Best, best_of
from sim.ask.plan.bound import Bounds, Floats, Least
from sim.ask.plan.objectives import PlanObjective, objectives_of
from sim.ask.plan.space import Space, open_space
from sim.ask.plan.table import Ints, PlanTable
from sim.ask.sweep.judge import ERROR, OK
from sim.ask.sweep.store import Outcome
from sim.ask.workers.batch import Batch
from sim.ask.workers.pool import InThisProcess, LocalProcesses, processors
from sim.cluster.build import build_cluster
from sim.errors import PlanError, Problem, SimError
from sim.inputs.records import Experiment
from sim.inputs.setup import Setup
from sim.metrics.memory import lacking_bytes
from sim.metrics.planning import Alternative, FoundPlan, PlanSearch

ENDED = "the process that ran it ended"
PATIENCE = 4  # processes that may end so while nothing has been simulated
NEAR = 0.005  # plans nearer than that are as good: no prediction is that exact
UNTRIED, SIMULATED, NO_FIT, FAILED = range(4)

Progress = Callable[[str, float], None]  # told what is being done, and the share of it that is


def search_plans(
    experiment: Experiment,
    limits: Mapping[str, Sequence[Any]] | None = None,
    objectives: Sequence[str] = ("time",),
    top: int = 10,
    jobs: int | None = None,
    progress: Progress = lambda what, share: None,
    wide: bool = False,
) -> PlanSearch:
    """The `top` best plans for the cluster, model and training of a resolved experiment.

    `limits` gives values of an axis instead of all, and `wide` goes beyond what the software offers (`axes_of`).
    With several `objectives` the plans found are those that nothing dominates. Uses `jobs` processes. On
    KeyboardInterrupt what is found so far is returned, with `complete` False. Raises ConfigError for wrong input,
    PlanError if no plan is valid.
    """
    if len(experiment.setup.kinds) > 1:
        message = "plans are searched for clusters of one kind of node"
        way_out = "compare plans with `clustersim sweep`, or search on one kind: --set cluster.node=NAME"
        raise PlanError(Problem("", "cluster.node", message, way_out))
    began = time.perf_counter()
    if experiment.synchronization is not None:
        message = "plans are searched among those whose replicas sum gradients in lock-step"
        raise PlanError(Problem("", "synchronization", message, "leave it out, or compare a few plans with sweep"))
    wanted = objectives_of(objectives, experiment.setup)
    base = _one_step(experiment)
    progress("enumerating plans", 0.0)
    space = open_space(base, axes_of(limits or {}, base.setup, wide))
    if not space.table.n:
        rules = "; ".join(f"{count} plans: {rule}" for rule, count in space.forbidden.items())
        raise PlanError(f"none of {space.enumerated} plans is valid: {rules}")
    count = jobs or processors()
    workers = LocalProcesses(count) if count > 1 else InThisProcess()
    try:
        hunt = _Hunt(space, wanted, best_of(len(wanted), top))
        complete = True
        try:
            hunt.bounds(workers, progress)
            hunt.simulate(workers, progress)
        except KeyboardInterrupt:
            complete = False
    finally:
        workers.close()
    return hunt.found(experiment, complete, time.perf_counter() - began)


def winner_of(experiment: Experiment, search: PlanSearch) -> Experiment:
    """`experiment` with the best plan that was found."""
    return with_values(experiment, search.plans[0].values)


def _one_step(experiment: Experiment) -> Experiment:
    """One step without what happens around it: failures, checkpoints, the length of the training."""
    training = experiment.training.model_copy(update={"tokens": None, "samples": None, "time_limit": None})
    return experiment.model_copy(
        update={"training": training, "failures": None, "checkpoint": None, "measured": None, "input": None}
    )


@dataclass
class _Hunt:
    """The state of a search."""

    space: Space
    objectives: tuple[PlanObjective, ...]
    best: Best
    least: Least = field(default_factory=lambda: Least(np.zeros(0), np.zeros(0)))  # of each plan, (n,)
    status: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    fields: dict[int, dict[str, Any]] = field(default_factory=dict)  # result of each simulated plan
    failed: Counter[str] = field(default_factory=Counter)
    lacking: float = math.inf  # bytes, of the plan that comes nearest to fitting

    def __post_init__(self) -> None:
        self.least = Least(np.zeros(self.space.table.n), np.zeros(self.space.table.n))
        self.status = np.full(self.space.table.n, UNTRIED)

    def plan(self, row: int) -> Experiment:
        """The experiment of a row."""
        return with_values(self.space.base, self.space.table.choice(row))

    # --- bounds -------------------------------------------------------------------------------

    def bounds(self, workers: LocalProcesses | InThisProcess, progress: Progress) -> None:
        """Bound all plans, in as many processes as there are; plans of equal cuts stay together."""
        base, table, some = self.space.base, self.space.table, self.plan(0)
        energy = any(objective.needs_energy(base.setup) for objective in self.objectives)
        if isinstance(workers, InThisProcess) or table.n < FEW:
            self.least = bound_plans(base, some, table, energy)
            return
        groups = sorted(table.groups((TENSOR, CONTEXT)), key=len, reverse=True)
        futures = {workers.pool.submit(bound_plans, base, some, table.take(rows), energy): rows for rows in groups}
        done = 0
        for future in _as_they_end(set(futures)):
            rows = futures[future]
            part = future.result()
            self.least.seconds[rows], self.least.joules[rows] = part.seconds, part.joules
            done += len(rows)
            progress("bounding plans", done / table.n)

    # --- simulations --------------------------------------------------------------------------

    def simulate(self, workers: LocalProcesses | InThisProcess, progress: Progress) -> None:
        """Simulate plans in order of their bound until no other can be among the best."""
        floors = self._floors()
        rest: Ints = np.lexsort((np.arange(len(floors)), floors[:, 0]))
        running: dict[Future[Batch], int] = {}
        done = 0
        while len(rest):
            row, rest, done = int(rest[0]), rest[1:], done + 1
            if self._fits(row):
                running[workers.submit([self.plan(row)])] = row
            if len(running) >= workers.slots:
                self._collect(running, workers)
                rest = rest[~self.best.beats(floors[rest])]
            progress("simulating", done / (done + len(rest)))
        while running:
            self._collect(running, workers)

    def _fits(self, row: int) -> bool:
        """Whether there is enough memory for a plan; puts down if not."""
        lacking = lacking_bytes(self.plan(row).setup)
        if lacking > 0:
            self.status[row] = NO_FIT
            self.lacking = min(self.lacking, lacking)
        return lacking == 0

    def _floors(self) -> Floats:
        """What each plan is worth at least, (n, objectives)."""
        setup = self.space.base.setup
        return np.stack([objective.floor(setup, self.least) for objective in self.objectives], axis=1)

    def _collect(self, running: dict[Future[Batch], int], workers: LocalProcesses | InThisProcess) -> None:
        """Take in at least one finished simulation; one whose process died counts as failed."""
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            row = running.pop(future)
            try:
                outcome = future.result()[0][0]
            except workers.lost:
                if not self.fields and self.failed[ENDED] >= PATIENCE:
                    raise SimError(
                        "processes end before they have simulated anything; --workers 1 may tell why"
                    ) from None
                workers.renew()
                outcome = Outcome(ERROR, ENDED)
            self._take(row, outcome)

    def _take(self, row: int, outcome: Outcome) -> None:
        if outcome.status != OK:
            self.status[row] = FAILED
            self.failed[outcome.reason] += 1
            return
        self.status[row] = SIMULATED
        fields = json.loads(outcome.fields)
        self.best.add(row, self._worth(fields))
        self.fields[row] = fields

    def _worth(self, fields: Mapping[str, Any]) -> Floats:
        return np.array([fields[objective.field] for objective in self.objectives])

    # --- results ------------------------------------------------------------------------------

    def found(self, experiment: Experiment, complete: bool, wall_s: float) -> PlanSearch:
        """What came of it."""
        setup, table = experiment.setup, self.space.table
        plans = tuple(self._plans(setup))
        untried = int((self.status == UNTRIED).sum())
        return PlanSearch(
            name=experiment.name,
            description=experiment.description,
            accelerators=setup.accelerators,
            objectives=tuple(objective.name for objective in self.objectives),
            space=table.values,
            enumerated=self.space.enumerated,
            forbidden=self.space.forbidden,
            no_fit=int((self.status == NO_FIT).sum()),
            lacking_bytes=self.lacking if math.isfinite(self.lacking) else 0.0,
            bounded=untried if complete else 0,
            failed=dict(self.failed),
            simulated=len(self.fields),
            plans=plans,
            alternatives=tuple(self._alternatives()) if len(self.objectives) == 1 and complete else (),
            capacity_bytes=setup.accelerator.memory.capacity,
            complete=complete,
            untried=0 if complete else untried,
            wall_s=wall_s,
            choice=_choice(plans, self.objectives[0].name) if len(self.objectives) == 1 else 0,
        )

    def _plans(self, setup: Setup) -> Iterator[FoundPlan]:
        """The plans kept; twins are told with the first of them."""
        rows = self.best.rows
        worth = [float(self._worth(self.fields[row])[0]) for row in rows]
        single = len(self.objectives) == 1
        starts = [n for n in range(len(rows)) if not single or not n or worth[n] > worth[n - 1] * (1 + TWINS)]
        for first, last in pairwise([*starts, len(rows)]):
            values = [self.space.table.choice(row) for row in rows[first:last]]
            twins = tuple({key: one[key] for key in one if one[key] != values[0][key]} for one in values[1:])
            yield replace(self._found(rows[first], setup), twins=twins)

    def _found(self, row: int, setup: Setup) -> FoundPlan:
        fields, prefix, steps = self.fields[row], "step.breakdown_s.", setup.target_steps
        usd = fields.get("cost.usd.total")
        return FoundPlan(
            values=self.space.table.choice(row),
            worth={each.name: fields[each.field] for each in self.objectives},
            bound_s=float(self.least.seconds[row]),
            step_s=fields["step.time_s"],
            mfu=fields["step.mfu"],
            memory_bytes=fields["memory.peak_bytes_per_accelerator"],
            accelerators_idle=fields["accelerators_idle"],
            samples_per_s=fields["step.samples_per_s"],
            tokens_per_s=fields.get("step.tokens_per_s"),
            time_to_train_s=None if steps is None else steps * fields["step.time_s"],
            usd=None if usd is None else usd * (steps or 1),
            breakdown_s={key.removeprefix(prefix): value for key, value in fields.items() if key.startswith(prefix)},
        )

    def _alternatives(self) -> list[Alternative]:
        """For each key the best that a plan with another value of it can do."""
        if not self.best.rows:
            return []
        table, winner = self.space.table, self.best.rows[0]
        worth = self._floors()[:, 0]
        for row, fields in self.fields.items():
            worth[row] = self._worth(fields)[0]
        worth[(self.status == NO_FIT) | (self.status == FAILED)] = np.inf
        alternatives = []
        for key, column in table.column.items():
            others = np.flatnonzero((column != column[winner]) & np.isfinite(worth))
            if len(others):
                row = int(others[np.argmin(worth[others])])
                proven = self.status[row] != SIMULATED
                alternatives.append(Alternative(key, table.choice(row)[key], float(worth[row]), bool(proven)))
        return alternatives


def _choice(plans: Sequence[FoundPlan], objective: str) -> int:
    """Among plans that are worth about as much as the best, the one with most memory to spare; the first of equals."""
    near = [n for n, plan in enumerate(plans) if plan.worth[objective] <= plans[0].worth[objective] * (1 + NEAR)]
    return min(near, key=lambda n: plans[n].memory_bytes, default=0)


FEW = 2000  # plans that one process bounds in a moment


def bound_plans(base: Experiment, some_plan: Experiment, table: PlanTable, energy: bool) -> Least:
    """What the plans of `table` take at least; runs in a process of its own."""
    cluster = build_cluster(base.setup.cluster, base.degradations, merge_sprayed=base.simulation.prune == "auto")
    return Bounds(base, cluster, some_plan, energy).of(table)


def _as_they_end(futures: set[Future[Least]]) -> Any:
    while futures:
        done, futures = wait(futures, return_when=FIRST_COMPLETED)
        yield from done
