"""Workers that do not sum gradients in lock-step: what a step of theirs waits for, asked of their own clock.

Public: `synchronize`, `Synchronized`, `check_synchronization`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.trace import Trace
from sim.errors import PlanError, Problem
from sim.inputs.synchronization import ParameterServers
from sim.layout.plan import Plan
from sim.layout.servers import ServerPlan, lay_out_servers
from sim.metrics.links import link_use_of
from sim.metrics.result import Synchrony
from sim.programs.assemble import Waits
from sim.programs.parameter_server import ServedWorkers, serving
from sim.programs.ranks import Job
from sim.programs.workers import Paced, worker_seconds
from sim.units import DATA, format_quantity
from sim.workload.memory import state_bytes

Floats = NDArray[np.float64]
SUM_BYTES = 4  # per parameter at a server: gradients of several workers, added in 32 bit


@dataclass(frozen=True)
class Synchronized:
    """What workers exchange and wait for; step_s: of a mean step, all of it."""

    synchrony: Synchrony
    step_s: float

    @property
    def waits(self) -> Waits:
        """What is added to a step of the fastest worker."""
        return Waits(data_comm=self.synchrony.exchange_s, bubble=self.synchrony.waiting_s)


def synchronize(job: Job, trace: Trace, alone_s: float) -> Synchronized:
    """The mean step of the workers of a job whose steps without exchange are those of `trace`.

    alone_s: such a step of a worker without slow parts. Raises PlanError.
    """
    plan = job.plan
    way = plan.experiment.synchronization
    assert isinstance(way, ParameterServers)
    laid = lay_out_servers(plan, way)
    serve = serving(job, laid, worker_seconds(plan, trace))
    paced = ServedWorkers(serve).run()
    exchange, waiting = _parts(paced, alone_s)
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


def _parts(paced: Paced, alone_s: float) -> tuple[float, float]:
    """Seconds of exchange, and of waiting for others, in a mean step."""
    more = max(0.0, paced.step_s - alone_s)
    exchange = min(more, paced.exchange_s)
    return exchange, more - exchange


def _spread(counts: NDArray[np.int64]) -> dict[str, float]:
    middle, most = np.percentile(counts, (50, 95)).tolist()
    return {"mean": float(counts.mean()), "p50": middle, "p95": most, "max": float(counts.max())}
