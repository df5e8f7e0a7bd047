"""The critical path adds up to the step, and slack is what can be lost without losing time."""

from __future__ import annotations

import numpy as np
import pytest

from sim.ask.run.step import Simulated, simulate_step
from sim.ask.run.timeline import simulated_for_timeline, window
from sim.engine.executor import Executor
from sim.engine.network import Network
from sim.inputs.load import load_experiment
from sim.metrics.critical_path import _latest_ends, critical_path, overlaps, slacks
from sim.programs.assemble import assemble

RUNS = [
    ("quickstart", []),
    ("quickstart", ["parallelism.tensor=1", "parallelism.zero_stage=3", "software=fsdp"]),
    ("quickstart", ["parallelism.tensor=2", "parallelism.pipeline=4", "training.global_batch=32"]),
    ("gpt3-175b-a100", []),
    ("slow-gpu", []),
]


def by_category(run: Simulated) -> dict[tuple[str, int, str], float]:
    return {(part.category, part.stage, part.bound): part.seconds for part in critical_path(run.trace, stages(run))}


def stages(run: Simulated) -> list[int]:
    return [rank.stage for rank in run.job.ranks]


@pytest.mark.parametrize(("name", "changes"), RUNS)
@pytest.mark.parametrize("coalesce", ["auto", "off"])
def test_the_path_is_as_long_as_the_step(name: str, changes: list[str], coalesce: str) -> None:
    run = simulate_step(load_experiment(name, [*changes, f"simulation.coalesce={coalesce}"]).experiment)
    path = critical_path(run.trace, stages(run))
    assert sum(part.seconds for part in path) == pytest.approx(run.trace.time, rel=1e-9)
    assert all(part.seconds >= -1e-12 for part in path)


def test_skipped_periods_are_on_the_path() -> None:
    short, whole = (
        simulate_step(load_experiment("gpt3-175b-a100", [f"simulation.skip={skip}"]).experiment)
        for skip in ("auto", "off")
    )
    assert short.trace.repeats
    assert by_category(short) == pytest.approx(by_category(whole), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("share", "longer"), [(0.95, False), (1.05, True)])
def test_slack_is_what_a_collective_can_lose(share: float, longer: bool) -> None:
    """The last gradients of a pipeline stage start later by a share of their slack."""
    experiment = load_experiment("llama3-405b-h100").experiment
    run = simulate_step(experiment)
    number, stream = [(n, s) for n, s in enumerate(run.trace.program.streams) if s.kind == "gradient"][-1]
    table = run.trace.unrolled()
    row = np.flatnonzero((table["stream"] == number) & (table["position"] == len(stream.which) - 1))[0]
    slack = (_latest_ends(run.trace, table) - table["end"])[row]
    assert slack > 0.01
    job = run.job
    program, templates = assemble(job), stream.templates()
    assert templates.count(templates[-1]) == 1
    last = program.templates[templates[-1]].action
    program.actions[last] = program.actions[last]._replace(latency=program.actions[last].latency + share * slack)
    flow_ranks = tuple(flow.members for flow in job.flows)
    slowdown = job.plan.software.overlap_slowdown
    delayed = Executor(program, Network(job.table), flow_ranks=flow_ranks, slowdown=slowdown).run()
    assert (delayed.time - run.trace.time > 1e-6) == longer


def test_where_the_path_runs_there_is_no_slack() -> None:
    run = simulate_step(load_experiment("gpt3-175b-a100").experiment)
    assert slacks(run.trace, stages(run))[0].slack == pytest.approx(0, abs=1e-9)


def test_what_is_not_exposed_is_hidden_by_something() -> None:
    run = simulated_for_timeline(load_experiment("llama3-8b-dgx-h100").experiment)
    for each in overlaps(run.trace, 0, window(run, [0]).spans):
        assert 0 <= each.exposed <= each.total * (1 + 1e-9)
        assert sum(each.hidden_by.values()) >= (each.total - each.exposed) * 0.99
