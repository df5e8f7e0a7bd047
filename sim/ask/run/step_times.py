"""The step time of a cluster in any state, asked from the step engine once for each that is different.

Public: `StepTimes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from sim.ask.run.step import simulate_step
from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.cluster.outage import switch_vertices, without_switch
from sim.errors import SimError
from sim.inputs.records import ClusterSpec, Degradation, Experiment
from sim.layout.plan import Plan
from sim.life.life_inputs import Slow, State


@dataclass
class StepTimes:
    """`StepTimes(...)(state)` is the step time in seconds.

    Slow parts that stand in the same place of the plan are the same state: what is asked is the first
    rank (second, ... if several are slow) of the class that folding found for them.
    """

    experiment: Experiment
    plan: Plan
    healthy_s: float
    cluster: Cluster  # with every switch on its own
    slots: list[int]  # cluster node of each node of the job
    known: dict[State, float] = field(default_factory=dict)  # a step is simulated once for each state that a life meets
    reasons: dict[State, set[str]] = field(default_factory=dict)  # where the step engine could not be asked, and why

    def __post_init__(self) -> None:
        self.known[State(self.plan.grid.size["data"], ())] = self.healthy_s

    def __call__(self, state: State) -> float:
        """Seconds of one step."""
        alike = self._alike(state)
        if alike not in self.known:
            self.known[alike] = self._ask(alike)
        return self.known[alike]

    def doubts(self, states: Iterable[State]) -> tuple[str, ...]:
        """Why the step time of some of `states` could not be asked for, or not in full."""
        return tuple(sorted({reason for state in states for reason in self.reasons.get(self._alike(state), ())}))

    def _alike(self, state: State) -> State:
        """The state that stands for all that are like this one."""
        return State(state.replicas, tuple(self._representatives(state.slow))) if state.slow else state

    def _representatives(self, slow: tuple[Slow, ...]) -> Iterator[Slow]:
        """The same parts at the first places of their classes."""
        met: Counter[tuple[str, int]] = Counter()
        switches = switch_vertices(self.cluster)
        for part in slow:
            if part.component == "switch":
                kind = self.cluster.vertex_kind(int(switches[part.slot]))
                same = [i for i, v in enumerate(switches.tolist()) if self.cluster.vertex_kind(v) == kind]
                yield part._replace(slot=same[met[kind, 0] % len(same)])
                met[kind, 0] += 1
                continue
            there = np.flatnonzero(self.plan.grid.accelerator == self._accelerator(part))
            if not there.size:
                continue  # nothing runs there
            alike = int(self.plan.partition.rank[there[0]])
            members = np.flatnonzero(self.plan.partition.rank == alike)
            label = (part.component, alike)
            accelerator = int(self.plan.grid.accelerator[members[met[label] % len(members)]])
            met[label] += 1
            yield self._at(part, accelerator)

    def _accelerator(self, part: Slow) -> int:
        """The accelerator that a slow part is, or the first that its adapter serves."""
        node = self.slots[part.slot]
        there = int(self.cluster.places.sizes[node])
        kind = self.cluster.kinds[int(self.cluster.servers.kind[node])]
        share = max(1, there // max(1, kind.node.nics.count))
        local = part.part if part.component == "accelerator" else min(part.part * share, there - 1)
        return int(self.cluster.places.first[node]) + local

    def _at(self, part: Slow, accelerator: int) -> Slow:
        node, local = (int(each[0]) for each in self.cluster.places.split(np.array([accelerator])))
        if part.component != "accelerator":
            local = part.part
        return part._replace(slot=self.slots.index(node), part=local)

    def _ask(self, state: State) -> float:
        try:
            return simulate_step(self._degraded(state)).trace.time
        except SimError as error:
            self._doubt(state, f"a step with slow parts was not simulated ({error}); the slowest part sets its time")
            return self.healthy_s / min((part.speed for part in state.slow if part.speed), default=1.0)

    def _degraded(self, state: State) -> Experiment:
        """The experiment in that state; with fewer replicas each keeps its work, so that a step has fewer tokens."""
        experiment, data = self.experiment, self.plan.grid.size["data"]
        setup = experiment.setup
        batch = setup.training.global_batch * state.replicas // data
        placement = setup.parallelism.placement
        if isinstance(placement, tuple):
            placement = placement[: setup.ranks_per_replica * state.replicas]
        slow = [part for part in state.slow if part.component != "switch"]
        return experiment.model_copy(
            update={
                "cluster": self._thinned(state),
                "training": setup.training.model_copy(update={"global_batch": batch}),
                "parallelism": setup.parallelism.model_copy(update={"data": state.replicas, "placement": placement}),
                "degradations": (*experiment.degradations, *(self._degradation(part) for part in slow)),
            }
        )

    def _doubt(self, state: State, reason: str) -> None:
        self.reasons.setdefault(state, set()).add(reason)

    def _thinned(self, state: State) -> ClusterSpec:
        cluster = self.cluster
        for switch in [part.slot for part in state.slow if part.component == "switch"]:
            spec = without_switch(cluster, int(switch_vertices(self.cluster)[switch]))
            if spec is None:
                self._doubt(state, "the capacity that a lost switch takes away is not known for this network")
                continue
            cluster = build_cluster(spec)
        return cluster.spec

    def _degradation(self, part: Slow) -> Degradation:
        node = self.slots[part.slot]
        if part.component == "accelerator":
            return Degradation(
                accelerator=self.cluster.vertex_name(int(self.cluster.places.first[node]) + part.part),
                factor=part.speed,
            )
        first = next(block for block in self.cluster.blocks if block.kind == "nic").first
        server = self.cluster.servers.kinds[int(self.cluster.servers.kind[node])]
        bundles, adapters = server.n_adapters, server.node.nics.count  # more adapters than accelerators: bundles
        vertex = first + int(self.cluster.servers.first_adapter[node]) + part.part * bundles // adapters
        link = int(np.flatnonzero(self.cluster.links.source == vertex)[0])
        other = self.cluster.vertex_name(int(self.cluster.links.target[link]))
        factor = 1 - (1 - part.speed) * bundles / adapters
        return Degradation(link=f"{self.cluster.vertex_name(vertex)}<->{other}", factor=factor)
