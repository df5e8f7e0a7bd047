"""Clusters and layouts of earlier experiments, used again where the next one asks for the same.

They are values that nobody changes, so `simulation.reuse: off` makes them anew with equal results.

Public: `plan_step`, `step_key`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.inputs.named_files import drawn_by, recorded_content
from sim.inputs.records import Experiment
from sim.inputs.setup import Setup
from sim.layout.plan import CutModel, Layout, Plan, build_plan, cut_model, lay_out, layout_key
from sim.memo import Memo
from sim.record import text_of

KEPT_RANKS = 100_000  # of all layouts, and accelerators of all clusters, that are kept at a time: some 100 MB
OWN_RANKS = 500  # what a cluster or a layout weighs beside its accelerators or ranks
KEPT_MODELS = 128  # each cut in one way

NOT_WIRING = dict.fromkeys(("name", "power", "sources", "prices"), True)  # what links and paths do not depend on,
NOT_WIRED = dict.fromkeys(("name", "collectives", "power", "sources", "accelerator"), True)  # and that of each node
NOT_STEP: dict[str, Any] = {
    **dict.fromkeys(
        ("name", "description", "failures", "recovery", "checkpoint", "site", "prices", "measured", "preparation"), True
    ),
    "training": {"tokens": True, "samples": True, "time_limit": True},
}  # what happens between steps, and what they cost
SHARED = ("cluster", "workload", "software")  # records that many experiments have in common
NOT_OWN = NOT_STEP | dict.fromkeys(SHARED, True)  # what a step does not depend on, or shares with others


class Wired(NamedTuple):
    """A cluster, and all that its links and paths follow from."""

    cluster: Cluster
    key: tuple[object, ...]


# points of a sweep share what is wired alike; see the three below
_wirings: Memo[Cluster] = Memo(KEPT_RANKS)
_clusters: Memo[Wired] = Memo(KEPT_RANKS)  # see _wirings
_layouts: Memo[Layout] = Memo(KEPT_RANKS)  # see _wirings; folding is in it
_cuts: Memo[CutModel] = Memo(KEPT_MODELS)  # models are shared by all plans with equal shards


def plan_step(experiment: Experiment) -> Plan:
    """The plan of a resolved and checked experiment on its cluster. Raises ConfigError, PlanError."""
    if experiment.simulation.reuse == "off":
        spec = experiment.setup.cluster
        return build_plan(experiment, build_cluster(spec, experiment.degradations, merge_sprayed=_merges(experiment)))
    cluster, key = _wired(experiment)
    layout = _layouts.get(_layout_key(key, experiment), lambda: lay_out(experiment, cluster), _layout_size)
    return build_plan(experiment, cluster, layout, _cut(experiment.setup))


def keep_layout(experiment: Experiment, layout: Layout) -> None:
    """Let `plan_step` find a layout instead of the one that it had made."""
    if experiment.simulation.reuse == "auto":
        _layouts.put(_layout_key(_wired(experiment).key, experiment), layout, _layout_size)


def _wired(experiment: Experiment) -> Wired:
    setup, merge = experiment.setup, _merges(experiment)
    spec = setup.cluster

    def build() -> Cluster:
        return build_cluster(spec, experiment.degradations, merge_sprayed=merge)

    def wire() -> Wired:
        key = wiring_key(setup), experiment.degradations, merge
        return Wired(_wirings.get(key, build, _cluster_size).with_numbers_of(spec), key)

    known = text_of(spec), _drawing(setup), experiment.degradations, merge
    return _clusters.get(known, wire, lambda made: _cluster_size(made.cluster))


def _merges(experiment: Experiment) -> bool:
    return experiment.simulation.prune == "auto"


def _layout_key(wiring: tuple[object, ...], experiment: Experiment) -> tuple[object, ...]:
    return wiring, layout_key(experiment)


def _layout_size(layout: Layout) -> float:
    return OWN_RANKS + layout.grid.n_ranks


def _cluster_size(cluster: Cluster) -> float:
    return OWN_RANKS + cluster.n_accelerators


def _cut(setup: Setup) -> CutModel:
    """The model of an experiment in chunks."""
    key = text_of(setup.workload), text_of(setup.software), setup.parallelism, setup.shard
    return _cuts.get(key, lambda: cut_model(setup), lambda _: 1.0)


def wiring_key(setup: Setup) -> tuple[str, ...]:
    """All of a cluster that its links, paths and names depend on. Raises ConfigError for an unreadable file."""
    spec = setup.cluster
    several = isinstance(spec.node, tuple)
    nodes: dict[str, Any] = {"node": {"__all__": {"node": NOT_WIRED, "prices": True}} if several else NOT_WIRED}
    kinds = (kind.accelerator.kind for kind in setup.kinds)  # they name vertices
    return spec.model_dump_json(exclude=NOT_WIRING | nodes), *kinds, _drawing(setup)


def _drawing(setup: Setup) -> str:
    """What the file says that draws the network, if one does: it may change while the cluster is the same."""
    drawn = drawn_by(setup.cluster)
    return drawn.digest if drawn else ""


def step_key(experiment: Experiment) -> tuple[str, ...]:
    """All of a resolved experiment that its step depends on."""
    setup = experiment.setup
    shared = (text_of(getattr(setup, name)) for name in SHARED)
    return *shared, _drawing(setup), recorded_content(setup), experiment.model_dump_json(exclude=NOT_OWN)
