"""Which recorded rank each rank of a replayed job does as, and with whom it communicates then.

A job of as many ranks as were recorded runs what its ranks ran. A rank without a file does as one that has, in groups
shifted by their distance. A job of more or fewer replicas (`parallelism.tensor`: consecutive ranks that hold one copy
of the model) repeats the recorded ones: groups inside a replica are copied, groups over the same places of all
replicas go over all of the new ones. That is right where a replica does the same whatever their number: the same
samples for each, and nothing but exchange between them. A group that is neither is refused.

Public: `Assignment`, `assignment_of`, `recorded_flows`, `kind_of_group`, `meet_once`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.comm.tuner import carriers_on
from sim.errors import PlanError, Problem, listed
from sim.inputs.recording import Recording, read_recording
from sim.inputs.records import Experiment
from sim.layout.flows import FlowSet, collective_flows
from sim.layout.grid import RankGrid
from sim.layout.prune import Covers

Ints = NDArray[np.int64]
Members = tuple[int, ...]
PRICED = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
FIRST_KEY = 20  # of hashed paths, beyond those of a written job
KEY = "workload.recording"


@dataclass(frozen=True, eq=False)
class Assignment:
    """What the ranks of a job do. size: ranks of it; replica: consecutive ones that hold one copy of the model."""

    recording: Recording
    size: int
    replica: int
    _known: dict[tuple[int, int], Members] = field(default_factory=dict, repr=False)

    @property
    def is_resized(self) -> bool:
        """Whether the job has another number of replicas than what was recorded."""
        return self.size != self.recording.world

    @cached_property  # asked for each rank and group
    def files(self) -> dict[int, int]:
        """Recorded ranks by their number in the recorded job."""
        return {rank.rank: place for place, rank in enumerate(self.recording.ranks)}

    def recorded_place(self, rank: int) -> int:
        """The rank of the recorded job in whose place a rank is."""
        return rank % self.recording.world

    def program(self, rank: int) -> int:
        """The recorded rank that it does as: that of its place, else one at the same place of another replica."""
        place = self.recorded_place(rank)
        alike = (known for number, known in self.files.items() if number % self.replica == place % self.replica)
        return self.files.get(place, next(alike, rank % len(self.files)))

    @cached_property  # tells ranks apart
    def programs(self) -> Ints:
        """Recorded rank that each rank does as, (n_ranks,)."""
        return np.array([self.program(rank) for rank in range(self.size)])

    def members(self, rank: int, group: int) -> Members:
        """Ranks of the job with which a rank communicates where its record says `group`, itself too, rising."""
        key = rank, group
        if key not in self._known:
            self._known[key] = self._members(rank, group)
        return self._known[key]

    def _members(self, rank: int, group: int) -> Members:
        world, place = self.recording.world, self.recorded_place(rank)
        told = self.recording.groups[group].ranks or tuple(range(world))
        source = self.recording.ranks[self.programs[rank]].rank
        shift = 0 if place in told or source not in told else place - source
        recorded = sorted({(each + shift) % world for each in told})
        return self._resized(rank, recorded) if self.is_resized else tuple(recorded)

    def _resized(self, rank: int, recorded: list[int]) -> Members:
        """A group of the recorded job as it is with another number of replicas. Raises PlanError."""
        replicas, places = {each // self.replica for each in recorded}, {each % self.replica for each in recorded}
        if len(replicas) == 1:
            return tuple(sorted(rank // self.replica * self.replica + place for place in places))
        if len(recorded) == len(places) * self.recording.world // self.replica:
            every = range(self.size // self.replica)
            return tuple(sorted(number * self.replica + place for number in every for place in places))
        message = f"the group of ranks{listed(recorded)} is neither inside a replica of {self.replica} nor over all"
        raise PlanError(Problem("", "parallelism.tensor", message, "say how many ranks hold one copy of the model"))

    @cached_property  # asked for each collective
    def names(self) -> dict[Members, list[str]]:
        """What groups of the same ranks are called, in the order in which they were made."""
        called: dict[Members, set[str]] = {}
        used = [{each.group for each in rank.collectives} for rank in self.recording.ranks]
        for rank, program in enumerate(self.programs.tolist()):
            for group in used[program]:
                called.setdefault(self.members(rank, group), set()).add(self.recording.groups[group].name)
        return {members: sorted(names, key=lambda name: (len(name), name)) for members, names in called.items()}

    def twin(self, rank: int, group: int) -> int:
        """Which of the groups of the same ranks a group is: each has an order of its own."""
        return self.names[self.members(rank, group)].index(self.recording.groups[group].name)

    @cached_property  # groups of all ranks, for flows and for what waits
    def groups(self) -> dict[Members, int]:
        """All groups of more than one rank that communicate, with their least place in the order of a rank's groups.

        Raises PlanError where ranks without a file do not agree on them.
        """
        used = [tuple(dict.fromkeys(each.group for each in rank.collectives)) for rank in self.recording.ranks]
        uses: dict[Members, dict[int, int]] = {}
        for rank, program in enumerate(self.programs.tolist()):
            for order, group in enumerate(used[program]):
                uses.setdefault(self.members(rank, group), {})[rank] = order
        for members, known in uses.items():
            strangers = sorted(known.keys() ^ set(members))
            if strangers and len(self.files) < self.recording.world:
                message = f"{self.recording.world - len(self.files)} ranks have no file, and what ranks"
                message += f"{listed(strangers)} do in the group of ranks{listed(members)} does not follow from others"
                raise PlanError(Problem("", KEY, message, "import a file of each rank, or of each of one replica"))
        return {members: min(uses[members].values()) for members in sorted(uses) if len(members) > 1}


def assignment_of(experiment: Experiment) -> Assignment | None:
    """What the ranks of a resolved and checked experiment do, if they replay what was recorded."""
    replay, setup = experiment.setup.workload.replay, experiment.setup
    if replay is None:
        return None
    return Assignment(read_recording(Path(replay.recording)), setup.ranks, setup.parallelism.tensor)


def recorded_flows(assignment: Assignment, grid: RankGrid, cluster: Cluster) -> dict[str, tuple[FlowSet, Covers]]:
    """Flows of all groups by kind (`kind_of_group`), on every carrier that their collectives may need."""
    kinds: dict[str, list[Members]] = {}
    for members in assignment.groups:
        kinds.setdefault(kind_of_group(assignment, members), []).append(members)
    flows: dict[str, tuple[FlowSet, Covers]] = {}
    for number, (kind, groups) in enumerate(kinds.items()):
        ranks = np.array(groups)
        for carrier in carriers_on(PRICED, [kind.node for kind in cluster.kinds], ranks.shape[1]):
            made = collective_flows(kind, grid, cluster, ranks, FIRST_KEY + number, None, carrier)
            flows[made[0].key] = made
    return flows


def kind_of_group(assignment: Assignment, members: Members) -> str:
    """What tells the flows of a group from those of others that a rank may be in."""
    return f"groups of {len(members)}, {assignment.groups[members]}"


def meet_once(flows: Iterable[FlowSet]) -> bool:
    """Whether no rank is in two groups of a kind: then a rank class has one flow class of each."""
    return all(len(np.unique(each.members)) == each.members.size for each in flows)
