"""A lower bound on the step time (and the energy) of many plans at once, proven and without simulating.

For the first rank of each stage s of one pipeline, in the notation of `Times`:

- its first pass begins after the forward passes of the stages before it (and their sends): E(s);
- its compute stream holds every pass of every microbatch, and the sends that it waits for: B(s);
- after its last pass, the gradient of the last microbatch goes back through the stages before it: M(s);
- then come the last sum of gradients, the optimizer and what sends its result: the tail;
- a communicator runs its collectives one after the other, so that their sum bounds the step too, and what
  they take from the computation beside them adds to B(s).

Each operation takes at least what it takes alone: rates fall when others join, and work only slows down.
The sums are those of the engine itself (`Job.alone`, `Job.cost`), so the bound follows its physics.

Public: `Bounds`, `Least`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.engine.chains import Alone
from sim.engine.gradients import data_parallel
from sim.engine.passes import PassWriter
from sim.engine.power import Board
from sim.engine.products import slowest_of
from sim.engine.program import Program
from sim.engine.ranks import CATEGORY, Job, RankClass, build_job
from sim.plan.pieces import Passes, Sequence, build_chunks, shard_of
from sim.plan.plan import build_plan
from sim.spec.records import Experiment
from sim.spec.setup import Setup
from sim.study.search.axes import with_values
from sim.study.search.chain import Chain, alone, build_chain
from sim.study.search.energy import Crew, Meter, build_crew, step_joules
from sim.study.search.exchange import Exchange, Exchanges, exchange_joules
from sim.study.search.layout import Layout, layout_of, stack
from sim.study.search.table import Ints, Table
from sim.workload.operation import Shard

Floats = NDArray[np.float64]
VIRTUAL, ZERO = "parallelism.virtual_stages", "parallelism.zero_stage"
INSIDE = ("training.microbatch", "training.recompute", "parallelism.sequence_parallel")  # of a rank, not of groups
NOWHERE = "parallelism.schedule"  # the bound does not depend on it
ALL = 1e18  # bytes of gradients in one bucket: the model as one segment
SAFETY = 1.0 - 1e-9  # what the exact shortcuts of the engine may differ by


@dataclass(frozen=True)
class Times:
    """Seconds of K plans of one shape: (K, chunks) passes in model order, (K, stages) sends of each stage."""

    forward: Floats
    backward: Floats
    exposed: Floats  # (K, chunks) collectives in both passes that computation waits for
    send_forward: Floats
    send_backward: Floats
    microbatches: Floats  # (K, 1)
    waits_for_sends: bool


@dataclass(frozen=True)
class Inside:
    """What ranks do with one microbatch: the same for all plans that cut model and microbatch alike."""

    shard: Shard
    blocks: tuple[Passes, ...]  # kinds of blocks in the order in which they first come in the model
    gather: Sequence | None  # of a stage's input, where tensor ranks send a share each
    message: float  # from stage to stage [B]


@dataclass(frozen=True)
class Least:
    """What plans take at least: seconds of a step, and joules of the whole site (0 unless asked for), (n,) each."""

    seconds: Floats
    joules: Floats


class Bounds:
    """Lower bounds for plans around one experiment; remembers what plans have in common."""

    def __init__(self, base: Experiment, cluster: Cluster, some_plan: Experiment, energy: bool = False) -> None:
        """`some_plan` is any valid plan; `energy`: bound the energy too."""
        self.base, self.cluster, self.energy = base, cluster, energy
        self.template = build_job(build_plan(some_plan, cluster))
        self.exchanges = Exchanges()
        self.known_layouts: dict[object, Layout] = {}
        self.known_insides: dict[object, Inside] = {}
        self.known_seconds: dict[object, Floats] = {}
        self.known_joules: dict[object, Floats] = {}
        self.known_boards: dict[object, Board] = {}

    def of(self, table: Table) -> Least:
        """What one step of each plan takes at least."""
        least = Least(np.zeros(table.n), np.zeros(table.n))
        own = {VIRTUAL, ZERO, NOWHERE, *INSIDE}
        for alike in table.groups(key for key in table.column if key not in own):
            chain = build_chain(self._plan(table, int(alike[0])), self.cluster)
            sharded = table.array(ZERO)[alike] == 3 if ZERO in table.column else np.zeros(len(alike), dtype=bool)
            for rows in (alike[sharded], alike[~sharded]):
                if len(rows):
                    part = self._of_chain(chain, table.take(rows))
                    least.seconds[rows], least.joules[rows] = SAFETY * part.seconds, SAFETY * part.joules
        return least

    def _plan(self, table: Table, row: int) -> Experiment:
        return with_values(self.base, table.choice(row))

    def _of_chain(self, chain: Chain, table: Table) -> Least:
        """Plans that differ only in how the work inside the same groups is cut; ZeRO-3 or not, all of them."""
        seconds, added = np.zeros(table.n), np.zeros(table.n)
        job = self._job(chain, table, 0)
        which, insides = self._insides(job, table)
        passes = self._passes(job, insides)
        crew = build_crew(job.plan.experiment, self.cluster, chain.grid) if self.energy else None
        microbatches = table.array("training.microbatch") * (job.plan.experiment.parallelism.data or 1)
        microbatches = self.base.training.global_batch // microbatches
        for virtual in table.groups((VIRTUAL,)):
            layout = self._layout(self._plan(table, int(virtual[0])))
            kept, first, place = np.unique(which[virtual], return_index=True, return_inverse=True)
            times = _times(job, layout, passes[kept], [insides[k] for k in kept], microbatches[virtual][first])
            for rows in table.take(virtual).groups((ZERO,)):
                zero = self._job(chain, table, int(virtual[rows[0]]))
                seconds[virtual[rows]] = step_bound(times, self.exchanges.of(zero, layout), zero)[place[rows]]
                if crew:
                    mine = [insides[k] for k in kept]
                    added[virtual[rows]] = self._added(zero, crew, layout, mine, times.microbatches[:, 0])[place[rows]]
        if not crew:
            return Least(seconds, added)
        site = step_joules(self.cluster, Setup(self.base).site, job.board, crew, chain.grid.n_ranks)
        return Least(seconds, site(added, SAFETY * seconds))

    def _job(self, chain: Chain, table: Table, row: int) -> Job:
        experiment = self._plan(table, row)
        setup = Setup(experiment)
        shard = shard_of(setup.parallelism, setup.training, setup.software)
        board = self._board(chain.grid.n_ranks, setup.software.attention_kernel)
        return replace(chain.job(self.template, experiment, shard, self._layout(experiment).chunks), board=board)

    def _board(self, ranks: int, kernel: str) -> Board:
        if (ranks, kernel) not in self.known_boards:
            slowest = slowest_of(self.cluster.accelerator, ranks)
            self.known_boards[ranks, kernel] = Board(slowest, self.base.power, kernel)
        return self.known_boards[ranks, kernel]

    def _layout(self, experiment: Experiment) -> Layout:
        """Chunks of the model and what they hold; their operations are those of any shard."""
        setup = Setup(experiment)
        parallel = setup.parallelism
        shape = (parallel.tensor, parallel.pipeline, parallel.virtual_stages, parallel.zero_stage == 3)
        key = (shape, stack(setup.software))
        if key not in self.known_layouts:
            shard = shard_of(parallel, setup.training, setup.software)
            self.known_layouts[key] = layout_of(build_chunks(setup.workload, shard, setup.software, parallel))
        return self.known_layouts[key]

    # --- inside ranks -------------------------------------------------------------------------

    def _insides(self, job: Job, table: Table) -> tuple[Ints, list[Inside]]:
        """Number of what the ranks of each plan do, (n,), and the list of that."""
        which, insides, software = np.zeros(table.n, dtype=np.int64), [], stack(job.plan.software)
        for number, rows in enumerate(table.groups(key for key in INSIDE if key in table.column)):
            which[rows] = number
            insides.append(self._inside(self._plan(table, int(rows[0])), job, software))
        return which, insides

    def _inside(self, experiment: Experiment, job: Job, software: tuple[object, ...]) -> Inside:
        setup = Setup(experiment)
        shard = shard_of(setup.parallelism, setup.training, setup.software)
        key = (shard, software)
        if key not in self.known_insides:
            whole = setup.parallelism.model_copy(update={"pipeline": 1, "virtual_stages": 1, "zero_stage": 0})
            at_once = setup.software.model_copy(update={"gradient_bucket": ALL})
            layout = layout_of(build_chunks(setup.workload, shard, at_once, whole))
            job = replace(job, plan=replace(job.plan, experiment=experiment, shard=shard))
            writer = PassWriter(job, Program(), data_parallel(job, Program()))
            message = writer.message / shard.tensor if writer.scatters else writer.message
            self.known_insides[key] = Inside(shard, layout.kinds, writer.gather if writer.scatters else None, message)
        return self.known_insides[key]

    def _passes(self, job: Job, insides: list[Inside]) -> Floats:
        """Seconds by inside, stage and kind of block, (K, stages, 4, kinds), as `_seconds`."""
        profiles = {rank.profile: rank for rank in job.ranks}
        number = {profile: place for place, profile in enumerate(profiles)}
        software = stack(job.plan.software)
        rows = [[self._seconds(job, rank, inside, software) for rank in profiles.values()] for inside in insides]
        return np.array(rows)[:, [number[rank.profile] for rank in job.ranks]]

    def _seconds(self, job: Job, rank: RankClass, inside: Inside, software: tuple[object, ...]) -> Floats:
        """By kind of block, (4, kinds): passes forward, backward, exposed in both; the gather of a stage's input."""
        key = (inside.shard, software, rank.profile, job.board.accelerator.matrix.efficiency)
        if key not in self.known_seconds:
            passes = [(alone(job, rank, each.forward), alone(job, rank, each.backward)) for each in inside.blocks]
            gather = alone(job, rank, inside.gather).seconds if inside.gather else 0.0
            self.known_seconds[key] = np.array(
                [(ahead.seconds, back.seconds, _exposed(ahead) + _exposed(back), gather) for ahead, back in passes]
            ).T
        return self.known_seconds[key]

    # --- energy -------------------------------------------------------------------------------

    def _added(self, job: Job, crew: Crew, layout: Layout, insides: list[Inside], microbatches: Floats) -> Floats:
        """Joules that the step of each of K plans adds to the waiting power of its accelerators, (K,)."""
        meter = Meter(crew, job.board, self.cluster)
        rows = np.array([self._joules(job, meter, inside) for inside in insides])
        borders = 2 * (len(layout.counts) - 1)
        each = rows[:, :-1] @ layout.counts.sum(axis=0) + borders * rows[:, -1]
        once, often = exchange_joules(job, layout, meter)
        added: Floats = job.plan.grid.n_ranks / len(job.ranks) * (microbatches * (each + often) + once)
        return added

    def _joules(self, job: Job, meter: Meter, inside: Inside) -> Floats:
        """By kind of block both passes, and last what a border between two chunks adds, (kinds + 1,)."""
        inner = tuple(meter.crew.groups.get(kind) for kind in CATEGORY)
        key = (
            inside.shard,
            stack(job.plan.software),
            inner,
            meter.crew.speeds,
            job.board.accelerator.matrix.efficiency,
        )
        if key not in self.known_joules:
            border = meter.send(inside.message) + (meter.sequence(inside.gather) if inside.gather else 0.0)
            passes = [meter.sequence(each.forward) + meter.sequence(each.backward) for each in inside.blocks]
            self.known_joules[key] = np.array([*passes, border])
        return self.known_joules[key]


def _exposed(alone: Alone) -> float:
    return sum(alone.parts.get(category, 0.0) for category in CATEGORY.values())


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


# --- steps ------------------------------------------------------------------------------------


def step_bound(times: Times, exchange: Exchange, job: Job) -> Floats:
    """Seconds of a step at least, (K,)."""
    begin, passes, sends = _begin(times, exchange), *_busy(times)
    between = np.maximum(sends, times.microbatches * exchange.between - exchange.first)
    stream = passes + times.microbatches * exchange.serial + between
    tail = exchange.last.copy()
    tail[[0, -1]] = np.maximum(tail[[0, -1]], exchange.embedding)
    tail += exchange.optimizer + exchange.weights
    ended = _ended(begin + stream, times) + tail
    traffic = times.microbatches * exchange.each + exchange.opening + exchange.closing
    alone = traffic + exchange.optimizer + exchange.weights
    slowed = _slowed(times, begin, passes, sends, traffic, job.plan.software.overlap_slowdown) + exchange.optimizer
    bound: Floats = np.maximum.reduce([ended, np.broadcast_to(alone, ended.shape), slowed]).max(axis=1)
    bound += job.plan.software.step_overhead
    return bound


def _slowed(times: Times, begin: Floats, passes: Floats, sends: Floats, traffic: Floats, share: float) -> Floats:
    """What a compute stream takes when traffic takes its share of the computation beside it, (K, stages).

    Of the step, A is spent computing and the rest R otherwise: waiting, sending, in exposed collectives. The
    traffic C is beside A for C - R at least, so A = work + share (C - R), and the step takes at least
    work + share C + (1 - share) R.
    """
    count, stages = begin.shape
    exposed = times.microbatches * times.exposed.reshape(count, -1, stages).sum(axis=1)
    least: Floats = passes - exposed + share * traffic + (1 - share) * (begin + sends + exposed)
    return least


def _begin(times: Times, exchange: Exchange) -> Floats:
    """When the compute stream of each stage can begin, as if nothing later held it up, (K, stages)."""
    stages = times.send_forward.shape[1]
    begin = np.zeros_like(times.send_forward)
    arrival = np.zeros(len(begin))
    for stage in range(stages):
        forward = times.forward[:, stage]
        weights = np.maximum(exchange.first[stage], exchange.opening[stage] - forward)
        begin[:, stage] = np.maximum(arrival, weights)
        arrival = begin[:, stage] + forward + times.send_forward[:, stage]
    return begin


def _busy(times: Times) -> tuple[Floats, Floats]:
    """What the compute stream of each stage does in a step: passes, and sends it waits for, (K, stages) each."""
    count, stages = times.send_forward.shape
    passes = (times.forward + times.backward).reshape(count, -1, stages).sum(axis=1)
    virtual = times.forward.shape[1] // stages
    ahead, back = np.full(stages, virtual), np.full(stages, virtual)
    ahead[-1] -= 1
    back[0] -= 1
    sends = times.waits_for_sends * (ahead * times.send_forward + back * times.send_backward)
    return times.microbatches * passes, times.microbatches * sends


def _ended(own: Floats, times: Times) -> Floats:
    """When the last backward pass of each stage is over, given when its own stream can be, (K, stages)."""
    ended = own.copy()
    for stage in range(own.shape[1] - 2, -1, -1):
        after = ended[:, stage + 1] + times.backward[:, stage]
        if not times.waits_for_sends:
            after = after + times.send_backward[:, stage + 1]
        elif stage:
            after = after + times.send_backward[:, stage]
        ended[:, stage] = np.maximum(ended[:, stage], after)
    return ended
