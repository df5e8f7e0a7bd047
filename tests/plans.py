"""Small jobs of round numbers for the tests of plan, engine and metrics, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cluster.build import build_cluster
from sim.engine.executor import Executor
from sim.engine.program import Action, Program
from sim.engine.ranks import Job, build_job
from sim.metrics.links import flow_bytes
from sim.plan.plan import build_plan
from sim.spec.load import load_experiment
from sim.spec.records import Experiment
from sim.spec.setup import Setup
from sim.study.simulate import Simulated

Fields = Mapping[str, Any]
Floats = NDArray[np.float64]
FREE = 1e30  # a rate in B/s that makes its part of the time vanish

ACCELERATOR: Fields = {
    "name": "chip",
    "matrix": {"peak": {"bf16": 3e14}, "compute_units": 108, "tile": [128, 128]},
    "vector": {"bf16": 8e13},
    "memory": {"capacity": 8e10, "bandwidth": 2e12},
    "launch": 1e-6,
    "power": {"tdp": 400},
    "sources": {},
}
NODE: Fields = {
    "name": "server",
    "accelerators": 8,
    "local": {"kind": "switch", "bandwidth": 300e9, "latency": 2e-6},
    "nics": {"count": 8, "bandwidth": 25e9, "latency": 1e-6},
    "collectives": {"ring_hop": 1e-6, "ring_hop_network": 3e-6, "tree_hop": 4e-6, "tree_hop_network": 8e-6},
}
CLUSTER: Fields = {"name": "cluster", "nodes": 1}
MODEL: Fields = {"kind": "transformer", "layers": 4, "hidden": 1024, "heads": 16, "ffn": 4096, "vocab": 32000}
SOFTWARE: Fields = {"name": "stack", "gradient_overlap": False, "parameter_prefetch": False, "scatter_gather": False}
TRAINING: Fields = {"global_batch": 8, "sequence_length": 512}


def small_experiment(
    *,
    nodes: int = 1,
    accelerator: Fields | None = None,
    node: Fields | None = None,
    fabric: Fields | None = None,
    routing: Fields | None = None,
    model: Fields | None = None,
    software: Fields | None = None,
    training: Fields | None = None,
    **others: Any,
) -> Experiment:
    """A resolved experiment of SI numbers: the defaults above with the given fields changed.

    More than one node without a fabric stand on one switch. `others` are fields of the experiment.
    """
    server = _merged(NODE, {"accelerator": _merged(ACCELERATOR, accelerator or {})}, node or {})
    network = {"fabric": fabric or ({"kind": "switch"} if nodes > 1 else None), "routing": dict(routing or {})}
    source = {
        "cluster": {**CLUSTER, **network, "nodes": nodes, "node": server},
        "workload": {**MODEL, **(model or {})},
        "software": {**SOFTWARE, **(software or {})},
        "training": {**TRAINING, **(training or {})},
        **others,
    }
    return load_experiment(source, si=True).experiment


def _merged(*fields: Fields) -> dict[str, Any]:
    """Later mappings laid over earlier ones, one level deep."""
    merged: dict[str, Any] = {}
    for each in fields:
        for name, value in each.items():
            old = merged.get(name)
            merged[name] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def job_of(experiment: Experiment) -> Job:
    """The job of an experiment, placed and folded, before anything runs."""
    setup = Setup(experiment)
    return build_job(build_plan(experiment, build_cluster(setup.cluster, experiment.degradations), setup.data))


def run_collectives(job: Job, steps: list[tuple[str, str, float]]) -> float:
    """Seconds of collectives one after another through the engine.

    Each step is the kind of group, the kind of collective, and the message in the convention of nccl-tests [B].
    """
    program = Program()
    stream = program.new_stream("collectives", "gradient")
    for group, kind, message in steps:
        flow = next(number for number, each in enumerate(job.flows) if each.kind == group)
        cost = job.cost(flow, kind, message)
        action = Action(kind, "data_comm", flow=flow, size=cost.size, latency=cost.latency)
        stream.add(program.new_template((), program.new_action(action)))
    flow_ranks = tuple(flow.members for flow in job.flows)
    return Executor(program, job.table, flow_ranks=flow_ranks, check=True).run().time


def bytes_by_link(run: Simulated) -> Floats:
    """Bytes over every link of the cluster in the step, (n_links,)."""
    size = flow_bytes(run.trace)
    total = np.zeros(run.cluster.links.n)
    for flows, classes in zip(run.plan.flows, run.plan.partition.flow, strict=True):
        weight = flows.coefficient * size[classes][flows.owner]
        total += np.bincount(flows.link, weight, run.cluster.links.n)
    return total


def peak_by_link(run: Simulated) -> Floats:
    """Largest share of capacity of every link of the cluster that rates were shared on; nan elsewhere."""
    peak = np.full(run.cluster.links.n, np.nan)
    peak[run.plan.links] = run.trace.link_peak[: run.trace.table.n_shared][run.plan.partition.link]
    return peak


def attached_links(run: Simulated) -> NDArray[np.bool_]:
    """Which links do not touch a spine, (n_links,): sprayed spines may be drawn as one."""
    spine = np.array([block.kind == "spine" for block in run.cluster.blocks])
    ends = np.array([block.end for block in run.cluster.blocks])
    links = run.cluster.links
    source, target = (spine[np.searchsorted(ends, vertex, side="right")] for vertex in (links.source, links.target))
    attached: NDArray[np.bool_] = ~(source | target)
    return attached
