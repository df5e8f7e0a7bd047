"""What was taken for granted about stages, adapters, power, prices and saves because nobody said: notes for a report.

Public: `assumptions`, `swings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from math import ceil
from typing import Any

from sim.ask.run.preemption import is_preempted
from sim.ask.run.preparation import WAVES as PREPARED_WAVES
from sim.ask.run.step import Simulated
from sim.inputs.energy import OPTICS_PER_RATE, SWITCH_PER_RATE
from sim.inputs.fault_log import read_fault_log
from sim.inputs.records import Accelerator
from sim.inputs.reliability import Failures
from sim.inputs.setup import Setup
from sim.inputs.storage import SERIALIZATION_BANDWIDTH
from sim.inputs.synchronization import LocalSteps
from sim.layout.host import HOST_KINDS
from sim.metrics.cost import is_priced
from sim.metrics.energy_plant import NODE_PARTS
from sim.metrics.result import PowerLevel
from sim.transforms.reduction import GROUPS
from sim.units import DATA, DATA_RATE, POWER, format_quantity
from sim.workload.optimizer import HOST_BANDWIDTH

SWING = 1e-3  # share above its limit that is told
GIGABIT = DATA_RATE.units["Gb/s"]


def assumptions(run: Simulated) -> Iterator[str]:
    """One sentence for each thing that was assumed."""
    yield from dict.fromkeys(note for rule in RULES for note in rule(run))  # of several kinds of node, each once


def _of_data_sheet(run: Simulated) -> Iterator[str]:
    for accelerator in _accelerators(run):
        if not accelerator.assumed:
            continue
        assumed = ", ".join(_told(accelerator, path) for path in accelerator.assumed)
        yield f"assumed of {accelerator.name}, as medians of the catalogue for a {accelerator.kind}: {assumed}"


def _of_packages(run: Simulated) -> Iterator[str]:
    """What an accelerator is where a package holds several."""
    for accelerator in _accelerators(run):
        if accelerator.package > 1:
            meant = "accelerators, degrees of parallelism, power and prices are of a device"
            yield f"a package of {accelerator.name} holds {accelerator.package} devices: {meant}"


def _accelerators(run: Simulated) -> list[Accelerator]:
    """Kinds of accelerator, each once."""
    return list({kind.accelerator.name: kind.accelerator for kind in run.setup.kinds}.values())


def _told(accelerator: Accelerator, path: str) -> str:
    """A key path, with its value where that is one number."""
    value: Any = accelerator
    for key in path.split("."):
        value = value[key] if isinstance(value, Mapping) else getattr(value, key)
    return f"{path} {value:.4g}" if isinstance(value, int | float) else path


def _adapters_left(run: Simulated) -> Iterator[str]:
    """Every accelerator has as many adapters as all others: the rest of them is left over."""
    for node in (kind.node for kind in run.cluster.kinds):
        count, used = node.nics.count, node.nics.count // node.accelerators * node.accelerators
        if count > node.accelerators and count > used and run.cluster.fabric is not None:
            yield f"{count - used} of {count} adapters of a node carry nothing: its accelerators have {used}"


def _of_model(run: Simulated) -> Iterator[str]:
    """What the definition of the model says about itself."""
    yield from (f"{run.plan.model.name}: {note}" for note in run.plan.model.notes)


def _even_experts(run: Simulated) -> Iterator[str]:
    """Nobody said how unevenly tokens choose."""
    if run.plan.model.experts and run.plan.model.imbalance == 1.0:
        yield "tokens are spread evenly over experts, as benchmarks force them to be; say moe.imbalance if they are not"


def _ends_of_overlap(run: Simulated) -> Iterator[str]:
    """Passes without another microbatch beside them hide nothing in truth."""
    if run.plan.shard.expert > 1 and run.plan.shard.experts.overlap == "microbatch":
        share = 1 / min(run.plan.microbatches)
        yield f"exchanges of tokens run beside another microbatch in every pass; {share:.0%} of them have none"


def _tight_memory(run: Simulated) -> Iterator[str]:
    memory = run.readings.memory
    if memory.verdict == "tight":
        share = memory.peak_bytes_per_accelerator / memory.capacity_bytes
        yield f"memory is tight: {share:.0%} is predicted to be needed, and such predictions err by {memory.error:.0%}"


def _host_memory(run: Simulated) -> Iterator[str]:
    """What is moved to the host, and whether it has room."""
    offload, kinds = run.setup.training.offload, run.setup.kinds
    for number, memory in run.readings.memory_by_kind.items():
        host, needed = kinds[number].node.host, memory.host_bytes
        if host.memory and needed > host.memory:
            lack, room = format_quantity(needed, DATA), format_quantity(host.memory, DATA)
            yield f"the host of a node has {room} of memory, and {lack} would lie there"
    if not run.readings.memory.host_bytes:
        return
    if any(moved for _, moved in offload) and not {flow.kind for flow in run.job.flows} & set(HOST_KINDS):
        yield "copies to and from the host cross PCIe at no cost: cluster.node.host.pcie_bandwidth says how fast"


def _compressed(run: Simulated) -> Iterator[str]:
    """What compression of gradients does beside taking time."""
    kind, groups = run.setup.training.compression.kind, {flow.kind for flow in run.job.flows}
    if kind == "none":
        return
    if not groups & set(GROUPS):
        yield f"nothing is compressed ({kind}): no other rank has the same weights"
        return
    yield f"gradients are compressed ({kind}): what that does to learning is not simulated"
    if kind == "fp16" and run.plan.software.gradient_comm_bytes == 2:
        yield f"{run.plan.software.name} sends 2 B a gradient anyway: fp16 adds kernels and saves nothing"


def _pruned(run: Simulated) -> Iterator[str]:
    """What pruning is taken to bring."""
    pruning = run.setup.training.pruning
    if pruning.kind == "2:4":
        rate = f"products with 2:4 weights are taken to run at {pruning.gain:g} times the dense rate"
        yield f"{rate} (training.pruning.gain), and what pruning does to learning is not simulated"
    elif pruning.kind == "columns":
        gone = f"{pruning.share:.0%} of the inner columns of feed-forward blocks are gone"
        yield f"{gone}: parameters and MFU are without them"


def _uneven_stages(run: Simulated) -> Iterator[str]:
    sizes = [chunk.layers for chunk in run.plan.chunks]
    if len(set(sizes)) > 1 and run.setup.parallelism.layers_per_stage is None:
        alike = [(size, len(list(group))) for size, group in groupby(sizes)]
        told = ", ".join(f"{count} x {size}" if count > 1 else str(size) for size, count in alike)
        yield f"{sum(sizes)} layers over {len(sizes)} model chunks lie {told}: what does not divide is in the middle"


def _padded_vocabulary(run: Simulated) -> Iterator[str]:
    """A table divided over ranks has as many rows on each, and as many as kernels like."""
    entries, shard = getattr(run.plan.model, "vocab", 0), run.plan.shard
    multiple = shard.pads_vocabulary * shard.tensor
    if entries % multiple:
        padded = f"{ceil(entries / multiple) * multiple:,}, a multiple of {shard.pads_vocabulary} * tensor"
        yield f"a vocabulary of {entries:,} is padded to {padded} {shard.tensor}, as {run.plan.software.name} does"


def _network_power(run: Simulated) -> Iterator[str]:
    cluster, power = run.cluster, run.cluster.spec.power
    if cluster.fabric is None or not cluster.fabric.port_rate(power.switch_ports):
        return
    shares = {"switch": SWITCH_PER_RATE, "optics": OPTICS_PER_RATE}
    absent = [name for name in shares if getattr(power, name) is None]
    taken = [f"{1e3 * shares[name] * GIGABIT:.0f} mW for {name}" for name in absent]
    if taken:
        keys = "cluster.power.switch and optics say it"
        yield f"power of the network is assumed, for each Gb/s of its ports: {' and '.join(taken)} ({keys})"


def _silent_parts(run: Simulated) -> Iterator[str]:
    storage, silent = run.setup.storage, []
    for kind in run.setup.kinds:
        if not kind.accelerator.power.idle:
            silent.append(f"{kind.accelerator.name} when it is idle (accelerator.power.idle)")
        if not any(getattr(kind.node.power, name).busy for name in NODE_PARTS):
            silent.append(f"{kind.node.name} beside its accelerators (node.power)")
    silent = list(dict.fromkeys(silent))
    if storage and storage.kind != "local_nvme" and not run.cluster.spec.power.storage:  # local disks: host
        silent.append(f"{storage.name} (cluster.power.storage)")
    if silent:
        yield f"taken to draw nothing, as nobody says more: {', '.join(silent)}"


def _power_limit(run: Simulated) -> Iterator[str]:
    limit, asked = run.job.board.setting.limit, run.setup.experiment.power.limit
    if limit is not None and asked is not None and limit < asked:
        kept, given = format_quantity(limit, POWER), format_quantity(asked, POWER)
        yield f"computation keeps to {kept}, so that with transfers beside it boards draw {given} on average"


def _prices(run: Simulated) -> Iterator[str]:
    for kind in run.setup.kinds:
        yield from _price(kind)


def _price(setup: Setup) -> Iterator[str]:
    """What was taken for granted about the price of nodes of a kind."""
    prices, site, accelerator = setup.prices, setup.site, setup.accelerator.name
    if prices is None:
        return
    if setup.experiment.prices is None:
        paid = prices.pay.replace("_", " ")
        whose = f"{prices.name}, {paid}, of {prices.as_of} (cluster.prices)"
        yield f"prices are those of {setup.cluster.name}, as none are named: {whose}"
    if not is_priced(prices, accelerator):
        yield f"PRICES OF ANOTHER ACCELERATOR: {prices.name} is for {', '.join(prices.accelerators)}, not {accelerator}"
    if prices.pay == "spot" and prices.rental.spot_preemption is None:
        yield f"nodes at the spot price of {prices.name} are taken never to be taken away (rental.spot_preemption)"
    if prices.pay == "purchase" and (site is None or site.electricity is None):
        yield "electricity is left out of the cost: site.electricity does not say its price"


def _faults(run: Simulated) -> Iterator[str]:
    experiment, preempted = run.setup.experiment, is_preempted(run.setup.prices)
    ends = experiment.training.tokens is not None or experiment.training.time_limit is not None
    if preempted and not ends:
        yield "spot nodes are taken away, which a single step does not show: give training.tokens"
    elif experiment.training.tokens is not None and experiment.failures is None:
        but = ", spot nodes are taken away all the same" if preempted else ""
        yield f"time-to-train assumes that nothing fails{but}"
    if ends and experiment.checkpoint is None and (preempted or experiment.failures is not None):
        yield "nothing is saved (checkpoint): after each failure the training begins anew"


def _recorded_faults(run: Simulated) -> Iterator[str]:
    """When the log of faults began, where it does not say so."""
    failures = run.setup.experiment.failures
    log = failures.log if isinstance(failures, Failures) else None
    if log is not None and log.begin is None and min((o.start for o in read_fault_log(log)), default=1.0) == 0:
        yield "observation is taken to begin with the first recorded fault: failures.log.begin says otherwise"


def _saves(run: Simulated) -> Iterator[str]:
    save = run.setup.experiment.checkpoint
    if save is not None and save.serialization_bandwidth is None:
        rate = format_quantity(SERIALIZATION_BANDWIDTH, DATA_RATE)
        yield f"saves: each rank is assumed to write {rate} at most (checkpoint.serialization_bandwidth)"


def _workers(run: Simulated) -> Iterator[str]:
    """What is taken for granted of workers that do not step together."""
    way = run.setup.experiment.synchronization
    if way is None:
        return
    if run.setup.experiment.failures is not None:
        yield "a failure stops all workers here, although others could go on"
    yield "convergence is not simulated: staler or rarer updates may need more steps than the ones counted here"
    if isinstance(way, LocalSteps):
        handed = "all ranks of a worker" if way.carried_by == "all" else "the first replica of a worker"
        yield f"exchanges are rings over {handed}; their energy, and the step of the outer optimizer, are not counted"
        return
    if way.update_bandwidth is None:
        rate = format_quantity(HOST_BANDWIDTH * run.setup.node.accelerators, DATA_RATE)
        yield f"servers are taken to add and update at {rate} of host memory (synchronization.update_bandwidth)"
    if way.slices == 1:
        yield "gradients are pushed when a step is over, nothing beside it (synchronization.slices)"
    yield "energy and failures of servers are not counted, that of their traffic neither; saves are as if ranks had all"


def _forward(run: Simulated) -> Iterator[str]:
    told = run.forward
    if told is None:
        return
    if told.teacher_s:
        yield f"the teacher goes forward over a whole batch before the student, {told.teacher_s:.4g} s a step"
    if told.evaluation_every:
        yield f"a step has its share of an evaluation, {told.evaluation_s:.4g} s every {told.evaluation_every} steps"
    yield "passes of a teacher or an evaluation count at the power of waiting"


def _preparation(run: Simulated) -> Iterator[str]:
    job = run.setup.experiment.preparation
    if job is None:
        return
    left_out = "its energy and price, drives that a shuffle goes through, data that a node has itself"
    yield f"preparation of data leaves out {left_out}"
    if job.when == "beside":
        waves = f"{PREPARED_WAVES} waves of tasks"
        yield f"beside training {waves} a phase are simulated, and the rest taken to be slowed alike, as are its steps"
    elif run.setup.target_steps is not None:
        yield "time to train begins when data is prepared"


def swings(limit: float | None, board: PowerLevel) -> Iterator[str]:
    """Where a board leaves its limit for parts of a step."""
    if limit is not None and board.peak_w > (1 + SWING) * limit:
        peak = format_quantity(board.peak_w, POWER)
        yield f"power.limit holds on average over a step: with transfers beside computation a board draws up to {peak}"


def _of_replay(run: Simulated) -> Iterator[str]:
    """On what a replay rests, and what nobody knows of it."""
    replay, result = run.plan.model.replay, run.readings.replay
    if replay is None or result is None:
        return
    if run.setup.ranks != replay.ranks:
        parts = run.setup.parallelism.tensor
        yield (
            f"{replay.ranks} recorded ranks are repeated to {run.setup.ranks}, replicas of {parts}: right as long "
            "as a replica does the same whatever their number, with the same samples each (weak scaling); kernels on "
            "shards of optimizer state keep the size they had"
        )
    if result.unmatched:
        yield f"{result.unmatched} collectives are not in the records of all their ranks, and keep their time"
    if replay.collectives == "recorded":
        yield "collectives take their recorded time and load no links (else workload.collectives: modelled)"
    elif result.sizeless:
        yield f"{result.sizeless} collectives without sizes take their recorded time on any network"
    if replay.kernels == "rescaled":
        yield (
            f"kernels are scaled from {replay.recorded_on} by kind: products of unknown shape as large ones, other "
            "kernels and copies as recorded; the host keeps its pace (workload.host)"
        )
    yield "memory and FLOPs of a recorded step are not known, and its samples a step are those that training says"


RULES: tuple[Callable[[Simulated], Iterator[str]], ...] = (
    _of_model,
    _of_replay,
    _tight_memory,
    _host_memory,
    _compressed,
    _pruned,
    _of_data_sheet,
    _of_packages,
    _adapters_left,
    _uneven_stages,
    _padded_vocabulary,
    _even_experts,
    _ends_of_overlap,
    _network_power,
    _silent_parts,
    _power_limit,
    _prices,
    _faults,
    _recorded_faults,
    _saves,
    _workers,
    _forward,
    _preparation,
)
