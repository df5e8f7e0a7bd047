"""One run: from the name of an experiment to a result, and to files."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sim.ask.run.channels import with_channels
from sim.ask.run.simulate import predict
from sim.ask.run.stacks import with_stacks
from sim.ask.run.step import Watch
from sim.ask.seeds.seeds import Progress, Seeds, run_seeds
from sim.inputs.load import load_experiment
from sim.metrics.event_log import life_events
from sim.metrics.result import Result
from sim.report.files import deliver, write_text
from sim.report.jsonout import dumps, result_text, write_lines

LIBRARIES = ("networkx", "numpy", "pydantic", "simpy")


def run_experiment(
    source: str,
    overrides: list[str] | None = None,
    watch: Watch | None = None,
    seeds: Seeds | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
    show: Callable[[Result], None] | None = None,
) -> Result:
    """Load an experiment by file or name, change it by `key=value` texts, and simulate it, with `seeds` many times.

    Everything is written into `folder`, which must exist; without it lives are kept in `default_folder`. `show` is
    told the result too, whether or not the files can be written. Raises ConfigError for wrong input, PlanError where
    the plan does not suit cluster or model, OutputError for what could not be written.
    """
    began = time.perf_counter()
    experiment = load_experiment(source, overrides or []).experiment
    predicted = predict(experiment, watch)
    result, lived = predicted.result, predicted.lived
    if seeds and seeds.number > 1:
        kept = folder or default_folder(experiment.name)
        result = run_seeds(predicted, experiment, seeds, kept, progress)
    if result.run and lived:
        result = replace(result, run=replace(result.run, best_interval=lived.prepared.best_interval()))
    result = with_channels(with_stacks(result, experiment), experiment)
    result = replace(result, wall_s=time.perf_counter() - began)
    outputs: list[Callable[[], None]] = []
    if folder:
        outputs.append(partial(write_result, result, folder))
        if lived:
            outputs.append(partial(write_lines, life_events(lived.life), folder / "events.jsonl"))
    if show:
        outputs.append(partial(show, result))
    deliver(*outputs)
    return result


def meets_expectations(result: Result) -> bool:
    """Whether the plan fits into memory, the run comes to its end, and a measurement with a tolerance is met."""
    return result.memory.fits and (result.run is None or result.run.finished) and within_tolerance(result)


def within_tolerance(result: Result) -> bool:
    """Whether the predicted step time is as close to the measured one as the experiment demands."""
    comparison = result.comparison
    if comparison is None or comparison.tolerance is None:
        return True
    return abs(comparison.error) <= comparison.tolerance


def write_result(result: Result, directory: Path) -> None:
    """Write result.json and manifest.json into `directory`, which must exist. Raises OutputError."""
    write_text(directory / "result.json", result_text(result))
    write_text(directory / "manifest.json", dumps(manifest(result)))


def default_folder(name: str) -> Path:
    """Where what is computed once lies if nothing else is said."""
    return Path("results") / name


def manifest(result: Result) -> dict[str, Any]:
    """What is needed to repeat a run: resolved input, seed, versions; and how long it took."""
    return {
        "name": result.name,
        "version": result.version,
        "seed": result.seed,
        "wall_s": result.wall_s,
        "events": result.events,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "input": result.manifest,
    }
