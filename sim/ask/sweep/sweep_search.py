"""Search: Optuna proposes points, a generation at a time, and learns from what became of them.

Public: `search`.

Nothing of the search is stored. A generation is asked for, simulated, and told in the order of its trials,
so the same seed proposes the same points again, and what was simulated before comes from the store.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import optuna

from sim.ask.sweep.axes import Level, Varying
from sim.ask.sweep.fields import input_lookup
from sim.ask.sweep.judge import CONSTRAINT, NO_FIT, OK, UNFINISHED, Verdict
from sim.ask.sweep.points import Point
from sim.inputs.expression import Lookup
from sim.inputs.study import Search

if TYPE_CHECKING:
    from sim.ask.sweep.sweep import Sweep


def search(running: Sweep, wanted: Search) -> None:
    """Try `wanted.trials` points; one that is proposed again is no new row. Raises ConfigError as a sweep does."""
    study = _start(wanted, len(running.judge.objectives))
    base = input_lookup(running.study.base.experiment)
    numbers: dict[str, int] = {}  # of each different point: its number in the table
    verdicts: dict[int, list[Verdict]] = {}
    for first in range(0, wanted.trials, wanted.population):
        trials = [study.ask() for _ in range(min(wanted.population, wanted.trials - first))]
        points = [_proposed(trial, running.study.axes, base) for trial in trials]
        fresh = {name: point for point in points if (name := str(point.shown)) not in numbers}
        numbers |= {name: number for number, name in enumerate(fresh, start=len(numbers))}
        new = ((numbers[name], point) for name, point in fresh.items())
        running.run(new, len(fresh) * running.study.study.seeds)
        running.skip(len(points) - len(fresh))
        verdicts |= running.verdicts(len(numbers) - len(fresh))
        for trial, point in zip(trials, points, strict=True):
            _tell(study, trial, verdicts.get(numbers[str(point.shown)], []))


def _start(wanted: Search, n_objectives: int) -> optuna.Study:
    logging.getLogger("optuna").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = _sampler(wanted, n_objectives)
        return optuna.create_study(directions=["minimize"] * n_objectives, sampler=sampler)


def _sampler(wanted: Search, n_objectives: int) -> optuna.samplers.BaseSampler:
    kind = wanted.sampler or ("tpe" if n_objectives == 1 else "nsga2")
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=wanted.seed)
    if kind == "nsga2":
        size = max(2, wanted.population)
        return optuna.samplers.NSGAIISampler(population_size=size, seed=wanted.seed)
    return optuna.samplers.TPESampler(seed=wanted.seed, constant_liar=True, multivariate=True, group=True)


def _proposed(trial: optuna.Trial, axes: Sequence[Varying], base: Lookup) -> Point:
    """The point of a trial: each axis asked for where it varies."""
    point = Point()
    for axis in axes:
        if point.allows(axis, base):
            point = point.with_level(_level(trial, axis))
    return point


def _level(trial: optuna.Trial, axis: Varying) -> Level:
    name = ", ".join(axis.keys)
    if axis.between:
        return axis.between(trial.suggest_float(name, 0.0, 1.0 - 2**-53))
    if axis.ordered:
        return axis.levels[trial.suggest_int(name, 0, len(axis.levels) - 1)]
    return axis.levels[trial.suggest_categorical(name, range(len(axis.levels)))]


def _tell(study: optuna.Study, trial: optuna.Trial, verdicts: Sequence[Verdict]) -> None:
    """Report the mean of the objectives over the seeds; a trial without values has failed."""
    worths = [verdict.worth for verdict in verdicts if verdict.worth is not None]
    statuses = {verdict.status for verdict in verdicts}
    if not worths or not statuses <= {OK, NO_FIT, UNFINISHED, CONSTRAINT}:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    trial.set_constraint("kept", float(statuses != {OK}))
    study.tell(trial, [fmean(column) for column in zip(*worths, strict=True)])
