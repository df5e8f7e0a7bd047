"""Clusters and layouts of earlier experiments, used again where the next one asks for the same.

They are values that nobody changes, so `simulation.reuse: off` makes them anew with equal results.
"""

from __future__ import annotations

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.memo import Memo
from sim.plan.plan import Layout, Plan, build_plan, lay_out, layout_key
from sim.spec.records import Experiment
from sim.spec.setup import Setup

KEPT_RANKS = 100_000  # of all layouts, and accelerators of all clusters, that are kept at a time: some 100 MB

_clusters: Memo[Cluster] = Memo(KEPT_RANKS)
_layouts: Memo[Layout] = Memo(KEPT_RANKS)


def plan_step(experiment: Experiment) -> Plan:
    """The plan of a resolved and checked experiment on its cluster. Raises ConfigError, PlanError."""
    spec, merge = Setup(experiment).cluster, experiment.simulation.prune == "auto"

    def build() -> Cluster:
        return build_cluster(spec, experiment.degradations, merge_sprayed=merge)

    if experiment.simulation.reuse == "off":
        return build_plan(experiment, build())
    key = spec.model_dump_json(), experiment.degradations, merge
    cluster = _clusters.get(key, build, lambda made: made.n_accelerators)
    layout = _layouts.get(
        (key, layout_key(experiment)), lambda: lay_out(experiment, cluster), lambda made: made.grid.n_ranks
    )
    return build_plan(experiment, cluster, layout)
