"""Sensitivity: each resource means its keys, and its effect is that of changing them."""

from __future__ import annotations

import json

import pytest
from plans import LEAF_SPINE, small_experiment

from sim.ask.explain.sensitivity import RESOURCES, Resource, sensitivities, sensitivity_report, with_more
from sim.ask.run.simulate import simulate
from sim.errors import SimError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from support import Cli


def job() -> Experiment:
    fabric = LEAF_SPINE | {"leaf_oversubscription": 4.0}
    return small_experiment(nodes=4, fabric=fabric, parallelism={"tensor": 4}, training={"global_batch": 32})


def named(name: str) -> Resource:
    return next(resource for resource in RESOURCES if resource.name == name)


def test_effect_is_that_of_the_changed_input() -> None:
    experiment = job()
    found = {each.resource: each for each in sensitivities(experiment, 0.25)}
    chip = experiment.setup.accelerator
    faster = chip.model_copy(
        update={"memory": chip.memory.model_copy(update={"bandwidth": chip.memory.bandwidth * 1.25})}
    )
    node = experiment.setup.node.model_copy(update={"accelerator": faster})
    cluster = experiment.setup.cluster.model_copy(update={"node": node})
    change = (
        simulate(experiment.model_copy(update={"cluster": cluster})).step.time_s / simulate(experiment).step.time_s - 1
    )
    assert found["memory bandwidth"].change["step_time"] == pytest.approx(change, rel=1e-9)
    assert found["memory bandwidth"].elasticity["step_time"] == pytest.approx(change / 0.25, rel=1e-9)
    assert found["memory capacity"].change["step_time"] == 0
    assert found["memory capacity"].change["memory"] == pytest.approx(1 / 1.25 - 1)


def test_more_of_a_resource_never_slows_this_job_down() -> None:
    found = sensitivities(job())
    assert all(each.change["step_time"] <= 1e-9 for each in found)
    changes = [each.change["step_time"] for each in found]
    assert changes == sorted(changes)
    assert found[0].change["step_time"] < -0.01


def test_delays_and_oversubscription_shrink() -> None:
    changed, keys = with_more(job(), named("leaf uplinks"), 0.1)
    assert keys == ("cluster.fabric.leaf_oversubscription",)
    assert changed.setup.cluster.fabric.leaf_oversubscription == pytest.approx(4 / 1.1)  # type: ignore[union-attr]
    changed, keys = with_more(job(), named("latency of links and collectives"), 1.0)
    assert changed.setup.node.local.latency == job().setup.node.local.latency / 2
    assert any("ring_hop" in key for key in keys)


def test_resources_that_are_not_there_are_left_out() -> None:
    names = {each.resource for each in sensitivities(job())}
    assert "storage bandwidth" not in names
    assert "time between failures" not in names
    assert "links of the graph" not in names


def test_every_resource_means_keys_of_some_experiment() -> None:
    storage = ["failures=llama3-h100", "cluster.storage=superpod-h100-standard", "power.limit=600 W"]
    feeding = ["input={record: 1 MB, preprocessing: 1 ms}"]
    three_tiers = ["cluster=meta-24k-roce", "nodes=2"]
    graph = load_experiment("small-graph").experiment
    experiments = [load_experiment("llama3-8b-dgx-h100", [*three_tiers, *storage, *feeding]).experiment, graph, job()]
    experiments += [
        load_experiment("quickstart", [f"cluster={name}"], checks=()).experiment
        for name in ("torus-4x4x4", "dragonfly-128")
    ]
    for resource in RESOURCES:
        if resource.name != "host link":  # 0: not modelled, in the whole catalogue
            assert any(with_more(experiment, resource, 0.1)[1] for experiment in experiments), resource.name


def test_training_energy_and_cost_appear_where_they_are_known() -> None:
    experiment = load_experiment("llama3-8b-dgx-h100", ["prices=aws-p5", "training.tokens=10B"]).experiment
    report = sensitivity_report(experiment)
    assert list(report.base) == ["step_time", "time_to_train", "energy", "cost", "memory"]
    best = report.resources[0]
    assert best.change["cost"] == pytest.approx(best.change["time_to_train"], rel=1e-6)


def test_an_experiment_that_fails_says_why() -> None:
    experiment = job().model_copy(update={"degradations": load_experiment("slow-gpu").experiment.degradations[:1]})
    broken = experiment.degradations[0].model_copy(update={"accelerator": "node99/gpu0"})
    with pytest.raises(SimError, match="node99"):
        sensitivities(experiment.model_copy(update={"degradations": (broken,)}))


def test_command(cli: Cli) -> None:
    text = cli("sensitivity", "llama3-8b-dgx-h100", "-j", 1)
    assert text.code == 0, text.err
    assert "matrix rate" in text.out
    found = json.loads(cli("sensitivity", "llama3-8b-dgx-h100", "--by", "20 %", "-j", 1, "--json").out)
    assert found["by"] == 0.2
    assert found["resources"][0]["change"]["step_time"] < 0


@pytest.mark.parametrize("by", ["0", "much", "300 %"])
def test_wrong_share_is_a_usage_error(by: str, cli: Cli) -> None:
    assert cli("sensitivity", "quickstart", "--by", by).code == 2
