"""Public reports of people's own runs come out as they were measured, or as not modelled; what misses is named."""

from __future__ import annotations

import re

import pytest
from pages import REPORTS, renewed_table
from reports import Case, answer, cases

import sim
from sim.errors import ConfigError
from support import ROOT


def _parameters(found: list[Case]) -> list[object]:
    """Cases as parameters; those that miss are expected to."""
    return [
        pytest.param(
            case,
            id=re.sub(r"\W+", "-", f"{case.title} {case.quantity}"),
            marks=[pytest.mark.xfail(strict=True, reason=case.misses)] if case.misses else [],
        )
        for case in found
    ]


@pytest.mark.parametrize("case", _parameters([case for case in cases() if not case.not_modelled]))
def test_a_report_comes_out_as_it_was_measured(case: Case) -> None:
    found = answer(case)
    assert found.right is not False, f"measured {case.measured}, predicted {found.predicted}, band {found.band}"


@pytest.mark.parametrize("case", _parameters([case for case in cases() if case.refused]))
def test_what_is_not_modelled_is_refused_by_its_key(case: Case) -> None:
    with pytest.raises(ConfigError) as caught:
        sim.simulate(case.altered)
    assert [problem for problem in caught.value.problems if case.refused in str(problem)] != []


def test_layers_that_do_not_divide_are_told() -> None:
    """NVIDIA/Megatron-LM issue 1304: two of 30 layers were lost and nothing was said."""
    (case,) = (case for case in cases() if case.report == "30 layers on 4 stages")
    assert sim.simulate(case.altered).notes[0].startswith("30 layers over 4 model chunks lie 7, 2 x 8, 7")
    told = sim.simulate(case.altered, set={"workload.layers": 32}).notes
    assert not any("model chunks" in note for note in told)


def test_every_report_has_a_source_and_is_judged() -> None:
    for case in cases():
        assert case.source
        assert case.not_modelled or case.measured is not None
        assert case.judged in {"band", "direction", "verdict", "within"}
        assert (case.within > 0) == (case.judged == "within" and case.measured is not None)


def test_about_four_of_five_times_lie_inside_their_bands() -> None:
    """Bands promise 80 %; of so few that is known to a tenth, and 72 % are inside."""
    times = [case for case in cases() if case.judged == "band" and case.quantity != "USD"]
    right = [answer(case).right for case in times]
    assert right.count(True) >= 0.7 * (len(right) - right.count(None))


def test_no_case_is_right_whatever_is_predicted() -> None:
    """A share of 100 % or a direction of nothing would make everything right."""
    assert all(case.within <= 0.16 for case in cases())
    assert all(case.measured != 1 for case in cases() if case.judged == "direction")


def test_the_table_of_reports_is_that_of_today() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert REPORTS in page
    assert renewed_table(page) == page, "write it anew: make docs"
