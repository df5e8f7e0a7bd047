"""Jobs that are drawn: when they come and what they ask for.

Public: `drawn_jobs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, pi, sin

from sim.inputs.fleet import Arrivals
from sim.inputs.job_log import LoggedJob
from sim.life.delay import draw
from sim.rng import Generator, stream
from sim.units import TIME

DAY, HOUR = TIME.units["day"], TIME.units["h"]
HEIGHT = 15 * HOUR  # of the day, at which most jobs come


def drawn_jobs(asked: Arrivals, known: Sequence[LoggedJob], seed: int) -> list[LoggedJob]:
    """As many jobs as asked for; what each wants is drawn from `known` jobs if there are any."""
    times, wants = stream(seed, "fleet/arrivals"), stream(seed, "fleet/jobs")
    time, jobs = 0.0, []
    sizes = [int(size) for size in asked.gpus]
    shares = [share / sum(asked.gpus.values()) for share in asked.gpus.values()]
    for number in range(asked.jobs):
        if known:
            like = known[int(wants.integers(len(known)))]
            jobs.append(like._replace(name=str(number), submit=time))
        else:
            gpus = sizes[int(wants.choice(len(sizes), p=shares))]
            user = f"user{int(wants.integers(asked.users)) + 1}" if asked.users > 1 else ""
            jobs.append(LoggedJob(str(number), time, max(1e-3, draw(asked.duration, wants)), gpus, user=user))
        time = _next(asked, time, times)
    return jobs


def _next(asked: Arrivals, time: float, generator: Generator) -> float:
    """When the next job comes after `time` [s]."""
    if asked.pattern == "regular":
        return time + asked.every
    swing = asked.swing if asked.pattern == "diurnal" else 0.0
    while time < inf:  # candidates at the highest rate, thinned
        time += float(generator.exponential(asked.every / (1 + swing)))
        rate = 1 + swing * sin(2 * pi * (time - HEIGHT) / DAY + pi / 2)
        if generator.random() * (1 + swing) <= rate:
            break
    return time
