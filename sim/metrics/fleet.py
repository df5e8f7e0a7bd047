"""The life of a fleet as numbers.

Public: `FleetResult`, `FleetTable`, `FleetGroup`, `FleetBill`, `JobRow`, `fleet_result`, `job_rows`, `JOB_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, NamedTuple

from sim.fleet.inputs import FleetLife
from sim.fleet.jobs import FleetJob
from sim.fleet.tally import BOARD_STATES
from sim.units import ENERGY

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class JobRow(NamedTuple):
    """One job: times in s since the fleet began, None where it did not get there."""

    job: str
    user: str
    group: str
    queue: str
    model: str
    submit_s: float
    start_s: float | None
    end_s: float | None
    gpus: float
    work_s: float
    run_s: float
    load_s: float
    save_s: float
    lost_s: float
    queue_s: float | None
    jct_s: float | None
    preemptions: int
    failures: int
    state: str


JOB_COLUMNS = JobRow._fields


@dataclass(frozen=True)
class FleetGroup:
    """Jobs of one user, queue or size that ended: how many, and means [s]; board_s: what all of its jobs had."""

    jobs: int
    avg_jct_s: float
    avg_queue_s: float
    board_s: float
    cost_usd: float | None = None


@dataclass(frozen=True)
class FleetBill:
    """Energy at the meter of the site, its carbon, and money; None where nobody said the price or the grid."""

    energy_kwh: float
    boards_kwh: float  # what boards at work added, before cooling
    avg_power_w: float
    carbon_kg: float | None
    electricity_usd: float | None
    hardware_usd: float | None


@dataclass(frozen=True)
class FleetResult:
    """All that is reported of a fleet. Times in s, board_seconds by state; JCT: from submission to end."""

    name: str
    description: str
    policy: str
    placement: str
    seed: int
    nodes: int
    boards: int
    jobs: int
    finished: int
    unfinished: int
    refused: int
    avg_jct_s: float
    p50_jct_s: float
    p90_jct_s: float
    p99_jct_s: float
    avg_queue_s: float
    p50_queue_s: float
    p99_queue_s: float
    avg_wait_first_s: float
    makespan_s: float
    elapsed_s: float
    utilization: float
    occupancy: float
    stranded: float
    preemptions: int
    migrations: int
    job_failures: int
    faults: dict[str, int]
    late: int | None
    avg_unfairness: float
    max_unfairness: float
    board_seconds: dict[str, float]
    bill: FleetBill | None
    by_size: dict[str, FleetGroup]
    by_user: dict[str, FleetGroup]
    by_queue: dict[str, FleetGroup]
    series_step_s: float
    series: dict[str, list[float]]
    passes: int
    wall_s: float
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain data: `fleet` with everything."""
        return {"fleet": asdict(self)}


@dataclass(frozen=True)
class FleetTable:
    """A row for each combination and seed. keys: those that vary."""

    name: str
    keys: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, those that vary first."""
        return tuple(dict.fromkeys((*self.keys, "seed", *(name for row in self.rows for name in row))))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "keys": list(self.keys), "rows": list(self.rows)}


def job_rows(life: FleetLife) -> Iterator[JobRow]:
    """A row for each job, by time of submission."""
    for job in life.jobs:
        request, over = job.request, job.phase == "ended"
        yield JobRow(
            job=request.name,
            user=request.user,
            group=request.group,
            queue=request.queue,
            model=request.model,
            submit_s=request.submit,
            start_s=job.first_start if job.first_start >= 0 else None,
            end_s=job.end if over else None,
            gpus=request.gpus * request.share,
            work_s=request.work,
            run_s=job.run_s,
            load_s=job.load_s,
            save_s=job.save_s,
            lost_s=job.lost_s,
            queue_s=job.waited if over else None,
            jct_s=job.end - request.submit if over else None,
            preemptions=job.preemptions,
            failures=job.faults,
            state=job.phase,
        )


def fleet_result(
    life: FleetLife,
    told: Mapping[str, Any],
    bill: FleetBill | None,
    board_hour_usd: float | None,
    notes: Sequence[str],
    wall_s: float,
) -> FleetResult:
    """The result of a life; told: name, description, policy and placement as the file says them."""
    ended = [job for job in life.jobs if job.phase == "ended"]
    refused = sum(job.phase == "refused" for job in life.jobs)
    times = sorted(job.end - job.request.submit for job in ended)
    waits = sorted(max(0.0, job.waited) for job in ended)
    makespan = max((job.end for job in ended), default=0.0)
    boards = sum(sort.nodes * sort.boards for sort in life.inputs.sorts)
    seconds = board_seconds(life)
    elapsed, held = life.elapsed, sum(seconds[name] for name in ("productive", "lost", "loading", "saving"))
    span = boards * makespan
    living = sum(times) / (elapsed or 1.0)
    unfair = [_unfairness(job, boards / max(1.0, living)) for job in ended]
    late = [job for job in ended if job.request.deadline < inf]
    return FleetResult(
        **told,
        seed=life.seed,
        nodes=sum(sort.nodes for sort in life.inputs.sorts),
        boards=boards,
        jobs=len(life.jobs),
        finished=len(ended),
        unfinished=len(life.jobs) - len(ended) - refused,
        refused=refused,
        avg_jct_s=_mean(times),
        p50_jct_s=quantile(times, 0.5),
        p90_jct_s=quantile(times, 0.9),
        p99_jct_s=quantile(times, 0.99),
        avg_queue_s=_mean(waits),
        p50_queue_s=quantile(waits, 0.5),
        p99_queue_s=quantile(waits, 0.99),
        avg_wait_first_s=_mean([job.first_start - job.request.submit for job in ended]),
        makespan_s=makespan,
        elapsed_s=elapsed,
        utilization=seconds["productive"] / span if span else 0.0,
        occupancy=held / (boards * elapsed) if elapsed else 0.0,
        stranded=seconds["blocked"] / (boards * elapsed) if elapsed else 0.0,
        preemptions=sum(job.preemptions for job in life.jobs),
        migrations=life.migrations,
        job_failures=sum(job.faults for job in life.jobs),
        faults=life.faults,
        late=sum(job.end - job.request.submit > job.request.deadline for job in late) if late else None,
        avg_unfairness=_mean(unfair),
        max_unfairness=max(unfair, default=0.0),
        board_seconds=seconds,
        bill=bill,
        by_size=dict(_grouped(life.jobs, _size, board_hour_usd, sort=_size_order)),
        by_user=dict(_grouped(life.jobs, lambda job: job.request.user, board_hour_usd)),
        by_queue=dict(_grouped(life.jobs, lambda job: job.request.queue, board_hour_usd)),
        series_step_s=life.series.width,
        series=life.series.means(),
        passes=life.passes,
        wall_s=wall_s,
        notes=tuple(notes),
    )


def board_seconds(life: FleetLife) -> dict[str, float]:
    """Board-seconds by what became of them; they sum to boards times the elapsed time."""
    total = {name: life.tally.total(name) for name in BOARD_STATES}
    lost = sum(job.lost_s * job.boards for job in life.jobs)
    running = total.pop("running")
    return {"productive": running - lost, "lost": lost, **total}


def bill_of(life: FleetLife, electricity: float | None, hardware: Callable[[float], float] | None) -> FleetBill | None:
    """What the whole fleet took; electricity in USD/J, hardware: seconds to USD."""
    power = life.power
    if power is None:
        return None
    kwh = ENERGY.units["kWh"]
    return FleetBill(
        energy_kwh=power.joules / kwh,
        boards_kwh=power.busy_joules / kwh,
        avg_power_w=power.joules / life.elapsed if life.elapsed else 0.0,
        carbon_kg=power.kilograms if power.carbon is not None else None,
        electricity_usd=None if electricity is None else power.joules * electricity,
        hardware_usd=None if hardware is None else hardware(life.elapsed),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed: one of them, as the nearest rank says; 0 without any."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _unfairness(job: FleetJob, share: float) -> float:
    """Finish-time fairness (Themis): life over that on `share` boards, an equal part among those at a mean moment."""
    alone = job.request.work * max(1.0, job.request.gpus / share)
    return (job.end - job.request.submit) / alone if alone else 1.0


def _size(job: FleetJob) -> str:
    gpus = job.request.gpus * job.request.share
    if gpus < 1:
        return "below 1"
    largest = max(size for size in SIZES if size <= gpus)
    return str(largest) if gpus == largest else f"above {largest}"


def _size_order(name: str) -> float:
    return 0.0 if name == "below 1" else float(name.removeprefix("above ")) + 0.5 * name.startswith("above")


def _grouped(
    jobs: Sequence[FleetJob],
    name_of: Callable[[FleetJob], str],
    board_hour_usd: float | None,
    sort: Callable[[str], Any] = str,
) -> Iterator[tuple[str, FleetGroup]]:
    found: dict[str, list[FleetJob]] = {}
    for job in jobs:
        found.setdefault(name_of(job), []).append(job)
    if set(found) == {""}:
        return
    for name in sorted(found, key=sort):
        ended = [job for job in found[name] if job.phase == "ended"]
        held = sum((job.run_s + job.load_s + job.save_s) * job.boards for job in found[name])
        yield (
            name or "(none)",
            FleetGroup(
                len(found[name]),
                _mean([job.end - job.request.submit for job in ended]),
                _mean([max(0.0, job.waited) for job in ended]),
                held,
                None if board_hour_usd is None else held / 3600 * board_hour_usd,
            ),
        )
