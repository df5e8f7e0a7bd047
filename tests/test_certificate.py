"""Folding by certificate: a step over a part of the links, checked against all of them, is that of all of them.

The oracle of every case is the engine with each rank, link and flow on its own.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from equal import EXACT, assert_same
from plans import CASES, LEAF_SPINE, small_experiment

import sim.plan.plan
from sim.ask.run.proof import proved_step
from sim.ask.run.simulate import simulate
from sim.ask.run.step import Prepared, Simulated, prepare_step, simulate_step
from sim.engine.overload import find_overload, moves_of
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment

FIXED, RANDOM = 60, 200
ANEW = {"reuse": "off"}


@pytest.fixture(autouse=True)
def every_job_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few ranks it has, and however little they fold."""
    monkeypatch.setattr(sim.plan.plan, "PROVED_RANKS", 0)
    monkeypatch.setattr(sim.plan.plan, "FOLDED", 1.0)


def job(seed: int) -> dict[str, Any]:
    """Some job on a cluster whose middle may bind: ragged units, hashing, thin uplinks, shuffled nodes."""
    random = Random(seed)
    one_of = lambda *values: random.choice(values)  # noqa: E731
    tensor, pipeline, data = one_of(1, 2, 4), one_of(1, 2, 3), one_of(2, 3, 4, 5)
    nodes = -(-tensor * pipeline * data // 4) + one_of(0, 1)
    tiers = {"tiers": 3, "units_per_pod": 2, "cores": one_of(1, 2)} if one_of(True, False, False) else {}
    return {
        "nodes": max(2, nodes),
        "node": {"accelerators": 4, "nics": {"count": one_of(1, 2, 4), "bandwidth": one_of(12.5e9, 25e9)}},
        "fabric": LEAF_SPINE
        | {
            "nodes_per_unit": one_of(1, 2, 3),
            "spines": one_of(1, 2, 4),
            "leaf_oversubscription": one_of(1.0, 1.0, 2.0, 4.0),
            "rail_optimized": one_of(True, False),
        }
        | tiers,
        "routing": one_of({}, {"kind": "spray"}, {"kind": "ecmp", "queue_pairs": one_of(1, 2), "seed": seed}),
        "model": {"layers": pipeline * one_of(1, 2)},
        "parallelism": {
            "tensor": tensor,
            "pipeline": pipeline,
            "data": data,
            "zero_stage": one_of(0, 1, 2, 3) if pipeline == 1 else one_of(0, 1),
            "placement": one_of("packed", "packed", "random", "random_nodes", "fragmented", "round_robin"),
        },
        "software": {
            "gradient_overlap": one_of(True, False),
            "pipeline_overlap": one_of(True, False),
            "overlap_slowdown": one_of(0.0, 0.0, 0.1),
        },
        "training": {"global_batch": data * one_of(1, 4, 9)},
        "degradations": [{"accelerator": "node0/gpu1", "factor": 0.7}] if one_of(True, False, False) else [],
        "seed": seed,
    }


def both(fields: dict[str, Any]) -> tuple[Simulated, Simulated]:
    """A job folded by certificate, and with every rank on its own."""
    proved = simulate_step(small_experiment(**fields, simulation=ANEW))
    return proved, simulate_step(small_experiment(**fields, simulation=ANEW | {"fold": "off"}))


def check(seed: int) -> None:
    try:
        proved, plain = both(job(seed))
    except ConfigError:
        pytest.skip("no valid job")
    assert_same(proved, plain)


@pytest.mark.parametrize("seed", range(FIXED))
def test_a_proved_step_is_the_step(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1_000, 1_000 + RANDOM))
def test_more_proved_steps_are_the_step(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("case", CASES)
def test_cases_of_the_shortcuts_are_proved(case: str) -> None:
    proved, plain = both(CASES[case])
    assert_same(proved, plain)
