"""A sweep that is killed loses nothing, repeats nothing, and ends with the same table."""

from __future__ import annotations

import random
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import sleep

import pytest
from sweep_cases import QUICK, finished, run_in, size_of_quick

from sim.ask.sweep.sweep_start import run_study

STEPS = 5  # of progress that a process lives to see, at most
MOMENT_S = 0.03  # and a moment more


def kill_repeatedly(folder: Path, times: int, workers: int, draws: random.Random) -> list[int]:
    """Start the study and kill it at a random moment, `times` times; how much was done after each."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["duckdb", "sim.ask.sweep.sweep_start", "sim.ask.workers.batch", "sweep_cases"])
    done, kept = [], list[str]()
    for _ in range(times):
        news, told = context.Pipe(duplex=False)
        process = context.Process(target=run_in, args=(folder, workers, told))
        process.start()
        told.close()
        _wait_for(news, draws.randint(0, STEPS))
        sleep(draws.uniform(0.0, MOMENT_S))
        process.kill()
        process.join()
        recorded = finished(folder) if (folder / "sweep.duckdb").exists() else []
        assert set(kept) <= set(recorded)
        assert len(recorded) == len(set(recorded))
        kept = recorded
        done.append(len(recorded))
    return done


def _wait_for(news: Connection, steps: int) -> None:
    """Until so many steps were told, or the process ended."""
    with suppress(EOFError):
        for _ in range(steps):
            news.recv()


Exports = tuple[list[dict[str, object]], bytes, bytes, list[int]]


def exports(folder: Path, workers: int) -> Exports:
    """The finished table of a folder: rows, CSV, Parquet, and how the count of done rows grew."""
    counts: list[int] = []
    table = run_study(QUICK, folder=folder, workers=workers, progress=lambda done, total: counts.append(done))
    table.to_csv(folder / "table.csv")
    table.to_parquet(folder / "table.parquet")
    rows = table.rows()
    table.close()
    return rows, (folder / "table.csv").read_bytes(), (folder / "table.parquet").read_bytes(), counts


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exports]:
    """A run that nobody disturbed: its folder and its table."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, exports(folder, 1)


@pytest.mark.parametrize(("times", "workers"), [(46, 1), (4, 2)])
def test_killed_at_random_moments_the_table_is_bit_equal_to_an_unbroken_run(
    tmp_path: Path, unbroken: tuple[Path, Exports], times: int, workers: int
) -> None:
    done = kill_repeatedly(tmp_path, times, workers, random.Random(workers))
    table = exports(tmp_path, workers)
    assert table[:3] == unbroken[1][:3]
    assert done == sorted(done)
    rows = table[0]
    assert len(rows) == len(finished(tmp_path)) == size_of_quick()
    assert len({(row["point"], row["seed"]) for row in rows}) == len(rows)


def test_a_second_run_computes_nothing(unbroken: tuple[Path, Exports]) -> None:
    folder, first = unbroken
    again = exports(folder, 1)
    assert again[:3] == first[:3]
    assert first[3][0] == 0
    assert len(again[3]) < 5, "every point was there when the points were listed"
