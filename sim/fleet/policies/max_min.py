"""`max_min` and `max_min_kinds`: Gavel's max-min fairness (Narayanan et al., OSDI'20), plain and aware of kinds.

A linear program says which share of the time each job should run on each kind, so that the least normalised speed is
as large as it can be; rounds then follow it: whoever is furthest behind its share goes first. The plain form is that
with one kind: every job gets the same board-seconds, but no more than it can use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView, Grant, InRounds, live_jobs

Floats = NDArray[np.float64]


class MaxMin(InRounds):
    """Boards of all kinds count the same."""

    wants: ClassVar[tuple[str, ...]] = ("round", "by", "quotas")

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.had: dict[int, Counter[str]] = {}  # rounds that a job ran on each kind, by its number
        self.rounds: dict[int, int] = {}  # that it has lived through
        self.asked: tuple[int, ...] = ()
        self.shares: Floats = np.zeros((0, 0))

    def order(self, fleet: FleetView) -> Sequence[Grant]:
        """See `InRounds`."""
        jobs, kinds = live_jobs(fleet), self._kinds(fleet)
        numbers = tuple(job.number for job in jobs)
        if numbers != self.asked:
            self.asked, self.shares = numbers, self._solve(jobs, kinds, fleet)
        ranked = []
        for row, job in enumerate(jobs):
            had, lived = self.had.setdefault(job.number, Counter()), self.rounds.get(job.number, 0)
            self.rounds[job.number] = lived + 1
            for column, kind in enumerate(kinds):
                if (share := float(self.shares[row, column])) > 1e-6:
                    ranked.append((-share * (lived + 1) / (had[kind] + 1e-9), job.number, job, kind))
        ranked.sort(key=lambda entry: entry[:2])
        grants, left, taken = [], dict(kinds), set[int]()
        for _, number, job, kind in ranked:
            if number not in taken and job.request.gpus <= left[kind]:
                taken.add(number)
                left[kind] -= job.request.gpus
                self.had[number][kind] += 1
                grants.append((job, job.request.gpus, kind))
        return grants + [(job, job.request.gpus, "") for job in jobs if job.number not in taken]

    def ended(self, job: FleetJob, fleet: FleetView) -> None:
        """See `Policy`."""
        self.had.pop(job.number, None)
        self.rounds.pop(job.number, None)

    def _kinds(self, fleet: FleetView) -> Mapping[str, int]:
        return {"": fleet.capacity}

    def speeds(self, job: FleetJob, kinds: Mapping[str, int], fleet: FleetView) -> list[float]:
        """Work in a second on each kind."""
        return [1.0] * len(kinds)

    def _solve(self, jobs: Sequence[FleetJob], kinds: Mapping[str, int], fleet: FleetView) -> Floats:
        """Share of the time of each job on each kind, (n_jobs, n_kinds): maximise the least normalised speed.

        Gavel, equation 2: speed over that with an equal share of every kind, times boards, over weight.
        """
        n, k = len(jobs), len(kinds)
        size = np.array([job.request.gpus for job in jobs], dtype=float)
        room = np.array(list(kinds.values()), dtype=float)
        speed = np.array([self.speeds(job, kinds, fleet) for job in jobs])
        equal = np.maximum((speed * room / max(1.0, room.sum())).sum(axis=1), 1e-12)
        weight = np.array([self._weight(job) for job in jobs])
        gain = speed * (size / equal / weight)[:, None]
        rows, bounds = [], []
        for job in range(n):
            row = np.zeros(n * k + 1)
            row[job * k : job * k + k] = -gain[job]
            row[-1] = 1.0
            rows.append(row)
            bounds.append(0.0)
            row = np.zeros(n * k + 1)
            row[job * k : job * k + k] = 1.0
            rows.append(row)
            bounds.append(1.0)
        for kind in range(k):
            row = np.zeros(n * k + 1)
            row[kind : n * k : k] = size
            rows.append(row)
            bounds.append(room[kind])
        aim = np.zeros(n * k + 1)
        aim[-1], aim[:-1] = (
            -1.0,
            -1e-4 * gain.ravel() / max(1.0, float(gain.sum())),
        )  # of equal ones, that with most speed
        found = linprog(aim, A_ub=np.array(rows), b_ub=np.array(bounds), bounds=(0, None), method="highs")
        shares: Floats = found.x[:-1].reshape(n, k) if found.status == 0 else np.ones((n, k))
        return shares

    def _weight(self, job: FleetJob) -> float:
        quota = self.options.get("quotas", {}).get(getattr(job.request, self.options.get("by", "queue")))
        return quota.weight if quota else 1.0


class MaxMinKinds(MaxMin):
    """Which kind suits a job best counts."""

    def _kinds(self, fleet: FleetView) -> Mapping[str, int]:
        return fleet.kinds()

    def speeds(self, job: FleetJob, kinds: Mapping[str, int], fleet: FleetView) -> list[float]:
        """See `MaxMin`; 0 where it may not be."""
        allowed = job.request.kinds
        return [fleet.speed(job.request, job.gpus, kind) if not allowed or kind in allowed else 0.0 for kind in kinds]
