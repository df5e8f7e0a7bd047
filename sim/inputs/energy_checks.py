"""Whether power settings, site and prices make sense: one small check per rule.

Public: `ENERGY_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.errors import Problem, finding
from sim.inputs.board import lowest_limit, transfer_rate
from sim.inputs.findings import Check, of_each_kind
from sim.inputs.setup import Setup
from sim.units import FREQUENCY, POWER, format_quantity

BOARD = "cluster.node.accelerator.power"


@of_each_kind
def check_board_power(setup: Setup) -> Iterator[Problem]:
    """An accelerator draws no less when it waits than when it is idle, and no more than its limit."""
    power = setup.accelerator.power
    if power.idle > power.tdp:
        message = f"idle {power.idle:g} W is more than tdp {power.tdp:g} W"
        yield finding(f"{BOARD}.idle", message, "exchange the two?")
    elif power.waiting is not None and not power.idle <= power.waiting <= power.tdp:
        message = f"waiting {power.waiting:g} W is not between idle {power.idle:g} W and tdp {power.tdp:g} W"
        yield finding(f"{BOARD}.waiting", message, "give a power between the two")


@of_each_kind
def check_power_limit(setup: Setup) -> Iterator[Problem]:
    """A limit lies between the least that the board can keep to at work and its tdp."""
    limit, power = setup.experiment.power.limit, setup.accelerator.power
    if limit is None:
        return
    board = setup.accelerator.name
    if limit > power.tdp:
        message = f"limit {format_quantity(limit, POWER)} is more than the {power.tdp:g} W of {board}"
        yield finding("power.limit", message, "leave it out to run at the limit of the board")
    elif limit <= (lowest := lowest_limit(setup.accelerator, transfer_rate(setup.node, setup.cluster.fabric))):
        message = f"{board} cannot keep to {format_quantity(limit, POWER)}: at its slowest clock"
        message += f" it draws {lowest:.1f} W while it communicates"
        yield finding("power.limit", message, f"give more than {lowest:.1f} W")


@of_each_kind
def check_clock(setup: Setup) -> Iterator[Problem]:
    """A clock setting needs the highest clock of the board, and lies between its slowest and that."""
    clock, power = setup.experiment.power.clock, setup.accelerator.power
    if clock is None:
        return
    if power.clock is None:
        message = f"the highest clock of {setup.accelerator.name} is not known"
        yield finding("power.clock", message, f"give {BOARD}.clock, or set power.limit")
    elif not power.voltage.slowest * power.clock <= clock <= power.clock:
        lowest, highest = (format_quantity(share * power.clock, FREQUENCY) for share in (power.voltage.slowest, 1.0))
        message = f"clock {format_quantity(clock, FREQUENCY)} is not between {lowest} and {highest}"
        yield finding("power.clock", message, "give a clock between the two")


def check_grid(setup: Setup) -> Iterator[Problem]:
    """The grid is constant or a file, not both."""
    site = setup.site
    if site is not None and site.carbon_intensity is not None and site.carbon_file is not None:
        yield finding("site.carbon_file", "a constant carbon_intensity is given too", "give one of the two")


@of_each_kind
def check_price(setup: Setup) -> Iterator[Problem]:
    """The price that is to be paid is given."""
    prices, key = setup.prices, "prices" if setup.experiment.prices is not None else "cluster.prices"
    if prices is None:
        return
    if prices.pay == "purchase":
        if prices.purchase is None:
            yield finding(f"{key}.pay", f"{prices.name} has no price of purchase", f"give {key}.purchase")
    elif getattr(prices.rental, prices.pay) is None:
        known = [kind for kind in ("on_demand", "reserved", "spot") if getattr(prices.rental, kind) is not None]
        message = f"{prices.name} has no price for {prices.pay}"
        yield finding(f"{key}.pay", message, f"use {' or '.join(known)}" if known else f"give {key}.rental")


ENERGY_CHECKS: tuple[Check, ...] = (
    check_board_power,
    check_power_limit,
    check_clock,
    check_grid,
    check_price,
)
