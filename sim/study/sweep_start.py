"""Start a sweep: from the name of a study to its table.

Public: `run_study`, `default_folder`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem
from sim.report.jsonout import dumps
from sim.spec.overrides import Override
from sim.study.batch import code_version
from sim.study.pool import InThisProcess, LocalProcesses, Workers, processors
from sim.study.store import Store
from sim.study.sweep import Progress, sweep
from sim.study.sweep_file import LoadedStudy, load_study
from sim.study.sweep_table import Table

LIBRARIES = ("duckdb", "networkx", "numpy", "optuna", "pydantic", "scipy", "simpy")


def run_study(
    study: LoadedStudy | str | Path | Mapping[str, Any],
    overrides: Sequence[Override] = (),
    *,
    folder: Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Table:
    """Compute what `folder` does not hold yet; the table stays open until its `close`.

    `workers` processes, one per processor if None, or those of the Dask `scheduler`. Raises ConfigError.
    """
    loaded = study if isinstance(study, LoadedStudy) else load_study(study, overrides)
    if folder:
        _write_manifest(loaded, folder)
    store = Store(folder)
    try:
        crew = _workers(workers, scheduler)
        try:
            return sweep(loaded, store, crew, progress)
        finally:
            crew.close()
    except BaseException:
        store.close()
        raise


def default_folder(study: LoadedStudy) -> Path:
    """Where the results of a study lie if nothing else is said."""
    return Path("results") / study.name


def _workers(number: int | None, scheduler: str | None) -> Workers:
    if scheduler is not None:
        from sim.study.on_dask import OnDask

        return OnDask(scheduler)
    number = processors() if number is None else number
    return LocalProcesses(number) if number > 1 else InThisProcess()


def _write_manifest(study: LoadedStudy, folder: Path) -> None:
    manifest = {
        "name": study.name,
        "version": code_version(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "study": study.study.model_dump(mode="json", exclude={"base"}),
        "base": study.base.experiment.model_dump(mode="json"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(dumps(manifest), encoding="utf-8")
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        raise ConfigError(Problem(str(folder), "", message, "choose another folder with -o")) from None
