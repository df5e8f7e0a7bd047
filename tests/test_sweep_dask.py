"""A sweep on a Dask cluster: the same rows, also when a worker is killed half-way."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sweep_cases import QUICK, size_of_quick

from sim.ask.sweep.sweep_start import run_study
from sim.ask.workers.on_dask import RARELY_MS, OnDask, rarely_watched
from sim.errors import ConfigError

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


class Starts(distributed.diagnostics.plugin.SchedulerPlugin):  # type: ignore[misc, name-defined]
    """Counts how often each batch was given to a worker."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def transition(self, key: str, start: str, finish: str, *args: object, **kwargs: object) -> None:
        """Called by the scheduler for each change of a task."""
        if finish == "processing":
            self.of[key] += 1


def test_workers_import_the_program_while_work_is_prepared(cluster: Any) -> None:
    with closing(OnDask(cluster.scheduler_address)) as crew:
        assert crew.client.gather(crew.preloading) == [None, None]
        assert all(crew.client.run(lambda: "sim.ask.run.simulate" in sys.modules).values())


def test_a_worker_is_watched_rarely_during_a_batch_and_as_usual_after_it(cluster: Any) -> None:
    def intervals(dask_worker: Any) -> dict[str, float]:
        return {name: timer.callback_time for name, timer in dask_worker.periodic_callbacks.items()}

    def within() -> dict[str, float]:
        with rarely_watched(), rarely_watched():
            return intervals(distributed.get_worker())

    with closing(OnDask(cluster.scheduler_address)) as crew:
        usual = crew.client.run(intervals)
        one = next(iter(usual.values()))
        assert {name for name, time_ms in one.items() if time_ms < RARELY_MS} >= {"profile", "tick"}
        rarely = {name: max(time_ms, RARELY_MS) for name, time_ms in one.items()}
        assert crew.client.submit(within, pure=False).result() == rarely
        crew.submit([]).result()
        assert crew.client.run(intervals) == usual


def test_a_worker_killed_half_way_costs_its_batches_and_no_row(cluster: Any) -> None:
    starts, killed = Starts(), list[int]()
    cluster.scheduler.add_plugin(starts)

    def kill_one(done: int, total: int) -> None:
        if done >= total / 2 and not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    with run_on(cluster, kill_one) as table:
        assert table.rows() == run_study(QUICK, workers=1).rows()
        assert len(table) == size_of_quick()
    assert killed
    again = sum(count - 1 for count in starts.of.values())
    assert again <= 3, "what the worker was at, what waited for it, and what it had just finished"
    assert len(starts.of) > again


def run_on(cluster: Any, progress: Any = None) -> Any:
    return closing(run_study(QUICK, scheduler=cluster.scheduler_address, progress=progress))


def test_workers_of_other_code_are_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.ask.workers.batch.code_version", lambda: "0.0.0+other")
    with pytest.raises(ConfigError, match=r"a worker runs clustersim .* this is 0\.0\.0\+other; install the same"):
        run_on(cluster)


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.ask.workers.on_dask.TIMEOUT_S", 0.3)
    with pytest.raises(ConfigError, match=r"--scheduler: no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        OnDask("tcp://127.0.0.1:9")
