"""Defragmentation: a node is made free by moving jobs that are on it alone.

Public: `room_by_moving`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.fleet.boards import nodes_in
from sim.fleet.jobs import FleetJob, JobRequest, Places

if TYPE_CHECKING:
    from sim.fleet.fleet import Fleet


def room_by_moving(fleet: Fleet, request: JobRequest, gpus: int) -> Places | None:
    """Places for a job on one node after others have moved away; None if no node can be made free like that.

    Those that move hold boards of their new node at once, and load there for as long as a save and a load take.
    """
    boards = fleet.boards
    if gpus > boards.most or request.share < 1.0:
        return None
    candidates = [node for node in nodes_in(boards.allowed(request)) if boards.sizes[node] >= gpus]
    for node in sorted(candidates, key=lambda node: -boards.free[node]):
        moves = _moves(fleet, node, gpus - boards.free[node])
        if moves:
            for job, places in moves:
                _move(fleet, job, places)
            return ((node, gpus),)
    return None


def _moves(fleet: Fleet, node: int, wanted: int) -> list[tuple[FleetJob, Places]]:
    """Jobs to move away from a node, smallest first, and where to; none if that does not free enough."""
    there = [
        job for job in fleet.running.values()
        if job.phase == "running" and len(job.places) == 1 and job.places[0][0] == node and job.request.share == 1.0
    ]  # fmt: skip
    plan, moves = fleet.boards.copy(), list[tuple[FleetJob, Places]]()
    plan.up &= ~(1 << node)
    plan.total -= plan.free[node]
    for job in sorted(there, key=lambda job: (job.gpus, job.number)):
        if wanted <= 0:
            break
        places = fleet.find(plan, job.request, job.gpus)
        if places is None:
            return []
        plan.take(job.request, places)
        moves.append((job, places))
        wanted -= job.gpus
    return moves if wanted <= 0 else []


def _move(fleet: Fleet, job: FleetJob, places: Places) -> None:
    job.preemptions += 1
    fleet.move_away(job)
    fleet.waiting.remove(job)
    fleet.occupy(job, job.gpus, places)
