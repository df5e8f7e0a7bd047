"""What ranks do with one microbatch, and how long that takes them with nothing beside it: asked once each.

Public: `Inside`, `Insides`, and which keys of a plan matter to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.ask.plan.axes import DATA, MICROBATCH, ORDER, PIPELINE, SCHEDULE, VIRTUAL, with_values
from sim.ask.plan.chain import alone
from sim.ask.plan.layout import layout_of
from sim.ask.plan.table import Ints, PlanTable
from sim.graph.operation import Shard
from sim.inputs.records import Experiment
from sim.layout.pieces import Passes, Sequence, build_chunks
from sim.layout.plan import CutModel
from sim.models.family import Architecture
from sim.phase import Phase
from sim.programs.chains import Alone
from sim.programs.costs import Costs
from sim.programs.ranks import CATEGORY, Job, RankClass

Floats = NDArray[np.float64]
ZERO = "parallelism.zero_stage"
INSIDE = (MICROBATCH, "training.recompute", "parallelism.sequence_parallel")
BESIDE = ("software.gradient_overlap", "software.parameter_prefetch", "software.pipeline_overlap")
PASSES = ("software.tensor_overlap", "software.scatter_gather", "software.pipeline_overlap")  # nothing to the exchange
PLACES = (  # who is where, with whom
    ORDER, "parallelism.shard_group", "parallelism.second_copy", "parallelism.placement", "parallelism.on_nodes"
)  # fmt: skip
GROUPS = (PIPELINE, DATA, VIRTUAL, ZERO, SCHEDULE, *PLACES)
ELSEWHERE = frozenset((*GROUPS, *BESIDE))  # keys that ranks need not know for their passes; ZeRO-3 they must
TASKS = (Phase.FORWARD, Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT)
ALL = 1e18  # bytes of gradients in one bucket: the model as one segment


@dataclass(frozen=True, eq=False)
class Inside:
    """What a rank does with one microbatch in plans that cut model and microbatch alike; equal only to itself."""

    shard: Shard
    software: tuple[object, ...]  # what plans change of it, as far as passes depend on it
    blocks: tuple[Passes, ...]  # kinds of blocks in the order in which they first come in the model
    gather: Sequence | None  # of a stage's input, where tensor ranks send a share each
    message: float  # from stage to stage [B]


class Insides:
    """The insides of plans around one experiment."""

    def __init__(self, base: Experiment) -> None:
        self.base = base
        self.known: dict[object, Inside] = {}  # plans of a search differ in little
        self.alone: dict[object, tuple[float, float]] = {}
        self.seconds: dict[object, Floats] = {}

    def of(self, job: Job, table: PlanTable) -> tuple[Ints, list[Inside]]:
        """Number of what the ranks of each plan do, (n,), and the list of that. All shard as the job does, or not; all
        have the phases of the job."""
        which, insides = np.zeros(table.n, dtype=np.int64), []
        keys = [key for key in table.column if key not in ELSEWHERE]
        sharded = job.plan.experiment.parallelism.zero_stage == 3
        for number, rows in enumerate(table.groups(INSIDE)):
            which[rows] = number
            values = table.key(int(rows[0]), keys)
            copies = job.plan.shard.gather_copy, job.plan.shard.gather_copy_again  # hang on how many ranks gather
            key = (sharded, job.plan.phases, copies, values)
            if key not in self.known:
                software = tuple(
                    value for name, value in zip(keys, values, strict=True) if name.startswith("software.")
                )
                self.known[key] = self._inside(with_values(self.base, table.choice(int(rows[0]))), job, software)
            insides.append(self.known[key])
        return which, insides

    def _inside(self, experiment: Experiment, job: Job, software: tuple[object, ...]) -> Inside:
        setup = experiment.setup
        shard = setup.shard
        whole = setup.parallelism.model_copy(
            update={"pipeline": 1, "virtual_stages": 1, "layers_per_stage": None, "zero_stage": 0}
        )
        at_once = setup.software.model_copy(update={"gradient_bucket": ALL})
        architecture = Architecture(setup.workload, shard)
        layout = layout_of(CutModel(architecture, build_chunks(architecture, at_once, whole)))
        plan = replace(job.plan, experiment=experiment, shard=shard, architecture=architecture)
        job = replace(job, plan=plan)
        costs = Costs(job)
        return Inside(shard, software, layout.kinds, costs.gather if costs.scatters else None, costs.stage_message)

    # --- seconds ------------------------------------------------------------------------------

    def passes(self, job: Job, insides: list[Inside]) -> Floats:
        """Seconds by inside, stage and kind of block, (K, stages, 5, kinds), as `_seconds`."""
        profiles = {rank.profile: rank for rank in job.ranks}
        number = {profile: place for place, profile in enumerate(profiles)}
        rows = [[self._seconds(job, rank, inside) for rank in profiles.values()] for inside in insides]
        return np.array(rows)[:, [number[rank.profile] for rank in job.ranks]]

    def _seconds(self, job: Job, rank: RankClass, inside: Inside) -> Floats:
        """By kind of block, (5, kinds): passes in the three phases of tasks, what of them all is exposed; the gather of
        a stage's input."""
        key = (inside, rank.profile, job.board.accelerator.matrix.efficiency)
        if key not in self.seconds:
            gather = self._alone(job, rank, inside, inside.gather)[0] if inside.gather else 0.0
            rows = []
            for each in inside.blocks:
                spent = [self._alone(job, rank, inside, sequence) for sequence in each.by_phase]
                whole = [seconds for seconds, _ in spent] + [0.0] * (len(TASKS) - len(spent))
                rows.append((*whole, sum(exposed for _, exposed in spent), gather))
            self.seconds[key] = np.array(rows).T
        return self.seconds[key]

    def _alone(self, job: Job, rank: RankClass, inside: Inside, sequence: Sequence) -> tuple[float, float]:
        """Seconds of a sequence, and what of them is exposed communication."""
        key = (sequence, inside.software, rank.profile, job.board.accelerator.matrix.efficiency)
        if key not in self.alone:
            spent = alone(job, rank, sequence)
            self.alone[key] = spent.seconds, _exposed(spent)
        return self.alone[key]


def _exposed(alone: Alone) -> float:
    return sum(alone.parts.get(category, 0.0) for category in CATEGORY.values())
