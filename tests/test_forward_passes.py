"""Passes that go forward alone: evaluations now and then, and a frozen teacher before each step."""

from __future__ import annotations

from typing import Any

import pytest
from plans import MODEL, Fields, small_experiment

from sim.ask.run.simulate import simulate
from sim.ask.run.step import prepare_step, simulate_step
from sim.errors import ConfigError, PlanError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.metrics.result import ForwardPasses
from sim.phase import Phase
from sim.programs.costs import Costs, Place
from sim.programs.forward import forward_seconds
from sim.programs.tenants import settle

PLAIN: dict[str, Any] = {"parallelism": {"tensor": 2, "data": 2, "pipeline": 2}, "training": {"global_batch": 16}}
TEACHER: Fields = {**MODEL, "name": "teacher", "layers": 8, "hidden": 2048, "ffn": 8192}


def experiment(training: Fields | None = None, **others: Any) -> Experiment:
    given = {**PLAIN, **others}
    return small_experiment(**{**given, "training": {**given["training"], **(training or {})}})


def passes_of(made: Experiment) -> ForwardPasses:
    found = simulate_step(made).forward
    assert found is not None
    return found


def test_one_stage_takes_a_pass_for_each_microbatch() -> None:
    job = prepare_step(experiment(parallelism={"tensor": 8})).job
    each = Costs(job).chain(Place(0, Phase.FORWARD, 0)).seconds
    for microbatches in (1, 2, 7):
        assert forward_seconds(job, microbatches) == pytest.approx(microbatches * each, rel=1e-12)


def test_stages_fill_and_then_keep_the_pace_of_the_slowest() -> None:
    """(m - 1) times the slowest stage after the first microbatch is through (a flow shop of equal jobs)."""
    job = prepare_step(experiment()).job
    once, more = forward_seconds(job, 1), forward_seconds(job, 9)
    beat = (more - once) / 8
    assert once / 2 <= beat * (1 + 1e-9) < once
    assert forward_seconds(job, 5) == pytest.approx(once + 4 * beat, rel=1e-12)


def test_a_step_has_its_share_of_an_evaluation() -> None:
    plain = simulate_step(experiment())
    asked = {"evaluation": {"every": 10, "samples": 64}}
    run = simulate_step(experiment(asked))
    found = passes_of(experiment(asked))
    assert found.evaluation_s == pytest.approx(forward_seconds(plain.job, 32), rel=1e-12)
    assert run.trace.time == pytest.approx(plain.trace.time + found.evaluation_s / 10, rel=1e-9)
    exposed = run.readings.critical.exposed
    assert exposed["other"] - plain.readings.critical.exposed["other"] == pytest.approx(found.share_s, rel=1e-9)
    assert sum(exposed.values()) == pytest.approx(run.trace.time, rel=1e-9)


def test_a_teacher_goes_forward_over_the_batch_and_lies_beside_the_student() -> None:
    plain, taught = simulate(experiment()), simulate(experiment(teacher=TEACHER))
    assert taught.forward is not None
    alone = prepare_step(experiment(model=TEACHER)).job
    assert taught.forward.teacher_s == pytest.approx(forward_seconds(alone, 8), rel=0.2)
    assert taught.forward.teacher_s > forward_seconds(alone, 8), "outputs are compared too"
    assert taught.step.time_s == pytest.approx(plain.step.time_s + taught.forward.teacher_s, rel=1e-9)
    own = simulate(experiment(model=TEACHER)).memory.moments["loss"]["weights"]
    more = taught.memory.moments["loss"]["weights"] - plain.memory.moments["loss"]["weights"]
    assert more == pytest.approx(own, rel=0.1)  # of the fullest stage
    assert taught.memory.parts["optimizer"] == plain.memory.parts["optimizer"], "it is frozen"
    assert sum(taught.memory.parts.values()) == pytest.approx(taught.memory.peak_bytes_per_accelerator)


def test_a_teacher_may_be_named_and_its_words_must_be_those_of_the_student() -> None:
    base = ["cluster=dgx-h100-superpod", "nodes=4", "parallelism={tensor: 8, data: 4}", "training.global_batch=32"]
    result = simulate(load_experiment("llama3-8b-dgx-h100", [*base, "teacher=llama3-70b"]).experiment)
    assert result.forward is not None
    assert result.forward.teacher_s > 0
    assert any("teacher" in note for note in result.notes)
    with pytest.raises(ConfigError, match="words of gpt3-13b, 128256 of llama3-8b; use a teacher with the same"):
        load_experiment("llama3-8b-dgx-h100", [*base, "teacher=gpt3-13b"])
    with pytest.raises(ConfigError, match="teacher"):
        load_experiment("llama3-8b-dgx-h100", [*base, "teacher=no-such-model"])


def test_workers_of_servers_have_the_passes_of_a_teacher_too() -> None:
    """They are part of what a worker does before it pushes."""
    servers = {"synchronization": {"kind": "parameter_server", "mode": "asynchronous"}}
    run = simulate_step(experiment(teacher=TEACHER, **servers))
    assert run.synchrony is not None
    assert run.forward is not None
    plain = simulate_step(experiment(**servers))
    assert plain.synchrony is not None
    assert run.synchrony.compute_s == pytest.approx(plain.synchrony.compute_s + run.forward.teacher_s, rel=1e-9)
    told = run.synchrony
    assert told.compute_s + told.exchange_s + told.waiting_s == pytest.approx(run.trace.time, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": TEACHER}, "passes of a teacher"),
        ({"training": {"evaluation": {"every": 10, "samples": 64}}}, "evaluations"),
    ],
)
def test_beside_other_jobs_they_are_refused(changes: Fields, told: str) -> None:
    """Jobs that run together would leave them out, and say nothing."""
    with pytest.raises(PlanError, match=rf"{told}, as in \w+, are not modelled beside other jobs"):
        settle([experiment(**changes), experiment()])
