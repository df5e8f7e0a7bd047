"""A lower bound on the step time (and the energy) of many plans at once, proven and without simulating.

`steps.py` says what a step holds, `inside.py` what a pass of a rank takes, `exchange.py` what data-parallel ranks
send. Each operation takes at least what it takes alone: rates fall when others join, and work only slows down. The
sums are those of the engine itself (`Job.alone`, `Job.cost`), so the bound follows its physics.

Public: `Bounds`, `Least`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.engine.boards import slowest_of
from sim.engine.power import Board
from sim.engine.ranks import CATEGORY, Job, build_job
from sim.plan.plan import build_plan, cut_model
from sim.spec.records import Experiment
from sim.spec.setup import Setup
from sim.study.search.axes import CONTEXT, DATA, ORDER, SCHEDULE, with_values
from sim.study.search.chain import Chain, build_chain
from sim.study.search.energy import Crew, Meter, build_crew, step_joules
from sim.study.search.exchange import Exchange, Exchanges, exchange_joules
from sim.study.search.inside import BESIDE, INSIDE, PASSES, VIRTUAL, ZERO, Inside, Insides
from sim.study.search.layout import Layout, layout_of
from sim.study.search.steps import Times, step_bound
from sim.study.search.table import Ints, Table

Floats = NDArray[np.float64]
UNCUT = frozenset(
    (CONTEXT, DATA, ZERO, SCHEDULE, ORDER, "parallelism.shard_group", "parallelism.placement", *INSIDE, *BESIDE)
)  # keys that do not say how the model is cut into chunks and segments; ZeRO-3 does
SAFETY = 1.0 - 1e-9  # what the exact shortcuts of the engine may differ by


@dataclass(frozen=True)
class Least:
    """What plans take at least: seconds of a step, and joules of the whole site (0 unless asked for), (n,) each."""

    seconds: Floats
    joules: Floats


Traffic = tuple[Exchange, tuple[float, float]]  # and what it adds: once, and for each microbatch [J]


@dataclass(frozen=True, eq=False)
class Placed:
    """The ranks of one shape and order: a pipeline of them, all of them for the energy, and what they exchange."""

    chain: Chain
    crew: Crew | None
    exchanges: dict[object, Traffic] = field(default_factory=dict)


class Bounds:
    """Lower bounds for plans around one experiment; remembers what plans have in common."""

    def __init__(self, base: Experiment, cluster: Cluster, some_plan: Experiment, energy: bool = False) -> None:
        """`some_plan` is any valid plan; `energy`: bound the energy too."""
        self.base, self.cluster, self.energy = base, cluster, energy
        self.template = build_job(build_plan(some_plan, cluster))
        self.exchanges, self.insides = Exchanges(), Insides(base)
        self.known_layouts: dict[object, Layout] = {}
        self.known_joules: dict[object, Floats] = {}
        self.known_boards: dict[object, Board] = {}

    def of(self, table: Table) -> Least:
        """What one step of each plan takes at least."""
        least = Least(np.zeros(table.n), np.zeros(table.n))
        software = [key for key in table.column if key.startswith("software.")]
        own, sharded = {VIRTUAL, ZERO, SCHEDULE, *INSIDE, *software}, table.array(ZERO) == 3
        for rows in table.groups(key for key in table.column if key not in own):
            placed = self._place(self._plan(table, int(rows[0])))
            for alike in table.take(rows).groups(software):
                for part in (rows[alike][sharded[rows[alike]]], rows[alike][~sharded[rows[alike]]]):
                    if len(part):
                        bound = self._of_placed(placed, table.take(part))
                        least.seconds[part], least.joules[part] = SAFETY * bound.seconds, SAFETY * bound.joules
        return least

    def _plan(self, table: Table, row: int) -> Experiment:
        return with_values(self.base, table.choice(row))

    def _place(self, plan: Experiment) -> Placed:
        chain = build_chain(plan, self.cluster)
        return Placed(chain, build_crew(plan, self.cluster, chain.grid) if self.energy else None)

    def _of_placed(self, placed: Placed, table: Table) -> Least:
        """Plans that differ only in how the work inside the same groups is cut; ZeRO-3 or not, all of them."""
        seconds, added, crew = np.zeros(table.n), np.zeros(table.n), placed.crew
        job = self._job(placed.chain, table, 0)
        which, insides = self.insides.of(job, table)
        passes = self.insides.passes(job, insides)
        joules = self._joules(job, crew, insides) if crew else np.zeros((len(insides), 1))
        microbatches = table.array("training.microbatch") * (job.plan.experiment.parallelism.data or 1)
        microbatches = self.base.training.global_batch // microbatches
        for virtual in table.groups((VIRTUAL,)):
            part = table.take(virtual)
            layout = self._layout(part, 0)
            kept, first, place = np.unique(which[virtual], return_index=True, return_inverse=True)
            times = _times(job, layout, passes[kept], [insides[k] for k in kept], microbatches[virtual][first])
            for rows in part.groups((ZERO,)):
                exchange, sent = self._exchange(placed, layout, part, int(rows[0]))
                seconds[virtual[rows]] = step_bound(times, exchange, job)[place[rows]]
                if crew:
                    added[virtual[rows]] = _added(job, layout, joules[kept], sent, times)[place[rows]]
        if not crew:
            return Least(seconds, added)
        site = step_joules(self.cluster, Setup(self.base).site, job.board, crew, placed.chain.grid.n_ranks)
        return Least(seconds, site(added, SAFETY * seconds))

    def _exchange(self, placed: Placed, layout: Layout, table: Table, row: int) -> Traffic:
        """What data-parallel ranks exchange, in seconds and joules."""
        software = (key for key in table.column if key.startswith("software.") and key not in PASSES)
        key = layout, table.key(row, (ZERO, *software))
        if key not in placed.exchanges:
            job = self._job(placed.chain, table, row)
            sent = (
                exchange_joules(job, layout, Meter(placed.crew, job.board, self.cluster)) if placed.crew else (0.0, 0.0)
            )
            placed.exchanges[key] = self.exchanges.of(job, layout), sent
        return placed.exchanges[key]

    def _job(self, chain: Chain, table: Table, row: int) -> Job:
        experiment = self._plan(table, row)
        setup = Setup(experiment)
        board = self._board(chain.grid.n_ranks // setup.parallelism.pipeline, setup.software.attention_kernel)
        return replace(chain.job(self.template, experiment, setup.shard, self._layout(table, row).cut), board=board)

    def _board(self, ranks: int, kernel: str) -> Board:
        """The slowest of the `ranks` of one stage: a job waits for no faster one."""
        if (ranks, kernel) not in self.known_boards:
            slowest = slowest_of(self.cluster.accelerator, ranks)
            self.known_boards[ranks, kernel] = Board(slowest, self.base.power, kernel)
        return self.known_boards[ranks, kernel]

    def _layout(self, table: Table, row: int) -> Layout:
        """Chunks of the model and what they hold; their operations are those of any shard."""
        keys = [key for key in table.column if key not in UNCUT]
        key = table.key(row, keys), table.key(row, (ZERO,)) == (3,)
        if key not in self.known_layouts:
            setup = Setup(self._plan(table, row))
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
                passes = [meter.sequence(each.forward) + meter.sequence(each.backward) for each in inside.blocks]
                self.known_joules[key] = np.array([*passes, border])
            rows.append(self.known_joules[key])
        return np.array(rows)


def _added(job: Job, layout: Layout, joules: Floats, sent: tuple[float, float], times: Times) -> Floats:
    """Joules that the step of each of K plans adds to the waiting power of its accelerators, (K,)."""
    borders, microbatches = 2 * (len(layout.counts) - 1), times.microbatches[:, 0]
    each = joules[:, :-1] @ layout.counts.sum(axis=0) + borders * joules[:, -1]
    once, often = sent
    added: Floats = job.plan.grid.n_ranks / len(job.ranks) * (microbatches * (each + often) + once)
    return added


def _times(job: Job, layout: Layout, passes: Floats, insides: list[Inside], microbatches: Ints) -> Times:
    """Passes and sends of K plans of one shape; `passes` are seconds by kind of block, (K, stages, 4, kinds)."""
    stages = len(job.ranks)
    stage = np.arange(len(layout.counts)) % stages
    forward, backward, exposed = np.einsum("kcqn,cn->qkc", passes[:, stage, :3], layout.counts)
    gather = passes[:, stage, 3, 0]
    forward[:, 1:] += gather[:, 1:]
    backward[:, :-1] += gather[:, :-1]
    exposed += 2 * gather
    message = np.array([[inside.message] for inside in insides])
    ahead, back = (_sends(job, role, message) for role in ("forward out", "backward out"))
    waits = not job.plan.software.pipeline_overlap
    return Times(forward, backward, exposed, ahead, back, microbatches[:, None].astype(np.float64), waits)


def _sends(job: Job, role: str, message: Floats) -> Floats:
    """Seconds that each stage takes to hand its microbatch on, (K, stages)."""
    flows = [rank.flows.get(role, -1) for rank in job.ranks]
    start = np.array([job.cost(flow, "send", 0.0).latency if flow >= 0 else 0.0 for flow in flows])
    rate = np.array([job.flows[flow].rate if flow >= 0 else np.inf for flow in flows])
    sends: Floats = start + message / rate
    return sends
