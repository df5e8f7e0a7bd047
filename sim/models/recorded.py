"""A step that really ran, as a profiler recorded it (`clustersim import kineto`, `import chakra`), to be run again.

The record says which file holds what ran (`inputs/recording.py`) and what shall be other than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.errors import Problem, finding
from sim.graph.graph import Graph, Operator, Tensor
from sim.graph.operation import Shard
from sim.models.family import Divided, Pieces, Replay, Trained, Workload
from sim.record import Name
from sim.units import Count, Seconds


class Recorded(Workload):
    """A recorded step."""

    kind: Literal["trace"]
    name: Name = Field(default="inline", description="the name it is found by")
    recording: str = Field(max_length=4000, description="file that holds what ran, relative to this one")
    ranks: Count = Field(
        ge=1, le=1_000_000, description="ranks of the job that was recorded, whether there is a file of each or not"
    )
    recorded_on: str | None = Field(
        default=None,
        max_length=200,
        description="accelerator that it ran on, by name or path in the catalogue, for rescaled kernels",
    )
    step: Seconds | None = Field(
        default=None,
        gt=0,
        description="how long the recorded step took, first host call to last end, to print beside the replay",
    )
    collectives: Literal["recorded", "modelled"] = Field(
        default="recorded",
        description="how long collectives take: as they did on the rank that waited least in them, "
        "or as this cluster would run them from their sizes",
    )
    kernels: Literal["recorded", "rescaled"] = Field(
        default="recorded",
        description="how long kernels take: as they did, or scaled by kind (products, attention, bound by memory) "
        "from the accelerator that they ran on to this cluster's",
    )
    stragglers: Literal["kept", "removed"] = Field(
        default="kept", description="removed: each kernel takes its median over all ranks that ran it"
    )
    host: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="time of the host between its calls over what was recorded; 0: what the devices could do",
    )
    sources: dict[str, str] = Field(
        default_factory=dict, description="key path (or its prefix) to the source of its numbers"
    )

    tokens: ClassVar[bool] = False

    @property
    @override
    def replay(self) -> Replay:
        """What to run again."""
        return Replay(**{name: getattr(self, name) for name in Replay._fields})

    @property
    @override
    def layers(self) -> int:
        return 1

    @property
    @override
    def line(self) -> str:
        return f"a recorded step of {self.ranks} ranks"

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """One piece that costs nothing: what runs is in the recording."""
        before, after = (Tensor(name, ("samples",), 0, "index") for name in ("before", "after"))
        graph = Graph("layer", before, {"samples": shard.microbatch})
        graph.add(Operator("recorded", (before,), (after,)))
        return Pieces(None, (graph,), None)

    @property
    @override
    def rules(self) -> tuple[Rule, ...]:
        return RULES


Rule = Callable[[Recorded, Divided, Trained], Iterator[Problem]]


def check_replay_divides(model: Recorded, plan: Divided, training: Trained) -> Iterator[Problem]:
    """A recording is replicated whole."""
    for name in ("pipeline", "context", "expert", "expert_tensor"):
        if getattr(plan, name) > 1:
            message = f"{name} {getattr(plan, name)}: a recorded step is run whole; its groups are in the recording"
            yield finding(f"parallelism.{name}", message, f"set {name} to 1, and tensor to the ranks of one replica")
    if model.ranks % plan.tensor:
        message = f"replicas of {plan.tensor} ranks do not divide the {model.ranks} that were recorded"
        yield finding("parallelism.tensor", message, "set it to the number of ranks that hold one copy of the model")


def check_replay_training(model: Recorded, plan: Divided, training: Trained) -> Iterator[Problem]:
    """What is computed is what was recorded."""
    told = ["recompute"] if training.recompute != "none" else []
    told += ["lora"] if training.lora else []
    for name in ("compression", "offload"):
        value = getattr(training, name)
        told += [name] if value != type(value)() else []
    for name in told:
        yield finding(f"training.{name}", "a recorded step is run as it was recorded", "leave it out")
    for name in ("zero_stage", "sequence_parallel", "shard_group", "second_copy"):
        if getattr(plan, name):
            yield finding(f"parallelism.{name}", "a recorded step is divided as it was recorded", "leave it out")


def check_host(model: Recorded, plan: Divided, training: Trained) -> Iterator[Problem]:
    """Kernels are scaled from somewhere."""
    if model.kernels == "rescaled" and model.recorded_on is None:
        message = "this key is required to rescale kernels: the accelerator that the step was recorded on"
        yield finding("workload.recorded_on", message, "clustersim list accelerators")


RULES: tuple[Rule, ...] = (check_replay_divides, check_replay_training, check_host)
