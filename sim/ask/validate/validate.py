"""Every measured run in files or folders, predicted in parallel processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from sim.ask.run.chakra import recorded_step
from sim.ask.run.simulate import simulate
from sim.ask.validate.collectives import find_curves, validate_curves
from sim.ask.validate.trust import residuals_of, traits_of
from sim.ask.workers.pool import prepare_worker, processors, stop
from sim.errors import ConfigError, Problem, SimError
from sim.inputs.cases import is_table, load_cases
from sim.inputs.catalogue import catalogue_root
from sim.inputs.curves import is_curve_table
from sim.inputs.load import load_experiment
from sim.inputs.measured import communication_shares, measured_of
from sim.inputs.reader import read_file, yaml_files
from sim.inputs.records import Experiment
from sim.inputs.run_table import RunColumns, is_run_table
from sim.metrics.result import Result
from sim.metrics.trust import Bands
from sim.metrics.validation import (
    HIDDEN,
    HOST,
    Miss,
    Row,
    SideCheck,
    Validation,
    likely_causes,
    score,
    scores,
    worst_rows,
)

WORST = 10
BLIND = "blind"  # folder of runs that were collected before they were predicted, and are kept apart
MOST_RANKS = 1024  # whose communication is compared: each is simulated for itself
FEW = 4  # up to so many runs are not worth starting processes for
EXPERIMENT_KEYS = frozenset({"cluster", "workload", "parallelism", "training", "software", "measured"})

Progress = Callable[[int, int, Row], None]  # called with how many are done, how many there are, the last one


@dataclass(frozen=True)
class MeasuredRun:
    """A run to predict: an experiment, or the reason why it cannot be read."""

    source: str
    name: str
    path: Path
    experiment: Experiment | None
    problem: str = ""


def validate(
    paths: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
    columns: RunColumns | None = None,
) -> Validation:
    """Predict every measured run under `paths`, by default those of the catalogue.

    `columns` says what headers of CSV mean. A run that fails is a row with its reason. On KeyboardInterrupt what is
    done is returned, with `complete` False. MeasuredRun collectives are predicted too. Raises ConfigError if `paths`
    hold nothing measured.
    """
    runs, curves = find_measured(paths, overrides, columns), find_curves(paths)
    if not runs and not curves:
        where = " ".join(map(str, paths)) or str(catalogue_root() / "experiments")
        raise ConfigError(Problem(where, "", "holds no measured run", "give an experiment the key `measured`"))
    rows, complete = predict(runs, jobs or processors(), progress or (lambda done, total, row: None))
    scored = validate_curves(curves) if curves and complete else None
    return replace(summarize(rows, runs, complete), curves=scored)


# --- finding --------------------------------------------------------------------------------


def find_measured(
    paths: Sequence[Path] = (), overrides: Sequence[str] = (), columns: RunColumns | None = None
) -> list[MeasuredRun]:
    """The measured runs under `paths` in order, each measurement once: tables before single experiments.

    Without `paths` those of the catalogue, but for the blind ones: what is asked for by default is what tables of
    errors are made of.
    """
    files = [file for path in paths or _compared() for file in yaml_files(path)]
    files.sort(key=lambda file: not _holds_cases(file))
    found = [run for file in dict.fromkeys(files) for run in _read(file, file in paths, overrides, columns)]
    return _distinct(found)


def _compared() -> list[Path]:
    return [file for file in yaml_files(catalogue_root() / "experiments") if file.parent.name != BLIND]


def _holds_cases(file: Path) -> bool:
    try:
        return is_table(file)
    except ConfigError:
        return False


def _read(
    file: Path, named: bool, overrides: Sequence[str], columns: RunColumns | None = None
) -> Iterator[MeasuredRun]:
    """The runs in `file`; what is no measured experiment is an error only if `named` by the user."""
    try:
        if is_table(file):
            for case in load_cases(file, columns):
                yield _loaded(file.stem, case.name, file, lambda case=case: case.load(overrides).experiment)  # type: ignore[misc]
        elif is_curve_table(file):
            return
        elif named or _may_be_measured(file):
            experiment = load_experiment(file, overrides).experiment
            if named or experiment.measured:
                yield _loaded(_folder(file), file.stem, file, lambda: experiment)
    except ConfigError as error:
        if is_run_table(file):  # without headers there is no run to tell it of
            raise
        yield MeasuredRun(_folder(file), file.stem, file, None, _reason(error))


def _may_be_measured(file: Path) -> bool:
    keys = read_file(file).value.keys()
    return "measured" in keys or ("extends" in keys and bool(EXPERIMENT_KEYS & keys))


def _folder(file: Path) -> str:
    return file.resolve().parent.name or str(file)


def _loaded(source: str, name: str, file: Path, load: Callable[[], Experiment]) -> MeasuredRun:
    try:
        experiment = load()
    except ConfigError as error:
        return MeasuredRun(source, name, file, None, _reason(error))
    if experiment.measured is None or _value(experiment) is None:
        where = f"{file}: {name}"
        return MeasuredRun(source, name, file, None, f"{where}: nothing is measured; give `measured` a value")
    return MeasuredRun(source, name, file, experiment)


def _reason(error: BaseException) -> str:
    """The first line of what `error` says, and how many more there are."""
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return f"{first} (and {len(rest)} more)" if rest else first


def _value(experiment: Experiment) -> tuple[str, float] | None:
    """The measured value that counts, with its name."""
    known = measured_of(experiment.measured)
    measured = known.model_dump() if known else {}
    names = (
        "step_time",
        "samples_per_s",
        "tokens_per_s",
        "tokens_per_s_per_accelerator",
        "model_tflops_per_accelerator",
    )
    return next(((name, measured[name]) for name in names if measured.get(name) is not None), None)


def _distinct(runs: list[MeasuredRun]) -> list[MeasuredRun]:
    """`runs` without those that repeat an earlier one: the same experiment and the same value."""
    kept: dict[str, MeasuredRun] = {}
    for number, run in enumerate(runs):
        key = str(number)
        if run.experiment:
            cleared = {"name": "experiment", "description": "", "measured": None}
            key = f"{_value(run.experiment)}{run.experiment.model_copy(update=cleared).model_dump_json()}"
        kept.setdefault(key, run)
    return list(kept.values())


# --- predicting -----------------------------------------------------------------------------


def predict(runs: Sequence[MeasuredRun], jobs: int, progress: Progress) -> tuple[list[Row], bool]:
    """A row for each run, in their order, and whether all were done."""
    if jobs == 1 or len(runs) <= FEW:
        return _predict_here(runs, progress)
    rows: dict[int, Row] = {}
    pool = ProcessPoolExecutor(min(jobs, len(runs)), mp_context=get_context("spawn"), initializer=prepare_worker)
    try:
        futures = {pool.submit(predict_one, run): number for number, run in enumerate(runs)}
        for future in as_completed(futures):
            number = futures[future]
            rows[number] = _row_of(future, runs[number])
            progress(len(rows), len(runs), rows[number])
        pool.shutdown()
    except KeyboardInterrupt:
        stop(pool)
    return [rows[number] for number in sorted(rows)], len(rows) == len(runs)


def _predict_here(runs: Sequence[MeasuredRun], progress: Progress) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    try:
        for run in runs:
            rows.append(predict_one(run))
            progress(len(rows), len(runs), rows[-1])
    except KeyboardInterrupt:
        return rows, False
    return rows, True


def _row_of(future: Future[Row], run: MeasuredRun) -> Row:
    error = future.exception()
    if error is None:
        return future.result()
    return Row(run.source, run.name, str(run.path), f"the process that ran it ended: {_reason(error)}")


def predict_one(run: MeasuredRun) -> Row:
    """The prediction of one run; what goes wrong is told in the row."""
    blank = Row(run.source, run.name, str(run.path), run.problem)
    if run.experiment is None:
        return blank
    began = time.perf_counter()
    try:
        result = simulate(run.experiment)
        beside = (*_communication(run.experiment), *_power(run.experiment, result))
    except SimError as error:
        return replace(blank, problem=f"{type(error).__name__}: {_reason(error)}")
    except Exception as error:  # one broken run must not end the others
        return replace(blank, problem=f"internal error: {type(error).__name__}: {_reason(error)}")
    row = _row(blank, run.experiment, result, time.perf_counter() - began)
    return replace(row, beside=beside)


def _row(blank: Row, experiment: Experiment, result: Result, wall_s: float) -> Row:
    comparison, step = result.comparison, result.step
    if comparison is None:
        return replace(blank, problem="nothing was compared")
    shares = {part: seconds / step.time_s for part, seconds in step.breakdown_s.items()}
    return replace(
        blank,
        metric=comparison.metric,
        predicted=comparison.predicted,
        measured=comparison.measured,
        error=comparison.error,
        tolerance=comparison.tolerance,
        step_s=step.time_s,
        fits=result.memory.fits,
        shares={**shares, HIDDEN: step.comm_overlapped_s / step.time_s},
        plan=traits_of(experiment),
        wall_s=wall_s,
        where=comparison.source,
    )


def _communication(experiment: Experiment) -> tuple[SideCheck, ...]:
    """Shares of communication that were measured, beside those that a profiler would see of the simulated step."""
    measured = measured_of(experiment.measured)
    wanted = {name: getattr(measured, f"{name}_communication", None) for name in ("exposed", "overlapped")}
    if measured is None or not any(value is not None for value in wanted.values()):
        return ()
    if experiment.setup.ranks > MOST_RANKS:
        message = f"shares of communication are compared up to {MOST_RANKS:,} ranks, not {experiment.setup.ranks:,}"
        raise ConfigError(Problem("", "measured", message, "leave them out"))
    shares = communication_shares(recorded_step(experiment))
    if shares is None:
        return ()
    return tuple(SideCheck(name, getattr(shares, name), value) for name, value in wanted.items() if value is not None)


def _power(experiment: Experiment, result: Result) -> tuple[SideCheck, ...]:
    """Power of an accelerator that was metered, beside that of the simulated step."""
    measured = measured_of(experiment.measured)
    if measured is None or measured.power is None or result.energy is None:
        return ()
    return (SideCheck("power", result.energy.accelerator_power_w, measured.power),)


# --- summing up -----------------------------------------------------------------------------


def summarize(rows: Sequence[Row], runs: Sequence[MeasuredRun], complete: bool) -> Validation:
    """Scores of `rows`, and the worst of them with what may explain them."""
    experiments = {(run.source, run.name): run.experiment for run in runs}
    worst = worst_rows(rows, WORST)
    if complete:
        worst = [_with_host_share(row, experiments[row.source, row.name]) for row in worst]
    misses = tuple(Miss(row, likely_causes(row)) for row in worst)
    return Validation(tuple(rows), scores(rows), score(rows), misses, complete, Bands(residuals_of(rows)).coverage())


def _with_host_share(row: Row, experiment: Experiment | None) -> Row:
    """`row` with the share of the step that a host of no cost would save."""
    if experiment is None:
        return row
    setup = experiment.setup
    if not setup.software.host_issue:
        return row
    free = setup.software.model_copy(update={"host_issue": 0.0})
    faster = simulate(experiment.model_copy(update={"software": free})).step.time_s
    return replace(row, shares={**row.shares, HOST: max(0.0, 1 - faster / row.step_s)})
