"""Many seeds of one experiment: reproducible one by one, told as distributions, stopped when known, never lost."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy.stats import t as student
from seed_cases import FRAIL, frail, kept_in, live_in, many

from sim.ask.run.simulate import predict, simulate
from sim.ask.seeds import seeds as module
from sim.ask.seeds.seeds import ROUND, Seeds, run_seeds
from sim.ask.workers.batch import content_key
from sim.errors import ConfigError, SimError
from sim.inputs.records import Experiment
from sim.life.life_inputs import BADPUT
from sim.metrics.long_run import LifeSummary
from sim.metrics.result import Result
from sim.report.jsonout import from_json, result_text
from sim.report.page.frame import Figure
from sim.report.page.long_run import long_run_parts
from sim.report.text import report_text
from support import ROOT, Cli

LIVES = 30


@pytest.fixture(scope="module")
def result() -> Result:
    """Thirty lives, one process."""
    return many(Seeds(LIVES, jobs=1))


@pytest.fixture(scope="module")
def alone() -> list[Result]:
    """The same lives, each as a run of its own."""
    return [simulate(frail(f"seed={seed}")) for seed in range(LIVES)]


def timeless(result: Result) -> str:
    """All of a result but the time it took."""
    return result_text(replace(result, wall_s=0.0))


# --- distributions ----------------------------------------------------------------------------


def test_each_life_is_that_of_a_run_with_its_seed(result: Result, alone: list[Result]) -> None:
    run, times = result.run, [each.run.elapsed_s for each in alone if each.run]
    assert run is not None
    assert len(set(times)) == LIVES
    assert run.time_to_train_s["mean"] == pytest.approx(fmean(times), rel=1e-12)
    for name, share in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95)):
        assert run.time_to_train_s[name] == pytest.approx(np.quantile(times, share), rel=1e-12)
    assert run.incidents == (alone[0].run.incidents if alone[0].run else ())


def test_means_are_those_of_the_runs(result: Result, alone: list[Result]) -> None:
    """Means of times, counts, energy and parts of it; goodput is productive time over all time."""
    runs = [each.run for each in alone if each.run]
    assert result.run is not None
    assert result.energy is not None
    for bucket in BADPUT:
        assert result.run.badput_s[bucket] == pytest.approx(fmean(run.badput_s[bucket] for run in runs), rel=1e-12)
    for cause, mean in result.run.failures_by_cause.items():
        assert mean == pytest.approx(fmean(run.failures_by_cause.get(cause, 0) for run in runs))
    productive = sum(run.goodput * run.elapsed_s for run in runs)
    assert result.run.goodput == pytest.approx(productive / sum(run.elapsed_s for run in runs))
    energies = [each.energy for each in alone if each.energy]
    assert result.energy.total_kwh == pytest.approx(fmean(energy.total_kwh for energy in energies))
    assert sum(result.energy.parts_kwh.values()) == pytest.approx(result.energy.total_kwh)
    assert result.run.spreads["energy_kwh"].p95 > result.energy.total_kwh > result.run.spreads["energy_kwh"].p5


def test_the_mean_life_adds_up(result: Result) -> None:
    run = result.run
    assert run is not None
    assert run.goodput * run.elapsed_s + sum(run.badput_s.values()) == pytest.approx(run.elapsed_s, rel=1e-9)
    assert sum(run.outcomes.values()) == run.seeds == LIVES
    for spread in run.spreads.values():
        assert spread.low <= spread.p5 <= spread.p50 <= spread.p95 <= spread.high
        assert sum(spread.counts) == LIVES


def test_the_confidence_interval_is_students(result: Result, alone: list[Result]) -> None:
    times = [each.run.elapsed_s for each in alone if each.run]
    assert result.run is not None
    expected = student.ppf(0.975, LIVES - 1) * stdev(times) / LIVES**0.5
    assert result.run.spreads["time_to_train_s"].half_width == pytest.approx(expected, rel=1e-9)


def test_failures_come_as_often_as_the_rates_promise(result: Result) -> None:
    """Five standard errors of a Poisson mean."""
    assert result.run is not None
    for cause, expected in result.run.expected_by_cause.items():
        assert result.run.failures_by_cause[cause] == pytest.approx(expected, abs=5 * (expected / LIVES) ** 0.5)


def test_cost_has_a_distribution_where_there_are_prices() -> None:
    result = many(Seeds(4, jobs=1), None, "prices=aws-p5")
    assert result.run is not None
    assert result.cost is not None
    assert result.run.spreads["usd"].mean == pytest.approx(result.cost.usd["total"], rel=1e-9)
    assert result.run.spreads["usd"].low < result.run.spreads["usd"].high


def test_a_result_of_many_lives_reads_back_and_fits_into_80_columns(result: Result) -> None:
    assert from_json(json.loads(result_text(result))) == result
    text = report_text(result)
    assert max(map(len, text.splitlines())) <= 80
    for title in ("Where the time goes, mean of 30 lives", "Over 30 lives", "Failures, mean of a life", "Incidents"):
        assert title in text
    assert "(90 % between" in text


def test_the_number_of_processes_changes_nothing(result: Result) -> None:
    assert timeless(many(Seeds(LIVES, jobs=2))) == timeless(result)


def test_seeds_that_move_the_step_are_lived_with_steps_of_their_own() -> None:
    """A random placement is part of the life of its seed, though the step is simulated once where it is not."""
    cluster = "cluster={extends: dgx-h100-superpod, storage: s3}"
    changes = (cluster, "nodes=2", "parallelism={tensor: 8, data: 2, placement: random}")
    result = many(Seeds(2, jobs=1), None, *changes)
    single = [simulate(frail(*changes, f"seed={seed}")) for seed in range(2)]
    times = [each.run.elapsed_s for each in single if each.run]
    assert result.run is not None
    assert len({each.step.time_s for each in single}) > 1
    assert result.run.time_to_train_s["mean"] == pytest.approx(fmean(times), rel=1e-12)


# --- precision --------------------------------------------------------------------------------


def test_it_stops_when_the_mean_is_known_well_enough(result: Result) -> None:
    found = [many(Seeds(400, precision=0.03, jobs=jobs)) for jobs in (1, 2)]
    runs = [each.run for each in found]
    assert runs[0] is not None
    assert runs[0].seeds % ROUND == 0
    assert ROUND <= runs[0].seeds < 400
    for name in ("time_to_train_s", "goodput"):
        spread = runs[0].spreads[name]
        assert spread.half_width is not None
        assert spread.half_width <= 0.03 * spread.mean
    assert timeless(found[0]) == timeless(found[1]), "whatever the number of processes"
    assert timeless(many(Seeds(runs[0].seeds, jobs=1))) == timeless(found[0])


def test_a_precision_out_of_reach_takes_all_lives() -> None:
    run = many(Seeds(2 * ROUND + 3, precision=1e-6, jobs=1)).run
    assert run is not None
    assert run.seeds == 2 * ROUND + 3


def test_intervals_of_this_width_hold_the_mean(result: Result) -> None:
    """Of 24 groups of 25 lives, stopped or not, at most a few miss the mean of all: 5 % are to be expected."""
    lives = [predict(frail()).lived]
    assert lives[0] is not None
    times = np.array([lives[0].prepared.live(seed).elapsed_s for seed in range(600)]).reshape(24, 25)
    half = student.ppf(0.975, 24) * times.std(axis=1, ddof=1) / 5
    assert int((abs(times.mean(axis=1) - times.mean()) > half).sum()) <= 5


# --- wrong input ------------------------------------------------------------------------------


def test_an_experiment_without_a_life_has_no_seeds() -> None:
    experiment = frail("failures=null", "checkpoint=null")
    with pytest.raises(ConfigError, match="--seeds: nothing in this experiment depends on the seed"):
        run_seeds(predict(experiment), experiment, Seeds(3))


def test_a_life_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was lived before is kept."""
    whole = module.life_fields

    def broken(experiment: Experiment) -> str:
        if experiment.seed == 3:
            raise SimError("no more")
        return whole(experiment)

    monkeypatch.setattr(module, "life_fields", broken)
    with pytest.raises(SimError, match="the life with seed 3 failed: SimError: no more"):
        many(Seeds(5, jobs=1), tmp_path)
    assert len(kept_in(tmp_path)) >= 3
    monkeypatch.undo()
    assert timeless(many(Seeds(5, jobs=1), tmp_path)) == timeless(many(Seeds(5, jobs=1)))


# --- interruptions ----------------------------------------------------------------------------


def test_lives_that_are_there_are_not_lived_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = many(Seeds(6, jobs=1), tmp_path)
    asked: list[int] = []
    whole = module.life_fields

    def counting(experiment: Experiment) -> str:
        asked.append(experiment.seed)
        return whole(experiment)

    monkeypatch.setattr(module, "life_fields", counting)
    assert timeless(many(Seeds(6, jobs=1), tmp_path)) == timeless(first)
    assert asked == []
    many(Seeds(9, jobs=1), tmp_path)
    assert asked == [6, 7, 8]
    many(Seeds(6, jobs=1), tmp_path, "seed=5")
    assert asked == [6, 7, 8, 9, 10], "known by their seed, whatever the first one is"
    many(Seeds(2, jobs=1), tmp_path, "recovery.warm_spares=0")
    assert asked == [6, 7, 8, 9, 10, 0, 1], "another experiment in the same folder"


@pytest.mark.parametrize(("times", "jobs"), [(6, 1), (3, 2)])
def test_killed_at_random_moments_it_ends_bit_equal_to_an_unbroken_run(
    times: int, jobs: int, result: Result, tmp_path: Path
) -> None:
    context, draws = get_context("forkserver"), random.Random(jobs)
    context.set_forkserver_preload(["seed_cases"])
    kept: list[str] = []
    for _ in range(times):
        news, told = context.Pipe(duplex=False)
        process = context.Process(target=live_in, args=(tmp_path, Seeds(LIVES, jobs=jobs), told))
        process.start()
        told.close()
        with suppress(EOFError):
            for _ in range(draws.randint(0, 6)):
                news.recv()
        time.sleep(draws.uniform(0.0, 0.02))
        process.kill()
        process.join()
        before, kept = kept, kept_in(tmp_path)
        assert set(before) <= set(kept)
    assert kept, "something was lived between kills"
    assert timeless(many(Seeds(LIVES, jobs=jobs), tmp_path)) == timeless(result)


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path: Path) -> None:
    words = [word for override in FRAIL for word in ("--set", override)]
    line = [sys.executable, "-m", "sim.cli", "run", str(ROOT / "experiments" / "quickstart.yaml"), *words]
    line += ["--seeds", "5000", "-j", "1", "-o", str(tmp_path)]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whatever the tests themselves were started with
    process = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    while not (tmp_path / module.FILE).exists():
        time.sleep(0.02)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "of 5000 lives are kept in" in err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    kept = len(kept_in(tmp_path))
    assert 0 < kept < 5000
    assert f"{kept} of" in err


# --- the command ------------------------------------------------------------------------------


def test_the_command_writes_result_log_and_lives(tmp_path: Path, cli: Cli) -> None:
    words = [word for override in FRAIL for word in ("--set", override)]
    outcome = cli("run", "quickstart", *words, "--seeds", 3, "-j", 1, "-o", tmp_path, "--json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["run"]["seeds"] == 3
    assert document["run"]["best_interval"]["goodput"] >= document["run"]["best_interval"]["goodput_used"]
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["run"] == document["run"]
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    check_log(rows, document["run"])


def check_log(rows: list[dict[str, object]], run: dict[str, object]) -> None:
    """The log is in order, its phases fill the life, and its incidents are those of the result."""
    times = [row["time_s"] for row in rows]
    assert times == sorted(times, key=float)  # type: ignore[arg-type]
    assert rows[-1]["event"] == "end"
    assert sum(row["seconds"] for row in rows if row["event"] == "phase") == pytest.approx(rows[-1]["time_s"])  # type: ignore[misc]
    incidents = [row for row in rows if row["event"] == "incident"]
    assert [row["cause"] for row in incidents] == [each["cause"] for each in run["incidents"]]  # type: ignore[attr-defined]
    assert {row["event"] for row in rows} >= {"phase", "incident", "repair", "end"}


@pytest.mark.parametrize("precision", ["0", "a lot", "200 %"])
def test_a_wrong_precision_is_a_usage_error(precision: str, cli: Cli) -> None:
    outcome = cli("run", "quickstart", "--seeds", 3, "--precision", precision)
    assert outcome.code == 2
    assert "--precision" in outcome.err


def test_a_summary_survives_the_way_through_json() -> None:
    lived = predict(frail()).lived
    assert lived is not None
    text = json.dumps(asdict(lived.summary))
    again: LifeSummary = module._summary(json.loads(text))
    assert json.dumps(asdict(again)) == text


def test_the_page_draws_how_lives_scatter(result: Result) -> None:
    """A figure for each quantity that varies, its bars being the lives."""
    run = result.run
    assert run is not None
    figures = {part.name: part for part in long_run_parts(run) if isinstance(part, Figure)}
    assert set(figures) == {"goodput", "spread-time-to-train-s", "spread-goodput", "spread-lost-work-s"}
    bars = figures["spread-time-to-train-s"].data[0]
    assert sum(bars["y"]) == LIVES
    assert run.spreads["time_to_train_s"].low < bars["x"][0] < bars["x"][-1] < run.spreads["time_to_train_s"].high


def test_another_log_of_faults_is_another_experiment(tmp_path: Path) -> None:
    log = tmp_path / "faults.csv"
    log.write_text("node,start_days,end_days\n0,0.5,0.6\n")
    experiment = frail(f"failures={{name: logged, log: {{file: {log}, nodes: 1}}}}")
    key = content_key(experiment)
    assert content_key(experiment) == key
    log.write_text("node,start_days,end_days\n0,0.5,0.7\n")
    assert content_key(experiment) != key
