"""A lower bound on the step time (and the energy) of many plans at once, proven and without simulating.

`steps.py` says what a step holds, `inside.py` what a pass of a rank takes, `exchange.py` what data-parallel ranks
send. Each operation takes at least what it takes alone: rates fall when others join, and work only slows down. The
sums are those of the engine itself (`Job.alone`, `Job.cost`), so the bound follows its physics.

Public: `Bounds`, `Least`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sim.ask.plan.axes import CONTEXT, DATA, MICROBATCH, SCHEDULE, VIRTUAL, with_values
from sim.ask.plan.chain import Chain, build_chain
from sim.ask.plan.energy import Crew, Meter, build_crew, step_joules
from sim.ask.plan.exchange import Exchanges, ExchangeTime, exchange_joules
from sim.ask.plan.inside import BESIDE, INSIDE, PASSES, PLACES, ZERO, Inside, Insides
from sim.ask.plan.layout import ChunkLayout, layout_of
from sim.ask.plan.steps import TaskTimes, step_bound
from sim.ask.plan.table import Ints, PlanTable
from sim.cluster.cluster import Cluster
from sim.devices.boards import slowest_of
from sim.devices.power import Board
from sim.inputs.board import transfer_rate
from sim.inputs.records import Experiment, Parallelism
from sim.layout.plan import build_plan, course_of_job, cut_model, send_kind
from sim.phase import Phase
from sim.programs.ranks import CATEGORY, Job, build_job
from sim.schedule.catalogue import SCHEDULES, course_of, ends_of
from sim.schedule.course import Course, Sends
from sim.schedule.table import Ends

Floats = NDArray[np.float64]
# keys that do not say how the model is cut into chunks and segments; ZeRO-3 does
UNCUT = frozenset((CONTEXT, DATA, ZERO, SCHEDULE, *PLACES, *INSIDE, *BESIDE))
SAFETY = 1.0 - 1e-9  # what the exact shortcuts of the engine may differ by


@dataclass(frozen=True)
class Least:
    """What plans take at least: seconds of a step, and joules of the whole site (0 unless asked for), (n,) each."""

    seconds: Floats
    joules: Floats


Paid = tuple[
    ExchangeTime[Floats], float, tuple[float, float]
]  # of stages and a tied table; joules once, each microbatch


@dataclass(frozen=True, eq=False)
class Placed:
    """The ranks of one shape and order: a pipeline of them, all of them for the energy, and what they exchange."""

    chain: Chain
    crew: Crew | None
    exchanges: dict[object, Paid] = field(default_factory=dict)


class Bounds:
    """Lower bounds for plans around one experiment; remembers what plans have in common."""

    def __init__(self, base: Experiment, cluster: Cluster, some_plan: Experiment, energy: bool = False) -> None:
        """`some_plan` is any valid plan; `energy`: bound the energy too."""
        self.base, self.cluster, self.energy = base, cluster, energy
        self.template = build_job(build_plan(some_plan, cluster))
        self.exchanges, self.insides = Exchanges(), Insides(base)
        # plans of a search differ in little: many share each of these
        self.known_layouts: dict[object, ChunkLayout] = {}
        self.known_joules: dict[object, Floats] = {}
        self.known_boards: dict[object, Board] = {}

    def of(self, table: PlanTable) -> Least:
        """What one step of each plan takes at least."""
        least = Least(np.zeros(table.n), np.zeros(table.n))
        software = [key for key in table.column if key.startswith("software.")]
        own = {VIRTUAL, ZERO, SCHEDULE, *INSIDE, *software}
        for rows in table.groups(key for key in table.column if key not in own):
            for together, sends in self._by_ends(table.take(rows)):
                mine = rows[together]
                placed = self._place(self._plan(table, int(mine[0])), sends)
                for alike in table.take(mine).groups(software):
                    for part in _by_cut(table.take(mine[alike])):
                        part = mine[alike][part]
                        bound = self._of_placed(placed, table.take(part))
                        least.seconds[part], least.joules[part] = SAFETY * bound.seconds, SAFETY * bound.joules
        return least

    def _by_ends(self, table: PlanTable) -> Iterator[tuple[Ints, Sends]]:
        """Plans of one shape whose models begin and end on the same stages, and all sends among their stages."""
        found: dict[tuple[int, int], list[tuple[Ints, Sends]]] = {}
        for rows in table.groups((SCHEDULE, VIRTUAL)):
            course = course_of_job(self._plan(table, int(rows[0])))
            found.setdefault(course.ends, []).append((rows, course.sends))
        for alike in found.values():
            hops = sorted({hop for _, sends in alike for hop in sends}, reverse=True)
            sends = {hop: tuple(sorted({s for _, each in alike for s in each.get(hop, ())})) for hop in hops}
            yield np.concatenate([rows for rows, _ in alike]), sends

    def _plan(self, table: PlanTable, row: int) -> Experiment:
        return with_values(self.base, table.choice(row))

    def _place(self, plan: Experiment, sends: Sends) -> Placed:
        chain = build_chain(plan, self.cluster, sends)
        return Placed(chain, build_crew(plan, self.cluster, chain.grid) if self.energy else None)

    def _of_placed(self, placed: Placed, table: PlanTable) -> Least:
        """Plans that differ only in how the work inside the same groups is cut; as `_by_cut`."""
        seconds, added, crew = np.zeros(table.n), np.zeros(table.n), placed.crew
        job = self._job(placed.chain, table, 0)
        which, insides = self.insides.of(job, table)
        passes = self.insides.passes(job, insides)
        joules = self._joules(job, crew, insides) if crew else np.zeros((len(insides), 1))
        for alike, microbatches, (course, ends) in self._by_turns(table, job.plan.experiment.parallelism):
            part = table.take(alike)
            layout = self._layout(part, 0)
            kept, first, place = np.unique(which[alike], return_index=True, return_inverse=True)
            whole = _Whole(job, layout, course, ends, passes[kept], [insides[k] for k in kept], microbatches[first])
            times = whole.times()
            for rows in part.groups((ZERO,)):
                exchange, embedding, sent = self._exchange(placed, layout, ends, part, int(rows[0]))
                seconds[alike[rows]] = step_bound(times, exchange, embedding, job)[place[rows]]
                if crew:
                    added[alike[rows]] = whole.added(joules[kept], sent)[place[rows]]
        if not crew:
            return Least(seconds, added)
        site = step_joules(self.cluster, self.base.setup.site, job.board, crew, placed.chain.grid.n_ranks)
        return Least(seconds, site(added, SAFETY * seconds))

    def _by_turns(self, table: PlanTable, shape: Parallelism) -> Iterator[tuple[Ints, Ints, tuple[Course, Ends]]]:
        """Rows of plans whose chunks are placed and whose schedules begin and end alike; their microbatches."""
        found: dict[tuple[Course, Ends], list[tuple[Ints, int]]] = {}
        for rows in table.groups((SCHEDULE, VIRTUAL, MICROBATCH)):
            name, virtual, microbatch = table.key(int(rows[0]), (SCHEDULE, VIRTUAL, MICROBATCH))
            microbatches = self.base.training.global_batch // (microbatch * (shape.data or 1))
            turns = (
                course_of(name, shape.pipeline, virtual),
                ends_of(name, shape.pipeline, virtual, microbatches),
            )
            found.setdefault(turns, []).append((rows, microbatches))
        for turns, alike in found.items():
            counts = [np.full(len(rows), microbatches) for rows, microbatches in alike]
            yield np.concatenate([rows for rows, _ in alike]), np.concatenate(counts), turns

    def _exchange(self, placed: Placed, layout: ChunkLayout, ends: Ends, table: PlanTable, row: int) -> Paid:
        """What data-parallel ranks exchange, in seconds and joules."""
        software = (key for key in table.column if key.startswith("software.") and key not in PASSES)
        key = layout, ends, table.key(row, (ZERO, *software))
        if key not in placed.exchanges:
            job = self._job(placed.chain, table, row)
            sent = (
                exchange_joules(job, layout, Meter(placed.crew, job.board, self.cluster)) if placed.crew else (0.0, 0.0)
            )
            placed.exchanges[key] = (*self.exchanges.of(job, layout, ends), sent)
        return placed.exchanges[key]

    def _job(self, chain: Chain, table: PlanTable, row: int) -> Job:
        experiment = self._plan(table, row)
        setup = experiment.setup
        board = self._board(chain.grid.n_ranks // setup.parallelism.pipeline, setup.software.attention_kernel)
        return replace(chain.job(self.template, experiment, setup.shard, self._layout(table, row).cut), boards=(board,))

    def _board(self, ranks: int, kernel: str) -> Board:
        """The slowest of the `ranks` of one stage: a job waits for no faster one."""
        if (ranks, kernel) not in self.known_boards:
            slowest = slowest_of(self.cluster.accelerator, ranks)
            sends = transfer_rate(self.cluster.node, self.cluster.spec.fabric)
            self.known_boards[ranks, kernel] = Board(slowest, self.base.power, kernel, sends)
        return self.known_boards[ranks, kernel]

    def _layout(self, table: PlanTable, row: int) -> ChunkLayout:
        """Chunks of the model and what they hold; their operations are those of any shard."""
        keys = [key for key in table.column if key not in UNCUT]
        setup = self._plan(table, row).setup
        phases = SCHEDULES[setup.parallelism.schedule].phases
        key = table.key(row, keys), setup.parallelism.zero_stage == 3, course_of_job(setup.experiment), phases
        if key not in self.known_layouts:
            self.known_layouts[key] = layout_of(cut_model(setup))
        return self.known_layouts[key]

    def _joules(self, job: Job, crew: Crew, insides: list[Inside]) -> Floats:
        """By inside and kind of block both passes, and last what a border between two chunks adds, (K, kinds + 1)."""
        meter, rows = Meter(crew, job.board, self.cluster), []
        inner = tuple(crew.groups.get(kind) for kind in CATEGORY)
        for inside in insides:
            key = (inside, inner, crew.speeds, job.board.accelerator.matrix.efficiency)
            if key not in self.known_joules:
                border = meter.send(inside.message) + (meter.sequence(inside.gather) if inside.gather else 0.0)
                passes = [sum(map(meter.sequence, each.by_phase)) for each in inside.blocks]
                self.known_joules[key] = np.array([*passes, border])
            rows.append(self.known_joules[key])
        return np.array(rows)


def _by_cut(table: PlanTable) -> Iterator[Ints]:
    """Plans that gather weights for every task (ZeRO-3), or not, and whose schedules have the same phases."""
    splits = np.array([SCHEDULES[name].splits for name in table.array(SCHEDULE)])
    cut = 2 * splits + (table.array(ZERO) == 3)
    return (np.flatnonzero(cut == each) for each in np.unique(cut))


@dataclass(frozen=True)
class _Whole:
    """K plans of one shape; passes: seconds as of `Insides.passes`, (K, stages, 5, kinds); microbatches: (K,)."""

    job: Job
    layout: ChunkLayout
    course: Course
    ends: Ends
    passes: Floats
    insides: list[Inside]
    microbatches: Ints

    def times(self) -> TaskTimes:
        """Tasks and sends."""
        stage = list(self.course.stage_of)
        by_kind = self.passes[:, stage]
        forward, backward, weight, exposed = np.einsum("kcqn,cn->qkc", by_kind[:, :, :4], self.layout.counts)
        ahead, back = (self._hops(phase) for phase in (Phase.FORWARD, Phase.INPUT_GRADIENT))
        gather = by_kind[:, :, 4, 0]
        gathers, again = gather * self._arrives(ahead, 1), gather * self._arrives(back, -1)
        return TaskTimes(
            self.course,
            self.ends,
            forward + gathers,
            backward + again,
            weight,
            exposed + gathers + again,
            self._sends(ahead),
            self._sends(back),
            self.microbatches[:, None].astype(np.float64),
            not self.job.plan.software.pipeline_overlap,
        )

    def _hops(self, phase: Phase) -> list[int]:
        """How many stages further on the result of each chunk goes; 0 if nowhere."""
        targets = [self.course.target(phase, chunk) for chunk in range(len(self.course.stage_of))]
        return [0 if to is None else self.course.hop(chunk, to) for chunk, to in enumerate(targets)]

    def _arrives(self, hops: list[int], step: int) -> NDArray[np.bool_]:
        """Whether each chunk gets its input from another stage, given the hops of results to the next chunk."""
        return np.roll(np.array(hops) != 0, step)

    def _sends(self, hops: list[int]) -> Floats:
        """Seconds that each chunk takes to hand its microbatch on, (K, chunks)."""
        job, message = self.job, np.array([[inside.message] for inside in self.insides])
        ranks = (job.ranks[stage] for stage in self.course.stage_of)
        flows = [rank.flows[send_kind(hop)] if hop else -1 for rank, hop in zip(ranks, hops, strict=True)]
        start = np.array([job.cost(flow, "send", 0.0).latency if flow >= 0 else 0.0 for flow in flows])
        rate = np.array([job.flows[flow].rate if flow >= 0 else np.inf for flow in flows])
        sends: Floats = start + message / rate
        return sends

    def added(self, joules: Floats, sent: tuple[float, float]) -> Floats:
        """Joules that a step adds to the waiting power of its accelerators, (K,)."""
        borders = 2 * np.count_nonzero(self._hops(Phase.FORWARD))
        each = joules[:, :-1] @ self.layout.counts.sum(axis=0) + borders * joules[:, -1]
        once, often = sent
        ranks = self.job.plan.grid.n_ranks / len(self.job.ranks)
        added: Floats = ranks * (self.microbatches * (each + often) + once)
        return added
