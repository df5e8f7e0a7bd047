"""What can be moved on the page: for each control the values that make sense, as they are written in YAML.

A slider goes through a list of values, so each of its positions is one that a file could say; the value that a design
has stands among them. The first of a list that ends with nothing (no failures, no price) removes the key.

Public: `Control`, `controls_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import gcd
from typing import Any

from sim.inputs.catalogue import list_catalogue, serving
from sim.inputs.records import Accelerator, Experiment, Node
from sim.inputs.reliability import Failures
from sim.inputs.setup import Setup
from sim.report import human
from sim.transforms.recompute import recompute_text
from sim.units import DATA, DATA_RATE, TIME, Dimension

ADAPTER = (10, 25, 50, 100, 200, 400, 800, 1600, 3200)  # Gb/s, rates that are sold
LOCAL = (16, 32, 64, 100, 150, 300, 450, 600, 900, 1800, 3600)  # GB/s a direction
MEMORY = (12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 141, 180, 192, 256, 288, 384, 512)  # GiB
LEAF = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
CAPS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # of the board limit
DAYS = (2000, 1000, 500, 200, 100, 50, 20, 10, 5)  # between failures of one node
HOURLY = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0)  # USD an accelerator hour
MOST_NODES = 16_384
DRAWN = "explored"  # what failures and prices of the page are called
REPAIR = {"mean": "8 h"}


@dataclass(frozen=True)
class Control:
    """One control: key path, its name for people, how it looks, the values by position, their words, the position."""

    key: str
    label: str
    looks: str  # slider, choice or number
    values: tuple[Any, ...]
    words: tuple[str, ...]
    at: int
    group: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def controls_of(experiment: Experiment) -> list[Control]:
    """The controls that this design has, in the order of the page."""
    return [*_choices(experiment), *_machine(experiment), *_plan(experiment), *_life(experiment)]


# --- what it is -------------------------------------------------------------------------------


def _choices(experiment: Experiment) -> Iterator[Control]:
    setup = experiment.setup
    named = (
        ("workload", "model", "workload", setup.workload.name),
        ("cluster", "machine", "cluster", setup.cluster.name),
        ("software", "software", "software", setup.software.name),
    )
    for key, label, kind, now in named:
        yield _choice(key, label, serving(kind), now, "design")


def _choice(key: str, label: str, names: Iterable[str | None], now: str | None, group: str) -> Control:
    """A list of names; where there is none now, none is the first."""
    every = tuple(names)
    values = every if now in every else (now, *every)
    return Control(key, label, "choice", values, tuple(name or "none" for name in values), values.index(now), group)


# --- the machine ------------------------------------------------------------------------------


def _machine(experiment: Experiment) -> Iterator[Control]:
    spec, kinds = experiment.setup.cluster, experiment.setup.kinds
    board = min((kind.accelerator for kind in kinds), key=lambda each: each.power.tdp)
    nodes = _node_counts(experiment)
    yield _slider("nodes", "nodes", nodes, [human.count(n) for n in nodes], spec.nodes, "machine")
    for number, kind in enumerate(kinds):
        several = len(kinds) > 1
        key, of = (f"cluster.node.{number}.node", f" of {kind.node.name}") if several else ("cluster.node", "")
        yield from _server(kind.node, key, of)
    leaf = getattr(spec.fabric, "leaf_oversubscription", None)
    if leaf is not None:
        words = [f"{ratio:g} : 1" for ratio in sorted({*LEAF, leaf})]
        yield _slider("cluster.fabric.leaf_oversubscription", "oversubscription", LEAF, words, leaf, "machine")
    if board.power is not None:
        tdp, limit = board.power.tdp, experiment.power.limit
        steps = sorted({*(round(tdp * share) for share in CAPS), *([limit] if limit else [])})
        values = [None, *(f"{watts:g} W" for watts in reversed(steps))]
        words = [f"{tdp:g} W, no cap", *(f"{watts:g} W" for watts in reversed(steps))]
        at = values.index(f"{limit:g} W") if limit else 0
        yield Control("power.limit", "power cap", "slider", tuple(values), tuple(words), at, "machine")


def _server(node: Node, key: str, of: str) -> Iterator[Control]:
    """Sizes of the parts of a server, whose keys begin with `key`; `of`: whose they are."""
    bandwidth = node.nics.bandwidth
    yield _measure(f"{key}.nics.bandwidth", f"adapter{of}", ADAPTER, "Gb/s", DATA_RATE, bandwidth)
    if node.local.bandwidth:
        rate = node.local.bandwidth
        yield _measure(f"{key}.local.bandwidth", f"links in the server{of}", LOCAL, "GB/s", DATA_RATE, rate)
    if isinstance(node.accelerator, Accelerator):
        memory = node.accelerator.memory.capacity
        yield _measure(f"{key}.accelerator.memory.capacity", f"memory{of}", MEMORY, "GiB", DATA, memory)


def _node_counts(experiment: Experiment) -> list[int]:
    """Node counts that the plan fills with whole replicas which share the batch evenly."""
    setup, plan = experiment.setup, experiment.parallelism
    replica = plan.tensor * plan.context * plan.pipeline
    each = setup.node.accelerators
    if len(setup.kinds) > 1:
        return _counts_in_proportion(setup)
    shares = experiment.training.global_batch // (experiment.training.microbatch or 1)
    found = {setup.cluster.nodes}
    for data in range(1, min(shares, MOST_NODES * each // replica) + 1):
        if shares % data == 0 and data * replica % each == 0:
            found.add(data * replica // each)
    return sorted(found)


def _counts_in_proportion(setup: Setup) -> list[int]:
    """The same of several kinds of node, which grow together."""
    counts, batch = [group.nodes for group in setup.groups], setup.training.global_batch // setup.training.microbatch
    step = setup.cluster.nodes // gcd(*counts)
    found = {setup.cluster.nodes}
    for nodes in range(step, MOST_NODES + 1, step):
        ranks = setup.accelerators * nodes // setup.cluster.nodes
        data, left = divmod(ranks, setup.ranks_per_replica)
        if data and not left and batch % data == 0:
            found.add(nodes)
    return sorted(found)


def _measure(key: str, label: str, sizes: Sequence[float], unit: str, dimension: Dimension, now: float) -> Control:
    """A slider over a quantity that is written with a unit."""
    held = round(now / dimension.units[unit], 3)
    every = sorted({*map(float, sizes), held})
    words = [f"{size:g} {unit}" for size in every]
    return Control(key, label, "slider", tuple(words), tuple(words), every.index(held), "machine")


def _slider(key: str, label: str, sizes: Sequence[Any], words: Sequence[str], now: Any, group: str) -> Control:
    values = tuple(sorted({*sizes, now}))
    return Control(key, label, "slider", values, tuple(words), values.index(now), group)


# --- the plan ---------------------------------------------------------------------------------


def _plan(experiment: Experiment) -> Iterator[Control]:
    plan, training = experiment.parallelism, experiment.training
    numbers: tuple[tuple[str, str, int | None], ...] = (
        ("parallelism.tensor", "tensor", plan.tensor),
        ("parallelism.pipeline", "pipeline", plan.pipeline),
        ("parallelism.virtual_stages", "virtual stages", plan.virtual_stages),
        ("parallelism.context", "context", plan.context),
        ("parallelism.zero_stage", "ZeRO stage", plan.zero_stage),
        ("training.microbatch", "microbatch", training.microbatch),
        ("training.global_batch", "global batch", training.global_batch),
        ("training.sequence_length", "sequence", training.sequence_length),
    )
    for key, label, now in numbers:
        if now is not None:
            yield Control(key, label, "number", (now,), (str(now),), 0, "plan")
    yield _choice("training.precision", "precision", _offered(experiment), training.precision, "plan")
    kinds = ("none", "selective", "full", "alternate")
    yield _choice("training.recompute", "recompute", kinds, recompute_text(training.recompute), "plan")


def _offered(experiment: Experiment) -> list[str]:
    """Number formats that the accelerator has a rate for."""
    peak = experiment.setup.accelerator.matrix.peak
    return [name for name in type(peak).model_fields if getattr(peak, name, None)]


# --- life and money ---------------------------------------------------------------------------


def _life(experiment: Experiment) -> Iterator[Control]:
    prices, site = experiment.setup.prices, experiment.setup.site
    if experiment.training.tokens or experiment.training.samples:
        off = "none" if experiment.failures is None else "as written"
        days = _drawn(experiment.failures)
        yield _with_none("failures", "failures", DAYS, _failing, "a node every {:g} days", days, off)
    price = prices.rental.on_demand if prices else None
    hourly = None if price is None else round(price * TIME.units["h"], 2)
    yield _with_none("prices", "price", HOURLY, _priced, "{:.2f} USD/h", hourly, "as written" if prices else "none")
    yield _choice("site", "site", [None, *list_catalogue("site")], site.name if site else None, "life")


def _with_none(
    key: str, label: str, sizes: Sequence[float], write: Callable[[float], Any], words: str, now: float | None, off: str
) -> Control:
    """A slider whose first position says nothing, in the order of `sizes`; a value between them is sorted in."""
    ascending = sizes[0] < sizes[-1]
    every = sorted({*sizes, *(() if now is None else (now,))}, reverse=not ascending)
    first = off if now is None else "none"
    at = 0 if now is None else 1 + every.index(now)
    return Control(key, label, "slider", (None, *map(write, every)), (first, *map(words.format, every)), at, "life")


def _failing(days: float) -> dict[str, Any]:
    return {"name": DRAWN, "modes": [
        {"cause": "node", "component": "node", "mtbf": f"{days:g} days", "repair": REPAIR}
    ]}  # fmt: skip


def _drawn(failures: Failures | str | None) -> float | None:
    """Days between failures of a node, where they were drawn on the page."""
    if not isinstance(failures, Failures) or failures.name != DRAWN:
        return None
    return failures.modes[0].mtbf / TIME.units["days"]


def _priced(hourly: float) -> dict[str, Any]:
    return {"name": DRAWN, "as_of": "chosen on the page", "rental": {"on_demand": f"{hourly:g} USD/h"}}
