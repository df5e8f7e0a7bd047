"""Which jobs of an order get boards, as if all that run gave theirs back first.

A job that runs keeps its places as long as nobody before it needs them. One that waits takes boards that are free; else
those that are being left; else those of jobs that come later in the order, which then have to stop. Where moves are
free or asked for and it still finds no place, all jobs so far are placed anew, the largest first, if that makes room.

Public: `draft`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf
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
    given: list[FleetJob | Grant] = [*order]
    return _all_fit(fleet, given) or _by_places(fleet, given)


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


def _all_fit(fleet: Fleet, order: Sequence[FleetJob | Grant]) -> tuple[set[int], list[Start]] | None:
    """Where all that wait find free boards nobody else has to be looked at; None if one does not, or sizes change."""
    free, starts = fleet.boards.copy(), list[Start]()
    for job in order:
        if isinstance(job, tuple):
            return None
        if not job.places:
            places = fleet.find(free, job.request, job.gpus)
            if places is None:
                return None
            free.take(job.request, places)
            starts.append((job, job.gpus, places))
    return {job.number for job in order if isinstance(job, FleetJob) and job.places and job.phase != "saving"}, starts


def _by_places(fleet: Fleet, order: Sequence[FleetJob | Grant]) -> tuple[set[int], list[Start]]:
    plan = _Plan(fleet)
    claims, movable = plan.claims, fleet.moves_are_free or fleet.inputs.migrate
    for item in order:
        job, gpus, kind = item if isinstance(item, tuple) else (item, item.gpus, "")
        if not plan.left:
            break
        if gpus > plan.left or job.phase == "saving" or job.number in claims:
            continue
        asked = replace(job.request, kinds=(kind,)) if kind else job.request
        stays = bool(job.places) and gpus == job.gpus and (not kind or _is_on(fleet.boards, job.places, kind))
        places = job.places if stays and not plan.tiers else plan.places(job, gpus, asked, stays)
        if places is not None:
            plan.claim(job, gpus, asked, places)
        elif movable:
            plan.place_anew(job, gpus, asked)
    starts: list[Start] = [claim[:3] for number, claim in claims.items() if number not in plan.stay]
    return plan.stay, starts


class _Plan:
    """Who is to have what. stay: those that keep their places.

    As long as nobody takes what another has, those that run stay where they are and free boards are all that counts;
    then tiers of boards are kept. left: boards that nobody has claimed; inf where shares of boards are.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.free, self.tiers = fleet.boards.copy(), list[Boards]()
        self.claims: Claims = {}
        self.stay: set[int] = set()
        self.left: float = fleet.capacity if fleet.everyone_whole else inf

    def places(self, job: FleetJob, gpus: int, asked: JobRequest, stays: bool) -> Places | None:
        """Where a job can be beside those so far."""
        if stays and self.tiers[-1].fits_at(asked, job.places):
            return job.places
        if not self.tiers:
            if found := self.fleet.find(self.free, asked, gpus):
                return found
            self.tiers = _tiers(self.fleet, self.stay)
            for number, (_, _, places, other) in self.claims.items():
                if number not in self.stay:
                    _claim(self.tiers, other, places)
        return next((found for tier in self.tiers if (found := self.fleet.find(tier, asked, gpus))), None)

    def claim(self, job: FleetJob, gpus: int, asked: JobRequest, places: Places) -> None:
        """It is to have these."""
        self.claims[job.number] = (job, gpus, places, asked)
        self.left -= gpus
        stays = job.places == places and job.gpus == gpus
        if stays:
            self.stay.add(job.number)
        if self.tiers:
            _claim(self.tiers, asked, places)
        elif not stays:
            self.free.take(asked, places)

    def place_anew(self, job: FleetJob, gpus: int, asked: JobRequest) -> None:
        """All so far and one more on an empty fleet, the largest first; as before if one of them does not fit."""
        claims = {**self.claims, job.number: (job, gpus, (), asked)}
        pool = _tiers(self.fleet, set())[-1]
        found: dict[int, Places] = {}
        for each, wanted, _, request in sorted(claims.values(), key=lambda claim: -claim[1]):
            places = self.fleet.find(pool, request, wanted)
            if places is None:
                return
            pool.take(request, places)
            found[each.number] = places
        for number, (each, wanted, _, request) in claims.items():
            self.claims[number] = (each, wanted, found[number], request)
        self.stay = {n for n, (each, wanted, at, _) in self.claims.items() if each.places == at and each.gpus == wanted}
        self.tiers = [pool]
        self.left -= gpus


def _is_on(boards: Boards, places: Places, kind: str) -> bool:
    return all(boards.kinds.get(kind, 0) >> node & 1 for node, _ in places)


def _tiers(fleet: Fleet, stay: set[int]) -> list[Boards]:
    """What is free; that and what is being left; that and what runs, but for those that stay."""
    saving = [job for job in fleet.running.values() if job.phase == "saving"]
    others = [job for job in fleet.running.values() if job.phase != "saving" and job.number not in stay]
    tiers = [fleet.boards.copy()]
    for leaving in ([saving] if saving else []) + [others]:
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
