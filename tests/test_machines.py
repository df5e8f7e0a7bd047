"""Every machine of the catalogue runs a step that fits; kinds of devices and tori keep what they promise."""

from __future__ import annotations

import pytest

from sim.ask.run.simulate import simulate
from sim.inputs.catalogue import list_catalogue
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import Accelerator, ClusterSpec, Node
from sim.metrics.result import Result

SMALL = "{kind: transformer, name: small, layers: 2, hidden: 256, heads: 4, ffn: 1024, vocab: 1024}"
PRECISIONS = ("bf16", "fp16", "fp32", "int8")  # the first that a chip has
SERVER = "{name: one, accelerators: 1, local: {kind: none}, nics: {count: 0}}"


def chip(name: str, *overrides: str) -> Accelerator:
    record = load_definition("accelerator", name, overrides)
    assert isinstance(record, Accelerator)
    return record


def run(cluster: str, board: Accelerator, ranks: int, *overrides: str) -> Result:
    precision = next(name for name in PRECISIONS if getattr(board.matrix.peak, name))
    changes = [
        f"cluster={cluster}", f"workload={SMALL}", "software=pytorch-16bit-compile", "parallelism.tensor=1", "parallelism.sequence_parallel=false",
        f"training={{global_batch: {ranks}, sequence_length: 256, precision: {precision}}}", *overrides,
    ]  # fmt: skip
    return simulate(load_experiment("quickstart", changes).experiment)


@pytest.mark.parametrize("name", list_catalogue("cluster"))
def test_every_cluster_runs_a_step_that_fits(name: str) -> None:
    spec = load_definition("cluster", name)
    assert isinstance(spec, ClusterSpec)
    assert isinstance(spec.node, Node)
    assert isinstance(spec.node.accelerator, Accelerator)
    nodes = spec.nodes if spec.fabric and spec.fabric.kind in ("torus", "graph") else min(2, spec.nodes)
    result = run(name, spec.node.accelerator, nodes * spec.node.accelerators, f"nodes={nodes}")
    assert result.memory.fits
    assert result.step.time_s > 0
    assert result.energy is not None
    assert result.energy.step_kwh > 0


@pytest.mark.parametrize("name", list_catalogue("accelerator"))
def test_every_accelerator_runs_a_step_that_fits(name: str) -> None:
    node = SERVER.replace("{name: one", f"{{name: one, accelerator: {name}")
    result = run(f"{{name: one, nodes: 1, node: {node}}}", chip(name), 1)
    assert result.memory.fits
    assert 0 < result.step.time_s < 1
