"""Cases that need a process of their own, so that memory and warm caches are theirs alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from bench.measure import peak_memory, timed
from sim.spec.load import load_experiment
from sim.study.simulate import simulate


def step(experiment: str, repetitions: str, *overrides: str) -> dict[str, Any]:
    """Simulate one step again and again: times [s], events and peak memory [B]."""
    loaded = load_experiment(experiment, overrides).experiment
    results = []
    sample = timed(lambda: results.append(simulate(loaded)), int(repetitions))
    return {
        "seconds": sample.values,
        "simulation_s": [result.wall_s for result in results],
        "events": results[0].events,
        "accelerators": results[0].accelerators,
        "peak_bytes": peak_memory(),
    }


CASES: dict[str, Callable[..., dict[str, Any]]] = {"step": step}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](*sys.argv[2:])))
