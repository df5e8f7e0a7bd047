"""Workers that do not sum gradients in lock-step: what a step of theirs waits for, asked of their own clock.

Public: `synchronize`, `Synchronized`, `check_synchronization`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.trace import Trace
from sim.errors import PlanError, Problem
from sim.inputs.synchronization import LocalSteps, ParameterServers
from sim.layout.plan import Plan
from sim.layout.servers import ServerPlan, lay_out_servers
from sim.metrics.links import link_bytes, link_use_of
from sim.metrics.result import Synchrony
from sim.programs.assemble import Waits
from sim.programs.local_steps import LocalPace, LocalWorkers, exchanges_of
from sim.programs.parameter_server import ServedWorkers, serving
from sim.programs.ranks import Job
from sim.programs.workers import worker_seconds
from sim.units import DATA, format_quantity
from sim.workload.memory import state_bytes

Floats = NDArray[np.float64]
MOST_AGES = 10_000  # steps since an exchange that are told apart
ROUNDING = 1e-9  # of a step
SUM_BYTES = 4  # per parameter at a server: gradients of several workers, added in 32 bit


@dataclass(frozen=True)
class Synchronized:
    """What workers exchange and wait for; step_s: of a mean step, all of it."""

    synchrony: Synchrony
    step_s: float

    def added_to(self, waits: Waits) -> Waits:
        """What is added to a step of the fastest worker, beside what was."""
        return waits._replace(data_comm=self.synchrony.exchange_s, bubble=self.synchrony.waiting_s)


def synchronize(job: Job, trace: Trace, alone_s: float, more_s: float = 0.0) -> Synchronized:
    """The mean step of the workers of a job whose steps without exchange are those of `trace`.

    alone_s: such a step of a worker without slow parts. more_s: passes beside it, which all workers have.
    Raises PlanError.
    """
    way, compute_s = job.plan.experiment.synchronization, worker_seconds(job.plan, trace) + more_s
    alone_s += more_s
    if isinstance(way, ParameterServers):
        return _with_servers(job, way, compute_s, alone_s)
    assert way is not None
    return _local(job, way, compute_s, alone_s)


def _with_servers(job: Job, way: ParameterServers, compute_s: Floats, alone_s: float) -> Synchronized:
    plan = job.plan
    laid = lay_out_servers(plan, way)
    serve = serving(job, laid, compute_s)
    paced = ServedWorkers(serve).run()
    exchange, waiting = _parts(paced.step_s, paced.exchange_s, alone_s)
    once = way.mode == "synchronous"
    made = Synchrony(
        kind=way.kind,
        mode=way.mode,
        workers=serve.workers,
        updates_per_s=(1 if once else serve.workers) / paced.step_s,
        compute_s=alone_s,
        exchange_s=exchange,
        waiting_s=waiting,
        sent_bytes=paced.sent,
        received_bytes=paced.received,
        staleness=_spread(paced.staleness),
        links=link_use_of(serve.table, paced.carried, paced.peak, paced.step_s, plan.cluster),
        servers=laid.n_servers,
        server_busy=paced.server_busy,
        server_bytes=_server_bytes(plan, laid),
    )
    return Synchronized(made, alone_s + exchange + waiting)


def _local(job: Job, way: LocalSteps, compute_s: Floats, alone_s: float) -> Synchronized:
    plan = job.plan
    taken = exchanges_of(job, way, float(compute_s.max()))
    pace = LocalPace(tuple(compute_s.tolist()), taken.beside_s, taken.lost_s, way, plan.experiment.seed)
    step_s, exchange_s = LocalWorkers(pace).run()
    exchange, waiting = _parts(step_s, exchange_s, alone_s)
    trace, steps = taken.trace, pace.gap
    ages = np.linspace(0, way.every - 1, min(way.every, MOST_AGES)) + way.overlap_steps
    made = Synchrony(
        kind=way.kind,
        mode="overlapped" if way.overlap_steps else "blocking",
        workers=way.workers,
        updates_per_s=1 / (steps * step_s),
        compute_s=alone_s,
        exchange_s=exchange,
        waiting_s=waiting,
        sent_bytes=taken.sent / steps,
        received_bytes=taken.sent / steps,
        staleness=_spread((way.workers - 1) * ages),
        links=link_use_of(trace.table, link_bytes(trace) / steps, trace.link_peak, step_s, plan.cluster),
        steps_between=way.every,
        exchange_alone_s=taken.alone_s,
    )
    return Synchronized(made, alone_s + exchange + waiting)


def check_synchronization(plan: Plan) -> None:
    """Raise PlanError if servers have no room."""
    way = plan.experiment.synchronization
    if not isinstance(way, ParameterServers):
        return
    needed, host = _server_bytes(plan, lay_out_servers(plan, way)), plan.cluster.node.host.memory
    if host and needed > host:
        message = f"a server keeps {format_quantity(needed, DATA)}, its host has {format_quantity(host, DATA)}"
        raise PlanError(Problem("", "synchronization.servers", message, "use more of them"))


def _server_bytes(plan: Plan, laid: ServerPlan) -> float:
    """Host memory of a server: its part of weights, optimizer state and the sum of gradients."""
    state = sum(state_bytes(plan.experiment.training, plan.software))
    return laid.parameters / laid.n_servers * (state + SUM_BYTES)


def _parts(step_s: float, exchange_s: float, alone_s: float) -> tuple[float, float]:
    """Seconds of exchange, and of waiting for others, in a mean step."""
    more = max(0.0, step_s - alone_s)
    exchange = more if abs(more - exchange_s) < ROUNDING * step_s else min(more, exchange_s)
    return exchange, more - exchange


def _spread(counts: NDArray[np.int64] | Floats) -> dict[str, float]:
    middle, most = np.percentile(counts, (50, 95)).tolist()
    return {"mean": float(counts.mean()), "p50": middle, "p95": most, "max": float(counts.max())}
