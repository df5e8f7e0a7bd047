"""Workers and parameter servers on the SimPy clock.

A worker pulls weights, computes, pushes its gradients, and goes on when servers have added them; a server serves one
worker after the other. Asynchronous: each gradient is an update (Dean 2012, Large scale distributed deep networks).
Stale-synchronous: so too, but nobody begins a step while the slowest is more than a bound of steps behind (Ho 2013,
More effective distributed ML via a stale synchronous parallel parameter server). Synchronous: servers update once all
have pushed. All bytes move over real links, shared max-min fairly.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from math import inf

import numpy as np
from numpy.typing import NDArray
from simpy.events import AllOf, Event
from simpy.resources.resource import Resource

from sim.engine.fairness import totals
from sim.engine.network import Flow, FlowTable, Network
from sim.inputs.synchronization import ParameterServers
from sim.layout.servers import ServerPlan
from sim.programs.costs import Costs, Place
from sim.programs.ranks import Job, flow_table
from sim.programs.workers import Paced, draw
from sim.rng import stream
from sim.workload.memory import weight_bytes
from sim.workload.optimizer import HOST_BANDWIDTH, HOST_TRAFFIC

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SUM_TRAFFIC = 8  # bytes of host memory per parameter beside the gradient itself, to add it to a sum in 32 bit
Life = Generator[Event, object, None]
ALIKE_ROUNDS, ALIKE_STEPS = 4, 24  # of a worker whose steps are alike, in lock-step or not: until a pattern settles
FEWEST, MOST, ALL = 48, 400, 8_000  # steps of a worker, and of all workers, where they are not
WARM_UP = 0.25  # share of the steps of a worker before they count


@dataclass(frozen=True)
class ServedJob:
    """All that the clock needs.

    compute_s: (workers,). forward_s, backward_s: of it, while the first forward pass needs one slice of the weights
    after the other, and while the last backward pass leaves their gradients. push, pull: bytes that a worker moves to
    or from one server. sum_s: of a server for the gradients of a worker; update_s: for new weights, once all have
    pushed (synchronous).
    """

    way: ParameterServers
    laid: ServerPlan
    table: FlowTable
    compute_s: Floats
    forward_s: float
    backward_s: float
    push: float
    pull: float
    sum_s: float
    update_s: float
    seed: int
    check: bool = False

    @property
    def workers(self) -> int:
        """Number of workers."""
        return len(self.compute_s)

    @property
    def lead(self) -> float:
        """Steps that a worker may be ahead of the slowest."""
        return {"synchronous": 0.0, "stale_synchronous": float(self.way.bound), "asynchronous": inf}[self.way.mode]

    @property
    def steps(self) -> int:
        """Steps of the fastest worker to simulate."""
        if self.way.jitter:
            return max(FEWEST, min(MOST, ALL // self.workers))
        return ALIKE_ROUNDS if self.lead == 0.0 else ALIKE_STEPS


def serving(job: Job, laid: ServerPlan, compute_s: Floats) -> ServedJob:
    """The numbers of a job with servers; compute_s: (workers,) seconds of a step without exchange."""
    plan = job.plan
    way = plan.experiment.synchronization
    assert isinstance(way, ParameterServers)
    pushed = way.push_bytes or plan.software.gradient_comm_bytes
    pulled = way.pull_bytes or weight_bytes(plan.shard.precision, plan.shard.lora)
    each = laid.parameters / laid.n_servers
    rate = way.update_bandwidth or HOST_BANDWIDTH * plan.cluster.node.accelerators
    add, update = each * (pushed + SUM_TRAFFIC) / rate, each * HOST_TRAFFIC / rate
    once = way.mode == "synchronous"
    forward, backward = _passes(job)
    return ServedJob(
        way=way,
        laid=laid,
        table=flow_table(laid.plan),
        compute_s=compute_s,
        forward_s=forward,
        backward_s=backward,
        push=each * pushed,
        pull=each * pulled,
        sum_s=add if once else update,
        update_s=update if once else 0.0,
        seed=plan.experiment.seed,
        check=plan.experiment.simulation.certificate,
    )


def _passes(job: Job) -> tuple[float, float]:
    """Seconds of the passes of a microbatch, forward and back, on the stage that begins first and ends last."""
    costs, rank = Costs(job), job.stages[0][0]
    chunks = job.plan.course.chunks[0]
    forward, *back = (
        sum(costs.chain(Place(rank.number, phase, chunk)).seconds for chunk in chunks) for phase in job.plan.phases
    )
    return forward, sum(back)


class WeightSlice:
    """A slice of the weights on its way to a worker; `there` when it has it.

    asked, let: since when it waited for other workers, and until when [s]. read: updates that were in it.
    """

    def __init__(self, there: Event) -> None:
        self.there, self.asked, self.let, self.read = there, 0.0, 0.0, 0


class ServedWorkers:
    """One run of the workers."""

    def __init__(self, serving: ServedJob) -> None:
        self.serving = serving
        self.network = Network(serving.table, check=serving.check)
        self.env = env = self.network.env
        self.servers = [Resource(env) for _ in serving.laid.servers]  # one of each group; the others do the same
        workers, self.slices = serving.workers, serving.way.slices
        self.senders, self.readers = ([Resource(env) for _ in range(workers)] for _ in range(2))  # slices go in a row
        self.done = np.zeros((self.slices, workers), dtype=np.int64)  # steps
        self.slowest = [0] * self.slices  # steps that all workers have taken, and servers have made weights of
        self.waiting: list[list[tuple[float, Event]]] = [[] for _ in self.slowest]  # for all to have taken so many
        self.updates = [0] * self.slices
        self.ahead = 0  # largest lead of a worker over the slowest, when it was given weights for a step
        self.log: list[tuple[float, int]] = []  # when gradients of a worker were in, and how stale they were
        self.stalls: list[tuple[float, float]] = []  # when a step had its weights, what it waited for but others
        self.over = env.event()

    def run(self) -> Paced:
        """Until enough steps have been taken."""
        for worker in range(self.serving.workers):
            self.env.process(self._work(worker))
        self.env.run(until=self.over)
        return self._paced()

    def _work(self, worker: int) -> Life:
        serving, slices, env = self.serving, self.slices, self.env
        chance = stream(serving.seed, f"workers/{worker}")
        parts = [WeightSlice(env.event()) for _ in range(slices)]
        for number, part in enumerate(parts):
            env.process(self._pull(worker, number, 0, part))
        for step in count():
            compute_s = float(serving.compute_s[worker]) * draw(chance, serving.way.jitter)
            forward, backward = self._passes(compute_s)
            others = waited = 0.0
            for part in parts:
                asked = env.now
                yield part.there
                waited += env.now - asked
                others += max(0.0, part.let - max(asked, part.asked))
                yield env.timeout(forward / slices)
            self.stalls.append((env.now, waited - others))
            yield env.timeout(max(0.0, compute_s - forward - backward))
            before, parts = parts, [WeightSlice(env.event()) for _ in range(slices)]
            for number in reversed(range(slices)):  # the last layers have their gradients first
                yield env.timeout(backward / slices)
                env.process(self._exchange(worker, number, step, before[number].read, parts[number]))

    def _passes(self, compute_s: float) -> tuple[float, float]:
        """Seconds of a step in which slices are needed, and are made, one after the other; none if there is one."""
        forward, backward = self.serving.forward_s, self.serving.backward_s
        share = min(1.0, compute_s / (forward + backward)) if self.slices > 1 else 0.0
        return share * forward, share * backward

    def _exchange(self, worker: int, number: int, step: int, read: int, part: WeightSlice) -> Life:
        """Push the gradients of a slice, made of weights with `read` updates; then pull its weights."""
        laid, size = self.serving.laid, self.serving.push / self.slices
        with self.senders[worker].request() as turn:
            yield turn
            arrived = self._flows(laid.push[worker], laid.push_latency[worker], size)
            pairs = zip(self.servers, arrived, strict=True)
            summed = [self.env.process(self._sum(server, each)) for server, each in pairs]
            yield AllOf(self.env, arrived)
        yield AllOf(self.env, summed)
        self._count(worker, number, read)
        yield from self._pull(worker, number, step + 1, part)

    def _sum(self, server: Resource, arrived: Event) -> Life:
        yield arrived
        with server.request() as turn:
            yield turn
            yield self.env.timeout(self.serving.sum_s / self.slices)

    def _pull(self, worker: int, number: int, step: int, part: WeightSlice) -> Life:
        """Have the weights of a slice for a step, once no worker is too far behind."""
        laid, update_s = self.serving.laid, self.serving.update_s / self.slices
        part.asked = self.env.now
        yield self._all_have_taken(number, step - self.serving.lead)
        part.let = self.env.now - update_s
        self.ahead = max(self.ahead, step - int(self.done[number].min()))
        with self.readers[worker].request() as turn:
            yield turn
            part.read = self.updates[number]
            size = self.serving.pull / self.slices
            yield AllOf(self.env, self._flows(laid.pull[worker], laid.pull_latency[worker], size))
        part.there.succeed()

    def _all_have_taken(self, number: int, steps: float) -> Event:
        """Happens when all workers have taken so many steps with a slice."""
        event = self.env.event()
        if self.slowest[number] >= steps:
            event.succeed()
        else:
            self.waiting[number].append((steps, event))
        return event

    def _count(self, worker: int, number: int, read: int) -> None:
        """The gradients of a slice are in."""
        done, before = self.done[number], int(self.done[number].min())
        done[worker] += 1
        slowest, fastest, enough = int(done.min()), int(done.max()), self.serving.steps
        stale = 0 if self.serving.way.mode == "synchronous" else self.updates[number] - read
        self.updates[number] += 1
        if slowest > before:
            self.env.process(self._announce(number, slowest))
        if number:
            return  # the first slice comes last
        self.log.append((self.env.now, stale))
        least = enough if self.serving.lead == 0.0 else enough * WARM_UP
        if fastest >= enough and slowest >= least and not self.over.triggered:
            self.over.succeed()

    def _announce(self, number: int, slowest: int) -> Life:
        """All have taken a step more: the servers update, if they do so once, and who waited goes on."""
        yield self.env.timeout(self.serving.update_s / self.slices)
        self.slowest[number] = slowest
        ready = [event for steps, event in self.waiting[number] if steps <= slowest]
        self.waiting[number] = [each for each in self.waiting[number] if each[0] > slowest]
        for event in ready:
            event.succeed()

    def _flows(self, kinds: Ints, latency: Floats, size: float) -> list[Event]:
        """Of each group of servers, what happens when `size` bytes have moved to or from all of its servers."""
        rows = zip(kinds.tolist(), latency.tolist(), strict=True)
        return [self._flow(kind, size, seconds) for kind, seconds in rows]

    def _flow(self, kind: int, size: float, latency: float) -> Event:
        arrived = self.env.event()
        self.network.start(Flow(lambda _: arrived.succeed()), kind, size, latency)
        return arrived

    def _paced(self) -> Paced:
        """Means over whole turns of all workers once they are under way."""
        serving, workers = self.serving, self.serving.workers
        first = int(WARM_UP * len(self.log))
        if serving.lead == 0.0:
            first += workers - 1 - first % workers  # the last of a round
        steps = len(self.log) - 1 - first
        steps -= steps % workers if steps >= workers else 0
        (begin, _), (end, _) = self.log[first], self.log[first + steps]
        waits = [exchange for at, exchange in self.stalls if begin < at <= end]
        n_servers = serving.laid.n_servers
        busy = steps * (serving.sum_s + serving.update_s / workers)
        return Paced(
            step_s=workers * (end - begin) / steps,
            exchange_s=sum(waits) / max(1, len(waits)),
            sent=serving.push * n_servers,
            received=serving.pull * n_servers,
            staleness=np.array([stale for _, stale in self.log[first + 1 : first + steps + 1]], dtype=np.int64),
            server_busy=busy / (end - begin),
            carried=self._carried(),
            peak=self.network.peak_load(),
            simulated=len(self.log),
        )

    def _carried(self) -> Floats:
        """Bytes over one link of each class while every worker takes a step, (n_links,)."""
        serving, table = self.serving, self.serving.table
        size = np.zeros(table.n_flows)
        size[serving.laid.push.ravel()], size[serving.laid.pull.ravel()] = serving.push, serving.pull
        return totals(table.link, table.coefficient * size[table.flow], len(table.capacity))
