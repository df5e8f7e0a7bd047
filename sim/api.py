"""The Python interface: `import sim`, then `sim.simulate`, `sim.plan`, `sim.scale`, `sim.sweep`, `sim.compare`,
`sim.explain`, `sim.validate`, `sim.simulate_fleet` and `sim.check`.

The same files, results and errors as the command line. Wrong input raises `sim.ConfigError`, which holds
all problems with their places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.ask.fleet.load import load_fleet
from sim.ask.fleet.run import LivedFleet, run_fleet
from sim.ask.run.simulate import simulate as simulate_experiment
from sim.ask.sweep.sweep_table import SweepTable
from sim.errors import ConfigError, Problem
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.metrics.result import Result
from sim.report.notebook import (
    NotebookContrast,
    NotebookPlans,
    NotebookResult,
    NotebookScaling,
    NotebookValidation,
    NotebookWhy,
)

Changes = Mapping[str, Any]
Source = str | Path | Mapping[str, Any] | Experiment

__all__ = [
    "ConfigError",
    "check",
    "compare",
    "explain",
    "plan",
    "scale",
    "simulate",
    "simulate_fleet",
    "sweep",
    "validate",
]


def simulate(source: Source, *, set: Changes | None = None, **keys: Any) -> NotebookResult:
    """Simulate one experiment: a name from the catalogue, a path, a mapping, or a record.

    `set` and keywords change single keys. Values are written as in YAML, quantities with their units.

    >>> import sim
    >>> result = sim.simulate("gpt3-175b-a100", nodes=256, set={"parallelism.data": 16})
    >>> result.accelerators, result.memory.fits
    (2048, True)
    >>> result.step.time_s < sim.simulate("gpt3-175b-a100").step.time_s
    True

    Deeper keys can be dotted or nested, in `set` or as keywords:

    >>> dotted = sim.simulate("quickstart", **{"training.microbatch": 2})
    >>> nested = sim.simulate("quickstart", training={"microbatch": 2})
    >>> dotted.step == nested.step
    True

    Raises ConfigError for wrong input, PlanError where the plan does not suit cluster or model.

    >>> sim.simulate("quickstart", nodes="two")
    Traceback (most recent call last):
        ...
    sim.errors.ConfigError: --set 1: nodes: 'two' is not a count; write a whole number such as 96, 1e9 or 300B
    """
    result = simulate_experiment(load_experiment(source, _overrides(set, keys)).experiment)
    return NotebookResult(**vars(result))


def simulate_fleet(source: str | Path | Mapping[str, Any], *, set: Changes | None = None, **keys: Any) -> LivedFleet:
    """Simulate many jobs on one cluster: a name from the catalogue, a path, or a mapping.

    `set` and keywords change single keys. `result` has the numbers, `life.jobs` each job. Raises ConfigError.

    >>> import sim
    >>> jobs = [{"duration": "1 h", "gpus": 8, "copies": 2}]
    >>> lived = sim.simulate_fleet({"cluster": {"nodes": 1, "node": {"accelerators": 8}}, "jobs": jobs})
    >>> lived.result.makespan_s, [job.end for job in lived.life.jobs]
    (7200.0, [3600.0, 7200.0])
    """
    return run_fleet(load_fleet(source, _overrides(set, keys)))


def sweep(
    study: str | Path | Mapping[str, Any],
    *,
    set: Changes | None = None,
    output: str | Path | None = None,
    workers: int | None = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SweepTable:
    """Simulate every point of a study: a name from the catalogue, a path, or a mapping.

    `set` changes keys of the study (`{"base.nodes": 4}`). Results are kept in the folder `output`, and what is
    there already is not computed again; without it they are in memory. `workers` is the number of processes,
    None for one per processor. With `scheduler` the points run on that Dask cluster. `progress` is told how
    many rows are done, and how many there are.

    >>> import sim
    >>> axes = [{"key": "training.microbatch", "values": [1, 2, 4]}]
    >>> table = sim.sweep({"base": "quickstart", "axes": axes, "objectives": [{"minimize": "step.time_s"}]})
    >>> [(row["training.microbatch"], row["status"]) for row in table.rows()]
    [(1, 'ok'), (2, 'ok'), (4, 'ok')]
    >>> [row["training.microbatch"] for row in table.best()]
    [4]
    >>> table.relation.filter("status = 'ok'").aggregate("count(*)").fetchall()
    [(3,)]

    `table.to_dataframe()` needs pandas, `table.to_parquet(path)` and `table.to_csv(path)` need nothing more.
    Raises ConfigError for a wrong study; a point that fails is a row with its reason.
    """
    from sim.ask.sweep.sweep_start import run_study

    return run_study(
        study,
        tuple(_pairs(set or {}, "")),
        folder=None if output is None else Path(output),
        workers=workers,
        scheduler=scheduler,
        progress=progress,
    )


def plan(
    source: Source,
    *,
    set: Changes | None = None,
    space: Mapping[str, Sequence[Any]] | None = None,
    objectives: Sequence[str] = ("time",),
    top: int = 10,
    workers: int | None = 1,
    progress: Callable[[str, float], None] = lambda what, share: None,
    **keys: Any,
) -> NotebookPlans:
    """The best parallel plans, exactly: as good as if every plan had been simulated.

    `space` gives values to try for keys (`{"tensor": (1, 2, 4)}`), `workers` is the number of processes, None for one
    per processor. `plans` is in order of the objective, `choice` the number of the one that is taken among near-equals.

    >>> import sim
    >>> found = sim.plan("quickstart", space={"tensor": (4, 8), "pipeline": (1,), "context": (1,)}, top=2)
    >>> found.complete, len(found.plans)
    (True, 2)

    Raises ConfigError for wrong input, PlanError if no plan is valid.
    """
    from sim.ask.plan.axes import key_of
    from sim.ask.plan.search import search_plans
    from sim.inputs.cluster_checks import CLUSTER_CHECKS

    experiment = load_experiment(source, _overrides(set, keys), checks=CLUSTER_CHECKS).experiment
    limits = {key_of(name): tuple(values) for name, values in (space or {}).items()}
    return NotebookPlans(**vars(search_plans(experiment, limits, objectives, top, workers, progress)))


def scale(
    source: Source,
    nodes: Sequence[int],
    *,
    mode: str = "both",
    set: Changes | None = None,
    replan: bool = False,
    tokens: float | str | None = None,
    workers: int | None = 1,
    **keys: Any,
) -> NotebookScaling:
    """The experiment on clusters of `nodes`: with its batch (`strong`), one that grows (`weak`), or `both`.

    >>> import sim
    >>> study = sim.scale("gpt3-175b-a100", [64, 128], mode="strong")
    >>> [point.accelerators for point in study.points]
    [512, 1024]
    """
    from sim.ask.scale.scaling import scale as scale_experiment

    experiment = load_experiment(source, _overrides(set, keys)).experiment
    study = scale_experiment(experiment, nodes, mode, replan=replan, tokens=tokens, jobs=workers)
    return NotebookScaling(**vars(study))


def compare(*designs: Result | Source, **named: Result | Source) -> NotebookContrast:
    """Designs side by side, the first being what the others are set against: results, or experiments to simulate.

    >>> import sim
    >>> contrast = sim.compare(now="quickstart", full=sim.simulate("quickstart", training={"recompute": "full"}))
    >>> [change.key for change in contrast.changes]
    ['training.recompute']
    """
    from sim.report.compare import compare as contrast_of
    from sim.report.compare import told_apart

    results = [one if isinstance(one, Result) else simulate(one) for one in (*designs, *named.values())]
    if len(results) < 2:
        raise ConfigError(Problem("compare", "", "needs two designs or more"))
    names = told_apart([*(result.name for result in results[: len(designs)]), *named])
    return NotebookContrast(**vars(contrast_of(results, names)))


def explain(what: str, source: Source | None = None, *, set: Changes | None = None, **keys: Any) -> str | NotebookWhy:
    """A key of the input or a number of a result in words; or with "run" and an experiment, where its time goes.

    >>> import sim
    >>> print(sim.explain("goodput").splitlines()[0])
    run.goodput (a number of a result)
    """
    if source is None:
        from sim.report.definitions import explanation

        return explanation(what)
    if what != "run":
        raise ConfigError(Problem("explain", "", "only 'run' takes an experiment", "explain('run', source)"))
    from sim.ask.explain.why import why

    return NotebookWhy(**vars(why(load_experiment(source, _overrides(set, keys)).experiment)))


def validate(*paths: str | Path, workers: int | None = 1) -> NotebookValidation:
    """Measured runs, predicted: those under `paths`, by default the published ones that come with the program."""
    from sim.ask.validate.validate import validate as predict_all

    return NotebookValidation(**vars(predict_all([Path(path) for path in paths], (), workers)))


def check(source: str | Path, kind: str | None = None) -> list[Problem]:
    """Every mistake in a file of any kind, or in a definition of the catalogue, without simulating.

    >>> import sim
    >>> sim.check("quickstart")
    []
    >>> print(sim.check("quickstrat")[0])
    quickstrat: is neither a kind nor a name in the catalogue; did you mean quickstart?
    """
    from sim.ask.run.check import check_definition
    from sim.cli.kinds import kind_of

    try:
        check_definition(kind or kind_of(str(source)), str(source))
    except ConfigError as error:
        return error.problems
    return []


def _overrides(set: Changes | None, keys: Changes) -> list[tuple[str, Any]]:
    return [*_pairs(set or {}, ""), *_pairs(keys, "")]


def _pairs(changes: Changes, prefix: str) -> Iterator[tuple[str, Any]]:
    """Key path and value of every entry; mappings are gone into, so that keys beside them stay."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
