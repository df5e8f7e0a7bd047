"""Cases that need a process of their own, so that memory and warm caches are theirs alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.measure import peak_memory, timed
from sim.ask.run.accounts import open_accounts
from sim.ask.run.bounds import step_bounds
from sim.ask.run.lives import prepare_life
from sim.ask.run.simulate import predict, simulate
from sim.ask.run.step import prepare_step
from sim.ask.seeds.seeds import Seeds, run_seeds
from sim.inputs.load import load_experiment


def step(experiment: str, repetitions: str, *overrides: str) -> dict[str, Any]:
    """Simulate one step again and again: times of planning, simulating and accounting [s], events.

    Peak memory [B] is that of the first, as a process that simulates one design needs it.
    """
    loaded = load_experiment(experiment, overrides).experiment
    planning, simulating, accounting, peaks = [], [], [], []
    for _ in range(int(repetitions)):
        begin = time.perf_counter()
        prepared = prepare_step(loaded)
        ready = time.perf_counter()
        done = prepared.run()
        planning.append(ready - begin)
        simulated = time.perf_counter()
        simulating.append(simulated - ready)
        book = open_accounts(done)
        book.bill(book.used.spend(book.whole(1)), 1, book.levels(0), lived=False)
        accounting.append(time.perf_counter() - simulated)
        peaks.append(peak_memory())
        events, ranks = done.trace.events, done.setup.ranks
        del prepared, done
    return {
        "planning_s": planning,
        "simulation_s": simulating,
        "accounting_s": accounting,
        "seconds": [plan + run for plan, run in zip(planning, simulating, strict=True)],
        "events": events,
        "accelerators": ranks,
        "peak_bytes": peaks[0],
    }


def point(experiment: str, repetitions: str, *overrides: str) -> dict[str, Any]:
    """Predict one design after the other in a warm process, as a sweep does: whole times [s].

    They differ in the speed of their memory, so that no step is known from the one before.
    """
    key = "cluster.node.accelerator.memory.bandwidth"
    speeds = [f"{key}={2000 + 10 * number} GB/s" for number in range(int(repetitions) + 1)]
    designs = iter([load_experiment(experiment, (*overrides, speed)).experiment for speed in speeds])
    simulate(next(designs))
    return {"seconds": list(timed(lambda: simulate(next(designs)), int(repetitions)).values)}


def life(experiment: str, repetitions: str, *overrides: str) -> dict[str, Any]:
    """Live a whole training again and again, its step known: times [s], and what struck the job in each."""
    prepared = prepare_life(load_experiment(experiment, overrides).experiment)
    struck, times = [], []
    for seed in range(int(repetitions)):
        begin = time.perf_counter()
        struck.append(prepared.live(seed).failures)
        times.append(time.perf_counter() - begin)
    return {"seconds": times, "struck": struck}


def lives(experiment: str, number: str, jobs: str) -> dict[str, Any]:
    """Many lives in parallel, kept in a file: time with all that is before and after [s], peak memory [B]."""
    with TemporaryDirectory() as folder:
        loaded, begin = load_experiment(experiment).experiment, time.perf_counter()
        run_seeds(predict(loaded), loaded, Seeds(int(number), jobs=int(jobs)), Path(folder))
        return {"seconds": [time.perf_counter() - begin], "peak_bytes": peak_memory()}


def bounds(experiment: str, *overrides: str) -> dict[str, Any]:
    """Bound a step time: times [s], and how far the bounds are apart as a share of the lower one."""
    loaded = load_experiment(experiment, overrides).experiment
    found = step_bounds(loaded)
    times = timed(lambda: step_bounds(loaded), 3)
    return {"seconds": list(times.values), "width": found.upper_s / found.lower_s - 1}


def fleet(policy: str, number: str, nodes: str, repetitions: str) -> dict[str, Any]:
    """Live drawn jobs on nodes of 8 boards at a load of 0.9, packed: whole times [s], and peak memory [B]."""
    from sim.fleet.boards import NodeSort
    from sim.fleet.fleet import live_fleet
    from sim.fleet.inputs import FleetInputs
    from sim.fleet.jobs import JobRequest
    from sim.fleet.placements.catalogue import PLACEMENTS
    from sim.fleet.policies.catalogue import POLICIES
    from sim.rng import stream

    random, n = stream(1, "bench/fleet"), int(number)
    gpus = random.choice([1, 2, 4, 8, 16, 32], n, p=[0.49, 0.08, 0.15, 0.2, 0.06, 0.02])
    work = random.lognormal(7.5, 1.8, n)
    times = random.exponential(float((gpus * work).sum()) / (n * int(nodes) * 8 * 0.9), n).cumsum()
    drawn = zip(times.round().tolist(), work.round().clip(1).tolist(), gpus.tolist(), strict=True)
    jobs = [JobRequest(str(place), *each) for place, each in enumerate(drawn)]
    inputs = FleetInputs(jobs, (NodeSort("node", int(nodes), 8),), POLICIES[policy], PLACEMENTS["pack"])
    taken = timed(lambda: live_fleet(inputs), int(repetitions)).values
    return {"seconds": taken, "peak_bytes": peak_memory()}


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "step": step,
    "point": point,
    "life": life,
    "lives": lives,
    "bounds": bounds,
    "fleet": fleet,
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](*sys.argv[2:])))
