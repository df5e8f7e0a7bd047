"""A job of a fleet that is an experiment: on which nodes it can be, and how long its step takes there.

Public: `LoadedTraining`, `load_training`, `shape_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sim.ask.run.step import Simulated, simulate_step
from sim.errors import ConfigError, Problem
from sim.fleet.jobs import Places
from sim.inputs.fleet import BareCluster, JobEntry
from sim.inputs.load import load_experiment, validate_experiment
from sim.inputs.records import ClusterSpec, Experiment
from sim.metrics.energy_step import step_energy


class NodesOfFleet(Protocol):
    """What is needed to know of a part of the fleet."""

    @property
    def kind(self) -> str: ...  # noqa: D102 - see `LoadedPart`, as are all below
    @property
    def cluster(self) -> ClusterSpec | BareCluster: ...  # noqa: D102
    @property
    def first(self) -> int: ...  # noqa: D102
    @property
    def boards(self) -> int: ...  # noqa: D102
    @property
    def levels(self) -> tuple[int, ...]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class LoadedTraining:
    """An experiment on the nodes of a fleet.

    on: it on each kind of node. steps: to take; step_s: of one, alone and packed on the first kind. watts: of a board
    in it, mean over a step. saves: s to save before a stop, and to load.
    """

    name: str
    on: dict[str, Experiment]
    steps: int
    gpus: int
    step_s: float
    watts: float
    saves: tuple[float, float] | None
    notes: tuple[str, ...]

    @property
    def work(self) -> float:
        """Run time alone on the reference places [s]."""
        return self.steps * self.step_s

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of nodes that it can be on."""
        return tuple(self.on)

    def at(self, kind: str, accelerators: tuple[int, ...]) -> Experiment:
        """The experiment with its ranks on these accelerators of a kind, the rest of its batch for each replica."""
        experiment = self.on[kind]
        setup = experiment.setup
        data = len(accelerators) // setup.ranks_per_replica
        parallelism = setup.parallelism.model_copy(update={"placement": accelerators, "data": data})
        return validate_experiment(experiment.model_copy(update={"parallelism": parallelism}))


def load_training(entry: JobEntry, parts: Sequence[NodesOfFleet], home: Path) -> LoadedTraining:
    """The experiment of a job on the nodes of a fleet, and its step where they are packed. Raises ConfigError."""
    source = entry.experiment
    if isinstance(source, str) and source.endswith((".yaml", ".yml")):
        source = str(home / source)
    assert source is not None
    own = load_experiment(source).experiment
    gpus, steps = own.setup.ranks, entry.steps or own.setup.target_steps
    if steps is None:
        raise ConfigError(Problem("", "steps", "is missing: the experiment says no training.tokens either"))
    on: dict[str, Experiment] = {}
    problems: list[Problem] = []
    for part in parts:
        if entry.kinds and part.kind not in entry.kinds:
            continue
        if isinstance(part.cluster, BareCluster):
            message = f"nothing is known of the nodes {part.kind!r} but their boards"
            problems.append(Problem("", "experiment", message, "an experiment needs a cluster of the catalogue"))
            continue
        try:
            on[part.kind] = _moved(own, part.cluster, gpus)
        except ConfigError as error:
            problems += [Problem("", "experiment", problem.message, problem.suggestion) for problem in error.problems]
    if not on:
        raise ConfigError(problems or Problem("", "kinds", "there are no such nodes"))
    step = simulate_step(next(iter(on.values())))
    watts = step_energy(step.readings.activity).watts / gpus
    notes = [f"{own.name}: not on {problem.message}" for problem in problems]
    return LoadedTraining(own.name, on, steps, gpus, step.trace.time, watts, _saves(own, step), tuple(notes))


def _moved(own: Experiment, cluster: ClusterSpec, gpus: int) -> Experiment:
    """The experiment on the first accelerators of another cluster."""
    setup = own.setup
    parallelism = setup.parallelism.model_copy(update={"placement": tuple(range(gpus)), "data": setup.data})
    update = {"cluster": cluster, "nodes": None, "parallelism": parallelism, "degradations": (), "measured": None}
    return validate_experiment(own.model_copy(update=update))


def _saves(own: Experiment, step: Simulated) -> tuple[float, float] | None:
    """Seconds to write a checkpoint before a stop, and to come back from it; None if nothing is said of saves."""
    if own.checkpoint is None or step.cluster.storage is None:
        return None
    costs, recovery = step.save_costs(), own.recovery
    start = recovery.initialise + recovery.initialise_per_rank * step.setup.ranks
    return costs.blocking_s + costs.drain_s, costs.restore_s + start


def shape_of(places: Places, part: NodesOfFleet) -> tuple[tuple[int, ...], ...]:
    """What places have in common with others that are as good: boards of each node, and which nodes share units."""
    labels: list[dict[int, int]] = [{} for _ in part.levels]
    shape = []
    for node, boards in places:
        units = (
            known.setdefault((node - part.first) // size, len(known))
            for known, size in zip(labels, part.levels, strict=True)
        )
        shape.append((boards, *units))
    return tuple(shape)
