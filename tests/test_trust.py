"""Trust bands: what they are made of, how wide they are, whether they hold for sources they never saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.metrics.trust import COVERAGE, ENOUGH, Bands, Residual, parallel_kind
from sim.metrics.validation import Plan
from sim.rng import stream
from sim.spec.cases import load_cases
from sim.spec.catalogue import catalogue_root
from sim.spec.load import load_experiment
from sim.study.simulate import simulate
from sim.study.trust import RESIDUALS, plan_of, read_residuals, residuals_of, shipped_bands, write_residuals

PLAN = Plan(
    "h100-sxm", 64, 8, "transformer", "m", 4096, 32, 128, "bf16", "none", "megatron-core", 8, 2, 1, 4, 1, 1, 8, 4096
)  # fmt: skip


def residuals(source: str, errors: list[float], **changes: Any) -> list[Residual]:
    plan = replace(PLAN, **changes)
    return [Residual(source, f"{source}-{number}", error, plan) for number, error in enumerate(errors)]


def test_the_band_of_one_source_is_the_quantile_of_its_errors() -> None:
    errors = [number / 100 for number in range(1, 21)]
    trust = Bands(tuple(residuals("one", errors))).trust(PLAN)
    assert trust is not None
    assert trust.band == pytest.approx(0.16)  # 16 of 20 are at most this
    assert (trust.runs, trust.extrapolates) == (20, ())
    assert trust.basis == "h100-sxm, megatron-core, 3D parallel, 64 to 64 accelerators"


def test_the_narrowest_group_with_enough_runs_counts() -> None:
    near = residuals("near", [0.01] * ENOUGH)
    far = residuals("far", [0.3] * 50, software="nemo")
    assert Bands((*near, *far)).trust(PLAN).runs == ENOUGH  # type: ignore[union-attr]
    assert Bands((*near[1:], *far)).trust(PLAN).runs == ENOUGH - 1 + 50  # type: ignore[union-attr]


def test_sources_weigh_the_same_however_many_runs_they_have() -> None:
    many = residuals("many", [0.01] * 100)
    few = residuals("few", [0.2] * ENOUGH)
    assert Bands((*many, *few)).trust(PLAN).band >= 0.2  # type: ignore[union-attr]


def test_beyond_the_validated_scale_the_band_is_wider_and_says_so() -> None:
    bands = Bands(tuple(residuals("one", [0.1] * 20)))
    inside, outside = bands.trust(PLAN), bands.trust(replace(PLAN, accelerators=256))
    assert inside is not None
    assert outside is not None
    assert outside.band == pytest.approx(inside.band * 1.5)  # two doublings
    assert outside.extrapolates == ("256 accelerators; validated were 64 to 64",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accelerator": "mine"}, "accelerator mine"),
        ({"software": "mine"}, "software mine"),
        ({"precision": "fp8"}, "precision fp8"),
        ({"sequence_length": 10**6}, "sequences of 1,000,000 tokens"),
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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6))
def test_left_out_sources_are_covered_as_promised(seed: int, sources: int) -> None:
    draw = stream(seed, "errors")
    rows: list[Residual] = []
    for number in range(sources):
        bias, spread = draw.normal(0, 0.1), 0.02 + 0.1 * draw.random()
        rows += residuals(str(number), list(bias + spread * draw.standard_normal(30)))
    coverage = Bands(tuple(rows)).coverage()
    assert np.mean(list(coverage.values())) >= COVERAGE - 1e-9


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
        """Write them anew: clustersim validate --residuals experiments/validation/residuals.csv."""
        known = {residual.name: residual for residual in shipped_bands().residuals if residual.source == table}
        case = load_cases(catalogue_root() / RESIDUALS.parent / f"{table}.yaml")[0]
        experiment = case.load([]).experiment
        comparison = simulate(experiment).comparison
        assert comparison is not None
        assert known[case.name].error == pytest.approx(comparison.error, abs=1e-6)
        assert known[case.name].plan == plan_of(experiment)

    def test_a_run_says_how_runs_like_it_were_predicted(self) -> None:
        trust = simulate(load_experiment("quickstart").experiment).trust
        assert trust is not None
        assert 0 < trust.band < 1
        assert trust.runs >= ENOUGH


def test_the_documentation_tells_the_coverage_of_this_version() -> None:
    page = (catalogue_root() / "docs" / "models.md").read_text(encoding="utf-8")
    for source, share in shipped_bands().coverage().items():
        assert f"| {source} | {share:.0%} |" in page
    assert f"The factor is {shipped_bands().families['transformer'].factor:.2f}." in page


def test_residuals_come_back_from_their_file(tmp_path: Path) -> None:
    from sim.metrics.validation import Row

    rows = [Row("a", "b", "c", error=0.25, plan=PLAN), Row("a", "failed", "c", problem="no")]
    write_residuals(rows, tmp_path / "r.csv")
    assert read_residuals(tmp_path / "r.csv") == residuals_of(rows)
