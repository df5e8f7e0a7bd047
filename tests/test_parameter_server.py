"""Parameter servers: closed forms of a step, incast, staleness, stragglers, what is conserved, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plans import Fields, small_experiment

from sim.ask.run.check import rehearse
from sim.ask.run.simulate import simulate
from sim.ask.run.step import Simulated, prepare_step, simulate_step
from sim.ask.sweep.sweep_file import load_study
from sim.errors import ConfigError, PlanError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.inputs.synchronization import ParameterServers
from sim.layout.servers import lay_out_servers
from sim.metrics.result import Synchrony
from sim.programs.parameter_server import ServedJob, ServedWorkers, serving
from sim.programs.workers import worker_seconds
from sim.report.page.run import run_page

NIC = 8 * 25e9  # of a node, each way
RATE = 50e9  # of a server's memory


def experiment(workers: int = 4, servers: int = 2, way: Fields | None = None, **others: Any) -> Experiment:
    """Workers of a node each, and servers on nodes of their own; `way` changes the synchronization."""
    given = {"kind": "parameter_server", "placement": "own", "update_bandwidth": RATE, **(way or {})}
    fields = {
        "nodes": workers + servers,
        "parallelism": {"tensor": 8, "data": workers},
        "training": {"global_batch": 2 * workers},
        "synchronization": given,
    }
    return small_experiment(**{**fields, **others})


def served(made: Experiment) -> tuple[ServedJob, ServedWorkers]:
    """The clock of an experiment's workers, before it runs."""
    prepared = prepare_step(made)
    job, trace = prepared.job, prepared.runs.run(prepared.job, None)
    way = made.synchronization
    assert way is not None
    assert way.kind == "parameter_server"
    found = serving(job, lay_out_servers(job.plan, way), worker_seconds(job.plan, trace))
    return found, ServedWorkers(found)


def synchrony_of(run: Simulated) -> Synchrony:
    assert run.synchrony is not None
    return run.synchrony


def link_seconds(found: ServedJob, workers: int) -> tuple[float, float]:
    """Push and pull of so many workers at once: the fuller of a worker's adapters and those of a server."""
    servers = found.laid.n_servers
    fullest, latency = max(servers, workers) / NIC, float(found.laid.push_latency[0, 0])
    return found.push * fullest + latency, found.pull * fullest + latency


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "servers"), [(2, 4), (4, 4), (8, 2)])
def test_a_synchronous_step_is_pull_compute_push_sums_and_update(workers: int, servers: int) -> None:
    """Incast: beyond as many workers as servers, the adapters of the servers set the pace."""
    found, clock = served(experiment(workers, servers))
    push, pull = link_seconds(found, workers)
    expected = pull + found.compute_s[0] + push + workers * found.sum_s + found.update_s
    assert clock.run().step_s == pytest.approx(expected, rel=1e-9)


def test_sizes_and_times_of_a_server_follow_from_the_parameters() -> None:
    """A gradient of 2 B is added to a sum in 32 bit, which is read and written: 10 B; the update moves 28 B."""
    found, _ = served(experiment(4, 2))
    part = found.laid.parameters / 2
    assert (found.push, found.pull) == (part * 2, part * 2)
    assert found.sum_s == pytest.approx(part * 10 / RATE)
    assert found.update_s == pytest.approx(part * 28 / RATE)


def test_one_asynchronous_worker_waits_for_its_own_exchange_alone() -> None:
    found, clock = served(experiment(1, 2, {"mode": "asynchronous"}))
    push, pull = link_seconds(found, 1)
    paced = clock.run()
    assert paced.step_s == pytest.approx(pull + found.compute_s[0] + push + found.sum_s, rel=1e-9)
    assert paced.staleness.max() == 0


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_staleness_of_equal_workers_is_one_less_than_they_are(workers: int) -> None:
    """Between the weights of a worker and its update, each other worker updates once (Dean 2012)."""
    _, clock = served(experiment(workers, 2, {"mode": "asynchronous"}))
    assert clock.run().staleness.mean() == pytest.approx(workers - 1)


def test_a_server_that_is_always_busy_sets_the_pace() -> None:
    found, clock = served(experiment(8, 1, {"mode": "asynchronous", "update_bandwidth": 1e9}))
    paced = clock.run()
    assert 8 * found.sum_s > found.compute_s[0]
    assert paced.step_s == pytest.approx(8 * found.sum_s, rel=1e-9)
    assert paced.server_busy == pytest.approx(1.0)


def test_asynchronous_throughput_is_within_its_bounds() -> None:
    """min(w / (compute + exchange), what the servers' adapters and their memory allow)."""
    for workers in (1, 2, 4, 8):
        found, clock = served(experiment(workers, 2, {"mode": "asynchronous"}))
        push, pull = link_seconds(found, 1)
        updates = workers / clock.run().step_s
        alone = workers / (found.compute_s[0] + push + pull + found.sum_s)
        assert updates <= min(alone, 1 / found.sum_s, NIC / found.push, NIC / found.pull) * (1 + 1e-9)


# --- stragglers -----------------------------------------------------------------------------------


def paces(slow: float, way: Fields) -> tuple[ServedJob, ServedWorkers]:
    """Workers of which the first is slow, with servers and links that take no time."""
    found, _ = served(experiment(4, 4, {"update_bandwidth": 1e24, **way}))
    compute = np.array([1.0 / slow, 1.0, 1.0, 1.0])
    found = replace(found, compute_s=compute, push=1.0, pull=1.0)
    return found, ServedWorkers(found)


def test_synchronous_workers_go_as_fast_as_the_slowest_and_asynchronous_ones_as_they_can() -> None:
    _, clock = paces(0.25, {})
    assert clock.run().step_s == pytest.approx(4.0, rel=1e-4)
    _, clock = paces(0.25, {"mode": "asynchronous"})
    assert clock.run().step_s == pytest.approx(4 / (3 + 0.25), rel=0.05)


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_no_worker_is_further_ahead_than_the_bound(bound: int) -> None:
    """In the long run all are as fast as the slowest (Ho 2013); a bound that is never reached changes nothing."""
    _, clock = paces(0.25, {"mode": "stale_synchronous", "bound": bound, "jitter": 0.1})
    paced = clock.run()
    assert clock.ahead == bound
    assert paced.step_s == pytest.approx(4.0, rel=0.1)
    ways: tuple[Fields, ...] = ({"mode": "stale_synchronous", "bound": 10**6}, {"mode": "asynchronous"})
    runs = [paces(0.25, {"jitter": 0.1, **way})[1] for way in ways]
    first, second = (run.run() for run in runs)
    assert first.step_s == second.step_s
    assert first.staleness.tolist() == second.staleness.tolist()


def test_jitter_costs_most_where_all_wait_for_all() -> None:
    """Each waits for the slowest of 8 draws; a bound lets a slow step be made up for."""
    ways: tuple[Fields, ...] = ({}, {"mode": "stale_synchronous", "bound": 4}, {"mode": "asynchronous"})
    free_servers: Fields = {"update_bandwidth": 1e24, "jitter": 0.3}
    synchronous, bounded, free = (served(experiment(8, 8, {**free_servers, **way}))[1].run().step_s for way in ways)
    assert synchronous > bounded >= free * (1 - 1e-2)


def test_a_slow_accelerator_is_a_slow_worker() -> None:
    """Where servers are quick; others hide a slow worker behind the gradients of the rest."""
    slow, quick = ({"accelerator": "node1/gpu3", "factor": 0.5},), {"update_bandwidth": 1e24}
    ways = ({**quick, "mode": "synchronous"}, {**quick, "mode": "asynchronous"})
    healthy = [simulate_step(experiment(4, 4, way)) for way in ways]
    slowed = [simulate_step(experiment(4, 4, way, degradations=slow)) for way in ways]
    lost = [bad.trace.time - good.trace.time for bad, good in zip(slowed, healthy, strict=True)]
    assert lost[0] > lost[1] > 0
    assert synchrony_of(slowed[1]).compute_s == pytest.approx(synchrony_of(healthy[1]).compute_s)


# --- what is conserved ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_bytes_into_servers_are_the_gradients_of_all_workers(mode: str) -> None:
    found, clock = served(experiment(4, 2, {"mode": mode}))
    table, carried = found.table, clock.run().carried
    cluster = found.laid.plan.cluster
    first_server = 4  # nodes before it are workers'
    into = [
        carried[number] * table.link_count[number]
        for number, link in enumerate(table.link_example.tolist())
        if link >= 0 and cluster.link_kind(link) == "switch-nic" and node_of(cluster.link_name(link)) >= first_server
    ]
    assert sum(into) == pytest.approx(4 * 2 * found.push, rel=1e-9)


def node_of(link: str) -> int:
    return int(link.split("->node")[1].split("/")[0])


def test_parts_of_a_step_sum_to_it() -> None:
    run = simulate_step(experiment(4, 2, {"mode": "asynchronous"}))
    told = synchrony_of(run)
    assert told.compute_s + told.exchange_s + told.waiting_s == pytest.approx(run.trace.time, rel=1e-9)
    assert sum(run.readings.critical.exposed.values()) == pytest.approx(run.trace.time, rel=1e-9)
    assert run.readings.critical.exposed["optimizer"] == 0
    assert told.updates_per_s == pytest.approx(4 / run.trace.time, rel=1e-9)


@pytest.mark.parametrize("switch", ["fold", "prune"])
@pytest.mark.parametrize(
    "way", [{}, {"mode": "asynchronous", "jitter": 0.2}, {"slices": 3}, {"placement": "colocated"}]
)
def test_shortcuts_change_nothing(switch: str, way: Fields) -> None:
    made = experiment(4, 2, way)
    other = made.model_copy(update={"simulation": made.simulation.model_copy(update={switch: "off"})})
    first, second = (served(each)[1].run() for each in (made, other))
    assert first.step_s == pytest.approx(second.step_s, rel=1e-9)
    assert first.staleness.mean() == pytest.approx(second.staleness.mean(), rel=1e-9)


def test_every_allocation_is_max_min_fair() -> None:
    made = experiment(3, 2, {"mode": "asynchronous", "jitter": 0.2})
    certified = made.simulation.model_copy(update={"certificate": True})
    assert served(made.model_copy(update={"simulation": certified}))[1].run().step_s > 0


def test_slices_hide_what_passes_can_hide() -> None:
    """With more slices a step never takes longer by more than their start-ups, and never less than its computation."""
    found, _ = served(experiment(4, 4))
    seconds = [served(experiment(4, 4, {"slices": slices}))[1].run().step_s for slices in (1, 2, 8)]
    assert seconds[0] > seconds[1] > seconds[2] > found.compute_s[0]


# --- state, words, refusals -----------------------------------------------------------------------


def test_the_optimizer_lies_at_the_servers() -> None:
    result = simulate(experiment(4, 2))
    told = result.synchronization
    assert told is not None
    assert result.memory.parts["optimizer"] == 0
    parameters = result.setup["parameters"]
    assert isinstance(parameters, int)
    assert told.servers * told.server_bytes == pytest.approx(parameters * (2 + 12 + 4), rel=1e-6)


def test_servers_need_room() -> None:
    small = experiment(4, 1, node={"host": {"memory": 1e8}})
    with pytest.raises(PlanError, match="a server keeps"):
        rehearse(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("synchronization={kind: parameter_server, placement: own}", "none is left for servers; use placement"),
        ("synchronization={kind: parameter_server, servers: 9}", "9 servers, 1 nodes that may hold one; use at most"),
        ("synchronization={kind: parameter_server, bound: 2}", "a bound of 2 steps in mode synchronous; use mode"),
        ("synchronization={kind: gossip}", "must be one of parameter_server, local_steps"),
    ],
)
def test_says_what_is_wrong(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("llama3-8b-dgx-h100", ["parallelism.zero_stage=0", change])


def test_sharded_state_and_servers_exclude_one_another() -> None:
    with pytest.raises(ConfigError, match="zero_stage 3 shards what servers keep; set it to 0"):
        load_experiment("llama3-8b-dgx-h100", ["synchronization={kind: parameter_server}"])


def test_the_shipped_study_crosses_where_servers_are_full() -> None:
    """One of the workers at half speed: asynchronous servers win with 16 workers, all-reduce does with 64."""
    loaded = load_study("parameter-servers")
    rates: dict[tuple[int, str], float] = {}
    for point in loaded.points():
        made = loaded.base.changed(point.changes)
        mode = made.synchronization.mode if isinstance(made.synchronization, ParameterServers) else "all-reduce"
        if made.setup.data in (16, 64):
            rates[made.setup.data, mode] = made.training.global_batch / simulate_step(made).trace.time
    assert rates[16, "asynchronous"] > 1.5 * rates[16, "all-reduce"]
    assert rates[64, "all-reduce"] > 2 * rates[64, "asynchronous"]
    assert rates[16, "synchronous"] < rates[16, "all-reduce"]
    assert rates[64, "synchronous"] < rates[64, "all-reduce"]


def test_the_page_tells_of_workers_out_of_step() -> None:
    assert ">Workers out of step<" in run_page(simulate(experiment()), None, "")
