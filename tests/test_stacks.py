"""Where no software is named, the run says what was assumed and what other stacks would make of the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.ask.run import stacks
from sim.ask.run.page import page_of
from sim.ask.run.simulate import simulate
from sim.ask.run.single import run_experiment
from sim.ask.run.stacks import could_run, proposal
from sim.inputs.load import list_catalogue, load_base, load_definition, load_experiment
from sim.inputs.reader import from_python
from sim.inputs.records import Software
from sim.inputs.resolve import Resolver
from sim.report.text import report_text
from support import Cli

UNNAMED = "quickstart"


def stack(name: str) -> Software:
    record = load_definition("software", name)
    assert isinstance(record, Software)
    return record


@pytest.mark.parametrize(
    ("overrides", "assumed"),
    [
        ([], True),
        (["software.host_issue=9 us"], True),
        (["software=megatron-core"], False),
        (["software=fsdp", "software.host_issue=9 us"], False),
    ],
)
def test_a_stack_is_assumed_until_one_is_named(overrides: list[str], assumed: bool) -> None:
    software = load_experiment(UNNAMED, overrides).software
    assert software.assumed is assumed
    assert ("9 us" in "".join(overrides)) == (software.host_issue == 9e-6)


def test_an_axis_that_names_stacks_names_them() -> None:
    base = load_base(Resolver(), from_python(UNNAMED, "base"))
    assert base.experiment.setup.software.assumed
    assert not base.changed([("software", from_python("nemo", "axis"))]).setup.software.assumed


def test_a_saved_experiment_still_says_that_it_was_assumed() -> None:
    experiment = load_experiment(UNNAMED).experiment
    assert load_experiment(experiment).experiment.setup.software.assumed


def test_the_range_is_that_of_the_stacks_that_could_run_the_plan() -> None:
    result = run_experiment(UNNAMED)
    found = result.stacks
    assert found is not None
    setup = load_experiment(UNNAMED)
    able = [name for name in list_catalogue("software") if could_run(stack(name), setup)]
    seconds = {name: simulate(load_experiment(UNNAMED, [f"software={name}"]).experiment).step.time_s for name in able}
    assert found.stacks == len(able)
    assert (found.fastest_s, found.slowest_s) == pytest.approx((min(seconds.values()), max(seconds.values())))
    assert seconds[found.slowest] == pytest.approx(found.slowest_s)
    assert result.trust is not None
    assert result.trust.band is not None
    assert result.step.time_s * (1 + result.trust.band) >= found.slowest_s * (1 - 1e-9)
    assert result.step.time_s * (1 - result.trust.band) <= found.fastest_s * (1 + 1e-9)
    head = " ".join(report_text(result).partition("Result")[0].split())
    assert "megatron-core, ASSUMED: none is named" in head
    assert f"{len(able)} stacks could run this plan" in head
    assert "stacks could run this plan" in page_of(result)


def test_nothing_is_said_of_other_stacks_where_one_is_named() -> None:
    named, unnamed = run_experiment(UNNAMED, ["software=megatron-core"]), run_experiment(UNNAMED)
    assert named.stacks is None
    assert "ASSUMED" not in report_text(named)
    assert named.step == unnamed.step
    assert named.trust is not None
    assert unnamed.trust is not None
    assert (named.trust.band or 0) < (unnamed.trust.band or 0)


def test_a_range_that_takes_long_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MOST_EVENTS", 1)
    result = run_experiment(UNNAMED)
    assert result.stacks is None
    assert any("other software stacks that could run this plan" in note for note in result.notes)


def test_a_stack_that_does_not_offer_the_plan_could_not_run_it() -> None:
    setup = load_experiment(UNNAMED)
    assert could_run(stack("nemo"), setup)
    assert not could_run(stack("llm-foundry"), setup)  # it divides a model by sharding alone
    assert not could_run(stack("megatron-core"), load_experiment("llama3-8b-dgx-h100", ["parallelism.zero_stage=3"]))


@pytest.mark.parametrize(
    ("parallelism", "named"),
    [
        (["parallelism.tensor=1", "parallelism.zero_stage=3"], "fsdp"),
        (["parallelism.tensor=1", "parallelism.pipeline=8", "parallelism.zero_stage=1"], "deepspeed"),
        ([], "megatron-core or nemo"),
    ],
)
def test_what_to_name_follows_from_the_plan(parallelism: list[str], named: str) -> None:
    assert named in proposal(load_experiment(UNNAMED, parallelism))


def test_check_proposes_a_stack(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("check", UNNAMED, "--set", "parallelism.tensor=1", "--set", "parallelism.zero_stage=3")
    assert (outcome.code, outcome.err) == (0, "")
    told = "quickstart: fine; no software is named, megatron-core is assumed; ZeRO-3 is what PyTorch FSDP does"
    assert outcome.out.startswith(told)
    assert cli("check", UNNAMED, "--set", "software=nemo").out == "quickstart: fine\n"


@pytest.mark.parametrize("name", list_catalogue("software"))
def test_every_stack_says_who_uses_it(name: str, cli: Cli) -> None:
    record = stack(name)
    assert record.description
    others = [stack(other).description for other in list_catalogue("software") if other != name]
    assert record.description not in others
