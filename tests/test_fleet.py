"""Fleets: gangs are whole, no board is given twice, no job is lost, every board-second is accounted for.

And the answers of real logs, to the second, where the logs are at hand.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.fleet.boards import Boards, NodeSort, unit_masks
from sim.fleet.fleet import ROOMY, Fleet, live_fleet
from sim.fleet.inputs import FaultKind, FleetFaults, FleetInputs, FleetLife, Moving, Sleep
from sim.fleet.jobs import FleetJob, JobRequest, Places
from sim.fleet.placements.catalogue import PLACEMENTS
from sim.fleet.placements.placement import typical_jobs
from sim.fleet.policies.catalogue import POLICIES
from sim.fleet.tally import BOARD_STATES, NodeDraw
from sim.inputs.reliability import Delay
from sim.metrics.fleet import board_seconds, quantile
from sim.rng import stream

TRACES = Path(os.environ.get("CLUSTERSIM_JOB_TRACES", "no such folder"))  # of four Philly clusters, and their answers
REPAIR = Delay.from_si({"kind": "exponential", "mean": 50.0})


def fleet_of(
    jobs: Sequence[JobRequest], policy: str, placement: str = "count", nodes: int = 4, **more: object
) -> FleetInputs:
    sorts = more.pop("sorts", (NodeSort("n", nodes, 8),))
    inputs = FleetInputs(jobs, sorts, POLICIES[policy], PLACEMENTS[placement])  # type: ignore[arg-type]
    return replace(inputs, **more)  # type: ignore[arg-type]


# --- invariants -------------------------------------------------------------------------------


@st.composite
def job_lists(draw: st.DrawFn, sizes: Sequence[int] = (1, 2, 3, 4, 8, 12, 16)) -> list[JobRequest]:
    """Jobs by time of submission, several at some instants."""
    times = sorted(draw(st.lists(st.integers(0, 300), min_size=1, max_size=25)))
    return [
        JobRequest(
            name=str(number),
            submit=float(time),
            work=float(draw(st.integers(1, 200))),
            gpus=draw(st.sampled_from(sizes)),
            user=draw(st.sampled_from("ab")),
            queue=draw(st.sampled_from("xy")),
            priority=float(draw(st.integers(0, 2))),
            deadline=draw(st.sampled_from([50.0, 500.0, inf])),
        )
        for number, time in enumerate(times)
    ]


@settings(deadline=None, max_examples=60)
@given(
    jobs=job_lists(),
    policy=st.sampled_from(sorted(POLICIES)),
    placement=st.sampled_from(sorted(PLACEMENTS)),
    moving=st.sampled_from([Moving(), Moving(save=7.0, load=5.0), Moving(load=3.0, interval=20.0)]),
    broken=st.booleans(),
    sleeps=st.booleans(),
    parts=st.booleans(),
    migrate=st.booleans(),
)
def test_nothing_is_lost_and_nothing_is_given_twice(
    jobs: list[JobRequest],
    policy: str,
    placement: str,
    moving: Moving,
    broken: bool,
    sleeps: bool,
    parts: bool,
    migrate: bool,
) -> None:
    sorts = (NodeSort("n", 2, 8), NodeSort("m", 2, 8, speed=0.5)) if parts else (NodeSort("n", 4, 8),)
    kinds = (FaultKind("board", 1e-3, REPAIR), FaultKind("software", 5e-4, None))
    inputs = fleet_of(
        jobs,
        policy,
        placement,
        sorts=sorts,
        units=(unit_masks(2, 0, 4),),
        moving=moving,
        faults=FleetFaults(tuple(kinds for _ in sorts), 1e-4, (), 1) if broken else None,
        sleep=Sleep(30.0, 4.0) if sleeps else Sleep(),
        draws=tuple(NodeDraw(300.0, 500.0, 10.0) for _ in sorts),
        carbon=lambda start, end: 2e-7,
        migrate=migrate,
        keep_events=True,
    )
    life = live_fleet(inputs, seed=3)
    check_life(life)


def check_life(life: FleetLife) -> None:
    """All that holds whatever happens."""
    jobs, sorts = life.jobs, life.inputs.sorts
    boards = sum(sort.nodes * sort.boards for sort in sorts)
    assert all(job.phase == "ended" for job in jobs)
    check_boards(life)
    seconds = board_seconds(life)
    assert sum(seconds.values()) == pytest.approx(boards * life.elapsed, rel=1e-9, abs=1e-6)
    assert min(seconds.values()) >= -1e-6
    held = sum((job.run_s + job.load_s + job.save_s) * job.request.gpus for job in jobs)
    if not any(job.request.most for job in jobs):
        parts = sum(seconds[name] for name in ("productive", "lost", "loading", "saving"))
        assert parts == pytest.approx(held, rel=1e-9, abs=1e-6)
    for job in jobs:
        assert job.waited >= -1e-6
        if len(sorts) == 1:  # at speed 1, what ran is what was asked for and what was lost
            assert job.run_s == pytest.approx(job.request.work + job.lost_s, rel=1e-9, abs=1e-6)
    means = life.series.means()
    assert sum(means["busy"]) * life.series.width >= seconds["productive"] * (1 - 1e-9)
    if life.power is not None:
        check_energy(life)


def check_boards(life: FleetLife) -> None:
    """From the events: a job has all its boards or none, and no node more than there are."""
    used: Counter[int] = Counter()
    having: dict[str, tuple[int, ...]] = {}
    size = life.inputs.sorts[0].boards
    gpus = {job.request.name: job.request.gpus for job in life.jobs}
    for event in life.events:
        if event.what == "start":
            assert event.job not in having
            assert event.boards == gpus[event.job]
            assert len(set(event.nodes)) == len(event.nodes)
            assert len(event.nodes) * size >= gpus[event.job]
            having[event.job] = event.nodes
            used.update(event.nodes)
        elif event.what in ("end", "fail", "stop", "move"):
            assert all(used[node] for node in having.pop(event.job, ()))
    assert life.tally.counts == [
        [0.0] * BOARD_STATES.index("idle") + [row[4], row[5], row[6]] for row in life.tally.counts
    ]


def check_energy(life: FleetLife) -> None:
    """Energy is what the states of boards draw, and carbon follows it."""
    assert life.power is not None
    joules = 0.0
    states = dict(zip(BOARD_STATES, range(len(BOARD_STATES)), strict=True))
    for sort, draw, row in zip(life.inputs.sorts, life.inputs.draws, life.tally.seconds, strict=True):
        off, down = row[states["off"]] / sort.boards, row[states["down"]] / sort.boards
        joules += (sort.nodes * life.elapsed - off - down) * draw.idle + off * draw.asleep
        joules += sum(row[states[name]] for name in ("running", "loading", "saving")) * draw.board
    assert life.power.joules == pytest.approx(joules, rel=1e-9, abs=1e-6)
    assert life.power.kilograms == pytest.approx(2e-7 * joules, rel=1e-9, abs=1e-9)


def test_boards_given_and_taken_back_are_as_before() -> None:
    boards = Boards((NodeSort("n", 3, 4, memory=16.0),))
    half = JobRequest("h", 0, 1, share=0.5, memory=4.0)
    first = boards.part_of_board(half, boards.up)
    assert first is not None
    boards.take(half, first)
    assert boards.total == 11
    second = boards.part_of_board(half, boards.up)
    assert second == first  # the same board has room for both halves
    boards.take(half, second)
    third = boards.part_of_board(half, boards.up)
    assert third is not None
    assert third != first
    too_much = replace(half, memory=17.0)
    assert boards.part_of_board(too_much, boards.up) is None
    boards.give(half, first)
    boards.give(half, second)
    assert (boards.total, boards.opened, boards.free) == (12, {}, [4, 4, 4])


# --- a slow twin ------------------------------------------------------------------------------


def those_that_fit(jobs: Sequence[JobRequest], line: Sequence[int], room: int) -> list[int]:
    found = []
    for number in line:
        if jobs[number].gpus <= room:
            room -= jobs[number].gpus
            found.append(number)
    return found


def twin(jobs: Sequence[JobRequest], policy: str, boards: int) -> list[float]:
    """End of each job on so many boards, second by second, as the definitions say it."""
    left = [job.work for job in jobs]
    ends, running, waiting, line = [0.0] * len(jobs), list[int](), list[int](), list[int]()
    time, coming = 0.0, list(range(len(jobs)))
    while coming or waiting or running:
        for number in [number for number in running if left[number] == 0]:
            running.remove(number)
            line.remove(number)
            ends[number] = time
        while coming and jobs[coming[0]].submit <= time:
            waiting.append(coming[0])
            line.append(coming.pop(0))
        if policy == "srtf":
            line.sort(key=lambda number: left[number])
            running = those_that_fit(jobs, line, boards)
            waiting = [number for number in line if number not in running]
        else:
            free = boards - sum(jobs[number].gpus for number in running)
            order = sorted(waiting, key=lambda number: (jobs[number].work if policy == "sjf" else 0, number))
            for number in order:
                if jobs[number].gpus <= free:
                    free -= jobs[number].gpus
                    running.append(number)
                    waiting.remove(number)
                elif policy != "first_fit":
                    break
        for number in running:
            left[number] -= 1
        time += 1
    return ends


@settings(deadline=None, max_examples=40)
@given(jobs=job_lists(), policy=st.sampled_from(["fifo", "first_fit", "sjf", "srtf"]))
def test_ends_are_those_of_a_simulation_second_by_second(jobs: list[JobRequest], policy: str) -> None:
    life = live_fleet(fleet_of(jobs, policy, nodes=2))
    assert [job.end for job in life.jobs] == twin(jobs, policy, 16)


@settings(deadline=None, max_examples=60)
@given(jobs=job_lists())
def test_backfilling_delays_no_head(jobs: list[JobRequest]) -> None:
    """The first job that waits under fifo starts no later under EASY."""
    easy, plain = (live_fleet(fleet_of(jobs, policy, nodes=2)) for policy in ("easy", "fifo"))
    blocked = [job for job in plain.jobs if job.first_start > job.request.submit]
    if blocked:
        assert easy.jobs[blocked[0].number].first_start <= blocked[0].first_start


@settings(deadline=None, max_examples=40)
@given(jobs=job_lists(sizes=(1, 2, 4, 8)), policy=st.sampled_from(["srtf", "srsf_gputime", "dlas_time"]))
def test_with_sizes_of_powers_of_two_packing_never_binds(jobs: list[JobRequest], policy: str) -> None:
    """Where jobs can be placed anew at no cost, best fit leaves no gap that a job of such a size does not fit into."""
    packed, counted = (live_fleet(fleet_of(jobs, policy, each)) for each in ("pack", "count"))
    assert [job.end for job in packed.jobs] == [job.end for job in counted.jobs]


# --- cases ------------------------------------------------------------------------------------


def gang(name: str, submit: float, work: float, gpus: int, **more: object) -> JobRequest:
    return replace(JobRequest(name, submit, work, gpus), **more)  # type: ignore[arg-type]


def ends(life: FleetLife) -> dict[str, float]:
    return {job.request.name: job.end for job in life.jobs}


def test_shares_of_a_board_run_at_once() -> None:
    """Two halves on one board of one; the third half, and the whole, wait."""
    jobs = [gang(name, 0, 10, 1, share=0.5) for name in "abc"] + [gang("d", 0, 10, 1)]
    for policy in ("fifo", "first_fit", "srtf", "priority"):
        life = live_fleet(fleet_of(jobs, policy, "pack", sorts=(NodeSort("n", 1, 1),)))
        assert ends(life) == {"a": 10, "b": 10, "c": 20, "d": 30}
        assert board_seconds(life)["productive"] == 25


def test_fragments_keep_a_gang_waiting() -> None:
    jobs = [gang("a", 0, 100, 5), gang("b", 0, 50, 5), gang("c", 1, 10, 6)]
    assert ends(live_fleet(fleet_of(jobs, "fifo", "count", nodes=2))) == {"a": 100, "b": 50, "c": 11}
    assert ends(live_fleet(fleet_of(jobs, "fifo", "pack", nodes=2))) == {"a": 100, "b": 50, "c": 60}


def test_conservative_backfilling_delays_nobody_and_easy_the_second() -> None:
    """Of eight boards six are taken; the first that waits leaves two, which the last would keep for 300 s."""
    jobs = [gang("a", 0, 100, 6), gang("b", 1, 100, 6), gang("c", 2, 50, 8), gang("d", 3, 300, 2)]
    easy = live_fleet(fleet_of(jobs, "easy", nodes=1))
    assert ends(easy) == {"a": 100, "b": 200, "c": 353, "d": 303}
    careful = live_fleet(fleet_of(jobs, "conservative", nodes=1))
    assert ends(careful) == {"a": 100, "b": 200, "c": 250, "d": 550}


def test_conservative_backfilling_takes_a_hole_that_is_long_enough() -> None:
    """The last job ends on two boards before the next wants them: to the second, and no second longer."""
    for work, end in ((97.0, 100.0), (98.0, 348.0)):
        jobs = [gang("a", 0, 100, 6), gang("b", 1, 100, 8), gang("c", 2, 50, 8), gang("d", 3, work, 2)]
        assert ends(live_fleet(fleet_of(jobs, "conservative", nodes=1)))["d"] == end


def test_moving_jobs_makes_room() -> None:
    """A node is wanted whole; the small job on it moves to the other node and loads there for 9 s."""
    jobs = [gang("a", 0, 10, 6), gang("b", 0, 100, 6), gang("c", 0, 100, 2), gang("d", 20, 10, 8)]
    stays = live_fleet(fleet_of(jobs, "fifo", "pack", nodes=2, moving=Moving(load=9)))
    assert ends(stays) == {"a": 10, "b": 100, "c": 100, "d": 110}
    moved = live_fleet(fleet_of(jobs, "fifo", "pack", nodes=2, moving=Moving(load=9), migrate=True))
    assert ends(moved) == {"a": 10, "b": 100, "c": 109, "d": 30}
    assert moved.migrations == 1


def test_a_stop_costs_a_save_and_a_start_a_load() -> None:
    jobs = [gang("long", 0, 100, 8), gang("short", 10, 20, 8)]
    life = live_fleet(fleet_of(jobs, "srtf", "pack", nodes=1, moving=Moving(save=5, load=3)))
    long, short = life.jobs
    assert (short.first_start, short.end) == (15, 35)
    assert (long.save_s, long.load_s, long.end) == (5, 3, 35 + 3 + 90)
    assert long.preemptions == 1


def test_a_failure_costs_what_was_not_saved() -> None:
    from sim.inputs.fault_log import Outage

    jobs = [gang("a", 0, 100, 8)]
    fails = FleetFaults(outages=(Outage(45.0, 65.0, 0, "board"),))
    life = live_fleet(fleet_of(jobs, "fifo", "pack", nodes=1, faults=fails, moving=Moving(load=5, interval=20)))
    assert life.jobs[0].lost_s == 5  # saves at 20 and 40
    assert life.jobs[0].end == 65 + 5 + 60
    assert board_seconds(life)["down"] == 8 * 20
    all_lost = live_fleet(fleet_of(jobs, "fifo", "pack", nodes=1, faults=fails, moving=Moving(interval=inf)))
    assert all_lost.jobs[0].end == 65 + 100


def test_quotas_are_lent_and_taken_back() -> None:
    from sim.inputs.fleet import Quota

    jobs = [gang("x1", 0, 100, 8, queue="x"), gang("x2", 0, 100, 8, queue="x"), gang("y1", 30, 40, 8, queue="y")]
    quotas = {"x": Quota(gpus=8), "y": Quota(gpus=8)}

    def lived(**options: object) -> dict[str, float]:
        policy = POLICIES["quota"]
        inputs = replace(
            fleet_of(jobs, "quota", nodes=2), policy=lambda: policy({"quotas": quotas, "by": "queue", **options})
        )
        return ends(live_fleet(inputs))

    assert lived() == {"x1": 100, "x2": 30 + 40 + 70, "y1": 70}
    assert lived(borrow=False) == {"x1": 100, "x2": 200, "y1": 70}


def test_fair_share_lets_those_go_first_who_had_least() -> None:
    jobs = [gang("a1", 0, 100, 8, queue="a"), gang("a2", 1, 100, 8, queue="a"), gang("b1", 2, 100, 8, queue="b")]
    assert ends(live_fleet(fleet_of(jobs, "fair_share", nodes=1))) == {"a1": 100, "b1": 200, "a2": 300}


def test_deadlines_and_priorities_stop_others() -> None:
    jobs = [gang("a", 0, 100, 8), gang("b", 10, 20, 8, deadline=30.0, priority=1.0)]
    for policy in ("deadline", "priority"):
        assert ends(live_fleet(fleet_of(jobs, policy, nodes=1))) == {"b": 30, "a": 120}


def test_finish_time_fairness_serves_who_lost_most() -> None:
    """Between rounds nobody is stopped; at the first round after it came the short job has lost more of its share."""
    jobs = [gang("long", 0, 2000, 8), gang("short", 10, 100, 8)]
    life = live_fleet(fleet_of(jobs, "themis", nodes=1))
    assert ends(life) == {"short": 460, "long": 2100}


def test_max_min_gives_equal_shares() -> None:
    """Two jobs that want all boards: each has half of the rounds while both live."""
    jobs = [gang("a", 0, 3600, 8), gang("b", 0, 3600, 8)]
    first, last = sorted(ends(live_fleet(fleet_of(jobs, "max_min", nodes=1))).values())
    assert last == 7200
    assert 7200 - 2 * 360 <= first <= 7200


def test_an_elastic_job_takes_what_is_there() -> None:
    class Linear:
        def alone(self, job: JobRequest, places: tuple[tuple[int, int], ...]) -> float:
            return sum(boards for _, boards in places) / job.gpus

        def together(self, jobs: object, now: float) -> None:
            return None

    jobs = [gang("a", 0, 3600, 4, least=2, most=16)]
    life = live_fleet(fleet_of(jobs, "elastic", "pack", nodes=2, pacing=Linear()))
    assert ends(life) == {"a": 900}


def test_what_is_kept_does_not_grow_with_time() -> None:
    """Long jobs whose pace changes whenever another comes or goes, for a day and for ten: agenda and series stay."""

    class Changing:
        turn = 0

        def alone(self, job: JobRequest, places: Places) -> float:
            return 1.0

        def together(self, jobs: Sequence[FleetJob], now: float) -> list[float]:
            self.turn += 1
            return [1.0 - 0.1 * (self.turn % 2)] * len(jobs)

    sizes = []
    for days in (1, 10):
        long = [gang(f"long{n}", 0, 864_000.0, 4) for n in range(6)]
        short = [gang(str(n), 40.0 * n, 30, 1) for n in range(2160 * days)]
        inputs = fleet_of(
            long + short, "fifo", "pack", pacing=Changing(), until=86_400.0 * days, sleep=Sleep(20.0, 1.0)
        )
        fleet = Fleet(inputs, 0)
        life = fleet.live()
        assert len(fleet.agenda) <= 2 * ROOMY
        sizes.append([len(column) for column in life.series.sums])
    assert sizes[0] == sizes[1]


def test_topology_keeps_a_job_in_one_unit() -> None:
    boards = Boards((NodeSort("n", 8, 8),))
    boards.take(JobRequest("x", 0, 1, 8), ((0, 8), (1, 8), (5, 8)))
    units = (unit_masks(4, 0, 8),)
    pair = PLACEMENTS["topology"](units=units).find(boards, JobRequest("j", 0, 1, 16), 16, boards.up)
    assert pair == ((2, 8), (3, 8))  # the unit with least room that holds both
    triple = PLACEMENTS["topology"](units=units).find(boards, JobRequest("j", 0, 1, 24), 24, boards.up)
    assert triple == ((4, 8), (6, 8), (7, 8))
    assert PLACEMENTS["pack"](units=units).find(boards, JobRequest("j", 0, 1, 24), 24, boards.up) == (
        (2, 8),
        (3, 8),
        (4, 8),
    )


def test_fragments_descend() -> None:
    """Halves share a board, and a job of one board breaks no node that is whole, though both fit anywhere."""
    half, one, two = gang("h", 0, 1, 1, share=0.5), gang("o", 0, 1, 1), gang("t", 0, 1, 2)
    placement = PLACEMENTS["fgd"](typical=typical_jobs([half, half, one, two]))
    boards = Boards((NodeSort("n", 3, 2),), hosts=True)
    boards.take(half, ((1, -1),))
    assert placement.part(boards, half, boards.up) == ((1, -1),)
    assert placement.find(boards, one, 1, boards.up) == ((1, 1),)
    spread_out = PLACEMENTS["random_node"](random=stream(1, "test"), typical=[])
    assert {spread_out.find(boards, one, 1, boards.up) for _ in range(60)} == {((n, 1),) for n in range(3)}


def test_cores_of_hosts_keep_jobs_waiting() -> None:
    """Eight boards and ten cores: two jobs of six cores do not fit at once, whatever the placement."""
    jobs = [gang(name, 0, 10, 1, cores=6.0) for name in "ab"] + [gang("c", 0, 10, 1)]
    for placement in PLACEMENTS:
        life = live_fleet(fleet_of(jobs, "first_fit", placement, sorts=(NodeSort("n", 1, 8, cores=10.0),)))
        assert ends(life) == {"a": 10, "b": 20, "c": 10}
    refused = live_fleet(fleet_of([gang("a", 0, 10, 1, cores=11.0)], "fifo", sorts=(NodeSort("n", 2, 8, cores=10.0),)))
    assert refused.jobs[0].phase == "refused"


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(["best_fit", "dot_product", "opened_first", "clustering", "fgd"]),
    moves=st.lists(st.tuples(st.sampled_from([0.3, 0.5, 1.0]), st.integers(1, 4), st.booleans()), max_size=40),
)
def test_scores_that_are_kept_are_those_made_anew(name: str, moves: list[tuple[float, int, bool]]) -> None:
    kinds = [gang("j", 0, 1, 1 if share < 1 else gpus, share=share, cores=2.0 * gpus) for share, gpus, _ in moves]
    placement = PLACEMENTS[name](typical=typical_jobs(kinds))
    boards = Boards((NodeSort("n", 3, 4, cores=24.0), NodeSort("m", 3, 2, cores=4.0)), hosts=True)
    held: list[tuple[JobRequest, Places]] = []
    for job, (share, _, leaves) in zip(kinds, moves, strict=True):
        if leaves and held:
            boards.give(*held.pop(0))
        places = []
        for state in (boards, boards.copy()):
            allowed = state.allowed(job)
            part = share < 1
            places.append(
                placement.part(state, job, allowed) if part else placement.find(state, job, job.gpus, allowed)
            )
        assert places[0] == places[1]
        if places[0] is not None:
            assert boards.fits_at(job, places[0])
            boards.take(job, places[0])
            held.append((job, places[0]))
    assert boards.hosts is not None
    for job, at in held:
        boards.give(job, at)
    assert boards.hosts.cores == [24.0] * 3 + [4.0] * 3
    assert boards.hosts.guests == [{}] * 6


def test_one_kind_for_a_gang_and_the_kind_it_asks_for() -> None:
    sorts = (NodeSort("old", 1, 8, speed=0.5), NodeSort("new", 1, 8))
    jobs = [gang("a", 0, 100, 8, kinds=("new",)), gang("b", 0, 100, 8), gang("c", 0, 10, 12)]
    life = live_fleet(fleet_of(jobs, "first_fit", "count", sorts=sorts))
    assert ends(life) == {"a": 100, "b": 200, "c": -1}
    assert life.jobs[2].phase == "refused"  # no kind has twelve boards


def test_nodes_that_sleep_wake_for_a_job() -> None:
    jobs = [gang("a", 100, 50, 8)]
    life = live_fleet(fleet_of(jobs, "fifo", "pack", nodes=1, sleep=Sleep(after=40, wake=7)))
    assert life.jobs[0].end == 157
    assert board_seconds(life)["off"] == 8 * 60


def test_a_power_cap_makes_jobs_wait() -> None:
    jobs = [gang("a", 0, 100, 4), gang("b", 0, 100, 4)]
    draws = (NodeDraw(100.0, 500.0, 0.0),)
    life = live_fleet(fleet_of(jobs, "fifo", "pack", nodes=1, draws=draws, power_cap=1000.0))
    assert ends(life) == {"a": 100, "b": 200}
    assert max(life.series.means()["watts"]) <= 1000


def test_waiting_follows_erlang() -> None:
    """M/M/c: the mean wait of one-board jobs is that of Erlang's C formula, within four standard errors."""
    boards, load, service = 8, 0.8, 100.0
    random = stream(1, "test/erlang")
    gaps = random.exponential(service / (boards * load), 20_000).cumsum()
    work = random.exponential(service, 20_000)
    jobs = [JobRequest(str(n), float(t), float(w)) for n, (t, w) in enumerate(zip(gaps, work, strict=True))]
    life = live_fleet(fleet_of(jobs, "fifo", nodes=1))
    waits = [job.waited for job in life.jobs]
    offered, term, total = boards * load, 1.0, 1.0
    for k in range(1, boards):
        term *= offered / k
        total += term
    top = term * offered / boards / (1 - load)
    expected = top / (total + top) * service / (boards * (1 - load))
    parts = [sum(waits[n : n + 2000]) / 2000 for n in range(0, 20_000, 2000)]
    mean = sum(parts) / len(parts)
    error = (sum((part - mean) ** 2 for part in parts) / 9 / 10) ** 0.5
    assert abs(mean - expected) < 4 * error


def test_one_seed_one_life() -> None:
    jobs = [gang(str(n), 7 * n, 50 + n, 1 + n % 5) for n in range(40)]
    faults = FleetFaults(((FaultKind("board", 1e-3, REPAIR),),))
    lives = [live_fleet(fleet_of(jobs, "srtf", "random", faults=faults), seed) for seed in (1, 1, 2)]
    assert ends(lives[0]) == ends(lives[1]) != ends(lives[2])


# --- real logs --------------------------------------------------------------------------------


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines())) if file.is_file() else []


ANSWERS = rows_of(TRACES / "reference_answers.csv")


@pytest.mark.skipif(not ANSWERS, reason="CLUSTERSIM_JOB_TRACES does not name a folder of job logs and their answers")
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda row: f"{row['trace']} {row['placement']} {row['policy']}")
def test_real_logs_to_the_second(answer: dict[str, str]) -> None:
    rows = rows_of(TRACES / f"{answer['trace']}.csv")
    jobs = [gang(row["job_id"], float(row["submit_s"]), float(row["duration_s"]), int(row["gpus"])) for row in rows]
    life = live_fleet(fleet_of(jobs, answer["policy"], answer["placement"], nodes=int(answer["nodes"])))
    times = sorted(job.end - job.request.submit for job in life.jobs)
    found = sum(times) / len(times), quantile(times, 0.5), quantile(times, 0.99), life.elapsed
    wanted = [float(answer[name]) for name in ("avg_jct", "p50", "p99", "makespan")]
    assert found == pytest.approx(wanted, abs=0.0051)
    assert sum(job.preemptions for job in life.jobs) == int(answer["preemptions"])
    each = TRACES / f"reference_jobs_{answer['trace'].removeprefix('philly_')}.csv"
    if each.is_file():
        key = f"{answer['placement']}:{answer['policy']}"
        given_ = [(float(row[f"{key}.start"]), float(row[f"{key}.end"])) for row in rows_of(each)]
        assert [(job.first_start, job.end) for job in life.jobs] == given_


PODS = rows_of(TRACES / "openb_2023_pods.csv")
PUBLISHED = {  # share of boards in use [%], mean of ten orders: of 130 % of the boards asked for
    "random_node": "Random", "dot_product": "DotProd", "clustering": "GpuClustering", "opened_first": "GpuPacking",
    "best_fit": "BestFit", "fgd": "FGD",
}  # fmt: skip


@pytest.mark.skipif(not PODS, reason="CLUSTERSIM_JOB_TRACES does not name a folder with Alibaba's openb log")
@pytest.mark.parametrize("name", PUBLISHED)
def test_shares_of_boards_in_use_are_those_published_with_fgd(name: str) -> None:
    """Pods come in an order drawn, and stay; nodes that are alike are taken in an order drawn too. Within 1 point."""
    references = rows_of(TRACES / "openb_2023_reference_fgd.csv")
    wanted = next(row for row in references if row["workload"] == "default" and row["policy"] == PUBLISHED[name])
    found = [share_in_use(name, seed) for seed in range(3)]
    assert sum(found) / len(found) == pytest.approx(float(wanted["alloc_pct_at_130_pct_arrived"]), abs=1.0)


def share_in_use(name: str, seed: int) -> float:
    pods = [
        gang(
            row["name"],
            0,
            1,
            int(row["num_gpu"]),
            share=float(row["gpu_milli"]) / 1000 if row["num_gpu"] == "1" else 1.0,
            cores=float(row["cpu_milli"]) / 1000,
        )
        for row in PODS
    ]
    random = stream(seed, "test/openb")
    nodes = rows_of(TRACES / "openb_2023_gpu_nodes.csv")
    sorts = [NodeSort(row["model"], 1, int(row["gpus"]), cores=float(row["cpu_milli"]) / 1000) for row in nodes]
    boards = Boards([sorts[place] for place in random.permutation(len(sorts))], hosts=True)
    line = [pods[place] for place in random.permutation(len(pods))]
    asked, used = sum(pod.gpus * pod.share for pod in line), 0.0
    while asked < 1.3 * boards.whole:
        line.append(pods[int(random.integers(len(pods)))])
        asked += line[-1].gpus * line[-1].share
    placement = PLACEMENTS[name](random=random, typical=typical_jobs(pods))
    for pod in line:
        allowed = boards.allowed(pod)
        part = pod.share < 1
        places = placement.part(boards, pod, allowed) if part else placement.find(boards, pod, pod.gpus, allowed)
        if places is not None:
            boards.take(pod, places)
            used += pod.gpus * pod.share
    return 100 * used / boards.whole
