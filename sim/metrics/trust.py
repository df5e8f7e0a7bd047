"""How far to trust a prediction: the errors of validated runs that are like it.

A band is the error that 8 of 10 runs like this one stayed within. Runs are alike by accelerator,
software and kind of parallelism; the narrowest such group with enough runs counts, each source of
runs with the same weight, since runs of one source share their errors. Sources differ more from each
other than runs within one, so a quantile of known sources is too narrow for a new one: all bands are
widened by the one factor with which, each source left out in turn, the others' bands hold 8 of 10 of
its runs (split conformal prediction over groups: Vovk et al. 2005; Dunn, Wasserman, Ramdas 2022).

Public: `Residual`, `Bands`, `parallel_kind`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log2

import numpy as np
from numpy.typing import NDArray

from sim.metrics.result import Trust
from sim.metrics.validation import Plan

COVERAGE = 0.8  # of runs like this one lie inside the band
ENOUGH = 12  # runs make a group
PER_DOUBLING = 0.25  # a band widens by this share per doubling of the scale beyond what was validated (assumption)


@dataclass(frozen=True)
class Residual:
    """The error of one validated run: predicted over measured step time, minus 1."""

    source: str
    name: str
    error: float
    plan: Plan


def parallel_kind(plan: Plan) -> str:
    """The kind of parallelism in the field's words."""
    if plan.tensor > 1 and plan.pipeline > 1:
        return "3D parallel"
    if plan.pipeline > 1:
        return "pipeline parallel"
    if plan.tensor > 1:
        return "tensor parallel"
    return "fully sharded" if plan.zero_stage == 3 else "data parallel"


Floats = NDArray[np.float64]
Features = tuple[str, ...]
GROUPS: tuple[Callable[[Plan], Features], ...] = (
    lambda plan: (plan.accelerator, plan.software, parallel_kind(plan)),
    lambda plan: (plan.accelerator, plan.software),
    lambda plan: (plan.accelerator, parallel_kind(plan)),
    lambda plan: (plan.accelerator,),
    lambda plan: (),
)  # from narrow to wide; what they look at is all in the first


@dataclass(frozen=True)
class Group:
    """Runs that are alike.

    features: what they have in common. error: what COVERAGE of them stay within. fewest, most: accelerators.
    """

    features: Features
    runs: int
    error: float
    fewest: int
    most: int

    @property
    def range(self) -> str:
        """How large the runs are, for people."""
        return f"{self.fewest:,} to {self.most:,}"

    def widening(self, accelerators: int) -> float:
        """What the band grows by for a job that is larger or smaller than all of the runs."""
        doublings = max(0.0, log2(accelerators / self.most), log2(self.fewest / accelerators))
        return 1 + PER_DOUBLING * doublings


@dataclass(frozen=True)
class Bands:
    """The bands that a set of residuals allows."""

    residuals: tuple[Residual, ...]

    def trust(self, plan: Plan) -> Trust | None:
        """How runs like `plan` were predicted, of its family if any was; None if no run was validated."""
        return self.families.get(plan.family, self)._trust(plan)

    def _trust(self, plan: Plan) -> Trust | None:
        if not self.residuals:
            return None
        group = self._like(plan)
        return Trust(
            band=self.factor * group.error * group.widening(plan.accelerators),
            coverage=COVERAGE,
            runs=group.runs,
            basis=", ".join([*(group.features or ("all kinds",)), f"{group.range} accelerators"]),
            extrapolates=tuple(self._outside(plan, group)),
        )

    def _like(self, plan: Plan) -> Group:
        """The runs like `plan`."""
        key = GROUPS[0](plan)
        if key not in self._known:
            self._known[key] = _group(plan, self.residuals)
        return self._known[key]

    def _outside(self, plan: Plan, group: Group) -> Iterable[str]:
        """In which respects `plan` lies outside of what was validated."""
        for name, values in self._values.items():
            if (value := getattr(plan, name)) not in values:
                yield f"no run with {name} {value} was validated"
        if not group.fewest <= plan.accelerators <= group.most:
            yield f"{plan.accelerators:,} accelerators; validated were {group.range}"
        if plan.sequence_length > self._longest:
            yield f"sequences of {plan.sequence_length:,} tokens; validated were up to {self._longest:,}"

    @cached_property
    def families(self) -> dict[str, Bands]:
        """The bands of each family of models: what one is off by says little of another."""
        families = dict.fromkeys(residual.plan.family for residual in self.residuals)
        return {name: Bands(tuple(r for r in self.residuals if r.plan.family == name)) for name in families}

    @cached_property
    def _values(self) -> dict[str, set[str]]:
        """What was validated, by field of a plan."""
        names = ("family", "accelerator", "software", "precision")
        return {name: {getattr(residual.plan, name) for residual in self.residuals} for name in names}

    @cached_property
    def _longest(self) -> int:
        """Tokens of the longest sequence that was validated."""
        return max(residual.plan.sequence_length for residual in self.residuals)

    @cached_property
    def _known(self) -> dict[Features, Group]:
        return {}

    @cached_property
    def factor(self) -> float:
        """By how much the bands are widened for sources that are not among the residuals; at least 1."""
        ratios, weights = self._ratios
        return max(1.0, _weighted_quantile(ratios, weights, COVERAGE)) if len(ratios) else 1.0

    def coverage(self) -> dict[str, float]:
        """Share of the runs of each source inside the bands that the other sources of its family alone give.

        Nothing of a family with fewer than two sources.
        """
        shares = [family._coverage() for family in self.families.values()]
        return {source: share for each in shares for source, share in each.items()}

    def _coverage(self) -> dict[str, float]:
        ratios, _ = self._ratios
        if not len(ratios):
            return {}
        inside = {residual.source: 0.0 for residual in self.residuals}
        sizes = Counter(residual.source for residual in self.residuals)
        for residual, ratio in zip(self.residuals, ratios, strict=True):
            inside[residual.source] += float(ratio <= self.factor) / sizes[residual.source]
        return inside

    @cached_property
    def _ratios(self) -> tuple[Floats, Floats]:
        """Each error over the band that the other sources give, and the weight of its run."""
        known: dict[tuple[str, Features], Group] = {}
        ratios = []
        for left_out in self.residuals:
            source, plan = left_out.source, left_out.plan
            if not self._without[source]:
                return np.empty(0), np.empty(0)
            key = (source, GROUPS[0](plan))
            if key not in known:
                known[key] = _group(plan, self._without[source])
            group = known[key]
            ratios.append(abs(left_out.error) / (group.error * group.widening(plan.accelerators)))
        return np.array(ratios), _weights(self.residuals)

    @cached_property
    def _without(self) -> dict[str, tuple[Residual, ...]]:
        sources = {residual.source for residual in self.residuals}
        return {source: tuple(r for r in self.residuals if r.source != source) for source in sources}


def _group(plan: Plan, residuals: Sequence[Residual]) -> Group:
    """The narrowest group of runs like `plan` that has enough of them, or all."""
    for features_of in GROUPS:
        features = features_of(plan)
        alike = [residual for residual in residuals if features_of(residual.plan) == features]
        if len(alike) >= ENOUGH:
            break
    sizes = [residual.plan.accelerators for residual in alike]
    return Group(features, len(alike), _quantile(alike), min(sizes), max(sizes))


def _quantile(group: Sequence[Residual]) -> float:
    """The error that COVERAGE of `group` stay within, each source with the same weight."""
    errors = np.abs([residual.error for residual in group])
    return max(_weighted_quantile(errors, _weights(group), COVERAGE), 1e-6)


def _weights(group: Sequence[Residual]) -> Floats:
    sizes = Counter(residual.source for residual in group)
    return np.array([1.0 / sizes[residual.source] for residual in group])


def _weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    """The least value that `share` of the weight does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= share * weights.sum() * (1 - 1e-12)
    return float(values[order][np.argmax(reached)])
