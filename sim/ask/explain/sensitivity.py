"""The effect of more of each resource, by simulating again with the input changed.

Public: `sensitivities`, `sensitivity_report`, `RESOURCES`, `Resource`, `with_more`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sim.ask.sweep.judge import OK
from sim.ask.sweep.store import Outcome
from sim.ask.workers.batch import Batch
from sim.ask.workers.pool import InThisProcess, LocalProcesses, processors
from sim.errors import SimError
from sim.inputs.records import Experiment
from sim.metrics.sensitivity import QUANTITIES, Sensitivity, SensitivityReport

__all__ = ["RESOURCES", "Resource", "Sensitivity", "sensitivities", "sensitivity_report", "with_more"]

Progress = Callable[[int, int], None]  # simulations that are done, simulations in all
CHIP, NODE, FABRIC = "cluster.node.accelerator", "cluster.node", "cluster.fabric"


@dataclass(frozen=True)
class Resource:
    """Keys that are the resource, with * for any part; `less` of a delay or an oversubscription is more of it."""

    name: str
    keys: tuple[str, ...]
    less: bool = False


RESOURCES: tuple[Resource, ...] = (
    Resource("matrix rate", (f"{CHIP}.matrix.peak.*",)),
    Resource("vector rate", (f"{CHIP}.vector.*",)),
    Resource("memory bandwidth", (f"{CHIP}.memory.bandwidth",)),
    Resource("memory capacity", (f"{CHIP}.memory.capacity",)),
    Resource("links in the node", (f"{NODE}.local.bandwidth",)),
    Resource("adapters, and ports sized by them", (f"{NODE}.nics.bandwidth",)),
    Resource("links from node to switch", (f"{FABRIC}.link.bandwidth",)),
    Resource("leaf uplinks", (f"{FABRIC}.leaf_oversubscription",), less=True),
    Resource("spine uplinks", (f"{FABRIC}.spine_oversubscription",), less=True),
    Resource("links in a group", (f"{FABRIC}.local_link.bandwidth",)),
    Resource("links between groups", (f"{FABRIC}.global_link.bandwidth",)),
    Resource("links of the graph", (f"{FABRIC}.links.*.bandwidth",)),
    Resource(
        "latency of links and collectives",
        (
            *(f"{part}.latency" for part in (f"{NODE}.local", f"{NODE}.nics", f"{FABRIC}.*link*")),
            *(f"{NODE}.collectives.{name}" for name in ("floor*", "*_hop*", "in_network", "ramp*")),
        ),
        less=True,
    ),
    Resource("kernel launch", (f"{CHIP}.launch",), less=True),
    Resource("host issue", ("software.host_issue",), less=True),
    Resource("host link", (f"{NODE}.host.pcie_bandwidth",)),
    Resource(
        "storage bandwidth",
        (
            "cluster.storage.read_bandwidth",
            "cluster.storage.write_bandwidth",
            "cluster.storage.network.*_bandwidth",
            "cluster.storage.requests.connection_bandwidth",
        ),
    ),
    Resource("preparation of samples", ("input.preprocessing",), less=True),
    Resource("time between failures", ("failures.modes.*.mtbf",)),
    Resource("recovery", ("recovery.*.mean", "recovery.initialise*", "failures.modes.*.duration.mean"), less=True),
    Resource("power limit", ("power.limit",)),
)
"""The one place that knows which keys a resource means. What an experiment does not have is left out."""


def sensitivities(experiment: Experiment, by: float = 0.1, jobs: int | None = 1) -> tuple[Sensitivity, ...]:
    """What `by` (a share) more of each resource of a resolved experiment changes, most valuable first.

    Uses `jobs` processes, as many as processors if None. Raises SimError if the experiment itself fails.
    """
    return sensitivity_report(experiment, by, jobs).resources


def sensitivity_report(
    experiment: Experiment, by: float = 0.1, jobs: int | None = 1, progress: Progress = lambda done, total: None
) -> SensitivityReport:
    """The same, with the quantities as they are; `progress` is told how many simulations are done, and of how many."""
    changed = [(resource, *with_more(experiment, resource, by)) for resource in resources_of(experiment)]
    changed = [each for each in changed if each[2]]
    first, *others = _outcomes([experiment, *(each[1] for each in changed)], jobs or processors(), progress)
    if first.status != OK:
        raise SimError(first.reason)
    base = _quantities(first)
    found = [
        _sensitivity(resource.name, keys, by, base, outcome)
        for (resource, _, keys), outcome in zip(changed, others, strict=True)
    ]
    found.sort(key=lambda each: _value(each.change))
    return SensitivityReport(experiment.name, experiment.description, by, base, tuple(found))


def resources_of(experiment: Experiment) -> Iterator[Resource]:
    """All resources; those of a node once for each kind of node, where there are several."""
    kinds = experiment.setup.kinds
    for resource in RESOURCES:
        if len(kinds) == 1 or not any(key.startswith(f"{NODE}.") for key in resource.keys):
            yield resource
            continue
        for number, kind in enumerate(kinds):
            begin = f"{NODE}.{number}.node."
            keys = (key.replace(f"{NODE}.", begin, 1) for key in resource.keys)
            yield Resource(f"{resource.name} of {kind.node.name}", tuple(keys), resource.less)


def with_more(experiment: Experiment, resource: Resource, by: float) -> tuple[Experiment, tuple[str, ...]]:
    """`experiment` with `by` more of a resource, and the keys that were changed; none if it has none of it."""
    factor = 1 / (1 + by) if resource.less else 1 + by
    fields = experiment.model_dump()
    keys = tuple(_scale(fields, "", resource.keys, factor))
    return (Experiment.from_si(fields) if keys else experiment), keys


def _scale(part: Any, path: str, patterns: tuple[str, ...], factor: float) -> Iterator[str]:
    """Multiply the numbers under `part` whose path matches, in place; yields their paths."""
    entries = part.items() if isinstance(part, dict) else enumerate(part)
    for name, value in list(entries):
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, tuple) and any(isinstance(item, dict) for item in value):
            value = part[name] = list(value)
        if isinstance(value, dict | list):
            yield from _scale(value, here, patterns, factor)
        elif isinstance(value, float) and value > 0 and any(fnmatchcase(here, pattern) for pattern in patterns):
            part[name] = value * factor
            yield here


def _outcomes(experiments: list[Experiment], jobs: int, progress: Progress) -> list[Outcome]:
    workers = LocalProcesses(min(jobs, len(experiments))) if jobs > 1 else InThisProcess()
    try:
        batches: list[Batch] = []
        for each in [workers.submit([item]) for item in experiments]:
            batches.append(each.result())
            progress(len(batches), len(experiments))
    finally:
        workers.close()
    return [outcomes[0] for outcomes, _ in batches]


def _quantities(outcome: Outcome) -> dict[str, float]:
    fields = json.loads(outcome.fields)
    fields["memory.share"] = fields["memory.peak_bytes_per_accelerator"] / fields["memory.capacity_bytes"]
    return {name: fields[field] for name, field in QUANTITIES.items() if field in fields}


def _sensitivity(name: str, keys: tuple[str, ...], by: float, base: dict[str, float], outcome: Outcome) -> Sensitivity:
    if outcome.status != OK:
        return Sensitivity(name, keys, {}, {}, outcome.reason)
    after = _quantities(outcome)
    change = {key: after[key] / value - 1 for key, value in base.items() if key in after and value}
    return Sensitivity(name, keys, change, {key: value / by for key, value in change.items()})


def _value(change: dict[str, float]) -> tuple[float, ...]:
    """What a resource saves: time first, then energy, cost and memory."""
    order = ("time_to_train", "step_time", "energy", "cost", "memory")
    return tuple(round(change.get(name, 0.0), 12) for name in order)
