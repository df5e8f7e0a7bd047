"""Which jobs of an order get boards, as if all that run gave theirs back first.

A job that runs keeps its places as long as nobody before it needs them. One that waits takes boards that are free; else
those that are being left; else those of jobs that come later in the order, which then have to stop. Where moves are
free or asked for and it still finds no place, all jobs so far are placed anew, the largest first, if that makes room.

Public: `draft`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.fleet.boards import Boards
from sim.fleet.jobs import FleetJob, JobRequest, Places

if TYPE_CHECKING:
    from sim.fleet.fleet import Fleet
    from sim.fleet.policies.policy import Grant

Claims = dict[int, tuple[FleetJob, int, Places, JobRequest]]  # what it asks for, with the kind that it is to get
Start = tuple[FleetJob, int, Places | None]  # None: wherever there is room when others have stopped


def draft(fleet: Fleet, order: Iterable[FleetJob] | Iterable[Grant]) -> tuple[set[int], list[Start]]:
    """Numbers of jobs that go on as they are, and jobs to start: how many boards each, and where."""
    if fleet.placement.by_count and fleet.everyone_whole and not fleet.inputs.reserved and len(fleet.boards.kinds) == 1:
        return _by_count(fleet, order)
    return _by_places(fleet, order)


def _by_count(fleet: Fleet, order: Iterable[FleetJob] | Iterable[Grant]) -> tuple[set[int], list[Start]]:
    left, kept, starts = fleet.capacity, set[int](), list[Start]()
    for item in order:
        job, gpus, _ = item if isinstance(item, tuple) else (item, item.gpus, "")
        if gpus > left or job.phase == "saving":
            continue
        left -= gpus
        if job.places and gpus == job.gpus:
            kept.add(job.number)
        else:
            starts.append((job, gpus, None))
        if not left:
            break
    return kept, starts


def _by_places(fleet: Fleet, order: Iterable[FleetJob] | Iterable[Grant]) -> tuple[set[int], list[Start]]:
    tiers = _tiers(fleet)
    claims: Claims = {}
    movable = fleet.moves_are_free or fleet.inputs.migrate
    for item in order:
        job, gpus, kind = item if isinstance(item, tuple) else (item, item.gpus, "")
        if job.phase == "saving" or job.number in claims:
            continue
        unclaimed = tiers[-1]
        asked = replace(job.request, kinds=(kind,)) if kind else job.request
        stays = bool(job.places) and gpus == job.gpus and (not kind or _is_on(unclaimed, job.places, kind))
        if stays and unclaimed.fits_at(asked, job.places):
            places: Places | None = job.places
        else:
            places = next((found for tier in tiers if (found := fleet.find(tier, asked, gpus))), None)
        if places is not None:
            _claim(tiers, asked, places)
            claims[job.number] = (job, gpus, places, asked)
        elif movable:
            trial = {**claims, job.number: (job, gpus, (), asked)}
            if (again := _placed_anew(fleet, trial)) is not None:
                claims, tiers = again[0], [again[1]]
    kept = {number for number, (job, gpus, places, _) in claims.items() if job.places == places and job.gpus == gpus}
    return kept, [claim[:3] for number, claim in claims.items() if number not in kept]


def _placed_anew(fleet: Fleet, claims: Claims) -> tuple[Claims, Boards] | None:
    """All claims on an empty fleet, the largest first, and what is left; None if one of them does not fit."""
    pool = _tiers(fleet)[-1]
    found: dict[int, Places] = {}
    for job, gpus, _, asked in sorted(claims.values(), key=lambda claim: -claim[1]):
        places = fleet.find(pool, asked, gpus)
        if places is None:
            return None
        pool.take(asked, places)
        found[job.number] = places
    return {number: (job, gpus, found[number], asked) for number, (job, gpus, _, asked) in claims.items()}, pool


def _is_on(boards: Boards, places: Places, kind: str) -> bool:
    return all(boards.kinds.get(kind, 0) >> node & 1 for node, _ in places)


def _tiers(fleet: Fleet) -> list[Boards]:
    """What is free; that and what is being left; that and what runs."""
    saving = [job for job in fleet.running.values() if job.phase == "saving"]
    tiers = [fleet.boards.copy()]
    for leaving in ([saving] if saving else []) + [[job for job in fleet.running.values() if job.phase != "saving"]]:
        pool = tiers[-1].copy()
        for job in leaving:
            pool.give(job.request, job.places)
        tiers.append(pool)
    return tiers


def _claim(tiers: list[Boards], request: JobRequest, places: Places) -> None:
    """Take places out of the last tier; the others offer no more than it has."""
    whole = tiers[-1]
    whole.take(request, places)
    for pool in tiers[:-1]:
        if all(boards < 0 for _, boards in places):
            if pool.fits_at(request, places):
                pool.take(request, places)
            continue
        for node, _ in places:
            if pool.free[node] > whole.free[node]:
                pool.take(request, ((node, pool.free[node] - whole.free[node]),))
