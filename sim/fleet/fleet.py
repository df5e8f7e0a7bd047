"""The life of a fleet: jobs come, get boards, run, are stopped, fail, and end.

One instant is: what ends, then what arrives, then one pass of the policy. Between two instants nothing changes, so
what a job has done is known in closed form. The clock is SimPy's; failures and repairs are processes of their own.

Public: `live_fleet`, `fleet_ahead`.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from math import inf

from simpy import Environment, Event

from sim.fleet.boards import Boards, nodes_in
from sim.fleet.draft import draft
from sim.fleet.faults import begin_faults
from sim.fleet.inputs import FleetEvent, FleetInputs, FleetLife
from sim.fleet.jobs import FleetJob, JobPhase, JobRequest, Places
from sim.fleet.moves import room_by_moving
from sim.fleet.placements.placement import typical_jobs
from sim.fleet.policies.policy import Grant
from sim.fleet.tally import DOWN, IDLE, LOADING, OFF, RUNNING, SAVING, BoardTally, FleetSeries, PowerAccount
from sim.rng import stream

STATE_OF: dict[JobPhase, int] = {"running": RUNNING, "loading": LOADING, "saving": SAVING}
SLEEP_RANK, END_RANK = 1, 0  # what comes first at an instant
ROOMY = 1024  # entries of an agenda that nobody looks through
Entry = tuple[float, int, int, int]  # time, rank, number of job or node, stamp


def live_fleet(inputs: FleetInputs, seed: int = 0) -> FleetLife:
    """The whole life; the same inputs and seed give the same life."""
    return Fleet(inputs, seed).live()


def fleet_ahead(inputs: FleetInputs, seed: int = 0) -> tuple[Callable[[], FleetLife], Callable[[], float]]:
    """A function that lives it, and one that says how much of it has been lived, 0 to 1."""
    fleet = Fleet(inputs, seed)
    return fleet.live, fleet.progress


class Fleet:
    """Nodes, the jobs on them and those that wait; what policies see is `FleetView`."""

    def __init__(self, inputs: FleetInputs, seed: int) -> None:
        self.inputs, self.seed = inputs, seed
        self.env, self.now = Environment(), 0.0
        self.policy = inputs.policy()
        random = stream(seed, "fleet/places")
        self.placement = inputs.placement(units=inputs.units, random=random, typical=typical_jobs(inputs.jobs))
        self.boards = self._empty()
        self.sort_of = [number for number, sort in enumerate(inputs.sorts) for _ in range(sort.nodes)]
        self.tally = BoardTally([sort.nodes * sort.boards for sort in inputs.sorts])
        self.series = FleetSeries()
        self.power = PowerAccount(inputs.draws, inputs.overhead, inputs.carbon) if inputs.draws else None
        self.jobs = [FleetJob(request, number) for number, request in enumerate(inputs.jobs)]
        released = [(_release(job.request), job.number) for job in self.jobs]
        self.arrivals = sorted(released, reverse=True)  # the next one last
        self.waiting: list[FleetJob] = []
        self.running: dict[int, FleetJob] = {}
        self.queued_boards = 0.0
        self.n_ended = 0
        self.asleep = 0  # mask of nodes
        self.agenda, self.roomy = list[Entry](), ROOMY
        self.idle_since = [0] * len(self.sort_of)  # stamps: how often a node became busy
        self.ring = 0  # of the alarm that counts
        self.possible: dict[tuple[object, ...], bool] = {}  # whether the empty fleet has a place
        self.failed: dict[tuple[object, ...], int] = {}  # least number of boards that found no place since some came
        self.over = Event(self.env)
        self.faults: Counter[str] = Counter()
        self.repairing = 0
        self.events: list[FleetEvent] = []
        self.passes = self.migrations = 0
        self.extra_watts = 0.0  # of jobs that say what their boards draw, over what boards draw at work
        self.unsettled = False  # whether who runs has changed since rates were last asked for
        self.moves_are_free = not (inputs.moving.save or inputs.moving.load)
        self.everyone_whole = all(not (job.kinds or job.cores) and job.share == 1.0 for job in inputs.jobs)

    # --- what policies see --------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Boards that are free now."""
        return self.boards.total

    @property
    def has_room(self) -> bool:
        """Whether any board, or a part of one, is free."""
        return bool(self.boards.total or self.boards.opened)

    @property
    def capacity(self) -> int:
        """Boards of nodes in use."""
        boards = self.boards
        return boards.whole if boards.up == boards.everywhere else sum(boards.sizes[n] for n in nodes_in(boards.up))

    def kinds(self) -> Mapping[str, int]:
        """Boards in use by kind of node."""
        boards = self.boards
        return {kind: sum(boards.sizes[n] for n in nodes_in(mask & boards.up)) for kind, mask in boards.kinds.items()}

    def speed(self, job: JobRequest, gpus: int, kind: str) -> float:
        """Work in a second on so many boards of a kind of node, alone and on as few nodes as there can be."""
        places: list[tuple[int, int]] = []
        for node in nodes_in(self.boards.kinds.get(kind, 0)):
            places.append((node, min(gpus, self.boards.sizes[node])))
            gpus -= places[-1][1]
            if not gpus:
                return self._rate(job, tuple(places))
        return 0.0

    def start(self, job: FleetJob, gpus: int = 0) -> bool:
        """Start a waiting job if there is a place for it."""
        gpus = gpus or job.gpus
        request, boards = job.request, self.boards
        kind = (request.kinds, request.share, request.memory, request.cores, request.priority > 0)
        if (
            (gpus > boards.total and request.share == 1.0)
            or gpus >= self.failed.get(kind, 1 << 60)
            or not self._admits(job, gpus)
        ):
            return False
        places = self.find(boards, request, gpus)
        if places is None and self.inputs.migrate:
            places = room_by_moving(self, request, gpus)
        if places is None:
            self.failed[kind] = gpus
            return False
        self.waiting.remove(job)
        self.occupy(job, gpus, places)
        return True

    def run_only(self, order: Iterable[FleetJob] | Iterable[Grant]) -> None:
        """Give boards in that order to each job that fits; jobs that get none are stopped."""
        kept, starts = draft(self, order)
        begins = {job.number for job, _, _ in starts}
        for job in [job for number, job in self.running.items() if number not in kept and job.phase != "saving"]:
            if job.number in begins and self.moves_are_free and job.gpus == job.request.gpus:
                self.move_away(job)
            else:
                self.stop(job)
        for job, gpus, places in starts:
            found = places if places and self.boards.fits_at(job.request, places) else None
            if found is None and places is None:
                found = self.find(self.boards, job.request, gpus)
            if found is not None and job.phase == "waiting" and self._admits(job, gpus):
                self.waiting.remove(job)
                self.occupy(job, gpus, found)

    def move_away(self, job: FleetJob) -> None:
        """A job leaves its boards for others; it waits for no more than this instant."""
        self.migrations += 1
        self.note("move", job)
        self.vacate(job)
        self.queue(job)

    # --- places -------------------------------------------------------------------------------

    def _empty(self) -> Boards:
        """All boards, as before the first job."""
        return Boards(self.inputs.sorts, self.placement.hosts or any(job.cores for job in self.inputs.jobs))

    def find(self, boards: Boards, request: JobRequest, gpus: int) -> Places | None:
        """Where the placement puts so many boards, all of one kind; some are held back for jobs of priority."""
        if self.inputs.reserved and request.priority <= 0 and boards.total - gpus < self.inputs.reserved:
            return None
        allowed = boards.allowed(request)
        if len(boards.kinds) == 1:
            return self._place(boards, request, gpus, allowed)
        for kind in request.kinds or boards.kinds:
            places = self._place(boards, request, gpus, allowed & boards.kinds.get(kind, 0))
            if places is not None:
                return places
        return None

    def _place(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> Places | None:
        if request.share < 1.0:
            return self.placement.part(boards, request, allowed)
        return self.placement.find(boards, request, gpus, allowed)

    def _admits(self, job: FleetJob, gpus: int) -> bool:
        """Whether the power cap of the site leaves room for it, at the board that draws most."""
        inputs = self.inputs
        if inputs.power_cap == inf or not inputs.draws:
            return True
        more = gpus * job.request.share * max(draw.board for draw in inputs.draws)
        return inputs.overhead(self._watts()[0] + more) <= inputs.power_cap

    def occupy(self, job: FleetJob, gpus: int, places: Places) -> None:
        """A job that has none gets these boards, and loads."""
        woken = 0.0
        for node, _ in places:
            self.idle_since[node] += 1
            if self.asleep >> node & 1:
                self._wake(node)
                woken = self.inputs.sleep.wake
        self.boards.take(job.request, places)
        self.queued_boards -= job.gpus * job.request.share
        job.gpus, job.places, job.stay_s, job.since = gpus, places, 0.0, self.now
        self.running[job.number] = job
        load = woken + (self._load_s(job) if job.first_start >= 0 else 0.0)
        if job.first_start < 0:
            job.first_start = self.now
        job.rate = self._rate(job.request, places)
        self.unsettled = True
        self._enter(job, "loading" if load else "running", load)
        self.note("start", job)

    def stop(self, job: FleetJob) -> None:
        """Take the boards of a job away; it saves first if that takes time."""
        save = self.inputs.moving.save if job.request.save is None else job.request.save
        job.preemptions += 1
        self.settle(job)
        self.unsettled = True
        if save and job.phase == "running":
            self._leave(job)
            self._enter(job, "saving", save)
            self.note("save", job)
        else:
            self.note("stop", job)
            self.vacate(job)
            self.queue(job)

    def vacate(self, job: FleetJob) -> None:
        """Its boards are free again."""
        self.settle(job)
        self._leave(job)
        self.boards.give(job.request, job.places)
        job.stamp += 1
        del self.running[job.number]
        self.failed.clear()
        self.unsettled = True
        for node, _ in job.places:
            if self.boards.free[node] == self.boards.sizes[node]:
                self._may_sleep(node)
        job.places = ()

    def queue(self, job: FleetJob) -> None:
        """A job waits, at the place that the policy gives it."""
        job.phase = "waiting"
        self.queued_boards += job.gpus * job.request.share
        insort(self.waiting, job, key=self.policy.key)

    # --- phases of a job ----------------------------------------------------------------------

    def settle(self, job: FleetJob) -> None:
        """Count what a job has done up to now."""
        span = self.now - job.since
        job.since = self.now
        if job.phase == "running":
            job.run_s += span
            job.stay_s += span
            job.left = max(0.0, job.left - span * job.rate)
            job.service += span * job.boards
        elif job.phase == "loading":
            job.load_s += span
        elif job.phase == "saving":
            job.save_s += span

    def _enter(self, job: FleetJob, phase: JobPhase, seconds: float = 0.0) -> None:
        """It begins a phase with boards, that lasts so long; running lasts until the work is done."""
        job.phase, job.since = phase, self.now
        self._count(job, IDLE, STATE_OF[phase])
        if phase == "running":
            seconds = job.left / job.rate if job.rate else inf
        self._expect(job, self.now + seconds)

    def _leave(self, job: FleetJob) -> None:
        self._count(job, STATE_OF[job.phase], IDLE)

    def _expect(self, job: FleetJob, time: float) -> None:
        job.stamp += 1
        if time < inf:
            self._enter_in_agenda((time, END_RANK, job.number, job.stamp))

    def _enter_in_agenda(self, entry: Entry) -> None:
        """What no longer counts is thrown out once it is half of the agenda, so that it does not grow with time."""
        heappush(self.agenda, entry)
        if len(self.agenda) > self.roomy:
            self.agenda = [each for each in self.agenda if self._counts(each)]
            heapify(self.agenda)
            self.roomy = 2 * len(self.agenda) + ROOMY

    def _counts(self, entry: Entry) -> bool:
        _, rank, number, stamp = entry
        return stamp == (self.idle_since[number] if rank == SLEEP_RANK else self.jobs[number].stamp)

    def _phase_ends(self, job: FleetJob) -> None:
        if job.phase == "loading":
            self.settle(job)
            self._leave(job)
            self._enter(job, "running")
        elif job.phase == "saving":
            self.note("stop", job)
            self.vacate(job)
            self.queue(job)
        else:
            self.settle(job)
            job.left = 0.0
            self.note("end", job)
            self.vacate(job)
            job.phase, job.end = "ended", self.now
            self.n_ended += 1
            self.policy.ended(job, self)

    def _count(self, job: FleetJob, before: int, after: int) -> None:
        share, watts = job.request.share, job.request.watts
        for node, boards in job.places:
            self.tally.move(self.sort_of[node], share if boards < 0 else boards, before, after)
        if watts is not None and self.inputs.draws:
            more = (watts - self.inputs.draws[self.sort_of[job.places[0][0]]].board) * job.boards
            self.extra_watts += more * ((after == RUNNING) - (before == RUNNING))

    def _load_s(self, job: FleetJob) -> float:
        return self.inputs.moving.load if job.request.load is None else job.request.load

    def _rate(self, request: JobRequest, places: Places) -> float:
        """Work in a second, at the pace of the slowest node."""
        if self.inputs.pacing is not None:
            return self.inputs.pacing.alone(request, places)
        return min(self.inputs.sorts[self.sort_of[node]].speed for node, _ in places)

    # --- failures -----------------------------------------------------------------------------

    def strike(self, node: int, cause: str) -> None:
        """Whatever has boards of a node loses what it has not saved, and waits again."""
        self.reach(self.env.now)
        for job in [job for job in self.running.values() if any(place[0] == node for place in job.places)]:
            self.fail(job, cause)

    def fail(self, job: FleetJob, cause: str) -> None:
        """A job dies and waits again; what it did since its last save is lost."""
        self.settle(job)
        interval = self.inputs.moving.interval
        lost = min(job.stay_s, job.stay_s % interval if 0 < interval < inf else job.stay_s if interval else 0.0)
        job.lost_s += lost
        job.left = min(job.request.work, job.left + lost * job.rate)
        job.faults += 1
        self.note("fail", job, cause)
        self.vacate(job)
        self.queue(job)

    def take_out(self, node: int) -> None:
        """A node without jobs goes into repair."""
        boards, sort = self.boards, self.sort_of[node]
        if self.asleep >> node & 1:
            self._wake(node)
        self.idle_since[node] += 1
        boards.up &= ~(1 << node)
        boards.total -= boards.sizes[node]
        self.tally.move(sort, boards.sizes[node], IDLE, DOWN)
        self.note_node("down", node)

    def bring_back(self, node: int) -> None:
        """A node comes back from repair."""
        self.reach(self.env.now)
        boards = self.boards
        boards.up |= 1 << node
        boards.total += boards.sizes[node]
        self.failed.clear()
        self.tally.move(self.sort_of[node], boards.sizes[node], DOWN, IDLE)
        self._may_sleep(node)
        self.note_node("up", node)
        self.think()

    # --- nodes that sleep ---------------------------------------------------------------------

    def _may_sleep(self, node: int) -> None:
        """A node is idle from now on: it falls asleep if it stays so."""
        if self.inputs.sleep.after < inf:
            self._enter_in_agenda((self.now + self.inputs.sleep.after, SLEEP_RANK, node, self.idle_since[node]))

    def _fall_asleep(self, node: int) -> None:
        if self.boards.up >> node & 1:
            self.asleep |= 1 << node
            self.tally.move(self.sort_of[node], self.boards.sizes[node], IDLE, OFF)

    def _wake(self, node: int) -> None:
        self.asleep &= ~(1 << node)
        self.tally.move(self.sort_of[node], self.boards.sizes[node], OFF, IDLE)

    # --- time ---------------------------------------------------------------------------------

    def live(self) -> FleetLife:
        """From the first job to the last."""
        inputs = self.inputs
        for node in range(len(self.sort_of)):
            self._may_sleep(node)
        if inputs.faults is not None:
            begin_faults(self, inputs.faults)
        if inputs.until < inf:
            self.env.timeout(inputs.until).callbacks.append(lambda _: self._stop_at_limit())
        self._arm()
        self.env.run(until=self.over)
        for job in self.running.values():
            self.settle(job)
        return FleetLife(
            inputs, self.seed, self.now, tuple(self.jobs), self.tally, self.series, self.power, tuple(self.events),
            dict(self.faults), self.passes, self.migrations,
        )  # fmt: skip

    def progress(self) -> float:
        """How many of the jobs have ended, 0 to 1."""
        return self.n_ended / max(1, len(self.jobs))

    def _stop_at_limit(self) -> None:
        if not self.over.triggered:
            self.reach(self.inputs.until)
            self.over.succeed()

    def reach(self, time: float) -> None:
        """Let time pass."""
        if time <= self.now:
            return
        waits = bool(self.waiting)
        watts, busy = self._watts() if self.power is not None else (0.0, 0.0)
        tally = self.tally
        stranded = self.free if waits else 0
        counts = tally.now(RUNNING), len(self.waiting), self.queued_boards, tally.now(DOWN), stranded
        self.series.add(self.now, time, (*counts, watts))
        if self.power is not None:
            self.power.add(self.now, time, watts, busy)
        tally.advance(time, waits)
        self.now = time

    def _watts(self) -> tuple[float, float]:
        """Power of all nodes, and the part of it that boards at work add [W]."""
        idle = busy = 0.0
        for sort, draw, row in zip(self.inputs.sorts, self.inputs.draws, self.tally.counts, strict=True):
            off, down = row[OFF] / sort.boards, row[DOWN] / sort.boards
            idle += (sort.nodes - off - down) * draw.idle + off * draw.asleep
            busy += (row[RUNNING] + row[LOADING] + row[SAVING]) * draw.board
        busy += self.extra_watts
        return idle + busy, busy

    def _next_entry(self) -> Entry | None:
        """The next entry of the agenda that still counts; those before it are dropped."""
        agenda = self.agenda
        while agenda:
            if self._counts(agenda[0]):
                return agenda[0]
            heappop(agenda)
        return None

    def _arm(self) -> None:
        """Wake up when something is due next."""
        policy, entry = self.policy.alarm(self), self._next_entry()
        times = (entry[0] if entry else inf, self.arrivals[-1][0] if self.arrivals else inf, policy)
        time = max(min(times), self.now)
        self.ring += 1
        ring = self.ring
        if time < inf:
            alarm = self.env.timeout(max(0.0, time - self.env.now))
            alarm.callbacks.append(lambda _: self._instant(time) if ring == self.ring else None)

    def think(self) -> None:
        """Something has changed: let the policy look at it, at this instant."""
        self._instant(self.now)

    def _instant(self, time: float) -> None:
        if self.over.triggered:
            return
        self.reach(time)
        now = self.now
        while (entry := self._next_entry()) is not None and entry[0] <= now:
            heappop(self.agenda)
            if entry[1] == SLEEP_RANK:
                self._fall_asleep(entry[2])
            else:
                self._phase_ends(self.jobs[entry[2]])
        while self.arrivals and self.arrivals[-1][0] <= now:
            self._arrive(self.jobs[self.arrivals.pop()[1]])
        self._pass()
        if not self.over.triggered:
            self._arm()

    def _arrive(self, job: FleetJob) -> None:
        if not self._possible(job):
            job.phase = "refused"
            self.n_ended += 1
            self.note("refuse", job)
            return
        self.queue(job)
        self.policy.arrived(job, self)
        self.note("submit", job)

    def _possible(self, job: FleetJob) -> bool:
        """Whether the empty fleet, with no node in repair, has a place for it."""
        request, inputs = job.request, self.inputs
        if self.everyone_whole and job.gpus <= self.boards.most and not inputs.reserved and inputs.power_cap == inf:
            return True
        asked = (request.kinds, request.share, request.memory, request.cores, request.priority > 0, job.gpus)
        if asked not in self.possible:
            self.possible[asked] = self._fits_alone(job)
        return self.possible[asked]

    def _fits_alone(self, job: FleetJob) -> bool:
        request, inputs, empty = job.request, self.inputs, self._empty()
        idle = sum(sort.nodes * draw.idle for sort, draw in zip(inputs.sorts, inputs.draws, strict=False))
        more = job.gpus * request.share * max((draw.board for draw in inputs.draws), default=0.0)
        return self.find(empty, request, job.gpus) is not None and inputs.overhead(idle + more) <= inputs.power_cap

    def _pass(self) -> None:
        self.passes += 1
        if self.waiting or self.policy.preempts:
            self.policy.schedule(self)
        if self.unsettled:
            self._share_links()
        nothing_comes = not (self.arrivals or self.running or self.repairing)
        if nothing_comes:
            self.over.succeed()

    def _share_links(self) -> None:
        """Jobs that are on the same links slow one another."""
        self.unsettled = False
        if self.inputs.pacing is None:
            return
        running = [job for job in self.running.values() if job.phase in ("running", "loading")]
        rates = self.inputs.pacing.together(running, self.now)
        for job, rate in zip(running, rates or (), strict=False):
            if rate != job.rate:
                self.settle(job)
                job.rate = rate
                if job.phase == "running":
                    self._expect(job, self.now + job.left / rate)

    # --- what is written down -----------------------------------------------------------------

    def note(self, what: str, job: FleetJob, detail: str = "") -> None:
        """Keep an event of a job."""
        if self.inputs.keep_events:
            nodes = tuple(node for node, _ in job.places)
            self.events.append(FleetEvent(self.now, what, job.request.name, job.boards, nodes, detail))

    def note_node(self, what: str, node: int) -> None:
        """Keep an event of a node."""
        if self.inputs.keep_events:
            self.events.append(FleetEvent(self.now, what, "", self.boards.sizes[node], (node,)))


def _release(request: JobRequest) -> float:
    return request.submit if request.release is None else request.release
