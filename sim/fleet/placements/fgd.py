"""`fgd`: where the boards that typical jobs could not use grow least (fragmentation gradient descent).

Weng and others, Beware of fragmentation, USENIX ATC 2023: of a node, the expected fragment is the mean over jobs, drawn
from the workload, of what is free there and of no use to them: all of it if the job does not fit, for want of boards or
of cores, else the boards of which too small a part is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, floor, inf

from sim.fleet.boards import Boards
from sim.fleet.jobs import JobRequest
from sim.fleet.placements.scored import Score, Scored, boards_for

KEPT = 200_000  # states of nodes
State = tuple[float, int, tuple[float, ...]]  # cores left, whole boards, what is left of the others


@dataclass(frozen=True)
class FragmentDescent(Scored):
    """The steepest descent of fragments."""

    fragments: dict[State, float] = field(default_factory=dict)  # by state of a node

    def score(self, boards: Boards, request: JobRequest, gpus: int, node: int) -> Score:
        """See `Scored`."""
        assert boards.hosts is not None
        cores, free = boards.hosts.cores[node], boards.free[node]
        parts = [share for share, _ in boards.opened.get(node, {}).values()]
        before = self._fragment(cores, free, parts)
        cores -= request.cores
        if request.share >= 1.0:
            return _whole(before - self._fragment(cores, free - gpus, parts)), -1
        best, board = -inf, -1
        for share, place in boards_for(boards, request, node):
            others, rest = parts.copy(), round(share - request.share, 9)
            if place in boards.opened.get(node, {}):
                others.remove(share)
                after = self._fragment(cores, free, [*others, rest])
            else:
                after = self._fragment(cores, free - 1, [*others, rest])
            if (descent := _whole(before - after)) > best:
                best, board = descent, place
        return best, board

    def _fragment(self, cores: float, free: int, parts: list[float]) -> float:
        """Boards of a node that are of no use to a typical job, in the mean."""
        state = cores, free, tuple(sorted(parts))
        if state not in self.fragments:
            if len(self.fragments) == KEPT:
                self.fragments.clear()
            self.fragments[state] = sum(share * self._useless(state, job) for job, share in self.typical)
        return self.fragments[state]

    @staticmethod
    def _useless(state: State, job: JobRequest) -> float:
        cores, free, parts = state
        whole = job.share >= 1.0
        fits = free >= job.gpus if whole else free > 0 or (bool(parts) and parts[-1] >= job.share)
        if not job.gpus or not fits or cores < job.cores:
            return free + sum(parts)
        return sum(part for part in parts if part < job.share)


def _whole(descent: float) -> int:
    """A descent [boards] as a whole score of 0 to 100, as the authors' own scheduler has it: many nodes are alike."""
    return floor(100 / (1 + exp(-descent)))
