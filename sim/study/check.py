"""Everything that can be found wrong without simulating."""

from __future__ import annotations

from sim.cluster.build import build_cluster
from sim.spec.load import load_definition, load_experiment
from sim.spec.records import ClusterSpec


def check_definition(kind: str, source: str, overrides: list[str] | None = None) -> None:
    """Load a definition of any kind and, where it has a network, build that. Raises ConfigError."""
    if kind == "experiment":
        loaded = load_experiment(source, overrides or [])
        build_cluster(loaded.cluster, loaded.experiment.degradations)
    else:
        record = load_definition(kind, source, overrides or [])
        if isinstance(record, ClusterSpec):
            build_cluster(record)
