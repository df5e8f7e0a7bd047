"""What a run costs: rent, or electricity, write-off and upkeep of an own cluster.

Public: `cost_result`, `hardware_cost`, `purchase_price`, `is_priced`.
"""

from __future__ import annotations

from sim.inputs.energy import Prices, Purchase, Site
from sim.metrics.result import CostResult, EnergyResult
from sim.units import ENERGY, TIME

KWH, YEAR = ENERGY.units["kWh"], TIME.units["year"]


def cost_result(
    prices: Prices | None,
    site: Site | None,
    energy: EnergyResult,
    seconds: float,
    size: tuple[int, int],
    done: tuple[int, int],
    accelerator: str,
) -> CostResult | None:
    """Cost of `seconds` on a cluster of `size` (nodes, accelerators), idle ones too; `done`: steps and tokens;
    `accelerator`: its name, which the basis names where the prices are of others.

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
    return CostResult(
        usd=parts | {"total": total},
        usd_per_step=total / done[0] if done[0] else None,
        usd_per_million_tokens=1e6 * total / done[1] if done[1] else None,
        usd_per_accelerator_hour=total / (size[1] * seconds / 3600),
        purchase_usd=purchase_price(prices, size[0]) if prices and prices.pay == "purchase" else None,
        basis=_basis(prices, accelerator),
    )


def _basis(prices: Prices | None, accelerator: str) -> str:
    if prices is None:
        return "electricity only"
    basis = f"{prices.name}, {prices.pay.replace('_', ' ')}, prices of {prices.as_of}"
    return basis if is_priced(prices, accelerator) else f"{basis}, for {' and '.join(prices.accelerators)} only"


def is_priced(prices: Prices, accelerator: str) -> bool:
    """Whether a price list is for the accelerator of that name, as far as it says."""
    return not prices.accelerators or accelerator in prices.accelerators


def hardware_cost(prices: Prices, seconds: float, size: tuple[int, int]) -> dict[str, float]:
    """Rent, or write-off and upkeep, of a cluster of `size` (nodes, accelerators) for `seconds`, by part [USD]."""
    nodes, accelerators = size
    if prices.pay != "purchase":
        price: float = getattr(prices.rental, prices.pay)
        return {"rental": accelerators * seconds * price}
    bought, paid = _bought(prices), purchase_price(prices, nodes)
    return {"write_off": paid * seconds / bought.life, "upkeep": paid * bought.upkeep * seconds / YEAR}


def purchase_price(prices: Prices, nodes: int) -> float:
    """What was paid for so many nodes and their network [USD]."""
    bought = _bought(prices)
    return nodes * (bought.node + bought.network)


def _bought(prices: Prices) -> Purchase:
    assert prices.purchase is not None, "checked with the input"
    return prices.purchase
