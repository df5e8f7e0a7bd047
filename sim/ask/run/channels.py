"""The trust band where boards are joined by PCIe: how many channels a library opens there is not known.

Public: `with_channels`.
"""

from __future__ import annotations

from dataclasses import replace

from sim.ask.run.stacks import MOST_EVENTS
from sim.ask.run.step import simulate_step
from sim.inputs.records import Experiment, Node
from sim.metrics.result import Result

FEW = 0.5  # share of the rate with the default of NCCL: 22.2 of 37.6 GB/s on two Turin (voipmonitor/rtx6kpro)
SAID = "over PCIe, rates hold with enough channels; the default may halve them, and the band reaches as far"
TOO_DEAR = "over PCIe, rates hold with enough channels; the default may halve them, which takes long to simulate here"


def with_channels(result: Result, experiment: Experiment) -> Result:
    """`result` with a trust band that covers the step at the rate that too few channels leave to PCIe."""
    setup, trust = experiment.setup, result.trust
    shared = any(kind.node.local.kind == "pcie" and kind.node.accelerators > 1 for kind in setup.kinds)
    if not shared or setup.ranks == 1 or not trust or not trust.band:
        return result
    if result.events > MOST_EVENTS:
        return replace(result, trust=replace(trust, extrapolates=(TOO_DEAR, *trust.extrapolates)))
    kinds = zip(setup.groups, setup.kinds, strict=True)
    slow = tuple(group.model_copy(update={"node": _slowed(kind.node)}) for group, kind in kinds)
    node = slow if isinstance(setup.cluster.node, tuple) else slow[0].node
    cluster = setup.cluster.model_copy(update={"node": node})
    slowed = simulate_step(experiment.model_copy(update={"cluster": cluster})).trace.time
    band = slowed / result.step.time_s - 1
    if band <= trust.band:
        return result
    return replace(result, trust=replace(trust, band=band, extrapolates=(SAID, *trust.extrapolates)))


def _slowed(node: Node) -> Node:
    """With payload over PCIe at `FEW` of its rate, where that joins its boards; bridges keep theirs."""
    if node.local.kind != "pcie":
        return node
    changes: dict[str, object] = {"local": node.local.model_copy(update={"efficiency": FEW * node.local.efficiency})}
    if node.pcie:
        staged, sockets = FEW * node.pcie.staged_efficiency, FEW * node.pcie.socket_bandwidth
        changes["pcie"] = node.pcie.model_copy(update={"staged_efficiency": staged, "socket_bandwidth": sockets})
    return node.model_copy(update=changes)
