"""Cost: rent, purchase and electricity, per run, step and token, and spot nodes that are taken away."""

from __future__ import annotations

from functools import cache

import pytest
from uncovered import uncovered_numbers

from sim.ask.run.preemption import CAUSE, with_preemption
from sim.ask.run.simulate import simulate
from sim.inputs.catalogue import list_catalogue
from sim.inputs.energy import Prices
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.reliability import Failures
from sim.metrics.result import CostResult, Result
from sim.report.text import report_text


@cache
def run(name: str, *overrides: str) -> Result:
    return simulate(load_experiment(name, overrides).experiment)


def cost_of(result: Result) -> CostResult:
    assert result.cost is not None
    return result.cost


def elapsed(result: Result) -> float:
    assert result.run is not None
    return result.run.elapsed_s


def test_without_prices_nothing_costs() -> None:
    assert run("gpt3-175b-a100").cost is None


def test_rent_is_accelerator_hours_times_the_price_and_includes_electricity() -> None:
    result = run("llama3-8b-dgx-h100", "prices=aws-p5", "site=google-oregon")
    cost = cost_of(result)
    assert list(cost.usd) == ["rental", "total"]
    assert cost.usd["total"] == pytest.approx(8 * elapsed(result) / 3600 * 98.32 / 8, rel=1e-3)
    assert cost.usd_per_accelerator_hour == pytest.approx(12.29)
    reserved = cost_of(run("llama3-8b-dgx-h100", "prices=aws-p5", "prices.pay=reserved"))
    assert reserved.usd["total"] / cost.usd["total"] == pytest.approx(6.88 / 12.29)


def test_an_own_cluster_costs_electricity_write_off_and_upkeep() -> None:
    result = run("gpt3-175b-energy")
    cost, energy = cost_of(result), result.energy
    assert energy is not None
    years = elapsed(result) / (365.25 * 86400)
    assert cost.usd["electricity"] == pytest.approx(0.08 * energy.total_kwh)
    assert cost.usd["write_off"] == pytest.approx(128 * 170_000 * years / 4)
    assert cost.usd["upkeep"] == pytest.approx(128 * 170_000 * years * 0.05)
    assert sum(usd for part, usd in cost.usd.items() if part != "total") == pytest.approx(cost.usd["total"], rel=1e-12)


def test_cost_per_step_and_per_token_belong_to_the_same_run() -> None:
    result = run("gpt3-175b-energy")
    cost = cost_of(result)
    assert result.run is not None
    assert cost.usd_per_step is not None
    assert cost.usd_per_million_tokens is not None
    assert cost.usd_per_step * result.run.steps == pytest.approx(cost.usd["total"])
    tokens = result.run.steps * 1536 * 2048
    assert cost.usd_per_million_tokens * tokens / 1e6 == pytest.approx(cost.usd["total"])


def test_electricity_alone_is_a_cost_where_only_the_site_is_known() -> None:
    cost = cost_of(run("gpt3-175b-a100", "site=google-iowa"))
    assert list(cost.usd) == ["electricity", "total"]


def test_spot_nodes_are_taken_away_and_the_run_takes_longer() -> None:
    """Without checkpoints every preemption starts the training anew; the bill follows the time."""
    base = ("training.tokens=20B", "prices=aws-p5", "seed=2")
    calm, struck = run("llama3-8b-dgx-h100", *base), run("llama3-8b-dgx-h100", *base, "prices.pay=spot")
    assert struck.run is not None
    assert struck.run.failures_by_cause[CAUSE] > 0
    assert elapsed(struck) > 1.5 * elapsed(calm)
    assert cost_of(struck).usd["rental"] == pytest.approx(4.9 * 8 * elapsed(struck) / 3600)


def test_preemptions_come_at_the_rate_of_the_price_list() -> None:
    """2,048 nodes for 54 days, one in 400 days each: 276 are expected, 17 is the spread."""
    spot = ("prices=aws-p5", "prices.pay=spot", "prices.rental.spot_preemption=400 days")
    struck = run("llama3-405b-54-days", *spot).run
    assert struck is not None
    assert struck.failures_by_cause[CAUSE] == pytest.approx(276, abs=4 * 17)


def test_spares_beside_the_cluster_are_paid_for_and_draw_power() -> None:
    """A tenth more nodes that wait; 192 cold ones are paid for in both."""
    price = ("prices=aws-p5",)
    without, spared = (run("llama3-405b-54-days", *price, f"recovery.warm_spares={n}") for n in (0, 205))
    assert cost_of(spared).usd["total"] / cost_of(without).usd["total"] == pytest.approx(1 + 205 / (2048 + 192))
    assert spared.energy is not None
    assert without.energy is not None
    more = spared.energy.states_w["training"] - without.energy.states_w["training"]
    assert more / 1.9e3 == pytest.approx(205 - 20, abs=25)  # nodes of 1.9 kW idle; some are being repaired


def test_nothing_is_preempted_unless_spot_is_paid() -> None:
    prices, failures = load_definition("prices", "aws-p5"), load_definition("failures", "llama3-h100")
    assert isinstance(prices, Prices)
    assert isinstance(failures, Failures)
    assert with_preemption(failures, prices) is failures
    spot = prices.model_copy(update={"pay": "spot"})
    modes = with_preemption(failures, spot).modes
    assert modes[-1].cause == CAUSE
    assert modes[-1].mtbf == 86400


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("site", "prices") for name in list_catalogue(kind)]
)
def test_every_price_and_intensity_has_a_source(kind: str, name: str) -> None:
    record = load_definition(kind, name)
    assert uncovered_numbers(record) == []
    assert getattr(record, "name", "") == name


def test_the_report_says_what_it_costs_in_eighty_columns() -> None:
    text = report_text(run("gpt3-175b-energy"))
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in ("carbon", "write off", "per million tokens", "prices of 2022", "TDP", "kWh per billion tokens"):
        assert word in text
    short = report_text(run("gpt3-175b-a100"))
    assert "Cost" not in short
    assert "carbon" not in short


def test_buying_shows_the_purchase_price_beside_the_share_that_the_run_pays_for() -> None:
    result = run("gpt3-175b-energy")
    bought = 128 * 170_000
    assert cost_of(result).purchase_usd == pytest.approx(bought)
    assert cost_of(result).usd["total"] < 0.05 * bought
    assert "purchase price 21.76 MUSD" in " ".join(report_text(result).split())
    assert cost_of(run("llama3-8b-dgx-h100", "prices=aws-p5")).purchase_usd is None


def test_an_own_cluster_without_a_price_of_electricity_says_that_it_is_left_out() -> None:
    left_out = "electricity is left out of the cost: site.electricity does not say its price"
    assert left_out in run("llama3-8b-dgx-h100", "prices=own-h100").notes
    assert left_out not in run("gpt3-175b-energy").notes
    assert left_out not in run("llama3-8b-dgx-h100", "prices=aws-p5").notes


def test_prices_of_another_accelerator_are_named() -> None:
    """In the notes, and in the basis, which rows of a sweep have too."""
    other, own = run("llama3-8b-dgx-h100", "prices=aws-p4d"), run("llama3-8b-dgx-h100", "prices=aws-p5")
    assert "PRICES OF ANOTHER ACCELERATOR: aws-p4d is for a100-sxm-40gb, not h100-sxm" in other.notes
    assert cost_of(other).basis.endswith("for a100-sxm-40gb only")
    assert not any("PRICES" in note for note in own.notes)
    assert "only" not in cost_of(own).basis


@pytest.mark.parametrize("name", list_catalogue("prices"))
def test_every_price_list_of_the_catalogue_names_known_accelerators(name: str) -> None:
    prices = load_definition("prices", name)
    assert isinstance(prices, Prices)
    assert prices.accelerators
    assert set(prices.accelerators) <= set(list_catalogue("accelerator"))


def test_notes_on_faults_are_true_of_spot_nodes() -> None:
    calm = "time-to-train assumes that nothing fails"
    spot = ("prices=aws-p5", "prices.pay=spot")
    assert calm in run("llama3-8b-dgx-h100", "prices=aws-p5").notes
    assert calm not in run("llama3-8b-dgx-h100", *spot).notes
    assert f"{calm}, spot nodes are taken away all the same" in run("llama3-8b-dgx-h100", *spot).notes
    kept = run("llama3-8b-dgx-h100", "prices=neocloud-h100", "prices.pay=spot", "prices.rental.spot_preemption=null")
    assert any("taken never to be taken away" in note for note in kept.notes)
    assert any("the training begins anew" in note for note in run("llama3-8b-dgx-h100", *spot).notes)
    step = run("llama3-8b-dgx-h100", *spot, "training.tokens=null")
    assert "spot nodes are taken away, which a single step does not show: give training.tokens" in step.notes
