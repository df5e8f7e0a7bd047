"""How far to trust a prediction: the errors of the validated runs near it, and how far those are.

Two runs are as far apart as they differ: one for each thing that is of another kind (accelerator, vendor, software,
attention kernel, what joins a node, width of the number format, kind of parallelism, family of the model, what is
trained, a profile that had to be assumed), and a quarter for each doubling of a size (model, accelerators, sequence,
work of a rank in one pass, network). That a difference counts one and a doubling a quarter is an assumption; what
distance does to a band is not. The band at a run is the error that 8 of 10 validated runs stay within, those near it
counting more, times `at_hand + per_difference * distance to the nearest`. Both are the line through the 0.8 quantile
of errors over such bands, each origin of runs left out in turn (quantile regression: Koenker and Bassett 1978; weights
that fall with distance: Guan 2023, Localized conformal prediction). Farther from all validated runs than 19 of 20 were
from other origins nothing was measured, so no band is given.

Public: `Residual`, `Bands`, `Rule`, `parallel_kind`, `quantile_line`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.result import Trust
from sim.metrics.validation import RunTraits
from sim.record import NARROW

COVERAGE = 0.8  # of runs like this one lie inside the band
MEASURED = 0.95  # share of the runs left out up to whose distance bands are given
REACH = 2.0  # differences over which the weight of a validated run falls to 1/e
PER_DOUBLING = 0.25  # of a size, as a share of a difference
SLOPES = np.linspace(0.0, 1.5, 61)  # widening per difference that is tried
LEAST = 1e-6  # error of a run that was met exactly

ORIGINS = {  # tables made of the same measurements as another
    "bloom": "bloom_tuning",
    "dgxc": "dgxc_h100",
    "dgxc_moe": "dgxc_h100",
    "llm_foundry": "mpt_llm_foundry",
    "megatron_bridge_moe": "megatron_bridge",
    "megatron_bridge_moe_later": "megatron_bridge",
    "megatron_bridge_pairs": "megatron_bridge",
    "megatron_bridge_recompute": "megatron_bridge",
    "nemo": "nemo_24",
    "vtrain": "vtrain_multi",
    "vtrain_single": "vtrain_multi",
}
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WIDTHS = {"bf16": "16 bit", "fp16": "16 bit", "fp8": "8 bit", "fp32": "32 bit", "tf32": "32 bit"} | {
    name: f"{narrow.bits} bit" for name, narrow in NARROW.items()
}


@dataclass(frozen=True)
class Residual:
    """The error of one validated run: predicted over measured step time, minus 1."""

    source: str
    name: str
    error: float
    plan: RunTraits

    @property
    def origin(self) -> str:
        """Who measured it: tables of one origin share their errors, and are left out together."""
        return ORIGINS.get(self.source, self.source)


def parallel_kind(plan: RunTraits) -> str:
    """The kind of parallelism in the field's words."""
    if plan.tensor > 1 and plan.pipeline > 1:
        return "3D parallel"
    if plan.pipeline > 1:
        return "pipeline parallel"
    if plan.tensor > 1:
        return "tensor parallel"
    return "fully sharded" if plan.zero_stage == 3 else "data parallel"


def kinds_of(plan: RunTraits) -> dict[str, str]:
    """What a run is of, by the name of the feature for people."""
    return {
        "accelerator": plan.accelerator,
        "vendor": plan.vendor,
        "software": plan.software,
        "attention": plan.attention,
        "links in a node": plan.local,
        "precision": WIDTHS.get(plan.precision, plan.precision),
        "parallelism": parallel_kind(plan),
        "family": plan.family,
        "weights trained": plan.trained,
        "profile": "assumed" if plan.assumed else "described",
    }


def sizes_of(plan: RunTraits) -> dict[str, float]:
    """How large a run is, by the name of the feature for people; 0: has none."""
    rows = plan.microbatch * plan.sequence_length / plan.context
    return {
        "model size": float(plan.layers * plan.hidden**2),
        "accelerators": float(plan.accelerators),
        "sequence length": float(plan.sequence_length),
        "work of a rank in a pass": rows * plan.hidden / plan.tensor,
        "network of a rank": float(plan.network),
    }


@dataclass(frozen=True)
class Rule:
    """What distance does to a band: `at_hand + per_difference * distance`, up to `farthest`."""

    at_hand: float
    per_difference: float
    farthest: float


@dataclass(frozen=True)
class Bands:
    """The bands that a set of residuals allows."""

    residuals: tuple[Residual, ...]

    def trust(self, plan: RunTraits) -> Trust | None:
        """How runs like `plan` were predicted, of its family if any was; None if no run was validated."""
        return self.families.get(plan.family, self)._trust(plan)

    def _trust(self, plan: RunTraits) -> Trust | None:
        if not self.residuals:
            return None
        away = self._points.distances(_Points.of([plan], self._points.codes))
        everyone = np.ones((1, len(self.residuals)), dtype=bool)
        within, nearest = self._points.within(away, everyone)
        rule, distance = self.rule, float(nearest[0])
        width = rule.at_hand + rule.per_difference * distance
        return Trust(
            band=float(within[0]) * width if distance <= rule.farthest else None,
            coverage=COVERAGE,
            runs=int(np.sum(away <= distance + 1.0)),
            basis=self._basis(plan, int(np.argmin(away))),
            extrapolates=tuple(self._outside(plan)),
            distance=distance,
        )

    def _basis(self, plan: RunTraits, nearest: int) -> str:
        """The nearest validated run, and in what it is another."""
        known = self.residuals[nearest]
        other, mine = kinds_of(known.plan), kinds_of(plan)
        apart = [f"{name} {value}" for name, value in other.items() if value != mine[name]]
        sizes = sizes_of(known.plan)
        for name, size in sizes_of(plan).items():
            if size and sizes[name] and max(size / sizes[name], sizes[name] / size) >= 2:
                apart.append(f"{name} x {sizes[name] / size:.2g}")
        return f"{known.source}, {known.name}" + (f", with {', '.join(apart)}" if apart else "")

    def _outside(self, plan: RunTraits) -> Iterator[str]:
        """In which respects `plan` lies outside of all that was validated."""
        for name, value in kinds_of(plan).items():
            if name == "profile" and plan.assumed:
                yield f"numbers of the accelerator that are medians of other chips: {plan.assumed}"
            elif value and value not in self._seen[name]:
                yield f"no run with {name} {value} was validated"
        for name, size in sizes_of(plan).items():
            low, high = self._ranges[name]
            if size and not low <= size <= high:
                beyond = f"{size / high:.2g} x the largest" if size > high else f"{size / low:.2g} x the smallest"
                yield f"{name}: {beyond} that was validated"

    @cached_property  # asked for with each run of a table
    def _seen(self) -> dict[str, set[str]]:
        found = [kinds_of(residual.plan) for residual in self.residuals]
        return {name: {kinds[name] for kinds in found} for name in found[0]}

    @cached_property  # as above
    def _ranges(self) -> dict[str, tuple[float, float]]:
        found = [sizes_of(residual.plan) for residual in self.residuals]
        sizes = {name: [each[name] for each in found if each[name]] for name in found[0]}
        return {name: (min(values, default=0.0), max(values, default=np.inf)) for name, values in sizes.items()}

    @cached_property  # n^2 in the runs, asked for with each of them
    def rule(self) -> Rule:
        """The rule of all residuals."""
        return self._points.rule(np.ones(len(self.residuals), dtype=bool))

    def coverage(self) -> dict[str, float]:
        """Share of the runs of each source inside bands, and rules, that other origins of its family alone give.

        Nothing of a family with fewer than three origins: two must be left to measure a rule on.
        """
        shares = [family._coverage() for family in self.families.values()]
        return {source: share for each in shares for source, share in each.items()}

    def _coverage(self) -> dict[str, float]:
        inside: dict[str, list[bool]] = {residual.source: [] for residual in self.residuals}
        if len(set(self._points.origins)) < 3:
            return {}
        for origin in set(self._points.origins):
            rows = np.flatnonzero(self._points.origins == origin)
            for row, hit in zip(rows, self._points.inside_of_others(rows), strict=True):
                inside[self.residuals[row].source].append(bool(hit))
        return {source: float(np.mean(hits)) for source, hits in inside.items()}

    @cached_property  # asked for each run of a validation
    def families(self) -> dict[str, Bands]:
        """The bands of each family of models: what one is off by says little of another."""
        names = dict.fromkeys(residual.plan.family for residual in self.residuals)
        return {name: Bands(tuple(r for r in self.residuals if r.plan.family == name)) for name in names}

    @cached_property  # as above
    def _points(self) -> _Points:
        return _Points.of_residuals(self.residuals)


@dataclass(frozen=True)
class _Points:
    """Runs as points. kinds (n, k): codes, -1 for what `codes` lack; sizes (n, m): log2, nan for none.

    errors, weights, origins (n,): sizes of the errors, 1 over the runs of the origin, its number; empty for runs
    that were not measured.
    """

    codes: tuple[dict[str, int], ...]
    kinds: Ints
    sizes: Floats
    errors: Floats
    weights: Floats
    origins: Ints

    @staticmethod
    def of(plans: Sequence[RunTraits], codes: tuple[dict[str, int], ...]) -> _Points:
        """Points of runs that were not measured."""
        words = [kinds_of(plan).values() for plan in plans]
        kinds = [[code.get(word, -1) for code, word in zip(codes, row, strict=True)] for row in words]
        sizes = np.array([list(sizes_of(plan).values()) for plan in plans])
        logs = np.log2(np.where(sizes > 0, sizes, np.nan))
        none: Any = np.empty(0)
        return _Points(codes, np.array(kinds), logs, none, none, none)

    @staticmethod
    def of_residuals(residuals: Sequence[Residual]) -> _Points:
        """Points of validated runs."""
        plans = [residual.plan for residual in residuals]
        columns = zip(*(kinds_of(plan).values() for plan in plans), strict=True)
        codes = tuple({word: code for code, word in enumerate(dict.fromkeys(column))} for column in columns)
        bare = _Points.of(plans, codes)
        runs = Counter(residual.origin for residual in residuals)
        numbers = {origin: number for number, origin in enumerate(runs)}
        return _Points(
            codes,
            bare.kinds,
            bare.sizes,
            np.maximum(np.abs([residual.error for residual in residuals]), LEAST),
            np.array([1.0 / runs[residual.origin] for residual in residuals]),
            np.array([numbers[residual.origin] for residual in residuals]),
        )

    def distances(self, others: _Points) -> Floats:
        """How far each of `others` (rows) is from each of these (columns)."""
        away: Floats = (others.kinds[:, None, :] != self.kinds).sum(axis=2).astype(np.float64)
        doublings = np.abs(others.sizes.T[:, :, None] - self.sizes.T[:, None, :])
        doublings[np.isnan(doublings)] = 0.0  # where either has none
        for each in doublings:
            away += PER_DOUBLING * each
        return away

    @cached_property  # n^2 in the runs, asked for with each origin
    def apart(self) -> Floats:
        """How far the runs are from each other, (n, n)."""
        return self.distances(self)

    @cached_property  # asked for twice with each run of a table
    def order(self) -> Ints:
        """The runs by the size of their error."""
        return np.argsort(self.errors, kind="stable")

    def within(self, away: Floats, counted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """The error that COVERAGE of the `counted` runs stay within, near ones counting more, and the nearest.

        away, counted: (runs asked about, runs measured).
        """
        nearest = np.where(counted, away, np.inf).min(axis=1)
        weights = np.exp((nearest[:, None] - away) / REACH) * self.weights * counted
        reached = np.cumsum(weights[:, self.order], axis=1)
        first = np.argmax(reached >= COVERAGE * (1 - 1e-12) * reached[:, -1:], axis=1)
        return self.errors[self.order][first], nearest

    def inside_of_others(self, rows: Ints) -> NDArray[np.bool_]:
        """Which of the runs, all of an origin, lie inside the bands that all other runs give."""
        others = np.ones(len(self.errors), dtype=bool)
        others[rows] = False
        rule = self.rule(others)
        within, nearest = self.within(self.apart[rows], np.tile(others, (len(rows), 1)))
        return self.errors[rows] <= within * (rule.at_hand + rule.per_difference * nearest)

    def rule(self, used: NDArray[np.bool_]) -> Rule:
        """The line of least loss through errors over bands, each origin of the `used` runs left out in turn."""
        rows = np.flatnonzero(used)
        if len(set(self.origins[rows])) < 2:
            return Rule(1.0, 0.0, np.inf)
        counted = used[None, :] & (self.origins[rows][:, None] != self.origins[None, :])
        within, nearest = self.within(self.apart[rows], counted)
        ratios, weights = self.errors[rows] / within, self.weights[rows]
        lines = [quantile_line(ratios, nearest, weights, slope) for slope in SLOPES]
        _, at_hand, slope = min(lines)
        return Rule(at_hand, slope, _weighted_quantile(nearest, weights, MEASURED))


def quantile_line(ratios: Floats, nearest: Floats, weights: Floats, slope: float) -> tuple[float, float, float]:
    """Loss and height of the line with this slope that COVERAGE of the ratios lie under, and the slope."""
    height = max(_weighted_quantile(ratios - slope * nearest, weights, COVERAGE), 0.0)
    above = ratios - slope * nearest - height
    loss = float(np.sum(weights * np.where(above > 0, COVERAGE * above, (COVERAGE - 1) * above)))
    return loss, height, float(slope)


def _weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    """The least value that `share` of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= share * weights.sum() * (1 - 1e-12)
    return float(values[order][np.argmax(reached)])
