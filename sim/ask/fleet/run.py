"""One fleet: from its file to a result, and what is written of it.

Public: `prepare_fleet`, `run_fleet`, `PreparedFleet`, `LivedFleet`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from sim.ask.fleet.load import LoadedFleet, LoadedPart
from sim.ask.fleet.pacing import StepPacing
from sim.ask.fleet.speeds import read_speeds
from sim.ask.run.preemption import with_preemption
from sim.ask.run.step import Watch
from sim.cluster.build import build_cluster
from sim.fleet.fleet import fleet_ahead
from sim.fleet.inputs import FaultKind, FleetFaults, FleetInputs, FleetLife, Moving, Sleep
from sim.fleet.jobs import JobRequest
from sim.fleet.placements.catalogue import PLACEMENTS
from sim.fleet.tally import NodeDraw
from sim.inputs.board import STREAMING_SHARE
from sim.inputs.carbon import Grid, grid_of
from sim.inputs.fault_log import read_fault_log
from sim.inputs.fleet import BareCluster
from sim.inputs.records import ClusterSpec
from sim.inputs.reliability import FailureMode, Failures
from sim.metrics.cost import hardware_cost
from sim.metrics.energy_plant import Plant, efficiency
from sim.metrics.fleet import FleetResult, bill_of, fleet_result

STOPPING = ("stop", "corrupt")
HOUR = 3600.0


@dataclass(frozen=True)
class PreparedFleet:
    """A fleet ready to live, under any seed."""

    loaded: LoadedFleet
    inputs: FleetInputs
    pacing: StepPacing | None
    notes: tuple[str, ...]

    def lived(self, seed: int, watch: Watch | None = None) -> LivedFleet:
        """Its life and what is reported of it."""
        began = time.perf_counter()
        live, progress = fleet_ahead(self.inputs, seed)
        with watch(progress) if watch else nullcontext():
            life = live()
        return LivedFleet(life, self._result(life, time.perf_counter() - began))

    def _result(self, life: FleetLife, wall_s: float) -> FleetResult:
        spec, prices, site = self.loaded.spec, self.loaded.prices, self.loaded.site
        boards = sum(part.nodes * part.boards for part in self.loaded.parts)
        size = sum(part.nodes for part in self.loaded.parts), boards

        def hardware(seconds: float) -> float:
            assert prices is not None
            return sum(hardware_cost(prices, seconds, size).values())

        owned = prices is None or prices.pay == "purchase"
        electricity = site.electricity if site and owned else None
        told = {
            "name": spec.name, "description": spec.description, "policy": spec.scheduler.policy,
            "placement": spec.scheduler.placement,
        }  # fmt: skip
        hour = hardware(HOUR) / boards if prices else None
        doubts = (*self.pacing.remarks(), *sorted(self.pacing.doubts)) if self.pacing else ()
        bill = bill_of(life, electricity, hardware if prices else None)
        return fleet_result(life, told, bill, hour, (*self.notes, *doubts, *_endings(life)), wall_s)


@dataclass(frozen=True)
class LivedFleet:
    """A life and its numbers."""

    life: FleetLife
    result: FleetResult


def prepare_fleet(loaded: LoadedFleet, keep_events: bool = False) -> PreparedFleet:
    """Everything but the passing of time. Raises ConfigError for files that cannot be read."""
    spec, parts = loaded.spec, loaded.parts
    notes = list(loaded.notes)
    draws, power_notes = _draws(loaded)
    grid = grid_of(loaded.site) if loaded.site else None
    faults, fault_notes = _faults(loaded)
    table = read_speeds(loaded.speeds) if loaded.speeds else None
    pacing = StepPacing(loaded, table) if table or loaded.trainings or _is_elastic(loaded) else None
    notes += [*power_notes, *fault_notes, *_notes(loaded, table is not None)]
    moving = Moving(_seconds(spec.preemption.save), _seconds(spec.preemption.load), _interval(loaded))
    options = dict(spec.scheduler)
    inputs = FleetInputs(
        jobs=[_with_costs(_held_back(job, loaded, grid), loaded, draws) for job in loaded.jobs],
        sorts=tuple(part.sort for part in parts),
        policy=lambda: loaded.policy(options),
        placement=PLACEMENTS[spec.scheduler.placement],
        units=loaded.units,
        moving=moving,
        pacing=pacing,
        faults=faults,
        sleep=Sleep(spec.sleep_after or inf, spec.wake),
        draws=draws,
        overhead=_overhead(loaded) if draws else float,
        carbon=grid.mean if grid else None,
        power_cap=spec.power_cap or inf,
        until=spec.time_limit or inf,
        reserved=spec.scheduler.reserve,
        migrate=spec.scheduler.migrate,
        keep_events=keep_events,
    )
    return PreparedFleet(loaded, inputs, pacing, tuple(notes))


def run_fleet(loaded: LoadedFleet, watch: Watch | None = None, keep_events: bool = False) -> LivedFleet:
    """The life of a fleet under its own seed."""
    return prepare_fleet(loaded, keep_events).lived(loaded.spec.seed, watch)


def _seconds(value: float | str) -> float:
    return value if isinstance(value, float | int) else 0.0


def _interval(loaded: LoadedFleet) -> float:
    """Time between saves; without one nothing is lost."""
    return loaded.spec.preemption.interval or 0.0


def _with_costs(job: JobRequest, loaded: LoadedFleet, draws: tuple[NodeDraw, ...]) -> JobRequest:
    """A job that is an experiment with what its moves cost and its boards draw."""
    training = loaded.trainings.get(job.name)
    if training is None:
        return job
    preemption, saves = loaded.spec.preemption, training.saves
    part = next(part for part in loaded.parts if part.kind == training.kinds[0])
    watts = None
    if draws and part.board:
        draw = draws[loaded.parts.index(part)]
        watts = draw.board + training.watts - STREAMING_SHARE * part.board.power.tdp
    return replace(
        job,
        save=saves[0] if saves and preemption.save == "simulated" else None,
        load=saves[1] if saves and preemption.load == "simulated" else None,
        watts=watts,
    )


def _held_back(job: JobRequest, loaded: LoadedFleet, grid: Grid | None) -> JobRequest:
    """A job that may wait, with the hour of least carbon for its run time as its release."""
    aware = loaded.spec.scheduler.carbon
    if aware is None or grid is None or job.priority >= aware.priority_below:
        return job
    now = job.submit
    if aware.cleaner_than is not None and grid.mean(now, now) <= aware.cleaner_than:
        return job
    hours = int(aware.patience // HOUR)
    starts = [now, *((now // HOUR + 1 + number) * HOUR for number in range(hours))]
    best = min(
        (start for start in starts if start <= now + aware.patience), key=lambda at: grid.mean(at, at + job.work)
    )
    return replace(job, release=best)


# --- power ------------------------------------------------------------------------------------


def _draws(loaded: LoadedFleet) -> tuple[tuple[NodeDraw, ...], tuple[str, ...]]:
    """Power of the nodes of each part, and what was assumed; none where nothing is known."""
    power = loaded.spec.power
    if power is not None:
        draws = [NodeDraw(power.busy - power.idle, power.idle * part.boards, 0.0) for part in loaded.parts]
        return tuple(draws), ()
    if any(part.board is None for part in loaded.parts):
        return (), ()
    if all(job.name in loaded.trainings for job in loaded.jobs):
        return tuple(_draw(part) for part in loaded.parts), ()
    note = f"boards of logged jobs draw {STREAMING_SHARE:.0%} of their limit while they run, nodes that sleep nothing"
    return tuple(_draw(part) for part in loaded.parts), (note,)


def _draw(part: LoadedPart) -> NodeDraw:
    """Boards at work at a share of their limit; what a node draws more with a job, by its busy boards."""
    node, board = part.profile, part.board
    assert node is not None
    assert board is not None
    parts = [getattr(node.power, name) for name in ("host", "memory", "nics", "switches", "fans")]
    idle = sum(each.idle for each in parts) + part.boards * board.power.idle
    more = (sum(each.busy - each.idle for each in parts)) / part.boards
    work = STREAMING_SHARE * board.power.tdp - board.power.idle + more
    supply = node.power.supply
    full = efficiency(supply, idle + part.boards * work)
    return NodeDraw(work / full, idle / efficiency(supply, idle), 0.0)


def _overhead(loaded: LoadedFleet) -> Callable[[float], float]:
    """Power of the site by that of the nodes: network, storage, cooling."""
    plants = [(part, Plant(build_cluster(_wired(part.cluster)), loaded.site)) for part in _profiled(loaded)]
    fixed = sum(plant.network + plant.storage * part.nodes / plant.cluster.n_nodes for part, plant in plants)
    whole = sum(
        (plant.rated - plant.network) * part.nodes / plant.cluster.n_nodes + plant.network for part, plant in plants
    )
    site, rated = loaded.site, whole
    pue = site.pue - 1 if site else 0.0
    still = site.fixed_overhead if site and rated else 0.0

    def total(watts: float) -> float:
        drawn = watts + fixed
        return drawn + pue * ((1 - still) * drawn + still * rated)

    return total


def _profiled(loaded: LoadedFleet) -> list[LoadedPart]:
    return [part for part in loaded.parts if isinstance(part.cluster, ClusterSpec)]


def _wired(cluster: ClusterSpec | BareCluster) -> ClusterSpec:
    """A cluster that can be built: one node of it where nothing is said of a network between them."""
    assert isinstance(cluster, ClusterSpec)
    return cluster if cluster.fabric else cluster.model_copy(update={"nodes": 1})


# --- failures ---------------------------------------------------------------------------------


def _faults(loaded: LoadedFleet) -> tuple[FleetFaults | None, tuple[str, ...]]:
    """What fails, and what of it is left out."""
    failures, prices = loaded.failures, loaded.prices
    if prices is not None:
        spot = with_preemption(failures or Failures.from_si({"name": "none"}), prices)
        failures = spot if spot.modes or failures else None
    if failures is None:
        return None, ()
    nodes = tuple(tuple(_kinds(failures, part)) for part in loaded.parts)
    jobs = sum(1 / mode.mtbf for mode in failures.modes if mode.component == "job" and mode.effect in STOPPING)
    log = failures.log
    outages = read_fault_log(log) if log else ()
    return FleetFaults(nodes, jobs, outages, loaded.spec.repair_crew), tuple(_left_out(failures))


def _kinds(failures: Failures, part: LoadedPart) -> Iterator[FaultKind]:
    for mode in failures.modes:
        per_node = _parts_in_node(mode, part)
        if mode.effect in STOPPING and per_node:
            yield FaultKind(mode.cause, per_node / mode.mtbf, mode.repair)


def _parts_in_node(mode: FailureMode, part: LoadedPart) -> float:
    """How many of the parts that a mode strikes a node has."""
    nics = part.profile.nics.count if part.profile else 1
    return {"accelerator": part.boards, "nic": nics, "cable": nics, "node": 1}.get(mode.component, 0)


def _left_out(failures: Failures) -> Iterator[str]:
    others = sorted(
        {mode.cause for mode in failures.modes if mode.effect not in STOPPING or mode.component == "switch"}
    )
    if others:
        yield f"failures that do not stop single nodes are left out: {', '.join(others)}"
    if failures.frailty or any(mode.batch or mode.law != "exponential" for mode in failures.modes):
        yield "failures come at their mean rate, independent of one another: lemons, batches and ageing are left out"
    if failures.starts:
        yield "failures right after a start are left out"


# --- notes ------------------------------------------------------------------------------------


def _is_elastic(loaded: LoadedFleet) -> bool:
    return any(job.least or job.most for job in loaded.jobs)


def _notes(loaded: LoadedFleet, table: bool) -> Iterator[str]:
    """What was taken for granted."""
    spec = loaded.spec
    logged = [job for job in loaded.jobs if job.name not in loaded.trainings]
    if logged and not table:
        yield "jobs that give their duration run as long wherever they are, and are not slowed by others"
    if _is_elastic(loaded) and not table:
        yield "no table of speeds is given: elastic jobs grow as fast as their boards"
    if any(job.cores for job in loaded.jobs) and any(part.sort.cores == inf for part in loaded.parts):
        yield "host cores that jobs ask for do not count where node.cores is not given"
    if loaded.failures and spec.preemption.interval is None:
        yield "no preemption.interval is given: jobs that fail lose no work"
    unsaved = [name for name, training in loaded.trainings.items() if training.saves is None]
    if unsaved and "simulated" in (spec.preemption.save, spec.preemption.load):
        yield f"saves of {unsaved[0]} are not simulated: it needs checkpoint and cluster.storage; they take no time"
    if logged and "simulated" in (spec.preemption.save, spec.preemption.load):
        yield "jobs that give their duration save and load in no time"
    if spec.scheduler.migrate:
        yield "a job that is moved holds its new boards from the start, while it saves and loads"


def _endings(life: FleetLife) -> Iterator[str]:
    refused = [job.request.name for job in life.jobs if job.phase == "refused"]
    left = [job.request.name for job in life.jobs if job.phase not in ("ended", "refused")]
    if refused:
        yield f"jobs that find no place even in the empty fleet: {len(refused)}, such as {refused[0]}"
    if left:
        why = "at the time limit" if life.elapsed >= life.inputs.until else "though nothing more happens"
        yield f"jobs that had not ended {why}: {len(left)}, such as {left[0]}"


def as_row(result: FleetResult) -> dict[str, Any]:
    """The numbers of a result that a table of many holds."""
    row = {
        name: value for name, value in vars(result).items()
        if isinstance(value, int | float | str) or value is None
    }  # fmt: skip
    bill = vars(result.bill) if result.bill else {}
    return {key: value for key, value in (row | bill).items() if key not in ("description", "wall_s", "passes")}
