"""What a study thinks of each point: whether it counts, and how good it is.

Public: `Judge`, `Verdict`, `pareto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sim.ask.sweep.fields import input_lookup, is_input, result_lookup
from sim.ask.sweep.store import StoredRow
from sim.inputs.expression import Expression, ExpressionError, Lookup
from sim.inputs.records import Experiment
from sim.units import DATA, format_quantity

if TYPE_CHECKING:
    from sim.ask.sweep.sweep_file import LoadedStudy

OK, NO_FIT, UNFINISHED, CONSTRAINT = "ok", "does not fit", "does not finish", "constraint"
INVALID, ERROR = "invalid input", "error"
STATUSES = (OK, NO_FIT, UNFINISHED, CONSTRAINT, INVALID, ERROR)


@dataclass(frozen=True)
class Verdict:
    """Status and reason of a row, and its objectives if they are known: less is better in each."""

    status: str
    reason: str = ""
    worth: tuple[float, ...] | None = None


class Judge:
    """The constraints and objectives of a study, ready to be asked."""

    def __init__(self, study: LoadedStudy) -> None:
        inputs_only = [all(is_input(name) for name, _ in item.names) for item in study.constraints]
        both = list(zip(study.constraints, inputs_only, strict=True))
        self.before = tuple(item for item, early in both if early)
        self.after = tuple(item for item, early in both if not early)
        self.objectives = study.objectives

    @property
    def asks_for(self) -> tuple[str, ...]:
        """Keys of the experiment that verdicts and objectives look at, beside results."""
        later = (*self.after, *(item for item, _ in self.objectives))
        return tuple(dict.fromkeys(name for item in later for name, _ in item.names if is_input(name)))

    def objects(self, experiment: Experiment) -> str:
        """Why `experiment` need not be simulated; empty if it must be."""
        return _broken(self.before, input_lookup(experiment)) if self.before else ""

    def verdict(self, row: StoredRow) -> Verdict:
        """What the study says of a simulated row; other rows are what they are."""
        if row.status != OK or row.fields is None:
            return Verdict(row.status, row.reason)
        lookup = result_lookup(row.fields, row.inputs.__getitem__)
        try:
            worth = tuple(_worth(text, more, lookup) for text, more in self.objectives)
        except ExpressionError as error:
            return Verdict(ERROR, f"the objective cannot be evaluated: {error.message}")
        if row.fields.get("memory.fits") is False:
            return Verdict(NO_FIT, _shortage(row.fields), worth)
        if row.fields.get("run.finished") is False:
            return Verdict(UNFINISHED, f"after {row.fields['run.steps']} steps: {row.fields['run.outcome']}", worth)
        broken = _broken(self.after, lookup)
        return Verdict(CONSTRAINT if broken else OK, broken, worth)


def _broken(constraints: Sequence[Expression], lookup: Lookup) -> str:
    """The first constraint that does not hold, with the values in it; empty if all hold."""
    for constraint in constraints:
        try:
            if constraint.holds(lookup):
                continue
        except ExpressionError as error:
            return f"{constraint.text}: {error.message}"
        values = ", ".join(f"{name} is {_shown(lookup, name)}" for name, _ in constraint.names)
        return f"{constraint.text}: {values}"
    return ""


def _shown(lookup: Lookup, name: str) -> str:
    try:
        value = lookup(name)
    except KeyError:
        return "absent"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shortage(fields: Mapping[str, Any]) -> str:
    peak, capacity = fields["memory.peak_bytes_per_accelerator"], fields["memory.capacity_bytes"]
    return f"needs {format_quantity(peak, DATA)} of {format_quantity(capacity, DATA)}"


def _worth(objective: Expression, more_is_better: bool, lookup: Lookup) -> float:
    value = objective.evaluate(lookup)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"{objective.text} is {'absent' if value is None else 'not a number'}")
    return -float(value) if more_is_better else float(value)


def pareto(worths: Mapping[int, Sequence[tuple[float, ...]]]) -> set[int]:
    """The points that no other beats: by the mean over their seeds, no objective worse and one better."""
    means = {point: tuple(fmean(column) for column in zip(*rows, strict=True)) for point, rows in worths.items()}
    best: list[tuple[float, ...]] = []
    for mean in sorted(set(means.values())):
        if not any(_beats(other, mean) for other in best):
            best.append(mean)
    kept = set(best)
    return {point for point, mean in means.items() if mean in kept}


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
