"""Jobs for tests of the run clock: small to write, without a step engine behind them."""

from __future__ import annotations

from typing import Any

from sim.inputs.reliability import Failures, Recovery
from sim.life.life_inputs import LifeInputs, Saving, State
from sim.life.storage_costs import CheckpointCosts

DAY = 86400.0
NO_DELAY: dict[str, Any] = {"mean": 0}
AT_ONCE: dict[str, Any] = dict.fromkeys(("detect", "diagnose", "swap", "boot", "reschedule"), NO_DELAY)


def costs(
    blocking: float = 0.0, drain: float = 0.0, slowdown: float = 1.0, restore: float = 0.0, **peer: float
) -> CheckpointCosts:
    """Costs of a save in seconds."""
    return CheckpointCosts(
        bytes=0.0,
        blocking_s=blocking,
        drain_s=drain,
        drain_slowdown=slowdown,
        restore_s=restore,
        peer_blocking_s=peer.get("peer_blocking", 0.0),
        peer_restore_s=peer.get("peer_restore", 0.0),
    )


def failures(*modes: dict[str, Any], **others: Any) -> Failures:
    """Failure modes; a node that lasts 10 days and takes an hour to repair unless said otherwise."""
    usual = {"cause": "node", "component": "node", "mtbf": 10 * DAY}
    return Failures.from_si({"name": "test", "modes": [usual | mode for mode in modes]} | others)


def recovery(**fields: Any) -> Recovery:
    """Recovery in no time, with spares that last, unless said otherwise."""
    return Recovery.from_si({"warm_spares": 50, "initialise": 0.0, "initialise_per_rank": 0.0} | AT_ONCE | fields)


def constant(seconds: float) -> Any:
    """A step time that depends on nothing but the number of replicas: each keeps its work."""

    def step_time(state: State) -> float:
        return seconds

    return step_time


def job(**fields: Any) -> LifeInputs:
    """A job of 16 nodes in 8 replicas, a step of 10 s, that nothing happens to."""
    usual: dict[str, Any] = {
        "target_steps": 1000.0,
        "nodes": 16,
        "replicas": 8,
        "ranks": 128,
        "step_time": constant(10.0),
        "failures": failures(),
        "recovery": recovery(),
        "parts": {"accelerator": 8, "nic": 8, "cable": 8},
    }
    return LifeInputs(**(usual | fields))


def saving(steps: int = 10, **fields: Any) -> Saving:
    """Saves every `steps`; the rest are costs."""
    held = {key: fields.pop(key) for key in ("peer_steps", "keep") if key in fields}
    return Saving(costs(**fields), steps, **held)
