"""What a placement is: where a gang goes, or that it cannot.

Public: `Placement`, `take_all`, `typical_jobs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim.fleet.boards import Boards
from sim.fleet.jobs import JobRequest, Places
from sim.rng import Generator


@dataclass(frozen=True)
class Placement:
    """A rule for places. units: masks of nodes near one another, level by level, smallest first.

    typical: what jobs ask for, and how often. by_count: whether a gang fits wherever so many boards are free. hosts:
    whether it looks at what else jobs use of nodes.
    """

    units: Sequence[Sequence[int]] = ()
    random: Generator | None = None
    typical: Sequence[tuple[JobRequest, float]] = ()
    by_count = False
    hosts = False

    def find(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> Places | None:
        """Places of `gpus` free boards on allowed nodes, all or nothing."""
        raise NotImplementedError

    def part(self, boards: Boards, request: JobRequest, allowed: int) -> Places | None:
        """The place of a job that needs a part of one board."""
        return boards.part_of_board(request, allowed)


def typical_jobs(jobs: Sequence[JobRequest], most: float = 0.95) -> list[tuple[JobRequest, float]]:
    """What `most` of the jobs ask for, the most frequent first, and the share of each; without names and times."""
    counts = Counter((job.gpus, job.share, job.cores) for job in jobs)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    found, total = list[tuple[tuple[int, float, float], int]](), 0
    for asked, number in ranked:
        if total >= most * len(jobs):
            break
        found.append((asked, number))
        total += number
    return [
        (JobRequest("", 0.0, 0.0, gpus, share=share, cores=cores), number / total)
        for (gpus, share, cores), number in found
    ]


def take_all(boards: Boards, nodes: Iterable[int], gpus: int) -> Places | None:
    """Free boards of nodes in that order until there are enough; None if there are not."""
    places = []
    for node in nodes:
        part = min(gpus, boards.free[node])
        if part:
            places.append((node, part))
            gpus -= part
        if not gpus:
            return tuple(places)
    return None
