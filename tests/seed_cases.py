"""A small experiment with a life, for tests of many seeds."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

from sim.ask.run.simulate import predict
from sim.ask.seeds.seeds import FILE, Seeds, run_seeds
from sim.ask.sweep.store import Store
from sim.ask.workers.pool import LocalProcesses
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.metrics.result import Result

FRAIL = (
    "cluster={extends: dgx-h100, storage: s3}",
    "training.tokens=10B",
    "failures={name: frail, modes: [{cause: node, component: node, mtbf: 12 h, repair: {mean: 1 h}}, "
    "{cause: software, component: job, mtbf: 6 h}]}",
    "recovery={warm_spares: 1, cold_spares: 1}",
    "checkpoint={interval: 20 min}",
)  # about 2.5 days, 15 failures


def frail(*overrides: str) -> Experiment:
    """The experiment, changed."""
    return load_experiment("quickstart", [*FRAIL, *overrides]).experiment


def many(seeds: Seeds, folder: Path | None = None, *overrides: str) -> Result:
    """Its result over many lives."""
    experiment = frail(*overrides)
    return run_seeds(predict(experiment), experiment, seeds, folder)


def live_in(folder: Path, seeds: Seeds, told: Connection) -> None:
    """Live it in a process of its own, one life to a batch, telling of each."""
    LocalProcesses.batch_s = 0.0
    experiment = frail()
    run_seeds(predict(experiment), experiment, seeds, folder, lambda done, total: told.send(done))


def kept_in(folder: Path) -> list[str]:
    """Content keys of the lives that `folder` holds."""
    if not (folder / FILE).exists():
        return []
    store = Store(folder, FILE)
    try:
        return [key for (key,) in store.connection.execute("SELECT key FROM results ORDER BY key").fetchall()]
    finally:
        store.close()
