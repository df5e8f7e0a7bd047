"""Trust bands: what they are made of, how wide they are, whether they hold for sources they never saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.ask.run.simulate import simulate
from sim.ask.validate.trust import RESIDUALS, read_residuals, residuals_of, shipped_bands, traits_of, write_residuals
from sim.inputs.cases import load_cases
from sim.inputs.catalogue import catalogue_root
from sim.inputs.load import load_experiment
from sim.metrics.trust import COVERAGE, PER_DOUBLING, Bands, Residual, parallel_kind, quantile_line
from sim.metrics.validation import RunTraits
from sim.rng import stream

PLAN = RunTraits(
    "h100-sxm", 64, 8, "m", 4096, 32, 128, "bf16", "none", "megatron-core", 8, 2, 1, 4, 1, 1, 8, 4096
)  # fmt: skip


def residuals(source: str, errors: list[float], **changes: Any) -> list[Residual]:
    plan = replace(PLAN, **changes)
    return [Residual(source, f"{source}-{number}", error, plan) for number, error in enumerate(errors)]


def band(bands: Bands, plan: RunTraits) -> float:
    trust = bands.trust(plan)
    assert trust is not None
    assert trust.band is not None
    return trust.band


def sources_at(*distances: int, error: float = 0.05) -> list[Residual]:
    """Sources of which each is so many other kinds away from the plan, with errors in line with that."""
    names = ("accelerator", "vendor", "software", "attention", "local", "family", "trained")
    found: list[Residual] = []
    for number, distance in enumerate(distances):
        changes = dict.fromkeys(names[:distance], f"other {number}")
        errors = [error * (1 + distance) * share / 20 for share in range(1, 21)]
        found += residuals(f"source {number}", errors, **changes)
    return found


def test_the_band_of_one_source_is_the_quantile_of_its_errors() -> None:
    errors = [number / 100 for number in range(1, 21)]
    trust = Bands(tuple(residuals("one", errors))).trust(PLAN)
    assert trust is not None
    assert trust.band == pytest.approx(0.16)  # 16 of 20 are at most this
    assert (trust.runs, trust.distance, trust.extrapolates) == (20, 0.0, ())
    assert trust.basis == "one, one-0"


def test_near_runs_count_more_than_far_ones() -> None:
    near = residuals("near", [0.01] * 12)
    far = residuals(
        "far", [0.3] * 50, software="nemo", accelerator="b200", attention="flash1", local="pcie", trained="lora"
    )
    bands = Bands((*near, *far))
    assert band(bands, PLAN) < band(bands, replace(PLAN, accelerator="b200", software="nemo", attention="flash1"))


def test_sources_weigh_the_same_however_many_runs_they_have() -> None:
    many = residuals("many", [0.01] * 100)
    few = residuals("few", [0.2] * 12)
    assert band(Bands((*many, *few)), PLAN) >= 0.2


def test_a_doubling_is_a_quarter_of_a_difference() -> None:
    bands = Bands(tuple(residuals("one", [0.1] * 20)))
    doubled = bands.trust(replace(PLAN, accelerators=256))
    assert doubled is not None
    assert doubled.distance == pytest.approx(2 * PER_DOUBLING)
    assert doubled.basis == "one, one-0, with accelerators x 0.25"
    assert doubled.extrapolates == ("accelerators: 4 x the largest that was validated",)


def test_bands_widen_with_distance_as_fast_as_sources_that_were_left_out_miss() -> None:
    bands = Bands(tuple(sources_at(0, 1, 2, 3, 4)))
    assert bands.rule.per_difference > 0
    away = [replace(PLAN, accelerator="new"), replace(PLAN, accelerator="new", software="new", attention="new")]
    assert band(bands, PLAN) < band(bands, away[0]) < band(bands, away[1])


def test_where_nothing_is_near_no_band_is_given() -> None:
    bands = Bands(tuple(sources_at(0, 1, 1)))
    strange = replace(
        PLAN, accelerator="new", vendor="new", software="new", attention="new", local="new", family="new", trained="new"
    )
    trust = bands.trust(strange)
    assert trust is not None
    assert trust.band is None
    assert trust.distance > bands.rule.farthest
    assert len(trust.extrapolates) == 7


def test_numbers_of_other_chips_widen_the_band_and_are_told() -> None:
    bands = Bands(tuple(sources_at(0, 1, 2, 3, 4)))
    trust = bands.trust(replace(PLAN, assumed=11))
    assert trust is not None
    assert trust.band is not None
    assert trust.band > band(bands, PLAN)
    assert trust.extrapolates == ("numbers of the accelerator that are medians of other chips: 11",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accelerator": "mine"}, "accelerator mine"),
        ({"software": "mine"}, "software mine"),
        ({"precision": "fp8"}, "precision 8 bit"),
        ({"sequence_length": 10**6}, "sequence length: 2.4e+02 x the largest"),
        ({"local": "pcie"}, "links in a node pcie"),
        ({"layers": 2, "hidden": 256}, "model size: 0.00024 x the smallest"),
    ],
)
def test_what_nobody_validated_is_said(change: dict[str, Any], words: str) -> None:
    trust = Bands(tuple(residuals("one", [0.1] * 20))).trust(replace(PLAN, **change))
    assert trust is not None
    assert any(words in respect for respect in trust.extrapolates)


def test_a_family_is_judged_by_its_own_runs() -> None:
    runs = (*residuals("one", [0.1] * 20), *residuals("two", [0.1] * 20), *residuals("images", [0.5] * 20, family="x"))
    bands = Bands(runs)
    without, known, unknown = Bands(runs[:40]).trust(PLAN), bands.trust(PLAN), bands.trust(replace(PLAN, family="y"))
    assert known == without
    assert bands.coverage() == Bands(runs[:40]).coverage()
    assert unknown is not None
    assert "no run with family y was validated" in unknown.extrapolates


def test_without_validated_runs_there_is_no_band() -> None:
    assert Bands(()).trust(PLAN) is None


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(0, 2))
def test_the_promised_share_lies_under_any_line(seed: int, runs: int, slope: float) -> None:
    draw = stream(seed, "errors")
    ratios, nearest, weights = draw.exponential(1, runs), 5 * draw.random(runs), 0.1 + draw.random(runs)
    _, height, _ = quantile_line(ratios, nearest, weights, slope)
    under = ratios <= height + slope * nearest + 1e-9
    assert weights[under].sum() >= COVERAGE * weights.sum() * (1 - 1e-9)


def test_coverage_is_of_sources_that_neither_bands_nor_rule_have_seen() -> None:
    rows = sources_at(0, 1, 2, 3)
    wild = [replace(row, error=10 * row.error) for row in sources_at(1, error=0.5)]
    wild = [replace(row, source="wild") for row in wild]
    coverage = Bands((*rows, *wild)).coverage()
    assert coverage["wild"] < 0.2
    assert list(coverage) == ["source 0", "source 1", "source 2", "source 3", "wild"]
    assert Bands(tuple(sources_at(0, 1))).coverage() == {}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "3D parallel"),
        ({"tensor": 1}, "pipeline parallel"),
        ({"pipeline": 1}, "tensor parallel"),
        ({"tensor": 1, "pipeline": 1, "zero_stage": 3}, "fully sharded"),
        ({"tensor": 1, "pipeline": 1}, "data parallel"),
    ],
)
def test_kinds_of_parallelism(change: dict[str, Any], kind: str) -> None:
    assert parallel_kind(replace(PLAN, **change)) == kind


class TestShipped:
    def test_every_source_that_can_be_predicted_is_there(self) -> None:
        tables = {file.stem for file in (catalogue_root() / RESIDUALS).parent.glob("*.yaml")}
        known = {residual.source for residual in shipped_bands().residuals}
        assert {table for table in tables if load_cases(catalogue_root() / RESIDUALS.parent / f"{table}.yaml")} <= known

    @pytest.mark.parametrize("table", ["korthikanti_2022", "mpt_llm_foundry"])
    def test_the_residuals_are_those_of_this_version(self, table: str) -> None:
        """Write them anew: clustersim validate experiments --residuals experiments/validation/residuals.csv."""
        known = {residual.name: residual for residual in shipped_bands().residuals if residual.source == table}
        case = load_cases(catalogue_root() / RESIDUALS.parent / f"{table}.yaml")[0]
        experiment = case.load([]).experiment
        comparison = simulate(experiment).comparison
        assert comparison is not None
        assert known[case.name].error == pytest.approx(comparison.error, abs=1e-6)
        assert known[case.name].plan == traits_of(experiment)

    def test_a_run_says_how_runs_like_it_were_predicted(self) -> None:
        trust = simulate(load_experiment("quickstart").experiment).trust
        assert trust is not None
        assert trust.band is not None
        assert 0 < trust.band < 1

    def test_bands_hold_for_sources_that_were_left_out(self) -> None:
        """Nominal 80 %, bands and rule both without the source; 5 points: three sources have 3 to 6 runs."""
        coverage = shipped_bands().coverage()
        assert np.mean(list(coverage.values())) == pytest.approx(COVERAGE, abs=0.05)
        assert shipped_bands().families["transformer"].rule.per_difference > 0


def test_the_documentation_tells_the_coverage_of_this_version() -> None:
    page = (catalogue_root() / "docs" / "models.md").read_text(encoding="utf-8")
    for source, share in shipped_bands().coverage().items():
        assert f"| {source} | {share:.0%} |" in page
    rule = shipped_bands().families["transformer"].rule
    numbers = f"{rule.at_hand:.2f} + {rule.per_difference:.3f} per difference, up to {rule.farthest:.1f} differences"
    assert numbers in page


def test_residuals_come_back_from_their_file(tmp_path: Path) -> None:
    from sim.metrics.validation import Row

    rows = [Row("a", "b", "c", error=0.25, plan=PLAN), Row("a", "failed", "c", problem="no")]
    write_residuals(rows, tmp_path / "r.csv")
    assert read_residuals(tmp_path / "r.csv") == residuals_of(rows)
