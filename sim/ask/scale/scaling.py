"""Strong and weak scaling: one experiment on clusters of many sizes.

Strong scaling keeps the global batch and divides it over more replicas. Weak scaling lets the batch grow with
the cluster, and then the training needs more tokens (`metrics/scaling.py`), so that its time to train tells
what its tokens per second do not.

Public: `scale`, `node_counts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

from sim.ask.plan.search import search_plans, winner_of
from sim.ask.run.simulate import simulate
from sim.ask.workers.batch import first_line
from sim.errors import ConfigError, PlanError, Problem, SimError
from sim.inputs.load import validate_experiment
from sim.inputs.records import Experiment
from sim.inputs.setup import Setup
from sim.metrics.result import Result
from sim.metrics.scaling import ScalePoint, ScalingStudy, critical_batch, optimal_tokens, tokens_at
from sim.models.family import Architecture

MODES = {"strong": ("strong",), "weak": ("weak",), "both": ("strong", "weak")}

Progress = Callable[[int, int], None]


def node_counts(text: str) -> tuple[int, ...]:
    """`16..2048`: doubling from the first to the last; `16,24,32`: just these. Raises ConfigError."""
    first, dots, last = text.partition("..")
    try:
        counts = _doubling(int(first), int(last)) if dots else sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise ConfigError(Problem("--nodes", "", f"{text!r} is no list of node counts", "write 16..2048 or 16,32,48"))
    return tuple(counts)


def _doubling(first: int, last: int) -> list[int]:
    counts = [first] if 1 <= first <= last else []
    while counts and counts[-1] < last:
        counts.append(min(2 * counts[-1], last))
    return counts


def scale(
    experiment: Experiment,
    nodes: Sequence[int],
    mode: str = "both",
    *,
    replan: bool = False,
    tokens: float | str | None = None,
    critical: float | None = None,
    jobs: int | None = None,
    progress: Progress = lambda done, total: None,
) -> ScalingStudy:
    """Simulate a resolved experiment on clusters of `nodes`, whose smallest is the reference of efficiency.

    Data parallelism grows with the cluster, or each size gets the best plan (`replan`). `tokens` is the target
    at the experiment's own batch: a number, "hoffmann" or "parametric"; by default the experiment's own, else
    hoffmann. `critical` is the critical batch size in tokens. On KeyboardInterrupt the sizes done are returned.
    """
    setup = experiment.setup
    length = setup.training.sequence_length
    if length is None:
        message = f"samples of {setup.workload.kind} {setup.workload.name} have no tokens, on which scaling laws rest"
        raise ConfigError(Problem("", "workload", message, "take a language model"))
    parameters = float(Architecture(setup.workload, setup.shard).undivided.whole.parameters)
    target, origin = _target(tokens, setup.training.tokens, parameters)
    own = float(setup.training.global_batch * length)
    critical = critical or critical_batch(parameters, target)
    wanted = [(each, count) for each in MODES[mode] for count in sorted(nodes)]
    points: list[ScalePoint] = []
    try:
        for done, (each, count) in enumerate(wanted):
            progress(done, len(wanted))
            batch = setup.training.global_batch if each == "strong" else _weak_batch(setup, count, min(nodes))
            needed = tokens_at(batch * length, target, own, critical)
            points.append(_point(_resized(experiment, count, batch, needed), each, replan, jobs))
    except KeyboardInterrupt:
        pass
    return ScalingStudy(
        name=experiment.name,
        description=experiment.description,
        parameters=parameters,
        tokens=target,
        tokens_from=origin,
        batch_tokens=own,
        critical_batch_tokens=critical,
        replanned=replan,
        points=_with_efficiency(points),
        complete=len(points) == len(wanted),
    )


def _target(tokens: float | str | None, given: float | None, parameters: float) -> tuple[float, str]:
    if isinstance(tokens, float | int):
        return float(tokens), "as asked for"
    if tokens is None and given is not None:
        return given, "the experiment's own"
    form = tokens or "hoffmann"
    names = {"hoffmann": "20 per parameter, Hoffmann 2022", "parametric": "parametric loss, Besiroglu 2024"}
    return optimal_tokens(parameters, form), names[form]


def _weak_batch(setup: Setup, nodes: int, smallest: int) -> int:
    """The experiment's batch belongs to the smallest cluster."""
    return max(1, round(setup.training.global_batch * nodes / smallest))


def _resized(experiment: Experiment, nodes: int, batch: int, tokens: float) -> Experiment:
    """The experiment on so many nodes, as many replicas as they hold; not checked yet."""
    setup = experiment.setup
    cluster = setup.cluster.resized(nodes)
    larger = Setup(experiment.model_copy(update={"nodes": nodes, "cluster": cluster}))
    data = max(1, larger.accelerators // setup.ranks_per_replica)
    return experiment.model_copy(
        update={
            "nodes": nodes,
            "cluster": cluster,
            "parallelism": setup.parallelism.model_copy(update={"data": data}),
            "training": setup.training.model_copy(update={"global_batch": batch, "tokens": ceil(tokens)}),
            "measured": None,
        }
    )


def _point(experiment: Experiment, mode: str, replan: bool, jobs: int | None) -> ScalePoint:
    setup = experiment.setup
    blank = ScalePoint(
        mode=mode,
        nodes=setup.cluster.nodes,
        accelerators=setup.accelerators,
        global_batch=setup.training.global_batch,
        plan="",
        tokens=setup.training.tokens or 0.0,
    )
    try:
        if replan:
            experiment = _best(experiment, jobs)
        result = simulate(validate_experiment(experiment))
    except SimError as error:
        return replace(blank, problem=first_line(error))
    return _measured(blank, result)


def _best(experiment: Experiment, jobs: int | None) -> Experiment:
    """With the best plan. Raises PlanError if none fits into memory."""
    search = search_plans(experiment, top=1, jobs=jobs)
    if not search.complete:
        raise KeyboardInterrupt
    if not search.plans:
        raise PlanError(f"none of {search.enumerated} plans fits into memory")
    return winner_of(experiment, search)


def _measured(blank: ScalePoint, result: Result) -> ScalePoint:
    return replace(
        blank,
        plan=str(result.setup.get("parallelism", "")),
        step_s=result.step.time_s,
        tokens_per_s=result.step.tokens_per_s,
        mfu=result.step.mfu,
        time_to_train_s=result.run.time_to_train_s["mean"] if result.run else None,
        energy_kwh=result.energy.total_kwh if result.energy else None,
        cost_usd=result.cost.usd["total"] if result.cost else None,
        fits=result.memory.fits,
    )


def _with_efficiency(points: Sequence[ScalePoint]) -> tuple[ScalePoint, ...]:
    """Each point relative to the smallest size of its mode that was simulated."""
    done = []
    for point in points:
        first = next((each for each in points if each.mode == point.mode and each.tokens_per_s), point)
        if point.tokens_per_s and first.tokens_per_s and point.time_to_train_s and first.time_to_train_s:
            more = point.accelerators / first.accelerators
            point = replace(
                point,
                efficiency=point.tokens_per_s / first.tokens_per_s / more,
                training_efficiency=first.time_to_train_s / point.time_to_train_s / more,
            )
        done.append(point)
    return tuple(done)
