"""What a run costs: rent, or electricity, write-off and upkeep of an own cluster.

Public: `cost_result`, `Rented`, `hardware_cost`, `purchase_price`, `is_priced`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sim.inputs.energy import Prices, Purchase, Site
from sim.metrics.result import CostResult, EnergyResult
from sim.units import ENERGY, TIME

KWH, YEAR = ENERGY.units["kWh"], TIME.units["year"]


class Rented(NamedTuple):
    """Nodes of a kind that are paid for, idle ones too, with their accelerators and what they cost."""

    prices: Prices | None
    nodes: float
    accelerators: float
    accelerator: str  # its name


def cost_result(
    rented: Sequence[Rented], site: Site | None, energy: EnergyResult, seconds: float, done: tuple[int, int]
) -> CostResult | None:
    """Cost of `seconds` on a cluster of some kinds of node; `done`: steps and tokens.

    Rented hardware includes its electricity, owned hardware pays for its share of it. None if neither prices nor
    electricity are known. Names the accelerators where the prices are of others.
    """
    parts: dict[str, float] = {}
    every = sum(kind.accelerators for kind in rented)
    owned = [kind for kind in rented if kind.prices is None or kind.prices.pay == "purchase"]
    if owned and site is not None and site.electricity is not None:
        share = sum(kind.accelerators for kind in owned) / every
        parts["electricity"] = share * energy.total_kwh * KWH * site.electricity
    priced = [(kind, kind.prices) for kind in rented if kind.prices is not None]
    for kind, prices in priced:
        for name, usd in hardware_cost(prices, seconds, (kind.nodes, kind.accelerators)).items():
            parts[name] = parts.get(name, 0.0) + usd
    if not parts:
        return None
    total = sum(parts.values())
    bought = [purchase_price(prices, kind.nodes) for kind, prices in priced if prices.pay == "purchase"]
    return CostResult(
        usd=parts | {"total": total},
        usd_per_step=total / done[0] if done[0] else None,
        usd_per_million_tokens=1e6 * total / done[1] if done[1] else None,
        usd_per_accelerator_hour=total / (every * seconds / 3600),
        purchase_usd=sum(bought) if bought else None,
        basis="; ".join(dict.fromkeys(_basis(kind.prices, kind.accelerator) for kind in rented)),
    )


def _basis(prices: Prices | None, accelerator: str) -> str:
    if prices is None:
        return "electricity only"
    basis = f"{prices.name}, {prices.pay.replace('_', ' ')}, prices of {prices.as_of}"
    return basis if is_priced(prices, accelerator) else f"{basis}, for {' and '.join(prices.accelerators)} only"


def is_priced(prices: Prices, accelerator: str) -> bool:
    """Whether a price list is for the accelerator of that name, as far as it says."""
    return not prices.accelerators or accelerator in prices.accelerators


def hardware_cost(prices: Prices, seconds: float, size: tuple[float, float]) -> dict[str, float]:
    """Rent, or write-off and upkeep, of a cluster of `size` (nodes, accelerators) for `seconds`, by part [USD]."""
    nodes, accelerators = size
    if prices.pay != "purchase":
        price: float = getattr(prices.rental, prices.pay)
        return {"rental": accelerators * seconds * price}
    bought, paid = _bought(prices), purchase_price(prices, nodes)
    return {"write_off": paid * seconds / bought.life, "upkeep": paid * bought.upkeep * seconds / YEAR}


def purchase_price(prices: Prices, nodes: float) -> float:
    """What was paid for so many nodes and their network [USD]."""
    bought = _bought(prices)
    return nodes * (bought.node + bought.network)


def _bought(prices: Prices) -> Purchase:
    assert prices.purchase is not None, "checked with the input"
    return prices.purchase
