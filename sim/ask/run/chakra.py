"""A simulated step as Chakra execution traces.

Public: `recorded_step`, `write_chakra`, `WrittenTrace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.ask.run.step import simulate_step
from sim.errors import ConfigError, Problem
from sim.imports.chakra_file import chakra_bytes
from sim.imports.chakra_own import chakra_nodes, group_file, rank_attributes, unsupported
from sim.inputs.recording import Recording
from sim.inputs.records import Experiment
from sim.metrics.recorded_step import record_step
from sim.report.files import replacing, write_text

MOST_RANKS = 4096  # with files of their own
WHOLE = {"coalesce": "off", "fold": "off", "skip": "off"}  # each rank and each collective for itself


@dataclass(frozen=True)
class WrittenTrace:
    """Files of a trace, how many nodes are in them, and what a reader should know."""

    files: tuple[Path, ...]
    nodes: int
    remarks: tuple[str, ...]


def recorded_step(experiment: Experiment, ranks: Sequence[int] = ()) -> Recording:
    """What ranks (all, if none are named) do in a step. Raises ConfigError for ranks that the job has not."""
    world = experiment.setup.ranks
    chosen = ranks or range(world)
    wrong = [rank for rank in chosen if not 0 <= rank < world]
    if wrong:
        problem = f"rank {wrong[0]} is not there"
        raise ConfigError(Problem("", "--ranks", problem, f"the job has ranks 0 to {world - 1}"))
    if len(chosen) > MOST_RANKS:
        raise ConfigError(Problem("", "--ranks", f"{len(chosen)} ranks are more than {MOST_RANKS}", "name fewer"))
    options = experiment.simulation.model_copy(update=WHOLE)
    run = simulate_step(experiment.model_copy(update={"simulation": options}))
    return record_step(run.trace, run.plan, chosen, run.cluster.accelerator.name, experiment.name)


def write_chakra(experiment: Experiment, ranks: Sequence[int], folder: Path) -> WrittenTrace:
    """A file for each rank, and one of communicators. Raises ConfigError, OutputError."""
    recording = recorded_step(experiment, ranks)
    files = [folder / f"{experiment.name}.json"]
    write_text(files[0], group_file(recording), "--output")
    for rank in recording.ranks:
        file = folder / f"{experiment.name}.{rank.rank}.et"
        with replacing(file, "--output") as part, part.open("wb") as out:
            out.writelines(chakra_bytes(chakra_nodes(recording, rank), rank_attributes(recording, rank)))
        files.append(file)
    return WrittenTrace(tuple(files), sum(rank.nodes for rank in recording.ranks), tuple(_remarks(recording)))


def _remarks(recording: Recording) -> list[str]:
    """What readers that know the schema alone do not see."""
    lag = sum(float(rank.lag.sum()) for rank in recording.ranks)
    found = [
        f"{count:,} collectives are {kind}, which ASTRA-sim does not run"
        for kind, count in unsupported(recording).items()
    ]
    if lag > 0:
        found.append(f"{lag:.3g} s of waiting for the host are in the attribute own_lag alone")
    return found
