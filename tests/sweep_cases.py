"""Small studies that tests of sweeps share."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sim.ask.sweep.store import Store
from sim.ask.sweep.sweep_file import load_study
from sim.ask.sweep.sweep_start import run_study
from sim.ask.workers.pool import LocalProcesses

QUICK: dict[str, Any] = {
    "base": "quickstart",
    "axes": [
        {"key": "training.global_batch", "values": [32, 64]},
        {"key": "training.microbatch", "log_range": {"first": 1, "last": 8, "factor": 2}},
        {"key": "training.sequence_length", "values": [2048, 4096, 8192]},
        {"key": "parallelism.sequence_parallel", "values": [True, False]},
    ],
    "objectives": [{"minimize": "step.time_s"}, {"minimize": "memory.peak_bytes_per_accelerator"}],
}  # 48 points


def run_in(folder: Path, workers: int, told: Connection) -> None:
    """Run the quick study in a process of its own, one point to a batch, telling of each step."""
    LocalProcesses.batch_s = 0.0
    run_study(QUICK, folder=folder, workers=workers, progress=lambda done, total: told.send(done)).close()


def finished(folder: Path) -> list[str]:
    """Content keys of what is recorded in `folder`."""
    store = Store(folder)
    try:
        return [key for (key,) in store.connection.execute("SELECT key FROM results ORDER BY key").fetchall()]
    finally:
        store.close()


def size_of_quick() -> int:
    """Points of the quick study."""
    return load_study(QUICK).size
