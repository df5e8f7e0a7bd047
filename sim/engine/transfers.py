"""Checkpoint traffic on the clock: transfers that have the links to themselves, or run beside training.

Rates are max-min fair, as for all traffic. Beside training, steps are simulated one after another with
what is left of the transfers on the same links. A step in which no transfer ends repeats itself, since
rates depend on who is active and not on how much is left, so such steps are taken at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from sim.engine.assemble import assemble
from sim.engine.executor import Executor
from sim.engine.network import Flow, Network, solve
from sim.engine.ranks import Job, build_job, flow_table
from sim.plan.fold import first_of_class
from sim.plan.plan import Plan
from sim.plan.transfers import Transfers, with_transfers

DIFFERENT_STEPS = 16  # after so many, what is left of a drain goes on at the pace of the last


@dataclass(frozen=True)
class Drain:
    """Transfers beside training: seconds until the last one is done, and what training lost meanwhile [s]."""

    seconds: float
    lost: float

    @property
    def slowdown(self) -> float:
        """Step time while it lasts, over step time without."""
        return self.seconds / (self.seconds - self.lost) if self.lost > 0 else 1.0


def transfer_seconds(plan: Plan, transfers: Transfers) -> float:
    """Seconds until all transfers are done, started together, with nothing else on the links."""
    alone = with_transfers(plan, transfers, training=False)
    table, size = flow_table(alone), _sizes(alone, transfers)
    network, ended = Network(table, check=plan.experiment.simulation.certificate), dict.fromkeys(size, 0.0)
    for kind, each in size.items():
        network.start(Flow(lambda flow: ended.update({flow.kind: network.env.now})), kind, each)
    network.env.run()
    latency = _latencies(alone, transfers)
    return max((ended[kind] + latency[kind] for kind in size), default=0.0)


def rate_together(plan: Plan, transfers: Transfers) -> float:
    """Rate of all transfers together while all of them move, with nothing else on the links [B/s]."""
    alone = with_transfers(plan, transfers, training=False)
    classes = _classes(alone, transfers)
    rates = solve(flow_table(alone), tuple((number, 1) for number in sorted(classes)))
    kinds = [alone.partition.flow[alone.flow_sets[kind]] for kind in transfers.flows]
    return float(sum(rates[number] for kind in kinds for number in kind.tolist()))


def drain_beside(plan: Plan, transfers: Transfers, step_s: float) -> Drain:
    """The transfers started together with a step; `step_s`: a step without them. Raises Deadlock."""
    both = with_transfers(plan, transfers, training=True)
    step = StepBeside(build_job(both), step_s)
    left, clock, lost = _sizes(both, transfers), max(_latencies(both, transfers).values(), default=0.0), 0.0
    for _ in range(DIFFERENT_STEPS):
        seconds, last, rest = step.run(left)
        late = max(0.0, seconds - step_s)
        if not rest:
            return Drain(clock + last, lost + late)
        moved = {kind: left[kind] - rest[kind] for kind in rest}
        times = max(1, floor(min(left[kind] / moved[kind] for kind in rest))) if len(rest) == len(left) else 1
        left = {kind: left[kind] - times * moved[kind] for kind in rest}
        left = {kind: size for kind, size in left.items() if size > moved[kind] * 1e-9}
        clock, lost = clock + times * seconds, lost + times * late
        if not left:
            return Drain(clock, lost)
    more = max(size / moved[kind] for kind, size in left.items())
    return Drain(clock + more * seconds, lost + more * late)


class StepBeside:
    """One training step with transfers on the same links, as often as wanted; `step_s`: it waits for input so long."""

    def __init__(self, job: Job, step_s: float) -> None:
        self.job, self.program = job, assemble(job)
        if job.plan.experiment.input is not None:
            self.program = assemble(job, step_s - self.run({})[0])

    def run(self, left: dict[int, float]) -> tuple[float, float, dict[int, float]]:
        """Seconds of a step beside `left` bytes by flow class, when the last of them ended, and what is left then."""
        options = self.job.plan.experiment.simulation
        executor = Executor(
            self.program,
            Network(self.job.table, check=options.certificate),
            flow_ranks=tuple(flow.members for flow in self.job.flows),
            slowdown=self.job.plan.software.overlap_slowdown,
            skip=False,  # a state with these transfers under way never comes back
        )
        ended: dict[int, float] = {}
        network, env = executor.network, executor.env
        flows = {kind: Flow(lambda flow: ended.update({flow.kind: env.now})) for kind in left}
        for kind, flow in flows.items():
            network.start(flow, kind, left[kind])
        seconds = executor.run().time
        rest = {k: flow.left_at(seconds) for k, flow in flows.items() if k not in ended}
        return seconds, max(ended.values(), default=0.0), rest


def _classes(plan: Plan, transfers: Transfers) -> dict[int, tuple[str, int]]:
    """Flow class of each transfer, with its kind and the first flow of the class."""
    classes: dict[int, tuple[str, int]] = {}
    for kind in transfers.flows:
        flow_of = plan.partition.flow[plan.flow_sets[kind]]
        classes |= {int(flow_of[first]): (kind, int(first)) for first in first_of_class(flow_of)}
    return classes


def _sizes(plan: Plan, transfers: Transfers) -> dict[int, float]:
    """Bytes of each flow, by flow class."""
    return {number: transfers.size[kind] for number, (kind, _) in _classes(plan, transfers).items()}


def _latencies(plan: Plan, transfers: Transfers) -> dict[int, float]:
    """Seconds until the first byte, by flow class."""
    return {
        number: float(transfers.flows[kind][0].latency[first])
        for number, (kind, first) in _classes(plan, transfers).items()
    }
