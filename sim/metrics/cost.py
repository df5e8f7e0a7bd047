"""What a run costs: rent, or electricity, write-off and upkeep of an own cluster.

Public: `cost_result`, `hardware_cost`.
"""

from __future__ import annotations

from sim.metrics.result import CostResult, EnergyResult
from sim.spec.energy import Prices, Site
from sim.units import ENERGY, TIME

KWH, YEAR = ENERGY.units["kWh"], TIME.units["year"]


def cost_result(
    prices: Prices | None,
    site: Site | None,
    energy: EnergyResult,
    seconds: float,
    size: tuple[int, int],
    done: tuple[int, int],
) -> CostResult | None:
    """Cost of `seconds` on a cluster of `size` (nodes, accelerators), idle ones too; `done`: steps and tokens.

    Rented hardware includes its electricity. None if neither prices nor electricity are known.
    """
    parts: dict[str, float] = {}
    owned = prices is None or prices.pay == "purchase"
    if owned and site is not None and site.electricity is not None:
        parts["electricity"] = energy.total_kwh * KWH * site.electricity
    if prices is not None:
        parts |= hardware_cost(prices, seconds, size)
    if not parts:
        return None
    total = sum(parts.values())
    basis = f"{prices.name}, {prices.pay.replace('_', ' ')}, prices of {prices.as_of}" if prices else "electricity only"
    return CostResult(
        usd=parts | {"total": total},
        usd_per_step=total / done[0] if done[0] else None,
        usd_per_million_tokens=1e6 * total / done[1] if done[1] else None,
        usd_per_accelerator_hour=total / (size[1] * seconds / 3600),
        basis=basis,
    )


def hardware_cost(prices: Prices, seconds: float, size: tuple[int, int]) -> dict[str, float]:
    """Rent, or write-off and upkeep, of a cluster of `size` (nodes, accelerators) for `seconds`, by part [USD]."""
    nodes, accelerators = size
    if prices.pay != "purchase":
        price: float = getattr(prices.rental, prices.pay)
        return {"rental": accelerators * seconds * price}
    bought = prices.purchase
    assert bought is not None, "checked with the input"
    paid = nodes * (bought.node + bought.network)
    return {"write_off": paid * seconds / bought.life, "upkeep": paid * bought.upkeep * seconds / YEAR}
