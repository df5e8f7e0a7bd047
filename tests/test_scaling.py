"""Scaling studies: sizes, token targets and what a batch costs in tokens."""

from __future__ import annotations

import json

import pytest
from plans import LEAF_SPINE, small_experiment

from sim.ask.scale.scaling import node_counts, scale
from sim.errors import ConfigError
from sim.inputs.records import Experiment
from sim.metrics.scaling import (
    ALPHA,
    BETA,
    IRREDUCIBLE,
    A,
    B,
    critical_batch,
    loss,
    optimal_tokens,
    tokens_at,
)
from support import Cli

MODEL = {"layers": 4, "hidden": 512, "heads": 8, "ffn": 2048}


def growing(**training: int) -> Experiment:
    training = {"global_batch": 64, "sequence_length": 512, **training}
    return small_experiment(nodes=1, fabric=LEAF_SPINE, model=MODEL, parallelism={"tensor": 2}, training=training)


@pytest.mark.parametrize(
    ("text", "counts"),
    [("1..8", (1, 2, 4, 8)), ("3..20", (3, 6, 12, 20)), ("4", (4,)), ("8,2,2", (2, 8)), ("5..5", (5,))],
)
def test_node_counts(text: str, counts: tuple[int, ...]) -> None:
    assert node_counts(text) == counts


@pytest.mark.parametrize("text", ["", "8..1", "0..4", "two", "1,,2", "0,1", "-1"])
def test_wrong_node_counts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no list of node counts"):
        node_counts(text)


def test_chinchilla_has_its_tokens() -> None:
    """Hoffmann 2022, table 1: 70 B parameters, 1.4 T tokens; the corrected fit of Besiroglu 2024 comes close."""
    assert optimal_tokens(70e9) == pytest.approx(1.4e12)
    assert optimal_tokens(70e9, "parametric") == pytest.approx(1.4e12, rel=0.15)


def test_parametric_optimum_is_the_least_loss_for_its_compute() -> None:
    size = 10e9
    tokens = optimal_tokens(size, "parametric")
    around = [loss(size * share, tokens / share) for share in (0.9, 0.99, 1.0, 1.01, 1.1)]
    assert min(around) == around[2]
    assert loss(size, tokens) == pytest.approx(IRREDUCIBLE + A / size**ALPHA + B / tokens**BETA)


def test_critical_batch_is_a_few_million_tokens_and_grows_with_quality() -> None:
    """Kaplan 2020, figure 10: about 1 to 4 M tokens at a loss of 3 to 2.3."""
    assert 1e6 < critical_batch(1e9, 20e9) < critical_batch(70e9, 1.4e12) < 2e7


def test_batch_of_critical_size_needs_twice_the_tokens_of_a_tiny_one() -> None:
    assert tokens_at(4e6, 1e9, 1e-3, 4e6) == pytest.approx(2e9)
    assert tokens_at(1e6, 1e9, 1e6, 4e6) == 1e9


def test_strong_scaling_keeps_batch_and_tokens() -> None:
    study = scale(growing(), (1, 2, 4), "strong")
    assert [(p.nodes, p.accelerators, p.global_batch) for p in study.points] == [(1, 8, 64), (2, 16, 64), (4, 32, 64)]
    assert len({p.tokens for p in study.points}) == 1
    steps = [p.step_s for p in study.points if p.step_s]
    assert steps == sorted(steps, reverse=True)
    assert study.points[0].efficiency == study.points[0].training_efficiency == 1.0
    assert all(p.efficiency and p.efficiency <= 1 + 1e-9 for p in study.points)


def test_weak_scaling_needs_more_tokens_for_its_batch() -> None:
    study = scale(growing(), (1, 4), "weak", tokens=1e9, critical=1e5)
    first, last = study.points
    assert (first.tokens, last.global_batch) == (1e9, 256)
    own = 64 * 512
    assert last.tokens == pytest.approx(1e9 * (1 + 4 * own / 1e5) / (1 + own / 1e5), rel=1e-6)
    assert last.tokens_per_s
    assert last.efficiency
    assert last.training_efficiency
    assert last.training_efficiency < 0.7 * last.efficiency
    assert last.time_to_train_s == pytest.approx(last.tokens / last.tokens_per_s, rel=1e-3)


def test_sizes_that_do_not_work_are_told() -> None:
    study = scale(growing(global_batch=8), (1, 2, 4), "strong")
    assert [bool(p.step_s) for p in study.points] == [True, True, False]
    assert "global_batch" in study.points[2].problem


def test_replanned_sizes_are_no_slower() -> None:
    experiment = growing()
    kept = scale(experiment, (2,), "strong").points[0]
    best = scale(experiment, (2,), "strong", replan=True, jobs=1).points[0]
    assert best.step_s
    assert kept.step_s
    assert best.step_s <= kept.step_s
    assert best.plan


def test_interrupted_study_keeps_what_is_done() -> None:
    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    study = scale(growing(), (1, 2), "strong", progress=stop)
    assert not study.complete
    assert len(study.points) == 1


def test_command(cli: Cli) -> None:
    options = ("--set", "cluster=dgx-h100-superpod", "--nodes", "1,2", "--tokens", "parametric")
    text = cli("scale", "llama3-8b-dgx-h100", *options)
    assert text.code == 0, text.err
    assert "Strong scaling" in text.out
    assert "Weak scaling" in text.out
    found = json.loads(cli("scale", "llama3-8b-dgx-h100", *options, "--mode", "weak", "--json").out)
    assert [point["nodes"] for point in found["points"]] == [1, 2]
    assert found["points"][1]["time_to_train_s"] > 0


@pytest.mark.parametrize("options", [("--tokens", "many"), ("--critical-batch", "0")])
def test_wrong_options_are_usage_errors(options: tuple[str, str], cli: Cli) -> None:
    assert cli("scale", "quickstart", "--nodes", "1", *options).code == 2
