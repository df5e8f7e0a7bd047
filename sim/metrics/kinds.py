"""Where several kinds of node work on one job: what each of them does in a step, and for which others it waits.

Public: `kind_uses`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.engine.category import COMMUNICATION
from sim.engine.trace import Trace
from sim.metrics.breakdown import COMPUTING, rank_time, waits_for
from sim.metrics.result import KindUse, MemoryResult
from sim.programs.ranks import Job


def kind_uses(trace: Trace, job: Job, memory: Mapping[int, MemoryResult]) -> tuple[KindUse, ...]:
    """One for each kind of node that has ranks of the job; none where the cluster has one kind.

    Times are those of its rank class that computes longest. memory: by kind.
    """
    cluster = job.plan.cluster
    if len(cluster.kinds) == 1:
        return ()
    streams = trace.program.streams
    busy = np.bincount(trace.stream, (trace.end - trace.start) * trace.weights(), len(streams))
    works = {stream.rank: float(busy[n]) for n, stream in enumerate(streams) if stream.kind == "compute"}
    uses = []
    for number, kind in enumerate(cluster.kinds):
        mine = [rank for rank in job.ranks if rank.kind == number]
        if not mine:
            continue
        busiest = max(mine, key=lambda rank: works[rank.number]).number
        times = rank_time(trace, busiest)
        computes = sum(times.exposed[name] for name in COMPUTING)
        communicates = sum(times.exposed[name] for name in COMMUNICATION)
        uses.append(
            KindUse(
                node=kind.node.name,
                accelerator=kind.accelerator.name,
                nodes=kind.nodes,
                accelerators=sum(rank.count for rank in mine),
                compute_s=computes,
                communication_s=communicates,
                waiting_s=times.exposed["bubble"],
                waits_for_s=_by_kind(job, waits_for(trace, busiest)),
                memory_bytes=memory[number].peak_bytes_per_accelerator,
                capacity_bytes=memory[number].capacity_bytes,
            )
        )
    return tuple(uses)


def _by_kind(job: Job, waits: Mapping[tuple[int, ...], float]) -> dict[str, float]:
    """Seconds of waiting by the names of the kinds of node at whose work they are spent."""
    kinds = job.plan.cluster.kinds
    found: dict[str, float] = {}
    for ranks, seconds in waits.items():
        for kind in sorted({job.ranks[rank].kind for rank in ranks}):
            name = kinds[kind].node.name
            found[name] = found.get(name, 0.0) + seconds
    return found
