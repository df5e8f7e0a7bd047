"""Everything that can be found wrong without simulating."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim.cluster.build import build_cluster
from sim.errors import ConfigError, Problem
from sim.spec.cases import Case, is_table, load_cases
from sim.spec.catalogue import is_path
from sim.spec.load import load_definition, load_experiment
from sim.spec.records import ClusterSpec
from sim.study.sweep_file import load_study


def check_definition(kind: str, source: str, overrides: list[str] | None = None) -> None:
    """Load a definition of any kind and, where it has a network, build that. Raises ConfigError."""
    if is_path(source) and is_table(Path(source)):
        check_cases(load_cases(Path(source)), overrides or [])
    elif kind == "experiment":
        loaded = load_experiment(source, overrides or [])
        build_cluster(loaded.cluster, loaded.experiment.degradations)
    elif kind == "study":
        load_study(source, overrides or [])
    else:
        record = load_definition(kind, source, overrides or [])
        if isinstance(record, ClusterSpec):
            build_cluster(record)


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
