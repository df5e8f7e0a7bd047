"""What was taken for granted about stages, adapters, power, prices and saves because nobody said: notes for a report.

Public: `assumptions`, `swings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

from sim.ask.run.preemption import is_preempted
from sim.ask.run.step import Simulated
from sim.inputs.energy import OPTICS_PER_RATE, SWITCH_PER_RATE
from sim.inputs.records import Accelerator
from sim.inputs.storage import SERIALIZATION_BANDWIDTH
from sim.metrics.cost import is_priced
from sim.metrics.energy_plant import NODE_PARTS
from sim.metrics.result import PowerLevel
from sim.units import DATA, DATA_RATE, POWER, format_quantity

SWING = 1e-3  # share above its limit that is told
GIGABIT = DATA_RATE.units["Gb/s"]


def assumptions(run: Simulated) -> Iterator[str]:
    """One sentence for each thing that was assumed."""
    for rule in RULES:
        yield from rule(run)


def _of_data_sheet(run: Simulated) -> Iterator[str]:
    accelerator = run.setup.accelerator
    if accelerator.assumed:
        assumed = ", ".join(_told(accelerator, path) for path in accelerator.assumed)
        yield f"assumed of {accelerator.name}, as medians of the catalogue for a {accelerator.kind}: {assumed}"


def _of_packages(run: Simulated) -> Iterator[str]:
    """What an accelerator is where a package holds several."""
    accelerator = run.setup.accelerator
    if accelerator.package > 1:
        meant = "accelerators, degrees of parallelism, power and prices are of a device"
        yield f"a package of {accelerator.name} holds {accelerator.package} devices: {meant}"


def _told(accelerator: Accelerator, path: str) -> str:
    """A key path, with its value where that is one number."""
    value: Any = accelerator
    for key in path.split("."):
        value = value[key] if isinstance(value, Mapping) else getattr(value, key)
    return f"{path} {value:.4g}" if isinstance(value, int | float) else path


def _adapters_left(run: Simulated) -> Iterator[str]:
    """Every accelerator has as many adapters as all others: the rest of them is left over."""
    count, server = run.setup.node.nics.count, run.cluster.server
    used = count // server.n_accelerators * server.n_accelerators
    if count > server.n_accelerators and count > used and run.cluster.fabric is not None:
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
        share = 1 / run.plan.microbatches
        yield f"exchanges of tokens run beside another microbatch in every pass; {share:.0%} of them have none"


def _tight_memory(run: Simulated) -> Iterator[str]:
    memory = run.readings.memory
    if memory.verdict == "tight":
        share = memory.peak_bytes_per_accelerator / memory.capacity_bytes
        yield f"memory is tight: {share:.0%} is predicted to be needed, and such predictions err by {memory.error:.0%}"


def _host_memory(run: Simulated) -> Iterator[str]:
    """What is moved to the host, and whether it has room."""
    offload, host, needed = run.setup.training.offload, run.setup.node.host, run.readings.memory.host_bytes
    if not needed:
        return
    if host.memory and needed > host.memory:
        lack, room = format_quantity(needed, DATA), format_quantity(host.memory, DATA)
        yield f"the host of a node has {room} of memory, and {lack} would lie there"
    hidden = [name for name in ("parameters", "activations") if getattr(offload, name)]
    if hidden:
        yield f"copies of {' and '.join(hidden)} to and from the host are taken to hide behind computation"
    if offload.optimizer and not host.pcie_bandwidth:
        way_out = "cluster.node.host.pcie_bandwidth says how fast"
        yield f"gradients and weights of the host's optimizer cross PCIe at no cost: {way_out}"


def _uneven_stages(run: Simulated) -> Iterator[str]:
    sizes = [chunk.layers for chunk in run.plan.chunks]
    if len(set(sizes)) > 1:
        alike = [(size, len(list(group))) for size, group in groupby(sizes)]
        told = ", ".join(f"{count} x {size}" if count > 1 else str(size) for size, count in alike)
        yield f"{sum(sizes)} layers over {len(sizes)} model chunks lie {told}: what does not divide is in the middle"


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
    node, accelerator, storage = run.setup.node, run.setup.accelerator, run.setup.storage
    silent = []
    if not accelerator.power.idle:
        silent.append(f"{accelerator.name} when it is idle (accelerator.power.idle)")
    if not any(getattr(node.power, name).busy for name in NODE_PARTS):
        silent.append(f"{node.name} beside its accelerators (node.power)")
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
    prices, site, accelerator = run.setup.prices, run.setup.site, run.setup.accelerator.name
    if prices is None:
        return
    if run.setup.experiment.prices is None:
        paid = prices.pay.replace("_", " ")
        whose = f"{prices.name}, {paid}, of {prices.as_of} (cluster.prices)"
        yield f"prices are those of {run.setup.cluster.name}, as none are named: {whose}"
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


def _saves(run: Simulated) -> Iterator[str]:
    save = run.setup.experiment.checkpoint
    if save is not None and save.serialization_bandwidth is None:
        rate = format_quantity(SERIALIZATION_BANDWIDTH, DATA_RATE)
        yield f"saves: each rank is assumed to write {rate} at most (checkpoint.serialization_bandwidth)"


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
    _of_data_sheet,
    _of_packages,
    _adapters_left,
    _uneven_stages,
    _even_experts,
    _ends_of_overlap,
    _network_power,
    _silent_parts,
    _power_limit,
    _prices,
    _faults,
    _saves,
)
