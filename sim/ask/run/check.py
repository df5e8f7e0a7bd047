"""Everything that can be found wrong without simulating.

What only some kinds of definitions need is imported where it is used: much of the time of a check is imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim.cluster.build import build_cluster
from sim.errors import ConfigError, Problem
from sim.inputs.cases import Case, is_table, load_cases
from sim.inputs.catalogue import is_path
from sim.inputs.energy import Site
from sim.inputs.fault_log import read_fault_log
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import ClusterSpec, Experiment
from sim.inputs.reliability import Failures, FaultLog
from sim.record import Record


def check_definition(kind: str, source: str, overrides: list[str] | None = None) -> None:
    """Load a definition of any kind and the files it names, and build or plan what it says. Raises ConfigError."""
    if is_path(source) and is_table(Path(source)):
        check_cases(load_cases(Path(source)), overrides or [])
    elif kind == "experiment":
        rehearse(load_experiment(source, overrides or []).experiment)
    elif kind == "study":
        from sim.ask.sweep.sweep_file import load_study

        load_study(source, overrides or [])
    elif kind == "fleet":
        from sim.ask.fleet.load import load_fleet
        from sim.ask.fleet.run import prepare_fleet

        prepare_fleet(load_fleet(source, overrides or []))
    else:
        _check_parts(load_definition(kind, source, overrides or []))


def rehearse(experiment: Experiment) -> None:
    """All that a run does with a resolved and checked experiment before time passes. Raises ConfigError, PlanError."""
    from sim.ask.run.reuse import plan_step
    from sim.ask.run.shares import shared_out
    from sim.programs.ranks import build_job

    plan = plan_step(shared_out(experiment))
    build_job(plan)
    if experiment.checkpoint is not None:
        from sim.life.saving import check_checkpoint

        check_checkpoint(plan)
    if experiment.input is not None and plan.cluster.storage is not None:
        from sim.life.feeding import supply_of

        supply_of(plan, experiment.input, plan.cluster.storage)
    if experiment.synchronization is not None:
        from sim.ask.run.synchrony import check_synchronization

        check_synchronization(plan)


def _check_parts(record: Record) -> None:
    match record:
        case ClusterSpec():
            build_cluster(record)
        case Failures(log=FaultLog() as log):
            read_fault_log(log)
        case Site():
            from sim.inputs.carbon import grid_of

            grid_of(record)


def check_cases(cases: Sequence[Case], overrides: Sequence[str] = ()) -> None:
    """Load every case of a table; raises ConfigError with the problems of all, each told once."""
    found = [problem for case in cases for problem in _problems(case, overrides)]
    if found:
        raise ConfigError(list(dict.fromkeys(found)))


def _problems(case: Case, overrides: Sequence[str]) -> list[Problem]:
    try:
        case.load(overrides)
    except ConfigError as error:
        return error.problems
    return []
