"""Checkpoint traffic on the clock: transfers that have the links to themselves, or run beside training.

They are a program of one stream for each class of flows, and training is another that takes step after step until the
last transfer is done. Rates are max-min fair, as for all traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from sim.engine.executor import Executor
from sim.engine.network import Network, solve
from sim.engine.parts import apart_from
from sim.engine.program import Action, Program, Script
from sim.engine.trace import Trace
from sim.layout.fold import first_of_class
from sim.layout.plan import Plan
from sim.layout.transfers import Transfers, with_transfers
from sim.programs.assemble import Waits, assemble
from sim.programs.costs import given_action
from sim.programs.ranks import Job, build_job, flow_table
from sim.programs.rounds import Rounds
from sim.programs.trainer import Trainer


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
    return transfers_alone(plan, transfers)[0]


def transfers_alone(plan: Plan, transfers: Transfers) -> tuple[float, Trace]:
    """The same, with what happened."""
    alone = with_transfers(plan, transfers, training=False)
    size, latency = _sizes(alone, transfers), _latencies(alone, transfers)
    network = Network(flow_table(alone), check=plan.experiment.simulation.certificate)
    trace = Executor(_program(size), network).run()
    kinds = list(size)
    ended = zip(trace.stream.tolist(), trace.end.tolist(), strict=True)
    return max((end + latency[kinds[stream]] for stream, end in ended), default=0.0), trace


def rate_together(plan: Plan, transfers: Transfers) -> float:
    """Rate of all transfers together while all of them move, with nothing else on the links [B/s]."""
    alone = with_transfers(plan, transfers, training=False)
    classes = _classes(alone, transfers)
    rates = solve(flow_table(alone), tuple((number, 1) for number in sorted(classes)))
    kinds = [alone.partition.flow[alone.flow_sets[kind]] for kind in transfers.flows]
    return float(sum(rates[number] for kind in kinds for number in kind.tolist()))


def drain_beside(plan: Plan, transfers: Transfers, step_s: float) -> Drain:
    """The transfers started together with a step; `step_s`: a step without them. Raises Deadlock."""
    both, options = with_transfers(plan, transfers, training=True), plan.experiment.simulation
    job, size, skip = build_job(both), _sizes(both, transfers), options.skip == "auto"
    network = Network(job.table, check=options.certificate)
    rounds = Rounds(network, skip=skip)
    drain = Executor(_program(size), network)
    rounds.others.append(drain)
    slowdown = job.plan.software.overlap_slowdown
    training = Trainer(rounds, beside(job, frozenset(size), step_s), slowdown=slowdown, skip=skip)
    network.env.run(until=drain.begin())
    drained = rounds.now
    training.left = 0
    network.env.run(until=training.process)
    lost = sum(max(0.0, seconds - step_s) for seconds in training.step_s)
    return Drain(max(_latencies(both, transfers).values(), default=0.0) + drained, lost)


def beside(job: Job, transfers: frozenset[int], step_s: float) -> Program:
    """A training step that takes `step_s` without the transfers; only parts that meet none of them may repeat in it."""
    program = assemble(job)
    experiment = job.plan.experiment
    around = (experiment.input, experiment.synchronization, experiment.teacher, experiment.training.evaluation)
    if any(each is not None for each in around):
        slowdown = job.plan.software.overlap_slowdown
        left = step_s - Executor(program, Network(job.table), slowdown=slowdown).run().time
        program = assemble(job, Waits(input_stall=left))
    parts = apart_from(program, transfers, job.table.sharing)
    return replace(program, script=replace(program.script, parts=parts))


def _program(size: dict[int, float]) -> Program:
    """A program that moves size[k] bytes of each flow class k, all at once."""
    script = Script()
    for kind, each in size.items():
        stream = script.new_stream(f"transfers of class {kind}", "storage")
        action = Action("transfer", "storage_comm", flow=kind, size=each)
        stream.add(script.new_template((), partial(given_action, action)))
    return script.priced(None)


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
