"""Small jobs of round numbers for the tests of plan, engine and metrics, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.ask.run.step import Simulated
from sim.cluster.build import build_cluster
from sim.engine.executor import Executor
from sim.engine.network import Network
from sim.engine.program import Action, Script
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.layout.plan import build_plan
from sim.metrics.links import flow_bytes
from sim.programs.costs import given_action
from sim.programs.ranks import Job, build_job, whole_links

Fields = Mapping[str, Any]
Floats = NDArray[np.float64]
FREE = 1e24  # a rate in B/s that makes its part of the time vanish

ACCELERATOR: Fields = {
    "name": "chip",
    "matrix": {
        "peak": {"bf16": 3e14},
        "efficiency": 0.8,
        "compute_units": 108,
        "tile": [128, 128],
        "quantization_floor": 0.3,
        "spread": 0.0,
    },
    "vector": {"bf16": 8e13},
    "attention": {kernel: {} for kernel in ("flash1", "flash2", "cudnn")},
    "memory": {"capacity": 8e10, "bandwidth": 2e12, "efficiency": 0.85, "reserved": 0.0},
    "launch": 1e-6,
    "power": {"tdp": 400},
    "sources": {},
}
NODE: Fields = {
    "name": "server",
    "accelerators": 8,
    "local": {"kind": "switch", "bandwidth": 300e9, "latency": 1e-6},
    "nics": {"count": 8, "bandwidth": 25e9, "latency": 1e-6},
    "collectives": {"ring_hop": 1e-6, "ring_hop_network": 3e-6, "tree_hop": 4e-6, "tree_hop_network": 8e-6},
}
CLUSTER: Fields = {"name": "cluster", "nodes": 1}
MODEL: Fields = {"kind": "transformer", "layers": 4, "hidden": 1024, "heads": 16, "ffn": 4096, "vocab": 32000}
SOFTWARE: Fields = {"name": "stack", "gradient_overlap": False, "parameter_prefetch": False, "scatter_gather": False}
TRAINING: Fields = {"global_batch": 8, "sequence_length": 512}

LEAF_SPINE = {"kind": "fat_tree", "nodes_per_unit": 2, "spines": 4}
CUBE_MESH = {"local": {"kind": "hybrid_cube_mesh", "bandwidth": 150e9}, "nics": {"count": 4, "bandwidth": 12.5e9}}
TWO_SOCKETS = {
    "local": {"kind": "pcie", "bandwidth": 25e9, "efficiency": 0.8, "latency": 1e-6}, "nics": {"count": 2},
    "pcie": {"sockets": 2, "socket_bandwidth": 20e9, "peer_access": "socket"},
}  # fmt: skip
GEFORCE = {
    "local": {"kind": "pcie", "bandwidth": 25e9, "efficiency": 0.8}, "nics": {"count": 1},
    "pcie": {"switches": 4, "sockets": 2, "socket_bandwidth": 15e9, "peer_access": "none", "adapters": "root"},
}  # fmt: skip
HOST = {"host": {"pcie_bandwidth": 20e9}}
DRIVES = {"name": "drives", "kind": "local_nvme", "read_bandwidth": 25e9, "write_bandwidth": 12e9}
SEVEN_BRIDGED = {
    "accelerators": 7, "local": {"kind": "pcie", "bandwidth": 25e9, "efficiency": 0.8}, "nics": {"count": 8},
    "pcie": {"switches": 2, "bridges": {"bandwidth": 100e9}},
}  # fmt: skip
BESIDE = {"gradient_overlap": True, "parameter_prefetch": True, "overlap_slowdown": 0.1}
PYTORCH = {
    **BESIDE, "root_unit": True, "joins_matrices": False, "batch_first": True, "keeps_gathered": True,
    "stops_recompute": True, "ring_attention": "compiled", "tensor_overlap": "full", "sums_partials": True,
}  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "one node, tensor 8": {"parallelism": {"tensor": 8}, "training": {"global_batch": 12}},
    "two sockets": {
        "nodes": 4, "node": TWO_SOCKETS, "fabric": LEAF_SPINE, "software": BESIDE,
        "parallelism": {"tensor": 2, "pipeline": 2}, "training": {"global_batch": 64},
    },
    "staged in host memory": {
        "nodes": 2, "node": GEFORCE, "parallelism": {"tensor": 4}, "training": {"global_batch": 16},
    },
    "seven boards, eight adapters, bridges": {
        "nodes": 3, "node": SEVEN_BRIDGED, "software": BESIDE, "training": {"global_batch": 84},
        "degradations": [{"accelerator": "node1/gpu2", "factor": 0.7}],
    },
    "adapters behind PCIe switches": {
        "nodes": 2, "parallelism": {"tensor": 4}, "training": {"global_batch": 16},
        "node": {"nics": {"count": 4}, "host": {"pcie_bandwidth": 20e9}, "pcie": {"switches": 4}},
    },
    "long lines": {
        "nodes": 4, "node": {"nics": {"latency": 2.5e-4}}, "fabric": LEAF_SPINE, "software": BESIDE,
        "parallelism": {"tensor": 2, "pipeline": 2}, "training": {"global_batch": 64},
    },
    "replicas on a switch": {"nodes": 4, "parallelism": {"tensor": 8}, "training": {"global_batch": 32}},
    "256 ranks on rails": {
        "nodes": 32, "fabric": LEAF_SPINE | {"rail_optimized": True, "nodes_per_unit": 8}, "software": BESIDE,
        "parallelism": {"tensor": 4, "pipeline": 2}, "model": {"layers": 2}, "training": {"global_batch": 32 * 8},
    },
    "256 ranks, one at 60 %": {
        "nodes": 32, "fabric": LEAF_SPINE | {"nodes_per_unit": 4}, "parallelism": {"tensor": 8, "pipeline": 4},
        "training": {"global_batch": 8 * 8}, "degradations": [{"accelerator": "node5/gpu2", "factor": 0.6}],
    },
    "1f1b": {"nodes": 4, "parallelism": {"tensor": 4, "pipeline": 4}, "training": {"global_batch": 48}},
    "gpipe": {
        "nodes": 4, "parallelism": {"tensor": 4, "pipeline": 4, "schedule": "gpipe"}, "training": {"global_batch": 24},
    },
    "interleaved": {
        "nodes": 4, "model": {"layers": 8}, "parallelism": {"tensor": 2, "pipeline": 4, "virtual_stages": 2},
        "training": {"global_batch": 4 * 24},
    },
    "interleaved, sends beside": {
        "nodes": 2, "model": {"layers": 12}, "parallelism": {"pipeline": 4, "virtual_stages": 3},
        "software": {"pipeline_overlap": True}, "training": {"global_batch": 4 * 20},
    },
    "as many microbatches as stages": {
        "nodes": 2, "model": {"layers": 8}, "parallelism": {"tensor": 2, "pipeline": 4, "virtual_stages": 2},
        "training": {"global_batch": 8},
    },
    "slow accelerator in a pipeline": {
        "nodes": 4, "parallelism": {"tensor": 4, "pipeline": 4}, "training": {"global_batch": 32},
        "degradations": [{"accelerator": "node1/gpu3", "factor": 0.7}],
    },
    "slow adapter": {
        "nodes": 4, "parallelism": {"tensor": 2, "pipeline": 2}, "software": BESIDE, "training": {"global_batch": 64},
        "degradations": [{"link": "node2/nic5->switch0", "factor": 0.5}],
    },
    "slow NVLink": {
        "nodes": 2, "parallelism": {"tensor": 8}, "software": {"tensor_overlap": "backward"},
        "degradations": [{"link": "node1/gpu3->node1/nvswitch", "factor": 0.25}],
    },
    "slow uplink": {
        "nodes": 8, "fabric": LEAF_SPINE | {"rail_optimized": True, "spines": 1},
        "parallelism": {"tensor": 8, "pipeline": 2}, "training": {"global_batch": 32},
        "degradations": [{"link": "unit1/leaf3->spine0", "factor": 0.3}],
    },
    "unequal stages": {
        "nodes": 2, "model": {"layers": 7}, "parallelism": {"tensor": 2, "pipeline": 4},
        "training": {"global_batch": 32},
    },
    "unequal stages, pairs of hashes": {
        "nodes": 8, "model": {"layers": 5}, "fabric": LEAF_SPINE, "routing": {"kind": "ecmp", "queue_pairs": 4},
        "parallelism": {"tensor": 4, "pipeline": 2}, "software": BESIDE, "training": {"global_batch": 64},
    },
    "one hash": {
        "nodes": 6, "fabric": LEAF_SPINE, "routing": {"kind": "ecmp", "seed": 7}, "parallelism": {"pipeline": 2},
        "software": {"pipeline_overlap": True}, "training": {"global_batch": 24 * 6},
    },
    "sprayed": {
        "nodes": 8, "fabric": LEAF_SPINE | {"leaf_oversubscription": 2.0}, "routing": {"kind": "spray"},
        "parallelism": {"tensor": 2, "pipeline": 2}, "training": {"global_batch": 128},
    },
    "oversubscribed": {
        "nodes": 8, "fabric": LEAF_SPINE | {"leaf_oversubscription": 4.0}, "software": BESIDE,
        "parallelism": {"tensor": 2, "pipeline": 4}, "training": {"global_batch": 96},
    },
    "three tiers": {
        "nodes": 8, "fabric": LEAF_SPINE | {"tiers": 3, "units_per_pod": 2, "cores": 2, "spine_oversubscription": 2.0},
        "parallelism": {"tensor": 8}, "training": {"global_batch": 24},
    },
    "random placement": {
        "nodes": 2, "parallelism": {"tensor": 4, "pipeline": 2, "placement": "random"}, "seed": 3,
        "training": {"global_batch": 16},
    },
    "round robin": {
        "nodes": 4, "parallelism": {"tensor": 4, "pipeline": 2, "placement": "round_robin"},
        "training": {"global_batch": 32},
    },
    "pipeline fastest": {
        "nodes": 4, "training": {"global_batch": 64},
        "parallelism": {"tensor": 2, "pipeline": 4, "order": ["pipeline", "tensor", "context", "expert", "data"]},
    },
    "data fastest": {
        "nodes": 4, "software": BESIDE, "training": {"global_batch": 64},
        "parallelism": {"tensor": 4, "pipeline": 2, "order": ["data", "tensor", "context", "expert", "pipeline"]},
    },
    "tensor across nodes": {
        "nodes": 4, "parallelism": {"tensor": 16, "sequence_parallel": True}, "software": BESIDE,
        "training": {"global_batch": 16},
    },
    "context parallel": {
        "nodes": 4, "parallelism": {"tensor": 2, "context": 2, "pipeline": 2}, "training": {"global_batch": 32},
    },
    "context parallel, ZeRO 1": {
        "nodes": 4, "parallelism": {"context": 8, "zero_stage": 1}, "software": BESIDE,
        "training": {"global_batch": 16},
    },
    "ZeRO 1": {
        "nodes": 4, "parallelism": {"tensor": 2, "pipeline": 2, "zero_stage": 1}, "training": {"global_batch": 64},
    },
    "ZeRO 1 beside": {
        "nodes": 4, "parallelism": {"tensor": 2, "pipeline": 2, "zero_stage": 1}, "software": BESIDE,
        "training": {"global_batch": 64},
    },
    "ZeRO 1 with replicas": {
        "nodes": 4, "parallelism": {"tensor": 2, "zero_stage": 1, "shard_group": 4}, "software": BESIDE,
        "training": {"global_batch": 64},
    },
    "ZeRO 2": {
        "nodes": 2, "parallelism": {"tensor": 2, "pipeline": 2, "zero_stage": 2}, "training": {"global_batch": 32},
    },
    "ZeRO 2 beside": {
        "nodes": 2, "parallelism": {"tensor": 2, "pipeline": 2, "zero_stage": 2}, "software": BESIDE,
        "training": {"global_batch": 48},
    },
    "ZeRO 3": {"nodes": 2, "parallelism": {"zero_stage": 3}, "training": {"global_batch": 16 * 8}},
    "ZeRO 3 beside": {
        "nodes": 4, "parallelism": {"zero_stage": 3}, "software": BESIDE, "training": {"global_batch": 32 * 8},
    },
    "ZeRO 3, hybrid sharding": {
        "nodes": 4, "parallelism": {"zero_stage": 3, "shard_group": 8}, "software": BESIDE,
        "training": {"global_batch": 32 * 6},
    },
    "ZeRO 3 with a second copy": {
        "nodes": 4, "parallelism": {"zero_stage": 3, "second_copy": 8}, "software": BESIDE,
        "training": {"global_batch": 32 * 6},
    },
    "ZeRO 3 with a root, full overlap": {
        "nodes": 4, "parallelism": {"tensor": 2, "sequence_parallel": True, "zero_stage": 3}, "software": PYTORCH,
        "training": {"global_batch": 16 * 3, "recompute": "full"},
    },
    "ZeRO 3 in a pipeline": {
        "nodes": 2, "parallelism": {"tensor": 2, "pipeline": 2, "zero_stage": 3}, "software": BESIDE,
        "training": {"global_batch": 4 * 12},
    },
    "tensor traffic behind weight gradients": {
        "nodes": 2, "parallelism": {"tensor": 8, "sequence_parallel": True}, "training": {"global_batch": 20},
        "software": {"tensor_overlap": "backward", "overlap_slowdown": 0.2},
    },
    "tensor traffic behind all": {
        "nodes": 2, "parallelism": {"tensor": 4, "pipeline": 2, "sequence_parallel": True},
        "software": BESIDE | {"tensor_overlap": "full"}, "training": {"global_batch": 32},
    },
    "everything beside everything": {
        "nodes": 4, "model": {"layers": 8}, "training": {"global_batch": 64, "recompute": "selective"},
        "parallelism": {"tensor": 4, "pipeline": 2, "virtual_stages": 2, "sequence_parallel": True, "zero_stage": 1},
        "software": BESIDE | {"tensor_overlap": "backward", "pipeline_overlap": True, "gradient_bucket": 3e7},
    },
    "full recomputation, shares sent": {
        "nodes": 2, "parallelism": {"tensor": 4, "pipeline": 2}, "software": {"scatter_gather": True},
        "training": {"global_batch": 32, "recompute": "full"},
    },
    "slow host": {
        "nodes": 2, "parallelism": {"tensor": 4, "pipeline": 2}, "software": {"host_issue": 3e-5},
        "training": {"global_batch": 32, "recompute": "selective"},
    },
    "cube mesh": {
        "nodes": 4, "node": CUBE_MESH, "fabric": LEAF_SPINE, "software": {"gradient_overlap": True},
        "parallelism": {"tensor": 4, "pipeline": 2}, "training": {"global_batch": 32},
    },
    "two adapters for eight": {
        "nodes": 4, "node": {"nics": {"count": 2}}, "software": BESIDE | {"pipeline_overlap": True},
        "parallelism": {"pipeline": 4, "tensor": 2}, "training": {"global_batch": 48},
    },
    "adapters behind PCIe": {
        "nodes": 4, "node": {"local": {"kind": "pcie", "bandwidth": 12e9}, "nics": {"count": 1}},
        "parallelism": {"pipeline": 2, "tensor": 2}, "software": BESIDE, "training": {"global_batch": 32},
    },
    "torus of chips": {
        "nodes": 16, "node": {"accelerators": 1, "local": {"kind": "none", "bandwidth": 0}, "nics": {"count": 0}},
        "fabric": {"kind": "torus", "shape": [4, 2, 2], "link": {"bandwidth": 45e9, "latency": 1e-6}},
        "parallelism": {"tensor": 4, "pipeline": 2}, "training": {"global_batch": 24},
    },
    "untied embeddings": {
        "nodes": 2, "model": {"tied_embeddings": False}, "parallelism": {"tensor": 2, "pipeline": 4},
        "training": {"global_batch": 20},
    },
    "slow host, one adapter for eight": {
        "nodes": 2, "node": {"local": {"kind": "ring", "bandwidth": 50e9}, "nics": {"count": 1}},
        "parallelism": {"tensor": 8, "context": 2, "zero_stage": 3}, "software": {"host_issue": 2e-5},
        "training": {"global_batch": 12},
    },
    "tensor groups that share adapters": {
        "nodes": 4, "node": {"nics": {"count": 2}}, "model": {"layers": 6}, "training": {"global_batch": 40},
        "parallelism": {"tensor": 4, "pipeline": 2, "order": ["data", "pipeline", "expert", "tensor", "context"]},
        "software": {"gradient_overlap": True, "pipeline_overlap": True, "overlap_slowdown": 0.1},
    },
    "gpipe, stages that wait while others repeat": {
        "node": {"accelerators": 4, "nics": {"count": 2}, "local": {"bandwidth": 50e9}},
        "model": {"tied_embeddings": False}, "training": {"global_batch": 12, "recompute": "selective"},
        "parallelism": {"pipeline": 4, "schedule": "gpipe"}, "software": BESIDE | {"pipeline_overlap": True},
    },
    "signs of gradients": {
        "nodes": 4, "parallelism": {"tensor": 2, "pipeline": 2}, "software": BESIDE,
        "training": {"global_batch": 64, "compression": {"kind": "one_bit"}},
    },
    "integers, two-step exchange, ZeRO 2": {
        "nodes": 2, "parallelism": {"tensor": 2, "zero_stage": 2}, "software": BESIDE,
        "node": {"collectives": {"patterns": ["ring", "hierarchical", "exchange"]}},
        "training": {"global_batch": 48, "compression": {"kind": "int8"}},
    },
    "factors of gradients, at once": {
        "nodes": 4, "parallelism": {"tensor": 2, "pipeline": 2},
        "training": {"global_batch": 64, "compression": {"kind": "power_sgd"}},
    },
    "activations in host memory": {
        "nodes": 2, "node": HOST, "model": {"layers": 8}, "parallelism": {"tensor": 2, "pipeline": 2},
        "software": BESIDE, "training": {"global_batch": 48, "offload": {"activations": True}},
    },
    "activations over shared uplinks": {
        "nodes": 2, "node": HOST | {"pcie": {"switches": 2}}, "model": {"layers": 6},
        "training": {"global_batch": 64, "offload": {"activations": True, "optimizer": True}},
    },
    "weights, optimizer and drives of a host": {
        "nodes": 2, "node": HOST, "parallelism": {"zero_stage": 3}, "software": BESIDE, "storage": DRIVES,
        "training": {"global_batch": 48, "offload": {"parameters": True, "optimizer": True, "drives": True}},
    },
    "all in host memory over PCIe": {
        "nodes": 2, "node": GEFORCE, "parallelism": {"zero_stage": 3},
        "training": {"global_batch": 32, "offload": {"parameters": True, "optimizer": True, "activations": True}},
    },
    "adapters beside 4-bit weights, ZeRO 3": {
        "nodes": 2, "parallelism": {"zero_stage": 3, "tensor": 2}, "software": BESIDE,
        "training": {"global_batch": 64, "lora": {"rank": 16, "base": "nf4"}},
    },
    "weights gathered in 8 bit": {
        "nodes": 2, "parallelism": {"zero_stage": 3}, "software": BESIDE | {"gathers_narrow": True},
        "accelerator": {"matrix": {"peak": {"bf16": 3e14, "fp8": 6e14}}},
        "training": {"global_batch": 48, "precision": "fp8"},
    },
    "2:4 weights": {
        "nodes": 2, "parallelism": {"tensor": 4, "pipeline": 2}, "software": BESIDE,
        "training": {"global_batch": 32, "pruning": {"kind": "2:4"}, "recompute": "full"},
    },
    "parts of layers again": {
        "nodes": 2, "parallelism": {"tensor": 4, "pipeline": 2, "sequence_parallel": True}, "software": BESIDE,
        "training": {"global_batch": 32, "recompute": ("norm", "feed_forward", "attention")},
    },
    "8-bit gradients, ZeRO 3": {
        "nodes": 2, "parallelism": {"zero_stage": 3}, "software": BESIDE,
        "training": {"global_batch": 64, "compression": {"kind": "fp8"}},
    },
    "the largest gradients, slow adapter": {
        "nodes": 4, "parallelism": {"tensor": 2}, "software": BESIDE,
        "training": {"global_batch": 64, "compression": {"kind": "top_k"}},
        "degradations": [{"link": "node2/nic5->switch0", "factor": 0.5}],
    },
}  # fmt: skip


def small_experiment(
    *,
    nodes: int = 1,
    accelerator: Fields | None = None,
    node: Fields | None = None,
    second: Fields | None = None,
    fabric: Fields | None = None,
    routing: Fields | None = None,
    model: Fields | None = None,
    software: Fields | None = None,
    training: Fields | None = None,
    storage: Fields | None = None,
    **others: Any,
) -> Experiment:
    """A resolved experiment of SI numbers: the defaults above with the given fields changed.

    More than one node without a fabric stand on one switch. second: what is different of the nodes of the second half,
    which are of a kind of their own then. `others` are fields of the experiment.
    """
    server: Any = _merged(NODE, {"accelerator": _merged(ACCELERATOR, accelerator or {})}, node or {})
    if second is not None:
        other = _merged(server, {"name": "second"}, second)
        server = [{"node": server, "nodes": nodes - nodes // 2}, {"node": other, "nodes": nodes // 2}]
    network = {"fabric": fabric or ({"kind": "switch"} if nodes > 1 else None), "routing": dict(routing or {})}
    source = {
        "cluster": {**CLUSTER, **network, "nodes": nodes, "node": server, "storage": storage},
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
    setup = experiment.setup
    return build_job(build_plan(experiment, build_cluster(setup.cluster, experiment.degradations)))


def run_collectives(job: Job, steps: list[tuple[str, str, float]]) -> float:
    """Seconds of collectives one after another through the engine.

    Each step is the kind of group, the kind of collective, and the message in the convention of nccl-tests [B].
    """
    script = Script()
    stream = script.new_stream("collectives", "gradient")
    for group, kind, message in steps:
        flow = next(number for number, each in enumerate(job.flows) if each.kind == group)
        for leg in job.cost(flow, kind, message).legs:
            way = job.way(flow, leg.carrier)
            action = Action(kind, "data_comm", flow=way, size=leg.size, latency=leg.latency)
            stream.add(script.new_template((), partial(given_action, action)))
    flow_ranks = tuple(flow.members for flow in job.flows)
    return Executor(script.priced(None), Network(job.table, check=True), flow_ranks=flow_ranks).run().time


def bytes_by_link(run: Simulated) -> Floats:
    """Bytes over every link of the cluster in the step, (n_links,)."""
    size = flow_bytes(run.trace)
    total = np.zeros(run.cluster.links.n)
    for flows, classes in zip(run.plan.flows, run.plan.partition.flow, strict=True):
        weight = flows.coefficient * size[classes][flows.owner]
        total += np.bincount(flows.link, weight, run.cluster.links.n)
    return total


def peak_by_link(run: Simulated) -> Floats:
    """Largest share of capacity of every link of the cluster that may fill; nan elsewhere."""
    peak = np.full(run.cluster.links.n, np.nan)
    peak[run.plan.links] = run.trace.link_peak[: run.trace.table.n_shared][run.plan.partition.link]
    peak[run.plan.links[~whole_links(run.plan)]] = np.nan
    if len(run.trace.table.place):
        out = (run.trace.table.place >= 0) & run.trace.table.left_out[run.trace.table.place]
        peak[out] = run.trace.link_peak[run.trace.table.place[out]]
    return peak


def attached_links(run: Simulated) -> NDArray[np.bool_]:
    """Which links do not touch a spine, (n_links,): sprayed spines may be drawn as one."""
    spine = np.array([block.kind == "spine" for block in run.cluster.blocks])
    ends = np.array([block.end for block in run.cluster.blocks])
    links = run.cluster.links
    source, target = (spine[np.searchsorted(ends, vertex, side="right")] for vertex in (links.source, links.target))
    attached: NDArray[np.bool_] = ~(source | target)
    return attached
