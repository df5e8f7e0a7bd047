"""One run: from the name of an experiment to a result, and to files."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sim.metrics.result import Result
from sim.report.jsonout import dumps, result_text
from sim.spec.load import load_experiment
from sim.study.simulate import Watch, simulate

LIBRARIES = ("networkx", "numpy", "pydantic", "simpy")


def run_experiment(
    source: str, overrides: list[str] | None = None, seed: int | None = None, watch: Watch | None = None
) -> Result:
    """Load an experiment by file or name, change it by `key=value` texts, and simulate it.

    Raises ConfigError for wrong input, PlanError where the plan does not suit cluster or model.
    """
    changes = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    return simulate(load_experiment(source, changes).experiment, watch)


def meets_expectations(result: Result) -> bool:
    """Whether the plan fits into memory and the measurement, if it names a tolerance, is met."""
    return result.memory.fits and within_tolerance(result)


def within_tolerance(result: Result) -> bool:
    """Whether the predicted step time is as close to the measured one as the experiment demands."""
    comparison = result.comparison
    if comparison is None or comparison.tolerance is None:
        return True
    return abs(comparison.error) <= comparison.tolerance


def write_result(result: Result, directory: Path) -> None:
    """Write result.json and manifest.json into `directory`, which must exist."""
    (directory / "result.json").write_text(result_text(result), encoding="utf-8")
    (directory / "manifest.json").write_text(dumps(manifest(result)), encoding="utf-8")


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
