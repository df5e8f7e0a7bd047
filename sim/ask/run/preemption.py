"""Spot nodes are taken away: a failure of the run like others, at the rate that the price list gives."""

from __future__ import annotations

from sim.inputs.energy import Prices
from sim.inputs.reliability import FailureMode, Failures

CAUSE = "spot_preemption"


def is_preempted(prices: Prices | None) -> bool:
    """Whether nodes are rented on the spot market and may be taken away."""
    return prices is not None and prices.pay == "spot" and prices.rental.spot_preemption is not None


def with_preemption(failures: Failures, prices: Prices | None) -> Failures:
    """`failures`, and preemption of each node if it is rented so; another comes after `spot_return` on average."""
    if prices is None or not is_preempted(prices):
        return failures
    lost = FailureMode.from_si(
        {
            "cause": CAUSE,
            "component": "node",
            "mtbf": prices.rental.spot_preemption,
            "repair": {"kind": "exponential", "mean": prices.rental.spot_return},
        }
    )
    return failures.model_copy(update={"modes": (*failures.modes, lost)})
