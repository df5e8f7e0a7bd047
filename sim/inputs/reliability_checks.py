"""Whether failures and recovery make sense together: one small check per rule.

Public: `RELIABILITY_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.errors import Problem, finding
from sim.inputs.findings import Check
from sim.inputs.records import TorusFabric
from sim.inputs.reliability import FailureMode, Failures
from sim.inputs.setup import Setup

TIMED = ("pause", "slow", "planned")  # effects that last for a time
PLACES = {  # components that an effect makes sense for
    "slow": ("accelerator", "nic", "cable"),
    "corrupt": ("accelerator", "node"),
    "planned": ("job",),
}


def check_training_ends(setup: Setup) -> Iterator[Problem]:
    """What fails over time needs a training with an end."""
    training = setup.training
    ends = (training.tokens, training.samples, training.time_limit)
    if setup.experiment.failures is not None and ends == (None, None, None):
        message = "failures of a training without an end"
        yield finding("failures", message, "give training.tokens or training.time_limit")


def check_failure_modes(setup: Setup) -> Iterator[Problem]:
    """Every mode is complete, and possible for its component."""
    for number, mode in enumerate(_modes(setup)):
        for key, message, suggestion in _flaws(mode):
            yield finding(f"failures.modes.{number}.{key}", message, suggestion)


def _flaws(mode: FailureMode) -> Iterator[tuple[str, str, str]]:
    places = PLACES.get(mode.effect)
    if places and mode.component not in places:
        yield "effect", f"{mode.effect} is for {' or '.join(places)}, not for {mode.component}", "choose another effect"
    if mode.effect in TIMED and mode.duration.mean == 0:
        yield "duration", f"{mode.effect} without a duration", "say how long it lasts"
    if mode.batch and mode.component in ("switch", "job"):
        yield "batch", f"a {mode.component} does not fail in batches of nodes", "remove it"
    if mode.component == "switch" and mode.effect == "stop" and mode.repair is None:
        yield "repair", "a failed switch without a time of repair", "say how long it takes"
    if mode.component == "job" and mode.repair is not None:
        yield "repair", "the software of a job is on no node that could be repaired", "remove it"


def check_parts_exist(setup: Setup) -> Iterator[Problem]:
    """Adapters and cables fail only where there are some."""
    for number, mode in enumerate(_modes(setup)):
        if mode.component in ("nic", "cable") and not all(kind.node.nics.count for kind in setup.kinds):
            message = f"{mode.cause} is a fault of a {mode.component}, but nodes have no adapters"
            yield finding(f"failures.modes.{number}.component", message, "choose another component")
        elif mode.component in ("nic", "cable") and mode.effect == "slow" and not _has_adapters(setup):
            message = f"{mode.cause} slows a {mode.component}, but no adapter joins the nodes of this cluster"
            yield finding(f"failures.modes.{number}.component", message, "choose another component or effect")


def _has_adapters(setup: Setup) -> bool:
    """Whether traffic goes over adapters: a torus joins nodes without, and one node needs none."""
    return setup.cluster.fabric is not None and not isinstance(setup.cluster.fabric, TorusFabric)


def check_frailty(setup: Setup) -> Iterator[Problem]:
    """Lemons have more than their share of the faults."""
    failures = setup.experiment.failures
    if isinstance(failures, Failures) and failures.frailty and failures.frailty.faults < failures.frailty.nodes:
        share, faults = failures.frailty.nodes, failures.frailty.faults
        message = f"{share:.3g} of the nodes have {faults:.3g} of the faults, less than their share"
        yield finding("failures.frailty.faults", message, "exchange the two?")


def check_recovery(setup: Setup) -> Iterator[Problem]:
    """A job cannot need more replicas than it has."""
    recovery = setup.experiment.recovery
    if recovery.when_short == "shrink" and recovery.min_replicas > setup.data:
        message = f"min_replicas {recovery.min_replicas} of a job with {setup.data} replicas"
        yield finding("recovery.min_replicas", message, f"use at most {setup.data}")


RELIABILITY_CHECKS: tuple[Check, ...] = (
    check_training_ends,
    check_failure_modes,
    check_parts_exist,
    check_frailty,
    check_recovery,
)


def _modes(setup: Setup) -> tuple[FailureMode, ...]:
    failures = setup.experiment.failures
    return failures.modes if isinstance(failures, Failures) else ()
