"""Study files, loaded and checked: everything a sweep needs to know.

Public: `LoadedStudy`, `load_study`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from sim.ask.sweep.axes import Varying, varying
from sim.ask.sweep.fields import input_lookup, is_input, is_key, is_result, nearest
from sim.ask.sweep.points import Point, chosen, count_grid, grid, sample
from sim.errors import ConfigError, Problem
from sim.inputs.expression import Expression, parse_expression
from sim.inputs.load import Base, load_base, open_definition
from sim.inputs.overrides import Override, apply_overrides
from sim.inputs.problems import decode, mark_at
from sim.inputs.reader import SourceNode
from sim.inputs.resolve import Resolver
from sim.inputs.study import Objective, Study
from sim.units import Unit

MOST_ROWS = 10_000_000


@dataclass(frozen=True)
class LoadedStudy:
    """A checked study with its base experiment."""

    name: str
    study: Study
    base: Base
    axes: tuple[Varying, ...]

    @property
    def constraints(self) -> tuple[Expression, ...]:
        """What must hold."""
        return tuple(parse_expression(text) for text in self.study.constraints)

    @property
    def objectives(self) -> tuple[tuple[Expression, bool], ...]:
        """What is best, and whether more of it is better."""
        return tuple(
            (parse_expression(item.minimize or item.maximize or ""), item.maximize is not None)
            for item in self.study.objectives
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The key paths that vary, in the order of the axes."""
        return tuple(key for axis in self.axes for key in axis.keys)

    @property
    def units(self) -> dict[str, Unit]:
        """Of each of them whose values are written with a unit, that unit."""
        return {key: unit for axis in self.axes for key, unit in axis.units.items()}

    def points(self) -> Iterator[Point]:
        """The points in their order; not for a search, which finds its own."""
        base, sampling = input_lookup(self.base.experiment), self.study.sampling
        if sampling.method == "full":
            return grid(self.axes, base)
        return sample(self.axes, base, sampling)

    def chosen(self, shares: Sequence[float]) -> Point:
        """The point at the given share of each axis."""
        return chosen(self.axes, input_lookup(self.base.experiment), shares)

    @property
    def size(self) -> int:
        """Rows of the table, at most."""
        study = self.study
        if study.search:
            return study.search.trials * study.seeds
        if study.sampling.method != "full":
            return sum(1 for _ in self.points()) * study.seeds
        return count_grid(self.axes, input_lookup(self.base.experiment)) * study.seeds


def load_study(source: str | Path | Mapping[str, Any], overrides: Sequence[Override] = ()) -> LoadedStudy:
    """The study that `source`, a name, a path or a mapping, says, with its base and `overrides` in the study.

    Raises ConfigError with all problems found.
    """
    resolver = Resolver()
    root, path = open_definition(resolver, "study", source)
    root = apply_overrides(resolver, root, "study", overrides)
    if resolver.problems:
        raise ConfigError(resolver.problems)
    study = decode(Study, root)
    if isinstance(study, list):
        raise ConfigError(study)
    base = load_base(resolver, root.value["base"])
    axes, problems = _axes(study, root)
    problems += [_placed(problem, root) for check in _CHECKS for problem in check(study, axes)]
    if problems:
        raise ConfigError(problems)
    name = study.name if path is None or "name" in root.value else path.stem
    return LoadedStudy(name, study, base, axes)


def _axes(study: Study, root: SourceNode) -> tuple[tuple[Varying, ...], list[Problem]]:
    """The axes that are right, and what is wrong with the others."""
    axes: list[Varying] = []
    problems: list[Problem] = []
    for number, axis in enumerate(study.axes):
        try:
            axes.append(varying(axis, root.value["axes"].value[number]))
        except ConfigError as error:
            place = f"axes.{number}"
            problems += [replace(item, key=f"{place}.{item.key}".rstrip(".")) for item in error.problems]
    return tuple(axes), problems


def _placed(problem: Problem, root: SourceNode) -> Problem:
    keys = [int(part) if part.isdecimal() else part for part in problem.key.split(".")]
    return replace(problem, where=str(mark_at(root, keys)))


# --- checks -----------------------------------------------------------------------------------


def _check_keys(study: Study, axes: Sequence[Varying]) -> Iterator[Problem]:
    """Every key that varies exists, and varies once."""
    seen: set[str] = set()
    for number, axis in enumerate(study.axes):
        for key in axis.zip or ([axis.key] if axis.key else []):
            place = f"axes.{number}.{'zip' if axis.zip else 'key'}"
            if not is_key(key):
                yield Problem("", place, f"{key!r} is no key of an experiment", nearest(key, results=False))
            elif key in seen:
                yield Problem("", place, f"{key!r} varies on two axes", "remove one of them, or use zip")
            seen.add(key)


def _check_conditions(study: Study, axes: Sequence[Varying]) -> Iterator[Problem]:
    """`when` looks at the base and at earlier axes only."""
    later = {key: number for number, axis in enumerate(study.axes) for key in axis.zip or (axis.key,)}
    for number, axis in enumerate(study.axes):
        place = f"axes.{number}.when"
        for name, column in parse_expression(axis.when).names if axis.when else ():
            if not is_input(name):
                yield _unknown(place, name, column, "key of an experiment", results=False)
            elif later.get(name, -1) >= number:
                yield Problem("", place, f"{name}, column {column}, is not known yet", "put its axis before this one")


def _check_names(study: Study, axes: Sequence[Varying]) -> Iterator[Problem]:
    """Constraints and objectives mention known names."""
    texts = {f"constraints.{number}": text for number, text in enumerate(study.constraints)}
    for number, objective in enumerate(study.objectives):
        if (objective.minimize is None) == (objective.maximize is None):
            yield Problem("", f"objectives.{number}", "an objective has one of minimize and maximize")
        texts |= {f"objectives.{number}.{word}": text for word, text in _given(objective)}
    for place, text in texts.items():
        for name, column in parse_expression(text).names:
            if not is_input(name) and not is_result(name):
                yield _unknown(place, name, column, "key of an experiment or field of a result", results=True)


def _given(objective: Objective) -> list[tuple[str, str]]:
    return [(word, text) for word in ("minimize", "maximize") if (text := getattr(objective, word)) is not None]


def _unknown(place: str, name: str, column: int, what: str, *, results: bool) -> Problem:
    return Problem("", place, f"{name!r}, column {column}, is no {what}", nearest(name, results))


def _check_sampling(study: Study, axes: Sequence[Varying]) -> Iterator[Problem]:
    """What is sampled has a size, and what is not sampled has no open range."""
    method = study.sampling.method
    if study.search and study.sampling.model_fields_set:
        yield Problem("", "search", "a study samples or searches, not both", "remove sampling or search")
    if study.search and not study.objectives:
        yield Problem("", "search", "a search needs an objective", "write objectives: [{minimize: step.time_s}]")
    if (method == "full") != (study.sampling.points is None):
        more = "is missing: how many points?" if method != "full" else "is for samples; full takes all points"
        yield Problem("", "sampling.points", more)
    if method == "full" and not study.search:
        yield from _open_ranges(study, axes)


def _open_ranges(study: Study, axes: Sequence[Varying]) -> Iterator[Problem]:
    numbers = {axis.key: number for number, axis in enumerate(study.axes)}
    for axis in axes:
        if axis.between:
            message = "this range is open, and all its points are asked for"
            yield Problem(
                "", f"axes.{numbers[axis.keys[0]]}", message, "give it a step, a factor or a count, or sample"
            )


def _check_size(study: Study, axes: Sequence[Varying]) -> Iterator[Problem]:
    """A full grid has no more points than a table holds."""
    rows = prod(max(1, len(axis.levels)) for axis in axes) * study.seeds
    if study.sampling.method == "full" and not study.search and rows > MOST_ROWS:
        message = f"all combinations and seeds are {rows:,} runs, more than {MOST_ROWS:,}"
        yield Problem("", "axes", message, "give sampling, search, or fewer values")


_CHECKS = (_check_size, _check_keys, _check_conditions, _check_names, _check_sampling)
