"""What a plan search varies: the axes, their values by default, and one experiment for one choice.

Public: `PlanAxis`, `AXES`, `SWITCHES`, `Values`, `axes_of`, `divisors`, `key_of`, `words_of`, `with_values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import gcd
from typing import Any

from sim.errors import ConfigError, Problem
from sim.inputs.problems import near
from sim.inputs.records import Experiment, Parallelism
from sim.inputs.setup import Setup
from sim.record import RecordT
from sim.schedule.catalogue import SCHEDULES, course_of

Values = tuple[Any, ...]
Choice = Mapping[str, Any]  # key path -> value
Default = Callable[[Setup, Choice], Values]


@dataclass(frozen=True)
class PlanAxis:
    """One key that plans differ in, and its values; they may depend on the axes before it."""

    key: str
    values: Default
    depends: tuple[str, ...] = ()  # keys that its values depend on
    offered: Values = ()  # those that the software stack can do; all if empty
    words: Mapping[str, Default] = field(default_factory=dict)  # what may be named instead of values

    def limited(self, values: Values) -> PlanAxis:
        """The axis with these values alone, in which `words` stand for what they are at each plan."""
        if not any(isinstance(value, str) and value in self.words for value in values):
            return PlanAxis(self.key, _always(*values))
        meant = [self.words[value] if value in self.words else _always(value) for value in values]

        def all_of_them(base: Setup, choice: Choice) -> Values:
            return tuple(dict.fromkeys(found for each in meant for found in each(base, choice)))

        return replace(self, values=all_of_them)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]


def divisors(number: int) -> Values:
    """Divisors of `number`, smallest first."""
    return tuple(each for each in range(1, number + 1) if number % each == 0)


def _share(*before: str) -> Default:
    """Divisors of the accelerators that the axes `before` leave to each of their ranks."""

    def values(base: Setup, choice: Choice) -> Values:
        return divisors(_left(base, choice, *before))

    return values


def _left(base: Setup, choice: Choice, *before: str) -> int:
    taken = 1
    for name in before:
        taken *= choice[f"parallelism.{name}"]
    return max(1, base.accelerators // taken)


def _pipeline(base: Setup, choice: Choice) -> Values:
    """No more stages than layers."""
    left = _left(base, choice, "tensor", "context")
    return tuple(stages for stages in divisors(left) if stages <= base.workload.layers)


def _data(base: Setup, choice: Choice) -> Values:
    """All accelerators work."""
    return (_left(base, choice, "tensor", "context", "pipeline"),)


def _expert(base: Setup, choice: Choice) -> Values:
    """Ranks that share both experts and the ranks of a stage evenly."""
    ranks = choice["parallelism.tensor"] * choice["parallelism.context"] * choice["parallelism.data"]
    return divisors(gcd(ranks, base.workload.experts)) if base.workload.experts else (1,)


def _virtual(base: Setup, choice: Choice) -> Values:
    """Chunks of equal size, as Megatron demands; one where the stages are unequal already."""
    layers, stages = base.workload.layers, choice["parallelism.pipeline"]
    return (1,) if layers % stages else divisors(layers // stages)


def _layers(base: Setup, choice: Choice) -> Values:
    """Those of the experiment where they fit the pipeline, else an even division."""
    own, stages = base.parallelism.layers_per_stage, choice["parallelism.pipeline"]
    return (own if own and len(own) % stages == 0 else None,)


def _lighter_ends(base: Setup, choice: Choice) -> Values:
    """Up to two layers fewer on the first and on the last stage, which also hold embedding and head."""
    total, course = base.workload.layers, course_of("1f1b", choice["parallelism.pipeline"], 1)
    found = []
    for first, last in product(range(MOST_FEWER + 1), repeat=2) if course.stages > 1 else ():
        sizes = course.layers(total + first + last)
        sizes[0] -= first
        sizes[-1] -= last
        if min(sizes) >= 0 and all(sizes[1:-1]):
            found.append(tuple(sizes))
    return tuple(sizes for sizes in dict.fromkeys(found) if list(sizes) != course.layers(total))


def _microbatch(base: Setup, choice: Choice) -> Values:
    return divisors(base.training.global_batch)


def _shard_group(base: Setup, choice: Choice) -> Values:
    """All ranks that hold the same weights, or those of one node (hybrid sharding)."""
    ranks = choice["parallelism.data"] * choice["parallelism.context"]
    near = base.node.accelerators // choice["parallelism.tensor"]
    return (None, near) if 1 < near < ranks and ranks % near == 0 else (None,)


def _order(base: Setup, choice: Choice) -> Values:
    """That of the experiment, and the same with data and pipeline changed over: which of them is the nearer one."""
    own, swapped = base.parallelism.order, {"data": "pipeline", "pipeline": "data"}
    return own, tuple(swapped.get(dimension, dimension) for dimension in own)


def _schedule(base: Setup, choice: Choice) -> Values:
    """The usual schedules, and that of the experiment."""
    own = base.parallelism.schedule
    return tuple(name for name, kind in SCHEDULES.items() if kind.usual or name == own)


def _offered(base: Setup, name: str) -> Values:
    """The value that the stack has, and the others that it offers."""
    software = base.software
    return tuple(dict.fromkeys((getattr(software, name), *getattr(software.choices, name))))


def _always(*values: Any) -> Default:
    return lambda base, choice: values


TENSOR, CONTEXT, PIPELINE, DATA = (f"parallelism.{name}" for name in ("tensor", "context", "pipeline", "data"))
SHAPE = (TENSOR, CONTEXT, PIPELINE, DATA)
SCHEDULE, VIRTUAL, MICROBATCH = "parallelism.schedule", "parallelism.virtual_stages", "training.microbatch"
LAYERS, MOST_FEWER = "parallelism.layers_per_stage", 2
ORDER, NEAREST = "parallelism.order", ("tensor", "context")  # the dimensions that come first, as a rule
AXES: tuple[PlanAxis, ...] = (
    PlanAxis(TENSOR, _share()),
    PlanAxis(CONTEXT, _share("tensor"), (TENSOR,)),
    PlanAxis(PIPELINE, _pipeline, (TENSOR, CONTEXT)),
    PlanAxis(DATA, _data, (TENSOR, CONTEXT, PIPELINE)),
    PlanAxis("parallelism.expert", _expert, (TENSOR, CONTEXT, DATA)),
    PlanAxis(VIRTUAL, _virtual, (PIPELINE,)),
    PlanAxis(LAYERS, _layers, (PIPELINE,), words={"even": _always(None), "lighter_ends": _lighter_ends}),
    PlanAxis(MICROBATCH, _microbatch),
    PlanAxis(SCHEDULE, _schedule),
    PlanAxis("training.recompute", _always("none", "selective", "alternate", "full")),
    PlanAxis("parallelism.sequence_parallel", _always(False, True)),
    PlanAxis("parallelism.zero_stage", _always(0, 1, 2, 3)),
    PlanAxis("parallelism.shard_group", _shard_group, (TENSOR, CONTEXT, DATA)),
    PlanAxis(ORDER, _order),
)
"""In this order; the values of an axis may depend on axes of the shape before it."""
FREE = ("parallelism.", "software.", "training.offload.", "training.compression.")  # of keys that may be named
SWITCHES: Mapping[str, Values] = {
    "software.tensor_overlap": ("none", "backward", "full"),
    "software.gradient_overlap": (False, True),
    "software.parameter_prefetch": (False, True),
    "software.pipeline_overlap": (False, True),
    "software.scatter_gather": (False, True),
}
"""What stacks can do beside one another or not; which of it a stack offers is in its `choices`."""


def axes_of(limits: Mapping[str, Sequence[Any]], base: Setup, wide: bool = False) -> tuple[PlanAxis, ...]:
    """The axes of the search around `base`, in the order of `AXES`.

    `limits` names values of keys instead of the default; other keys become axes too. A key is that of an
    experiment, as `parallelism.tensor`, or its last part for an axis that is searched anyway. Unless the space is
    `wide` the default keeps to what the software stack offers. Raises ConfigError for a key that no plan has.
    """
    keys = {key_of(name): tuple(values) for name, values in limits.items()}
    axes = [replace(axis, offered=() if wide else getattr(base.software.choices, axis.name, ())) for axis in AXES]
    for key, values in SWITCHES.items():
        values = values if wide else _offered(base, key.rpartition(".")[2])
        if len(values) > 1:
            axes.append(PlanAxis(key, _always(*values)))
    known = [axis.limited(keys.pop(axis.key)) if axis.key in keys else axis for axis in axes]
    return (*known, *(PlanAxis(key, _always(*values)) for key, values in keys.items()))


def words_of(key: str) -> frozenset[str]:
    """What may be named instead of values of a key."""
    return frozenset(word for axis in AXES if axis.key == key for word in axis.words)


def key_of(name: str) -> str:
    """The key path that `name` stands for. Raises ConfigError for a key that no plan has."""
    short = {key.rpartition(".")[2]: key for key in (*(axis.key for axis in AXES), *SWITCHES)}
    if name in short or name in short.values():
        return short.get(name, name)
    if name in Parallelism.model_fields:
        return f"parallelism.{name}"
    if name.startswith(FREE):
        return name
    raise ConfigError(Problem("--space", name, "is no key that a plan can vary", near(name, list(short))))


def with_values(experiment: Experiment, choice: Choice) -> Experiment:
    """`experiment` with the value at each key path of `choice`; nothing is checked."""
    return _changed(experiment, [(key.split("."), value) for key, value in choice.items()])


def _changed(record: RecordT, changes: Sequence[tuple[list[str], Any]]) -> RecordT:
    update: dict[str, Any] = {path[0]: value for path, value in changes if len(path) == 1}
    for name in dict.fromkeys(path[0] for path, _ in changes if len(path) > 1):
        inner = [(path[1:], value) for path, value in changes if path[0] == name and len(path) > 1]
        update[name] = _changed(getattr(record, name), inner)
    changed: RecordT = record.model_copy(update=update)
    return changed
