"""What no simulation can hold is told before it begins, by `check` as by `run`; what can be long is bounded."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest
from lives import failures, job

from sim.api import check
from sim.ask.run import lives as lives_of_jobs
from sim.ask.run.check import rehearse
from sim.ask.run.simulate import simulate
from sim.ask.run.step import simulate_step
from sim.ask.run.step_times import StepTimes
from sim.ask.sweep.sweep_file import load_study
from sim.cli.kinds import kind_of
from sim.cluster.build import build_cluster
from sim.cluster.dragonfly import _pairs
from sim.errors import ConfigError
from sim.inputs.expression import ExpressionError, parse_expression
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import ClusterSpec
from sim.life.life import live
from sim.life.life_inputs import Slow
from sim.units import DIMENSIONS, FRACTION, Dimension, QuantityError, parse_fraction, parse_quantity

TORUS = (
    "cluster=torus-4x4x4", "nodes=64", "parallelism.tensor=1", "parallelism.sequence_parallel=false",
    "workload=gpt3-1.3b", "training.sequence_length=2048",
)  # fmt: skip
SLOW = "failures={name: x, modes: [{cause: a, component: PART, mtbf: 1 h, effect: slow, duration: {mean: 1 h}}]}"
BOARD = "cluster.node.accelerator"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ((f"{BOARD}.matrix.tile=[0, 128]",), f"{BOARD}.matrix.tile.0"),
        ((f"{BOARD}.matrix.peak.bf16=0",), f"{BOARD}.matrix.peak.bf16"),
        ((f"{BOARD}.matrix.peak.bf16=1e-300 FLOP/s",), f"{BOARD}.matrix.peak.bf16"),
        ((f"{BOARD}.vector.fp32=0",), f"{BOARD}.vector.fp32"),
        ((f"{BOARD}.memory.bandwidth=1e-300 B/s",), f"{BOARD}.memory.bandwidth"),
        (("software.overlap_slowdown=100 %",), "software.overlap_slowdown"),
        (("training.global_batch=1e9",), "training.global_batch"),
        (("parallelism.virtual_stages=9007199254740992",), "parallelism.pipeline"),
        (("cluster.node.local.efficiency=1e-300",), "cluster.node.local.efficiency"),
        (("cluster.node.accelerators=1e9",), "cluster.node.accelerators"),
        (("cluster=dragonfly-128", "nodes=8", "cluster.fabric.groups=10000"), "cluster.fabric"),
        (("cluster=dgx-h100-superpod", "nodes=8", "cluster.fabric.spines=1e9"), "cluster.fabric.spines"),
        (("cluster=dgx-h100-superpod", "cluster.fabric.cores=1e5"), "cluster.fabric"),
        ((*TORUS, "cluster.fabric.link.bandwidth=1e-300 B/s"), "cluster.fabric.link.bandwidth"),
        ((*TORUS, SLOW.replace("PART", "cable")), "failures.modes.0.component"),
        ((*TORUS, SLOW.replace("PART", "nic")), "failures.modes.0.component"),
        ((SLOW.replace("PART", "cable"),), "failures.modes.0.component"),
    ],
)
def test_what_cannot_be_simulated_is_refused_when_it_is_read(overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_experiment("quickstart", overrides)
    assert key in {problem.key for problem in refused.value.problems}
    assert all(problem.where for problem in refused.value.problems)


def test_the_limit_of_passes_can_be_lifted_and_says_what_it_saves() -> None:
    with pytest.raises(ConfigError, match=r"about 500 min and 700 GB .* simulation.limits to off"):
        load_experiment("quickstart", ["training.global_batch=1e9"])
    assert load_experiment("quickstart", ["training.global_batch=1e9", "simulation.limits=off"])


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_quantities_have_a_range_that_floats_can_work_with(dimension: Dimension) -> None:
    assert 0 < dimension.least < dimension.most < inf
    for value in (dimension.least, dimension.most):
        assert parse_quantity(f"{value!r} {dimension.symbol}", dimension) == value
    for value in (dimension.least / 2, dimension.most * 2):
        with pytest.raises(QuantityError, match="out of range"):
            parse_quantity(f"{value!r} {dimension.symbol}", dimension)


def test_fractions_have_one_too() -> None:
    assert parse_fraction(FRACTION.least) == FRACTION.least
    with pytest.raises(QuantityError, match="out of range"):
        parse_fraction(FRACTION.least / 2)


def test_a_life_without_an_end_gives_up_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives_of_jobs, "MOST_STRIKES", 300)
    changes = ["failures={name: x, modes: [{cause: a, component: accelerator, mtbf: 1 ms}]}"]
    result = simulate(load_experiment("quickstart", changes).experiment)
    assert result.run is not None
    assert (result.run.outcome, result.run.steps) == ("too_many_faults", 0)
    assert any("simulation.limits: off" in way for way in result.run.what_helps)


def test_a_life_ends_with_the_last_strike_it_may_have() -> None:
    life = live(job(failures=failures({"mtbf": 1.0}), most_strikes=7), 0)
    assert (life.outcome, len(life.faults)) == ("too_many_faults", 7)


def test_a_slow_adapter_slows_the_bundle_it_is_in() -> None:
    changes = ["cluster=dgx-h100-superpod", "nodes=2", "cluster.node.nics.count=16"]
    experiment = load_experiment("quickstart", changes).experiment
    run = simulate_step(experiment)
    times = StepTimes(experiment, run.plan, run.trace.time, run.readings.cluster, run.readings.slots)
    slow = times._degradation(Slow("nic", 0, 15, 0.5))
    assert slow.link is not None
    assert slow.link.startswith("node0/nic7<->")
    assert slow.factor == 0.75


def test_pairs_of_a_dragonfly_are_those_of_the_loop() -> None:
    for n in (1, 2, 5):
        assert list(zip(*map(np.ndarray.tolist, _pairs(n)), strict=True)) == [
            (a, b) for a in range(n) for b in range(n) if a != b
        ]


def test_a_cluster_alone_is_measured_before_it_is_built() -> None:
    cluster = load_definition("cluster", "dragonfly-128", ["fabric.groups=10000"])
    assert isinstance(cluster, ClusterSpec)
    with pytest.raises(ConfigError, match="links between accelerators"):
        build_cluster(cluster)


def test_check_refuses_what_a_run_finds_out_after_planning() -> None:
    changes = ["cluster={extends: dgx-h100, storage: local-nvme}", "checkpoint={interval: 1 h, keep: 1000000}"]
    experiment = load_experiment("quickstart", changes).experiment
    for refuse in (rehearse, simulate):
        with pytest.raises(ConfigError, match="checkpoints of"):
            refuse(experiment)


@pytest.mark.parametrize("text", ["-" * 300 + "1", "a" + ".b" * 300, "not " * 200 + "true", "2 ** " * 100 + "1"])
def test_expressions_are_not_nested_without_end(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"nested deeper than 50|is not an expression"):
        parse_expression(text)


@pytest.mark.parametrize("text", ["9.0 ** 999 ** 99", "(-8) ** 0.5", "1e999", "1e308 * 10", "2 ** 1e9"])
def test_expressions_without_a_finite_value_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text).evaluate(lambda _: 1)


def test_a_grid_of_points_has_a_size() -> None:
    key = {"range": {"first": 1, "last": 900000, "step": 100}}
    axes = [{"key": "training.global_batch", **key}, {"key": "seed", **key}]
    with pytest.raises(ConfigError, match="81,000,000 runs"):
        load_study({"base": "quickstart", "axes": axes})


def test_a_file_that_extends_is_of_the_kind_of_its_base(tmp_path: Path) -> None:
    for name, text, kind in (
        ("one", "extends: quickstart\nsede: 1\n", "experiment"),
        ("two", "extends: one.yaml\nnodes: 2\n", "experiment"),
        ("three", "extends: ./one.yaml\nname: x\n", "experiment"),
        ("four", "extends: dgx-h100\nnodes: 2\n", "cluster"),
        ("five", "sede: 1\n", "experiment"),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        assert kind_of(str(path)) == kind
    (problem,) = check(tmp_path / "one.yaml")
    assert (problem.key, problem.message) == ("sede", "unknown key")
