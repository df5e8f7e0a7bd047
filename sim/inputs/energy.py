"""Power, site and prices: what the watts depend on, and what energy and time cost.

Public: `AcceleratorPower`, `MatrixEnergy`, `Voltage`, `NodePower`, `Draw`, `Supply`, `ClusterPower`,
`PowerSetting`, `Site`, `Embodied`, `Prices`, `Rental`, `Purchase`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim.record import Name, Record
from sim.units import (
    DATA_RATE,
    CarbonPerKilowattHour,
    Count,
    Dollars,
    DollarsPerHour,
    DollarsPerKilowattHour,
    Fraction,
    Hertz,
    JoulesPerByte,
    JoulesPerFlop,
    Kilograms,
    Seconds,
    Watts,
)

# --- accelerators ---------------------------------------------------------------------------


class MatrixEnergy(Record):
    """Energy of matrix arithmetic at the highest clock, by number format; absent: what fills the board limit at the sustained rate."""

    fp32: JoulesPerFlop | None = Field(default=None, description="32-bit IEEE")
    tf32: JoulesPerFlop | None = Field(default=None, description="19-bit TensorFloat")
    fp16: JoulesPerFlop | None = Field(default=None, description="16-bit IEEE")
    bf16: JoulesPerFlop | None = Field(default=None, description="16-bit bfloat")
    int8: JoulesPerFlop | None = Field(default=None, description="8-bit integer")
    fp8: JoulesPerFlop | None = Field(default=None, description="8-bit E4M3/E5M2")
    mxfp8: JoulesPerFlop | None = Field(default=None, description="8-bit with a scale for each 32 elements")
    fp6: JoulesPerFlop | None = Field(default=None, description="6-bit with a scale for each 32 elements")
    fp4: JoulesPerFlop | None = Field(default=None, description="4-bit with a scale for each 32 elements")
    nvfp4: JoulesPerFlop | None = Field(default=None, description="4-bit with a scale for each 16 elements and one for the tensor")


class Voltage(Record):
    """Core voltage over core clock, both as shares of the highest: flat up to the knee, then a straight line to 1."""

    knee: Fraction = Field(default=0.75, ge=0, lt=1, description="clock up to which the voltage stays at its floor")
    floor: Fraction = Field(default=0.8, gt=0, description="lowest voltage")
    slowest: Fraction = Field(default=0.12, gt=0, description="lowest clock that a power limit can force")


class AcceleratorPower(Record):
    """Board power: a static part, a clocked part, and the energy of each operation and byte."""

    tdp: Watts = Field(gt=0, description="board limit")
    idle: Watts = Field(default=0.0, ge=0, description="static part: powered, nothing running")
    waiting: Watts | None = Field(default=None, ge=0, description="a kernel is resident and only polls, highest clock; a tenth of the way from idle to tdp if absent")
    matrix: MatrixEnergy = Field(default=MatrixEnergy(), description="matrix arithmetic")
    vector: JoulesPerFlop = Field(default=0.0, ge=0, description="elementwise arithmetic at the highest clock")
    memory: JoulesPerByte | None = Field(default=None, ge=0, description="device memory, with the way to the processors; does not follow the core clock; streaming draws three quarters of tdp if absent")
    communication: JoulesPerByte | None = Field(default=None, ge=0, description="a byte that leaves and a byte that arrives in a collective or send; three quarters of memory if absent")
    clock: Hertz | None = Field(default=None, gt=0, description="highest core clock")
    voltage: Voltage = Field(default=Voltage(), description="core voltage over core clock")


class PowerSetting(Record):
    """Limits that the operator sets on every accelerator."""

    limit: Watts | None = Field(default=None, gt=0, description="power limit of one accelerator; its tdp if absent")
    clock: Hertz | None = Field(default=None, gt=0, description="highest core clock that is allowed; that of the accelerator if absent")


# --- nodes and network ------------------------------------------------------------------------


# Power of a switch port and of its transceiver over its rate [W per B/s], where a cluster does not say. Assumptions
# amid the profiles that do: switches QM9700 0.029, QM8700 0.032, Omni-Path 0.029; optics 0.021, 0.030, 0.030 W per Gb/s.
SWITCH_PER_RATE = 0.03 / DATA_RATE.units["Gb/s"]
OPTICS_PER_RATE = 0.025 / DATA_RATE.units["Gb/s"]


class Draw(Record):
    """Power of one kind of part in a node, all of them together."""

    idle: Watts = Field(default=0.0, ge=0, description="no job on the node")
    busy: Watts = Field(default=0.0, ge=0, description="a job on the node")


class Supply(Record):
    """Power supplies of a node: output over input, linear between the loads given."""

    rated: Watts | None = Field(default=None, gt=0, description="output at full load; the load does not matter if absent")
    at_10: Fraction = Field(default=1.0, gt=0, description="efficiency at 10 % of the rated output and below")
    at_20: Fraction = Field(default=1.0, gt=0, description="efficiency at 20 %")
    at_50: Fraction = Field(default=1.0, gt=0, description="efficiency at 50 %")
    at_100: Fraction = Field(default=1.0, gt=0, description="efficiency at 100 %")


class NodePower(Record):
    """Power of a server without its accelerators."""

    host: Draw = Field(default=Draw(), description="processors, board, management and local disks")
    memory: Draw = Field(default=Draw(), description="host memory")
    nics: Draw = Field(default=Draw(), description="network adapters, with the transceivers in them")
    switches: Draw = Field(default=Draw(), description="switches that join the accelerators")
    fans: Draw = Field(default=Draw(), description="fans of the server")
    supply: Supply = Field(default=Supply(), description="power supplies")


class ClusterPower(Record):
    """Power of what the nodes share: the network between them and storage."""

    switch: Watts | None = Field(default=None, ge=0, description="one switch without optics; 0.03 W for each Gb/s of its ports if absent")
    switch_ports: Count = Field(default=64, ge=1, le=1_000_000, description="ports of that switch at the rate of an adapter")
    optics: Watts | None = Field(default=None, ge=0, description="one transceiver at the rate of an adapter, in each port of a switch; 0.025 W for each Gb/s if absent")
    storage: Watts = Field(default=0.0, ge=0, description="storage systems, the share of one node")


# --- site -------------------------------------------------------------------------------------


class Embodied(Record):
    """Carbon of making the hardware, spread over its life."""

    accelerator: Kilograms = Field(default=0.0, ge=0, description="one accelerator")
    node: Kilograms = Field(default=0.0, ge=0, description="one server without accelerators")
    life: Seconds = Field(gt=0, description="until it is replaced")
    use: Fraction = Field(default=1.0, gt=0, description="share of its life in which jobs run")


class Site(Record):
    """Where the cluster stands: cooling, grid, price of electricity."""

    name: Name = Field(description="the name it is found by")
    aliases: tuple[Name, ...] = Field(default=(), description="other names in the catalogue, such as that of a cloud's region")
    description: str = Field(default="", description="one line for people")
    pue: float = Field(default=1.0, ge=1, le=10, description="power of the site over power of the cluster, when the cluster is fully loaded")
    fixed_overhead: Fraction = Field(default=0.0, description="share of the overhead at full load that does not fall with the load")
    carbon_intensity: CarbonPerKilowattHour | None = Field(default=None, ge=0, description="of the grid, constant")
    carbon_file: str | None = Field(default=None, description="CSV file of the grid's intensity hour by hour, in place of a constant: last column, g/kWh; it repeats")
    start_hour: Count = Field(default=0, ge=0, le=10_000_000, description="hour of that file in which the run begins")
    embodied: Embodied | None = Field(default=None, description="carbon of making the hardware; left out if absent")
    electricity: DollarsPerKilowattHour | None = Field(default=None, ge=0, description="price of electricity, for those who own the cluster")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")


# --- prices -----------------------------------------------------------------------------------


class Rental(Record):
    """Price of one accelerator and hour, server, network, power and cooling included."""

    on_demand: DollarsPerHour | None = Field(default=None, ge=0, description="without commitment")
    reserved: DollarsPerHour | None = Field(default=None, ge=0, description="committed for a term")
    spot: DollarsPerHour | None = Field(default=None, ge=0, description="may be taken away")
    spot_preemption: Seconds | None = Field(default=None, gt=0, description="mean time until a spot node is taken away; never if absent")
    spot_return: Seconds = Field(default=600.0, ge=0, description="mean time until another spot node is there in its place")


class Purchase(Record):
    """What was paid for the cluster, written off in equal parts over its life."""

    node: Dollars = Field(ge=0, description="one server with its accelerators")
    network: Dollars = Field(default=0.0, ge=0, description="network, storage and building, per server")
    life: Seconds = Field(gt=0, description="until it is written off")
    upkeep: Fraction = Field(default=0.0, description="staff, repair and licences per year, as a share of the price")


class Prices(Record):
    """What accelerators cost, rented or bought; prices are of a day, so the file says which."""

    name: Name = Field(description="the name it is found by")
    description: str = Field(default="", description="one line for people")
    as_of: str = Field(description="date or span of dates of these prices")
    accelerators: tuple[Name, ...] = Field(default=(), description="accelerators that have these prices, by name; a run on others says so; any if absent")
    pay: Literal["on_demand", "reserved", "spot", "purchase"] = Field(default="on_demand", description="which of the prices is paid")
    rental: Rental = Field(default=Rental(), description="prices of rented accelerators")
    purchase: Purchase | None = Field(default=None, description="price of an own cluster")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")
