"""Training data on its way: read, decompressed, prepared, queued; and how long a step waits for it.

The workers of a replica take its batches in turn, as those of PyTorch's DataLoader do: one reads the
records of a batch from storage, one after another, then works on them on one host core. Training takes
the batches in order, and all replicas wait for the slowest. Readers share storage evenly: what all
together and what one alone can read is a max-min solution over the real links, without training traffic.

Public: `InputSupply`, `supply_of`, `feed`; `Feeding` in `storage_costs`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray
from simpy.core import Environment
from simpy.events import Event
from simpy.resources.resource import Resource

from sim.cluster.storage import StorageSystem
from sim.engine.pipe import SharedPipe
from sim.errors import PlanError, Problem
from sim.inputs.storage import InputPipeline
from sim.layout.plan import Plan
from sim.layout.transfers import file_transfers
from sim.life.storage_costs import Feeding
from sim.programs.drains import drain_beside, rate_together
from sim.rng import stream
from sim.units import DATA, format_quantity

Floats = NDArray[np.float64]
BATCHES = 16_000  # simulated, of all replicas together
FEWEST, MOST = 96, 800  # steps
WARM_UP = 0.25  # share of the steps before stalls count
MOST_REPLICAS = 256  # simulated of those that differ by the sizes of their records
MOST_DRAWN = 64  # records of a batch drawn one by one; of more, their sum is drawn


@dataclass(frozen=True)
class InputSupply:
    """What the input of a job can draw on."""

    data: InputPipeline
    batch: float  # samples of one replica and step
    replicas: int
    replicas_per_node: int  # on the fullest node
    cores: int  # of a node; 0: no limit
    together: float  # B/s from storage, all replicas reading
    alone: float  # B/s, one worker reading
    latency: float  # s from asking for a file to its first byte

    @property
    def records(self) -> float:
        """Records of a batch."""
        return self.batch * self.data.records_per_sample

    @property
    def reading_s(self) -> float:
        """Waits for first bytes while a worker reads a batch [s]."""
        return self.latency * self.records * (1 - self.data.cached) / self.data.records_per_file

    def core_s(self, stored: float) -> tuple[float, float]:
        """Seconds of a core to decompress and to prepare a batch of `stored` bytes."""
        plain, rate = stored * self.data.compression_ratio, self.data.decompression_bandwidth
        return (plain / rate if rate else 0.0), self.batch * self.data.preprocessing


def supply_of(plan: Plan, data: InputPipeline, storage: StorageSystem) -> InputSupply:
    """The supply of a planned job, of which the first rank of each replica reads.

    Raises PlanError if what is read ahead does not fit into host memory.
    """
    grid, spec = plan.grid, storage.spec
    readers = _readers(plan)
    nodes = np.bincount(plan.cluster.node_of(grid.accelerator[readers]))
    asks = spec.requests.model_copy(update={"connection_bandwidth": None})
    unbound = replace(storage, spec=spec.model_copy(update={"requests": asks}))
    file = data.record * data.records_per_file
    size = np.where(readers, file, 0.0)
    together = rate_together(plan, file_transfers(plan, unbound, size, inf, write=False))
    first = np.where(np.cumsum(readers) == 1, size, 0.0)
    one = file_transfers(plan, unbound, first, inf, write=False)
    supply = InputSupply(
        data=data,
        batch=plan.experiment.training.global_batch / int(readers.sum()),
        replicas=int(readers.sum()),
        replicas_per_node=int(nodes.max()),
        cores=data.cores or min(kind.node.host.cores for kind in plan.cluster.kinds),
        together=min(together, (spec.requests.metadata_rate or inf) * file),
        alone=min(rate_together(plan, one), spec.requests.connection_bandwidth or inf),
        latency=float(next(iter(one.flows.values()))[0].latency[0]),
    )
    _check_memory(supply, min(kind.node.host.memory for kind in plan.cluster.kinds))
    return supply


def lost_beside_reads(plan: Plan, data: InputPipeline, storage: StorageSystem, step_s: float) -> float:
    """Seconds that a step of `step_s` loses because the batches of a step cross links of training [s].

    Only storage on the compute network has such links.
    """
    if storage.is_local or storage.has_own_network:
        return 0.0
    supply = supply_of(plan, data, storage)
    size = supply.records * data.record * (1 - data.cached)
    reads = file_transfers(plan, storage, np.where(_readers(plan), size, 0.0), inf, write=False)
    return drain_beside(plan, reads, step_s).lost if reads.flows else 0.0


def _readers(plan: Plan) -> NDArray[np.bool_]:
    """Whether a rank reads: the first of each replica does, (n_ranks,)."""
    first = [plan.grid.coordinate[axis] == 0 for axis in ("tensor", "context", "pipeline")]
    return np.asarray(np.all(first, axis=0))


def feed(supply: InputSupply, step_s: float, seed: int = 0) -> Feeding:
    """The wait of steps of `step_s`, by simulation; random sizes under `seed`."""
    simulated = _simulated_replicas(supply)
    steps = min(MOST, max(FEWEST, BATCHES // simulated))
    sizes = _batch_bytes(supply, simulated, steps, seed)
    stall = _mean_wait(supply, sizes, step_s)
    stages = _stages(supply)
    limit = max(stages, key=lambda name: stages[name])
    samples, share = supply.batch * supply.replicas, supply.together / supply.replicas
    return Feeding(
        stall_s=stall,
        supplied_samples_per_s=samples / stages[limit] if stages[limit] else None,
        wanted_samples_per_s=samples / step_s,
        accelerator_utilization=step_s / (step_s + stall),
        limit=limit if stall > 1e-3 * step_s else "none",
        fill_s=supply.data.shuffle_buffer / min(share, supply.alone * supply.data.workers),
    )


def _simulated_replicas(supply: InputSupply) -> int:
    """Those of one node stand for all if batches are equal; else as many as differ, up to a limit."""
    if supply.data.record_deviation == 0:
        return min(supply.replicas, supply.replicas_per_node)
    return min(supply.replicas, max(MOST_REPLICAS, supply.replicas_per_node))


def _batch_bytes(supply: InputSupply, replicas: int, steps: int, seed: int) -> Floats:
    """Stored bytes of each batch, (replicas, steps)."""
    mean, deviation, records = supply.data.record, supply.data.record_deviation, supply.records
    if deviation == 0:
        return np.full((replicas, steps), records * mean)
    draw = stream(seed, "input/sizes")
    if records <= MOST_DRAWN:
        each = np.maximum(draw.normal(mean, deviation, (replicas, steps, ceil(records))), 0.0)
        return np.asarray(each.sum(axis=2) * records / ceil(records))
    some = np.maximum(draw.normal(mean, deviation, 100_000), 0.0)
    return np.maximum(draw.normal(records * some.mean(), records**0.5 * some.std(), (replicas, steps)), 0.0)


def _mean_wait(supply: InputSupply, sizes: Floats, step_s: float) -> float:
    """Mean seconds that a step waits for its batches after the warm-up.

    Workers tend to finish together, and waits come in bursts; a window with soft ends (Hann's) does not
    mind whether one burst more or less falls into it.
    """
    waits = _Line(supply, sizes, step_s).run()
    warm = waits[int(WARM_UP * len(waits)) :]
    return float(np.average(warm, weights=np.hanning(len(warm) + 2)[1:-1]))


class _Line:
    """One run of the input line of the simulated replicas."""

    def __init__(self, supply: InputSupply, sizes: Floats, step_s: float) -> None:
        self.supply, self.step_s = supply, step_s
        self.sizes: list[list[float]] = sizes.tolist()
        self.replicas, self.steps = sizes.shape
        self.env = env = Environment()
        self.pipe = SharedPipe(env, supply.together * self.replicas / supply.replicas, supply.alone)
        nodes = -(-self.replicas // supply.replicas_per_node)
        self.cores = [Resource(env, supply.cores) for _ in range(nodes)] if supply.cores else []
        self.may_begin = [Event(env) for _ in range(self.steps)]
        self.ready = [Event(env) for _ in range(self.steps)]
        self.missing = [self.replicas] * self.steps
        self.begun = 0

    def run(self) -> Floats:
        """Seconds that each step waited, (steps,)."""
        waits = np.zeros(self.steps)
        for replica in range(self.replicas):
            batches = iter(range(self.steps))
            for _ in range(self.supply.data.workers):
                self.env.process(self._work(replica, batches))
        self.env.run(until=self.env.process(self._train(waits)))
        return waits

    def _train(self, waits: Floats) -> Generator[Event, None, None]:
        ahead = self.supply.data.prefetch
        self._begin(ahead - 1)
        for step in range(self.steps):
            self._begin(step)
            asked = self.env.now
            yield self.ready[step]
            waits[step] = self.env.now - asked
            self._begin(step + ahead)
            yield self.env.timeout(self.step_s)

    def _begin(self, last: int) -> None:
        """Let batches up to `last` begin."""
        while self.begun <= min(last, self.steps - 1):
            self.may_begin[self.begun].succeed()
            self.begun += 1

    def _work(self, replica: int, batches: Iterator[int]) -> Generator[Event, None, None]:
        """One worker: takes the next batch of its replica, reads it, works on it."""
        data = self.supply.data
        for batch in batches:
            yield self.may_begin[batch]
            stored = self.sizes[replica][batch]
            if self.supply.reading_s:
                yield self.env.timeout(self.supply.reading_s)
            if stored * (1 - data.cached) > 0:
                yield self.pipe.read(stored * (1 - data.cached))
            yield from self._on_core(replica, sum(self.supply.core_s(stored)))
            self.missing[batch] -= 1
            if not self.missing[batch]:
                self.ready[batch].succeed()

    def _on_core(self, replica: int, seconds: float) -> Generator[Event, None, None]:
        if seconds == 0:
            return
        if not self.cores:
            yield self.env.timeout(seconds)
            return
        with self.cores[replica // self.supply.replicas_per_node].request() as core:
            yield core
            yield self.env.timeout(seconds)


def _stages(supply: InputSupply) -> dict[str, float]:
    """Seconds that each stage takes for a batch of every replica, with all that it can use."""
    data, per_node = supply.data, supply.replicas_per_node
    stored = supply.records * data.record
    read = stored * (1 - data.cached)
    unpack, prepare = supply.core_s(stored)
    workers = min(data.workers, max(1, data.prefetch))
    at_a_time = min(supply.cores or inf, workers * per_node) / per_node  # cores of one replica
    one_reader_s = supply.reading_s + read / supply.alone
    return {
        "storage": max(read * supply.replicas / supply.together, one_reader_s / workers),
        "decompression": unpack / at_a_time,
        "preprocessing": prepare / at_a_time,
    }


def _check_memory(supply: InputSupply, memory: float) -> None:
    """Raise PlanError if what is kept for the replicas of a node does not fit into its memory (0: not known)."""
    data = supply.data
    batch = supply.records * data.record * data.compression_ratio
    wanted = supply.replicas_per_node * (data.shuffle_buffer + data.prefetch * batch)
    if memory and wanted > memory:
        message = f"{format_quantity(wanted, DATA)} of batches and shuffle buffers a node"
        message += f", which has {format_quantity(memory, DATA)} of memory"
        raise PlanError(Problem("", "input", message, "reduce prefetch or shuffle_buffer"))
