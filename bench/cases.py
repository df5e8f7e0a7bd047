"""What is measured, and the budget of each measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import simpy

from bench.explorer import first_page, slider
from bench.measure import Sample, command, in_child, points_in, seconds, timed

CALLBACKS = 200_000
GROWTH = (1_024, 16_384, 131_072)  # accelerators, with the same work per replica
GROWN = "llama3-405b-h100"
PLANNING_S = 0.5  # of the largest
EVENTFUL = "korthikanti-1t-full"  # 64 stages, 512 microbatches
EVENT_SHARE = 0.25  # of bare callbacks: what the work of an event leaves
LARGE_NODES = "gb200-nvl72"  # a cluster of nodes with 72 accelerators
LIVED = "llama3-405b-54-days"
SEEDS = (100, 1_000)
SWEPT = "gpt3-175b-a100"
SWEEPS = {"plan": "parallel plans", "cluster": "clusters", "run": "ways to run it"}  # bench/sweeps/NAME.yaml
POINTS_PER_S = 200.0
SWEPT_TIMES = 3
TWO_PROCESSES = ("-j", "2")
MANY = ("--set", "axes.0.log_range.count=50")  # failure rates: 10,000 points
DASK_SHARE = 0.9
ANEW = "simulation.reuse=off"  # every planning is a first one
POINTS = {"known placement": ((), 10.0), "new placement": ((ANEW,), 20.0)}  # settings, milliseconds
SLOW_PARTS = {
    "one slow GPU": "degradations=[{accelerator: node7/gpu3, factor: 0.8}]",
    "one slow cable": "degradations=[{link: node7/nic3<->unit0/leaf3, factor: 0.5}]",
}
HASHED = "cluster.routing={kind: ecmp}"
UNEQUAL = (  # name, change, accelerators, seconds
    ("hashing", HASHED, 1_024, 1.5),
    ("hashing", HASHED, 2_048, 12.0),
    ("nodes shuffled", "parallelism.placement=random_nodes", 8_192, 5.0),
)
REPLICA = 128  # accelerators of one replica of GROWN
REPLICA_BATCH = 16  # sequences per step of one replica of GROWN


@dataclass(frozen=True)
class Row:
    """One line of the table: least and median in `unit`, and what they should stay under (or over)."""

    name: str
    least: float
    median: float
    unit: str
    budget: float | None = None
    over: bool = False  # the budget is a floor
    ratio: str = ""  # against the line it is compared with

    @property
    def kept(self) -> bool | None:
        """Whether the budget is kept, judged on the least disturbed repetition."""
        if self.budget is None:
            return None
        return self.least >= self.budget if self.over else self.least <= self.budget


def time_row(name: str, sample: Sample, budget: float | None = None, ratio: str = "") -> Row:
    """A line of seconds."""
    return Row(name, sample.least, sample.median, "s", budget, ratio=ratio)


def rate_row(name: str, sample: Sample, budget: float | None = None, ratio: str = "") -> Row:
    """A line of thousand events per second, best repetition first."""
    return Row(name, sample.most / 1e3, sample.median / 1e3, "k/s", budget and budget / 1e3, over=True, ratio=ratio)


def bare_simpy() -> None:
    """The least a SimPy program can do: one timeout and one callback after another."""
    environment = simpy.Environment()
    left = CALLBACKS

    def again(_: object) -> None:
        nonlocal left
        left -= 1
        if left:
            environment.timeout(1).callbacks.append(again)

    environment.timeout(1).callbacks.append(again)
    environment.run()


def event_rates() -> Iterator[Row]:
    """Callbacks of bare SimPy, and events of a step of which no period is skipped."""
    bare = Sample(tuple(CALLBACKS / value for value in timed(bare_simpy, 5).values))
    yield rate_row("bare SimPy callbacks", bare)
    run = in_child("step", EVENTFUL, "3", "simulation.skip=off")
    engine = Sample(tuple(run["events"] / value for value in run["simulation_s"]))
    share = f"x{engine.most / bare.most:.2f} of bare SimPy"
    yield rate_row("engine events", engine, EVENT_SHARE * bare.most, share)


def growth() -> Iterator[Row]:
    """Time and memory of one step from 1,024 to 131,072 accelerators."""
    runs = [_grown(accelerators) for accelerators in GROWTH]
    first, last = runs[0], runs[-1]
    slower = min(last["simulation_s"]) / min(first["simulation_s"])
    for run in runs:
        limit = 0.1 if run["accelerators"] == GROWTH[1] else None
        ratio = f"x{slower:.2f} of the first (budget x1.5)" if run is last else ""
        name = f"step, {run['accelerators']:,} accelerators"
        yield time_row(f"{name}: planning", Sample(tuple(run["planning_s"])), PLANNING_S if run is last else None)
        yield time_row(f"{name}: simulation", Sample(tuple(run["simulation_s"])), limit, ratio)
        accounting, simulation = Sample(tuple(run["accounting_s"])), min(run["simulation_s"])
        share = f"x{accounting.least / simulation:.2f} of the simulation (budget x0.1)"
        yield time_row(f"{name}: energy and cost", accounting, 0.1 * simulation, share)
    for run in runs:
        ratio = f"x{run['peak_bytes'] / first['peak_bytes']:.2f} of the first (budget x2)" if run is last else ""
        peak = run["peak_bytes"] / 1e6
        yield Row(f"peak memory, {run['accelerators']:,} accelerators", peak, peak, "MB", ratio=ratio)


def _grown(accelerators: int, *changes: str) -> Any:
    replicas = accelerators // REPLICA
    settings = ("cluster=dgx-h100-superpod", f"nodes={accelerators // 8}", f"parallelism.data={replicas}", ANEW)
    return in_child("step", GROWN, "5", *settings, *changes, f"training.global_batch={replicas * REPLICA_BATCH}")


def unfriendly() -> Iterator[Row]:
    """Shapes in which replicas are not alike, against the friendly one in the same run."""
    friendly = _ragged(1_024)
    yield time_row("175B on 1,024, friendly shape", Sample(tuple(friendly["seconds"])))
    for accelerators, times in ((8_192, 3.0), (131_072, 10.0)):
        run, least = _ragged(accelerators), min(friendly["seconds"])
        ratio = f"x{min(run['seconds']) / least:.1f} of the friendly one, {run['peak_bytes'] / 1e6:.0f} MB"
        yield time_row(f"175B on {accelerators:,}, ragged units", Sample(tuple(run["seconds"])), times * least, ratio)
        simulation, base = Sample(tuple(run["simulation_s"])), min(friendly["simulation_s"])
        yield time_row(f"175B on {accelerators:,}, without planning", simulation, 3 * base)
    for name, change in SLOW_PARTS.items():
        run = _grown(GROWTH[1], change)
        yield time_row(f"405B on 16,384, {name}", Sample(tuple(run["seconds"])), 0.5)
    for name, change, accelerators, limit in UNEQUAL:
        run = _ragged(accelerators, change, repetitions=1)
        memory = f"{run['peak_bytes'] / 1e6:.0f} MB"
        yield time_row(f"175B on {accelerators:,}, {name}", Sample(tuple(run["seconds"])), limit, memory)
    bounded = in_child("bounds", SWEPT, *_ragged_changes(8_192), HASHED)
    width = f"{bounded['width']:.2%} apart"
    yield time_row("175B on 8,192, hashing: bounds", Sample(tuple(bounded["seconds"])), 1.0, width)


def _ragged(accelerators: int, *changes: str, repetitions: int = 3) -> Any:
    return in_child("step", SWEPT, str(repetitions), *_ragged_changes(accelerators), *changes, ANEW)


def _ragged_changes(accelerators: int) -> tuple[str, ...]:
    nodes = accelerators // 8
    return f"nodes={nodes}", f"training.global_batch={12 * nodes}", "parallelism.data=null"


def all_reduce() -> Iterator[Row]:
    """A step that is little else than one all-reduce over 4,096 accelerators, for which ASTRA-sim takes 116 s."""
    settings = ("cluster=dgx-h100-superpod", "nodes=512", "workload.layers=1", "parallelism={data: 4096}", ANEW)
    run = in_child("step", "quickstart", "5", *settings, "training.global_batch=4096")
    yield time_row("all-reduce over 4,096 accelerators", Sample(tuple(run["seconds"])), 0.1)


def points() -> Iterator[Row]:
    """Designs of a sweep: 200 a second on two cores where the placement is that of the one before, else 100."""
    for what, (settings, limit) in POINTS.items():
        run = in_child("point", SWEPT, "30", *settings)
        taken = Sample(tuple(1e3 * value for value in run["seconds"]))
        ratio = f"{1e3 / taken.least:.0f} points/s and core"
        yield Row(f"point, {SWEPT}, {what}", taken.least, taken.median, "ms", limit, ratio=ratio)


def sweeps() -> Iterator[Row]:
    """About 1,000 designs of GPT-3 175B by the command, from its start to its end, on two processes."""
    for name, what in SWEEPS.items():
        rates = Sample(tuple(sweep_rate(name, *TWO_PROCESSES) for _ in range(SWEPT_TIMES)))
        yield Row(f"sweep, {what} of {SWEPT}", rates.most, rates.median, "p/s", POINTS_PER_S, over=True)


def sweep_rate(name: str, *arguments: str) -> float:
    """Points a second of one sweep by the command, from its start to its end."""
    with TemporaryDirectory() as folder:
        taken = seconds(command("sweep", f"bench/sweeps/{name}.yaml", "-o", folder, *arguments))
        return points_in(Path(folder)) / taken


def sweeps_on_dask() -> Iterator[Row]:
    """10,000 points of some 5 ms on two workers of Dask, who must import the program or not, against two processes."""
    if find_spec("distributed") is None:
        return
    distributed: Any = import_module("distributed")
    local, cold, warm = [], [], []
    for _ in range(SWEPT_TIMES):
        local.append(sweep_rate("run", *MANY, *TWO_PROCESSES))
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            arguments = (*MANY, "--on", "dask", "--scheduler", cluster.scheduler_address)
            cold.append(sweep_rate("run", *arguments))
            warm.append(sweep_rate("run", *arguments))
    for workers, rates in (("cold", Sample(tuple(cold))), ("warm", Sample(tuple(warm)))):
        least = DASK_SHARE * max(local)
        share = f"x{rates.most / max(local):.2f} of two processes"
        yield Row(f"sweep on Dask, two {workers} workers", rates.most, rates.median, "p/s", least, True, share)


def long_runs() -> Iterator[Row]:
    """54 days of 16,384 accelerators with all their interruptions, once and under many seeds."""
    once = in_child("life", LIVED, "7")
    struck = f"{sum(once['struck']) / len(once['struck']):.0f} interruptions, planned ones too"
    yield time_row("54 days on 16,384 accelerators", Sample(tuple(once["seconds"])), 1.0, struck)
    few, many = (in_child("lives", LIVED, str(number), "2") for number in SEEDS)
    yield time_row(f"{SEEDS[1]:,} seeds of them, two processes", Sample(tuple(many["seconds"])), 60.0)
    for number, run in zip(SEEDS, (few, many), strict=True):
        peak = run["peak_bytes"] / 1e6
        ratio = f"x{run['peak_bytes'] / few['peak_bytes']:.2f} of the first" if run is many else ""
        yield Row(f"peak memory, {number:,} seeds", peak, peak, "MB", ratio=ratio)


def fleets() -> Iterator[Row]:
    """Jobs on a cluster in a process of its own: as many as the largest Philly log that is compared, and very many."""
    for policy in ("fifo", "srtf"):
        few = in_child("fleet", policy, "1874", "12", "3")
        yield time_row(f"fleet, 1,874 jobs on 12 nodes, {policy}, packed", Sample(tuple(few["seconds"])), 0.5)
    for policy in ("fifo", "srtf", "dlas_gputime"):
        many = in_child("fleet", policy, "100000", "128", "1")
        memory = f"{many['peak_bytes'] / 1e6:,.0f} MB"
        yield time_row(f"fleet, 100,000 jobs, {policy}, packed", Sample(tuple(many["seconds"])), 60.0, memory)


def cold_starts() -> Iterator[Row]:
    """Whole processes, as a person waits for them."""
    yield time_row("cold clustersim --help", timed(command("--help"), 7), 0.3)
    yield time_row(f"cold process to report, {SWEPT}", timed(command("run", SWEPT), 5), 1.0)
    yield time_row(f"cold process to report, {GROWN}", timed(command("run", GROWN), 5), 3.0)
    yield time_row(f"cold check of {LARGE_NODES}", timed(command("check", LARGE_NODES), 5), 0.5)


def explored() -> Iterator[Row]:
    """The explorer: what a visitor waits for."""
    yield time_row("explore, first page after start", first_page(3), 1.0)
    yield time_row("explore, a slider of gpt3-175b-a100", slider(), 0.3)
