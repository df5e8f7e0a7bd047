"""Why a step takes as long as it does, and what would make it shorter.

Public: `why`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, get_args

from sim.ask.explain.sensitivity import sensitivities
from sim.ask.run.simulate import simulate
from sim.ask.run.step import Watch
from sim.ask.run.timeline import simulated_for_timeline
from sim.errors import SimError
from sim.graph.operation import Recompute
from sim.inputs.load import validate_experiment
from sim.inputs.records import Experiment, Parallelism
from sim.metrics.breakdown import critical_rank
from sim.metrics.critical_path import critical_path, overlaps, slacks
from sim.metrics.result import Result
from sim.metrics.timeline import rank_spans
from sim.metrics.why import Idea, Why
from sim.transforms.recompute import recompute_text

BEST = 3
BY = 0.1  # more of each resource
WORTH = 0.005  # least gain of an idea that is worth telling
RECOMPUTE = get_args(Recompute)
ZERO_STAGES = get_args(Parallelism.model_fields["zero_stage"].annotation)
Changes = dict[str, Any]  # dotted key of the experiment to its new value


def why(experiment: Experiment, watch: Watch | None = None) -> Why:
    """Explain a resolved and checked experiment; simulates it some thirty times.

    `watch` is entered meanwhile and given a function that says how much is done.
    """
    done = [0]
    changes = list(_changes(experiment))
    with watch(lambda: done[0] / (len(changes) + 2)) if watch else nullcontext():
        return _why(experiment, changes, done)


def _why(experiment: Experiment, changes: Sequence[tuple[str, Changes]], done: list[int]) -> Why:
    result = simulate(experiment)
    run = simulated_for_timeline(experiment)
    stages = [rank.stage for rank in run.job.ranks]
    busiest = critical_rank(run.trace)
    representative = run.job.ranks[busiest].representative
    spans = rank_spans(run.trace, run.plan, [representative])[representative]
    done[0] += 1
    resources = sensitivities(experiment, BY, jobs=None)
    done[0] += 1
    tried = list(_tried(experiment, result, changes, done))
    return Why(
        result=result,
        path=critical_path(run.trace, stages),
        slack=slacks(run.trace, stages),
        overlaps=overlaps(run.trace, busiest, spans),
        resources=resources,
        by=BY,
        ideas=tuple(_best(tried)),
        tried=len(tried),
    )


def _tried(
    experiment: Experiment, before: Result, single: Sequence[tuple[str, Changes]], done: list[int]
) -> Iterator[Idea]:
    """Every single change that is allowed and fits into memory, with what it gains; counts in `done`."""
    for words, changes in single:
        done[0] += 1
        try:
            result = simulate(validate_experiment(_changed(experiment, changes)))
        except SimError:
            continue
        if result.memory.fits or not before.memory.fits:
            gain = result.step.samples_per_s / before.step.samples_per_s - 1
            yield Idea(words, changes, gain, result.step.time_s)


def _best(tried: Sequence[Idea]) -> Iterator[Idea]:
    """The best changes, one of each decision."""
    better = sorted((idea for idea in tried if idea.gain >= WORTH), key=lambda idea: -idea.gain)
    decisions = {_decision(idea): idea for idea in reversed(better)}
    best = sorted(decisions.values(), key=lambda idea: -idea.gain)
    return iter(best[:BEST])


def _decision(idea: Idea) -> str:
    """What is decided: the shape of the plan, or one key."""
    return next(iter(idea.changes)) if len(idea.changes) == 1 else "shape"


def _changes(experiment: Experiment) -> Iterator[tuple[str, Changes]]:
    """Changes of one decision each, of the kind that costs no hardware."""
    yield from _training_changes(experiment)
    yield from _sharing_changes(experiment)
    yield from _reshapes(experiment)


def _training_changes(experiment: Experiment) -> Iterator[tuple[str, Changes]]:
    training = experiment.training
    for size in (training.microbatch * 2, training.microbatch // 2):
        if size:
            yield f"microbatch {size} for {training.microbatch}", {"training.microbatch": size}
    for kind in RECOMPUTE:
        if kind != training.recompute:
            yield f"recompute {kind} for {recompute_text(training.recompute)}", {"training.recompute": kind}
    if training.precision in ("bf16", "fp16") and all(
        kind.accelerator.matrix.peak.fp8 for kind in experiment.setup.kinds
    ):
        yield f"fp8 for {training.precision}", {"training.precision": "fp8"}


def _sharing_changes(experiment: Experiment) -> Iterator[tuple[str, Changes]]:
    parallel = experiment.parallelism
    for chunks in (parallel.virtual_stages * 2, 1):
        if parallel.pipeline > 1 and chunks != parallel.virtual_stages:
            words = f"{chunks} virtual stages for {parallel.virtual_stages}"
            yield words, {"parallelism.virtual_stages": chunks, "parallelism.schedule": "1f1b"}
    if parallel.tensor > 1 and not parallel.sequence_parallel:
        yield "sequence parallelism", {"parallelism.sequence_parallel": True}
    for stage in ZERO_STAGES:
        if stage != parallel.zero_stage and experiment.setup.data > 1:
            yield f"ZeRO stage {stage} for {parallel.zero_stage}", {"parallelism.zero_stage": stage}


def _reshapes(experiment: Experiment) -> Iterator[tuple[str, Changes]]:
    """Half of one dimension, twice another; data-parallel replicas follow."""
    names = ("tensor", "pipeline", "context", "data")
    sizes = {name: getattr(experiment.parallelism, name) for name in names}
    for less in names:
        for more in names:
            if less != more and sizes[less] % 2 == 0:
                changed = {**sizes, less: sizes[less] // 2, more: sizes[more] * 2}
                words = f"{less} {changed[less]} and {more} {changed[more]} for {sizes[less]} and {sizes[more]}"
                changes: Changes = {f"parallelism.{name}": changed[name] for name in (less, more)}
                if "pipeline" in (less, more) and changed["pipeline"] == 1:
                    changes["parallelism.virtual_stages"] = 1
                yield words, changes


def _changed(experiment: Experiment, changes: Changes) -> Experiment:
    """`experiment` with the values of some of its keys replaced."""
    parts: dict[str, Changes] = {}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        parts.setdefault(section, {})[name] = value
    return experiment.model_copy(
        update={name: getattr(experiment, name).model_copy(update=values) for name, values in parts.items()}
    )
