"""Local steps between exchanges: closed forms, bytes, jitter, slow lines between sites, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plans import LEAF_SPINE, Fields, small_experiment

from sim.ask.run.simulate import simulate
from sim.ask.run.step import prepare_step, simulate_step
from sim.ask.sweep.sweep_file import load_study
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.inputs.synchronization import LocalSteps
from sim.layout.state import exchanged_parameters
from sim.programs.local_steps import LocalPace, LocalWorkers, exchanges_of

SHORTCUTS = ("fold", "prune", "skip", "coalesce")


def way(**fields: Any) -> LocalSteps:
    return LocalSteps.from_si({"kind": "local_steps", "workers": 4, "every": 12, **fields})


def experiment(fields: Fields | None = None, **others: Any) -> Experiment:
    """Four workers of two replicas, a node each."""
    given: dict[str, Any] = {
        "nodes": 4,
        "parallelism": {"tensor": 4, "data": 8},
        "training": {"global_batch": 32},
        "synchronization": {"kind": "local_steps", "workers": 4, "every": 12, **(fields or {})},
    }
    return small_experiment(**{**given, **others})


def step_of(exchange_s: float, compute_s: tuple[float, ...] = (1.0,) * 4, lost_s: float = 0.0, **fields: Any) -> float:
    return LocalWorkers(LocalPace(compute_s, exchange_s, lost_s, way(**fields))).run()[0]


# --- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "fragments"), [(12, 1), (12, 3), (1, 1), (500, 4)])
@pytest.mark.parametrize("exchange", [0.3, 2.0, 40.0])
def test_who_stands_still_pays_an_exchange_each_time(every: int, fragments: int, exchange: float) -> None:
    expected = 1 + exchange * fragments / every
    assert step_of(exchange, every=every, fragments=fragments) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("overlap", [1, 3, 6])
@pytest.mark.parametrize("exchange", [0.5, 2.5, 5.5, 30.0])
def test_steps_beside_an_exchange_hide_as_much_of_it(overlap: int, exchange: float) -> None:
    """Of an exchange every 6 steps, and never faster than one after the other."""
    expected = max(1 + max(0.0, exchange - overlap) / 6, exchange / 6)
    found = step_of(exchange, every=12, fragments=2, overlap_steps=overlap)
    assert found == pytest.approx(expected, rel=1e-9)


def test_what_training_loses_beside_an_exchange_is_lost_each_time() -> None:
    assert step_of(2.0, lost_s=0.6, overlap_steps=3) == pytest.approx(1 + 0.6 / 12, rel=1e-9)


def test_all_wait_for_the_slowest_worker() -> None:
    assert step_of(3.0, (1.0, 1.0, 2.0, 1.0)) == pytest.approx(2 + 3.0 / 12, rel=1e-9)


def test_rarer_exchanges_average_jitter_out() -> None:
    """The slowest of four sums of n steps is off by its mean by a root of n less, a step."""
    waits = [step_of(0.0, every=every, jitter=0.3) - 1 for every in (1, 16, 256)]
    assert waits[0] > 2 * waits[1] > 4 * waits[2] > 0


# --- on links -------------------------------------------------------------------------------------


def exchange(made: Experiment) -> tuple[float, float]:
    """Seconds of one exchange alone, and bytes that a worker sends in it."""
    prepared = prepare_step(made)
    given = made.synchronization
    assert isinstance(given, LocalSteps)
    taken = exchanges_of(prepared.job, given, 1.0)
    return taken.alone_s, taken.sent


def parameters_of(made: Experiment) -> float:
    """Of all ranks of a replica: tensor ranks hold norms and positions all alike."""
    return 4 * sum(exchanged_parameters(prepare_step(made).plan, "gradient"))


@pytest.mark.parametrize("bytes_per_parameter", [4.0, 2.0, 1.0])
@pytest.mark.parametrize("fragments", [1, 3])
def test_a_worker_sends_its_part_of_a_ring(bytes_per_parameter: float, fragments: int) -> None:
    """2(n-1)/n of all weights, whoever in the worker carries it."""
    for carried_by in ("all", "first"):
        fields = {"bytes_per_parameter": bytes_per_parameter, "fragments": fragments, "carried_by": carried_by}
        made = experiment(fields)
        weights = parameters_of(made) * bytes_per_parameter / fragments
        assert exchange(made)[1] == pytest.approx(2 * 3 / 4 * weights, rel=1e-9)


def test_ranks_that_each_carry_a_part_use_all_adapters() -> None:
    """Half of the bytes for each adapter; the ring of the first replica alone takes twice as long."""
    quick: Fields = {"node": {"local": {"bandwidth": 1e24}}}
    whole = exchange(experiment({"carried_by": "first", "bytes_per_parameter": 400.0}, **quick))[0]
    parts = exchange(experiment({"bytes_per_parameter": 400.0}, **quick))[0]
    assert whole == pytest.approx(2 * parts, rel=1e-2)


def test_an_exchange_takes_the_slow_line_between_sites() -> None:
    """Two sites, each a leaf: what crosses between them is a ring's flow for each rank, over an oversubscribed leaf."""
    fabric = LEAF_SPINE | {"spines": 1, "leaf_oversubscription": 100.0}
    made = experiment({"workers": 2, "bytes_per_parameter": 4.0}, fabric=fabric)
    seconds, sent = exchange(made)
    uplink = 2 * 8 * 25e9 / 100
    assert seconds == pytest.approx(sent / uplink, rel=0.1)


def test_one_step_between_exchanges_is_lock_step_with_weights_in_place_of_gradients() -> None:
    every_step = simulate_step(
        experiment({"every": 1, "bytes_per_parameter": 2.0}, nodes=4, parallelism={"tensor": 8, "data": 4})
    )
    lock_step = simulate_step(experiment(None, nodes=4, parallelism={"tensor": 8, "data": 4}, synchronization=None))
    assert every_step.trace.time == pytest.approx(lock_step.trace.time, rel=1e-6)


def test_workers_do_not_meet_within_a_step() -> None:
    """A worker by itself takes as long."""
    alone = simulate_step(
        experiment(
            None, nodes=1, parallelism={"tensor": 4, "data": 2}, training={"global_batch": 8}, synchronization=None
        )
    )
    run = simulate_step(experiment({"every": 10**6}))
    assert run.synchrony is not None
    assert run.synchrony.compute_s == pytest.approx(alone.trace.time, rel=1e-9)


@pytest.mark.parametrize("switch", SHORTCUTS)
@pytest.mark.parametrize("fields", [{}, {"fragments": 2, "overlap_steps": 2}])
def test_shortcuts_change_nothing(switch: str, fields: Fields) -> None:
    made = experiment(fields, software={"gradient_overlap": True})
    other = made.model_copy(update={"simulation": made.simulation.model_copy(update={switch: "off"})})
    assert simulate_step(other).trace.time == pytest.approx(simulate_step(made).trace.time, rel=1e-9)


# --- memory, words, refusals ----------------------------------------------------------------------


def test_state_is_shared_inside_a_worker_and_the_last_exchange_lies_on_hosts() -> None:
    sharded: Fields = {"parallelism": {"tensor": 4, "data": 8, "zero_stage": 1}}
    result = simulate(experiment(None, **sharded))
    alone = simulate(
        experiment(
            None,
            nodes=1,
            parallelism={"tensor": 4, "data": 2, "zero_stage": 1},
            training={"global_batch": 8},
            synchronization=None,
        )
    )
    assert result.memory.parts == pytest.approx(alone.memory.parts)
    weights = parameters_of(experiment())
    assert result.memory.host_bytes == pytest.approx(8 * weights, rel=1e-2)


def test_the_report_says_what_it_cannot() -> None:
    result = simulate(experiment())
    assert result.synchronization is not None
    assert any("convergence is not simulated" in note for note in result.notes)
    assert result.trust is None or result.trust.band is None
    stale = result.synchronization.staleness
    assert stale["mean"] == pytest.approx(3 * np.arange(12).mean())
    assert stale["max"] == 3 * 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{kind: local_steps, workers: 3, every: 5}", "data 8 cannot be divided by workers 3; use a workers of 2 or 4"),
        ("{kind: local_steps, workers: 2, every: 5, fragments: 2}", "every 5 cannot be divided by fragments 2"),
        ("{kind: local_steps, workers: 2, every: 5, overlap_steps: 9}", "an exchange beside 9 steps, the next of the"),
        ("{kind: local_steps, workers: 1, every: 5}", "synchronization.workers"),
    ],
)
def test_says_what_is_wrong(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("llama3-8b-dgx-h100", [f"synchronization={change}"])


def test_the_shipped_study_shows_what_slow_lines_cost() -> None:
    """Four sites at 10 Gb/s: in lock-step a step takes 22 times as long as with exchanges beside steps."""
    loaded = load_study("four-sites")
    seconds = [simulate_step(loaded.base.changed(point.changes)).trace.time for point in loaded.points()]
    assert seconds[0] > 20 * seconds[6]
    assert seconds[1] > seconds[2] > seconds[3] > seconds[4] > seconds[6]
    assert seconds[5] < seconds[3]
