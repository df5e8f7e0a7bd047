"""What a board draws at the least, from its record: the parts that do not depend on what it computes.

Public: `base_power`, `voltage`, `streaming_rate`, `byte_energy`, `sent_byte_energy`, `transfer_rate`, `lowest_limit`.
"""

from __future__ import annotations

from sim.inputs.energy import AcceleratorPower, Voltage
from sim.inputs.records import Accelerator, Fabric, Node, TorusFabric

# Where a profile does not say; assumptions that lie between those of the profiles that do.
CLOCKED_SHARE = 0.1  # of the range from idle to the board limit, drawn by waiting
STREAMING_SHARE = 0.75  # of the board limit, drawn by kernels bound by memory
COMMUNICATION_SHARE = 0.75  # energy of a byte sent over that of a byte of memory


def clocked_power(power: AcceleratorPower) -> float:
    """What waiting draws beside the static part, at the highest clock [W]."""
    return CLOCKED_SHARE * (power.tdp - power.idle) if power.waiting is None else power.waiting - power.idle


def voltage(curve: Voltage, clock: float) -> float:
    """Core voltage at a core clock, both as shares of the highest."""
    rise = max(0.0, clock - curve.knee) / (1 - curve.knee)
    return curve.floor + (1 - curve.floor) * rise


def base_power(power: AcceleratorPower, clock: float) -> float:
    """Static and clocked part at a core clock [W]."""
    return power.idle + clocked_power(power) * clock * voltage(power.voltage, clock) ** 2


def streaming_rate(accelerator: Accelerator) -> float:
    """Memory bandwidth that streaming kernels reach [B/s]; with pages spread over d domains, (d-1)/d of them cross."""
    memory = accelerator.memory
    own = memory.bandwidth * memory.efficiency
    if memory.domain_link is None or memory.domains == 1:
        return own
    return min(own, memory.domain_link * memory.domains / (memory.domains - 1))


def byte_energy(accelerator: Accelerator) -> float:
    """Energy of a byte of device memory, read or written [J/B]."""
    power = accelerator.power
    if power.memory is not None:
        return power.memory
    return max(0.0, STREAMING_SHARE * power.tdp - base_power(power, 1.0)) / streaming_rate(accelerator)


def sent_byte_energy(accelerator: Accelerator) -> float:
    """Energy of a byte that leaves and one that arrives [J/B]."""
    known = accelerator.power.communication
    return COMMUNICATION_SHARE * byte_energy(accelerator) if known is None else known


def transfer_rate(node: Node, fabric: Fabric | None) -> float:
    """Most bytes that one accelerator of a node sends in a second, inside the node or out of it [B/s]."""
    local, nics = node.local, node.nics
    inside = local.bandwidth * local.efficiency if node.accelerators > 1 and local.kind != "none" else 0.0
    if node.pcie is not None and node.pcie.bridges and node.accelerators > 1:
        inside = max(inside, node.pcie.bridges.bandwidth * node.pcie.bridges.efficiency)
    outside = max(1, nics.count // node.accelerators) * nics.bandwidth * nics.efficiency if nics.count else 0.0
    if isinstance(fabric, TorusFabric):
        outside = fabric.link.bandwidth * fabric.link.efficiency
    return max(inside, outside)


def lowest_limit(accelerator: Accelerator, rate: float) -> float:
    """What a board draws at its slowest clock while it sends `rate` bytes a second: it keeps no lower limit [W]."""
    slowest = base_power(accelerator.power, accelerator.power.voltage.slowest)
    return slowest + sent_byte_energy(accelerator) * rate
