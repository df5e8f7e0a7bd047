"""Jobs of equal shape share one script, and it is the one that would be written anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plans import LEAF_SPINE, small_experiment
from test_reuse import CHANGES, experiment

from sim.ask.run.reuse import plan_step
from sim.engine.program import Program
from sim.errors import ConfigError
from sim.programs.assemble import assemble
from sim.programs.costs import Costs
from sim.programs.ranks import Job, build_job
from sim.programs.shape import Shape, shape_of
from sim.rng import stream

ALIKE = (  # no change of what waits for what
    "itself", "training", "slow host", "sequence", "another seed", "fabric", "nodes", "power limit", "faster memory",
    "other kind", "start-up", "slow ports", "adapters", "power of fans", "slow kind", "prune", "window",
)  # fmt: skip
PLANS: dict[str, tuple[Any, ...]] = {
    "parallelism.tensor": (1, 2, 4),
    "parallelism.pipeline": (1, 2, 4),
    "parallelism.context": (1, 1, 2),
    "parallelism.data": (1, 2, 4),
    "parallelism.virtual_stages": (1, 1, 2),
    "parallelism.zero_stage": (0, 1, 2, 3),
    "parallelism.schedule": ("1f1b", "1f1b", "gpipe"),
    "parallelism.shard_group": (None, None, 2),
    "microbatches": (1, 4, 16),
    "software.gradient_overlap": (False, True),
    "software.parameter_prefetch": (False, True),
    "software.pipeline_overlap": (False, True),
    "software.tensor_overlap": ("none", "none", "full"),
    "software.overlap_slowdown": (0.0, 0.2),
    "software.gradient_bucket": (0, 1e7),
    "simulation.coalesce": ("auto", "auto", "auto", "off"),
    "simulation.fold": (*["auto"] * 9, "off"),
}
NUMBERS: dict[str, tuple[Any, ...]] = {
    "training.microbatch": (1, 2),
    "training.recompute": ("none", "selective", "full"),
    "parallelism.sequence_parallel": (False, True),
    "software.scatter_gather": (False, True),
    "software.gradient_comm_bytes": (2, 4),
    "software.host_issue": (0.0, 1e-4),
    "software.step_overhead": (0.0, 1e-2),
    "model.hidden": (1024, 2048),
    "accelerator.memory.bandwidth": (2e12, 3e12),
    "node.nics.bandwidth": (25e9, 50e9),
    "fabric.leaf_oversubscription": (1.0, 4.0),
    "fabric.rail_optimized": (False, True),
    "parallelism.placement": ("packed", "packed", "round_robin"),
}
PAIRS = 100


def job_of(change: str) -> Job:
    return build_job(plan_step(experiment(change)))


def shape(job: Job) -> Shape:
    return shape_of(Costs(job))


def anew(job: Job) -> Program:
    """The program of a job, written for it alone."""
    plan = job.plan
    simulation = plan.experiment.simulation.model_copy(update={"reuse": "off"})
    alone = plan.experiment.model_copy(update={"simulation": simulation})
    return assemble(replace(job, plan=replace(plan, experiment=alone)))


def same(one: Program, other: Program) -> bool:
    """Whether two programs are equal in every table."""
    tables = [
        (
            program.actions,
            program.templates,
            program.parts,
            program.kinds,
            [(each.name, each.kind, each.rank, each.table, each.counts) for each in program.streams],
            [(each.which, each.index) for each in program.streams],
        )
        for program in (one, other)
    ]
    return tables[0] == tables[1]


def test_changes_of_numbers_alone_share_a_script() -> None:
    first = job_of("itself")
    for change in ALIKE:
        other = job_of(change)
        assert shape(other) == shape(first), change
        assert assemble(other).script is assemble(first).script
        assert assemble(other).actions is not assemble(first).actions


def test_jobs_that_order_things_otherwise_have_other_shapes() -> None:
    shapes = {shape(job_of(change)) for change in CHANGES if change not in ALIKE}
    assert shape(job_of("itself")) not in shapes


def drawn(random: np.random.Generator, choices: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    return {key: values[random.integers(len(values))] for key, values in choices.items()}


def job_with(values: dict[str, Any]) -> Job:
    """A job with keys of the tables above; `microbatches` sets the batch. Raises ConfigError."""
    fields: dict[str, dict[str, Any]] = {"fabric": dict(LEAF_SPINE), "model": {"layers": 8}}
    for key, value in values.items():
        section, *path, last = key.split(".") if "." in key else ("unused", key)
        table = fields.setdefault(section, {})
        for name in path:
            table = table.setdefault(name, {})
        table[last] = value
    microbatches = fields.pop("unused")["microbatches"]
    batch = microbatches * fields["training"]["microbatch"] * fields["parallelism"]["data"]
    fields["training"]["global_batch"] = batch
    return build_job(plan_step(small_experiment(nodes=4, **fields)))


def test_a_script_used_again_is_the_one_written_anew() -> None:
    """Over pairs of plans that differ in numbers, some of which change the order of things too."""
    random = stream(3, "tests/scripts")
    shared = cut = 0
    for _ in range(PAIRS):
        plan = drawn(random, PLANS)
        try:
            first, second = (job_with(plan | drawn(random, NUMBERS)) for _ in range(2))
        except ConfigError:
            continue
        one, other = assemble(first), assemble(second)
        assert same(one, anew(first))
        assert same(other, anew(second))
        if one.script is other.script and first.plan.chunks is not second.plan.chunks:
            shared += 1
            cut += bool(other.script.cut)
    assert shared > PAIRS / 5
    assert cut > PAIRS / 10


@pytest.mark.parametrize(("placement", "apart"), [("packed", True), ("round_robin", False)])
def test_who_shares_links_decides_what_may_repeat(placement: str, apart: bool) -> None:
    """Behind a narrow leaf, packed pipelines meet in pairs: two parts of an unfolded job become one."""
    plan = {f"parallelism.{name}": size for name, size in (("context", 2), ("pipeline", 4), ("data", 4))}
    others = {"parallelism.placement": placement, "simulation.fold": "off", "microbatches": 16}
    wide, narrow = (
        job_with(plan | others | {"training.microbatch": 1, "fabric.leaf_oversubscription": share})
        for share in (1.0, 8.0)
    )
    assert wide.table.sharing != narrow.table.sharing
    one, other = assemble(wide), assemble(narrow)
    assert one.templates is other.templates
    assert (one.parts != other.parts) == (one.script is not other.script) == apart
    assert same(other, anew(narrow))
