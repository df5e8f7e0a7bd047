"""Start a sweep: from the name of a study to its table.

Public: `run_study`, `sweep_into`, `default_folder`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sim.ask.sweep.store import Store, made
from sim.ask.sweep.sweep import Progress, sweep
from sim.ask.sweep.sweep_file import LoadedStudy, load_study
from sim.ask.sweep.sweep_table import SweepTable
from sim.ask.workers.batch import code_version
from sim.ask.workers.pool import Workers, start_workers
from sim.inputs.overrides import Override
from sim.report.files import write_text
from sim.report.jsonout import dumps

LIBRARIES = ("duckdb", "networkx", "numpy", "optuna", "pydantic", "scipy", "simpy")


def run_study(
    study: LoadedStudy | str | Path | Mapping[str, Any],
    overrides: Sequence[Override] = (),
    *,
    folder: Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> SweepTable:
    """Compute what `folder` does not hold yet; the table stays open until its `close`.

    `workers` processes, one per processor if None, or those of the Dask `scheduler`. Raises ConfigError.
    """
    with closing(start_workers(workers, scheduler)) as crew:
        loaded = study if isinstance(study, LoadedStudy) else load_study(study, overrides)
        return sweep_into(folder, loaded, crew, progress)


def sweep_into(
    folder: Path | None, study: LoadedStudy, workers: Workers, progress: Progress | None = None
) -> SweepTable:
    """The same with workers that are there already. Raises ConfigError."""
    if folder:
        _write_manifest(study, folder)
    store = Store(folder)
    try:
        return sweep(study, store, workers, progress)
    except BaseException:
        store.close()
        raise


def default_folder(study: LoadedStudy) -> Path:
    """Where the results of a study lie if nothing else is said."""
    return Path("results") / study.name


def _write_manifest(study: LoadedStudy, folder: Path) -> None:
    manifest = {
        "name": study.name,
        "version": code_version(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "study": study.study.model_dump(mode="json", exclude={"base"}),
        "base": study.base.experiment.model_dump(mode="json"),
    }
    made(folder)
    write_text(folder / "manifest.json", dumps(manifest))
