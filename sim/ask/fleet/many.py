"""Many lives of a fleet: each combination of values, under several seeds, in several processes.

Public: `run_many`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import product
from typing import Any

from sim.ask.fleet.load import load_fleet
from sim.ask.fleet.run import as_row, prepare_fleet
from sim.ask.workers.forkserver import without_main, worker_context
from sim.ask.workers.pool import processors
from sim.errors import ConfigError, Problem
from sim.metrics.fleet import FleetTable

Progress = Callable[[int, int], None]
MOST = 100_000  # lives


def run_many(
    source: str,
    changes: Sequence[str],
    vary: Sequence[str],
    seeds: int = 1,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FleetTable:
    """A table of the fleet of `source` with each combination of values, `key=a,b,c` each, and `seeds` seeds of each.

    The order of rows does not depend on processes. Raises ConfigError for a wrong file or value, before any lives.
    """
    axes = [_axis(text, f"--vary {number}") for number, text in enumerate(vary, start=1)]
    points = [dict(zip((key for key, _ in axes), values, strict=True)) for values in product(*(v for _, v in axes))]
    if len(points) * seeds > MOST:
        raise ConfigError(Problem("", "--vary", f"{len(points) * seeds:,} lives are more than {MOST:,}"))
    sets = [[*changes, *(f"{key}={value}" for key, value in point.items())] for point in points]
    first = [load_fleet(source, each) for each in sets]
    tasks = [(source, each, seed) for each in sets for seed in range(seeds)]
    results = list(_lived(tasks, workers, progress))
    rows = []
    for (number, _), row in zip(((n, s) for n in range(len(points)) for s in range(seeds)), results, strict=True):
        rows.append(points[number] | row)
    return FleetTable(first[0].name, tuple(key for key, _ in axes), tuple(rows))


def live_one(source: str, changes: list[str], ahead: int) -> dict[str, Any]:
    """One row: the fleet as changed, under the seed that many after its own."""
    loaded = load_fleet(source, changes)
    if ahead:  # what is drawn when it is loaded has that seed too
        loaded = load_fleet(source, [*changes, f"seed={loaded.spec.seed + ahead}"])
    return as_row(prepare_fleet(loaded).lived(loaded.spec.seed).result)


def _lived(
    tasks: Sequence[tuple[str, list[str], int]], workers: int | None, progress: Progress | None
) -> Iterator[dict[str, Any]]:
    count = min(workers or processors(), len(tasks))
    tell = progress or (lambda done, total: None)
    if count == 1:
        for number, task in enumerate(tasks, start=1):
            yield live_one(*task)
            tell(number, len(tasks))
        return
    with ProcessPoolExecutor(count, mp_context=worker_context()) as pool, without_main():
        futures = [pool.submit(live_one, *task) for task in tasks]
        left = set(futures)
        while left:
            _, left = wait(left, return_when=FIRST_COMPLETED)
            tell(len(tasks) - len(left), len(tasks))
        yield from (future.result() for future in futures)


def _axis(text: str, source: str) -> tuple[str, list[str]]:
    key, separator, values = text.partition("=")
    found = [value.strip() for value in values.split(",") if value.strip()]
    if not separator or not key.strip() or not found:
        way_out = "write --vary scheduler.policy=fifo,srtf"
        raise ConfigError(Problem(source, "", f"{text[:80]!r} is not of the form key.path=value,value", way_out))
    return key.strip(), found
