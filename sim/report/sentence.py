"""A result in one sentence for somebody who reads no more: days, money, energy, what limits, how sure.

Public: `in_one_sentence`.
"""

from __future__ import annotations

from sim.metrics.result import Result
from sim.report import human
from sim.report.text import LABELS


def in_one_sentence(result: Result) -> str:
    """What the run comes to, in words."""
    parts = [_length(result)]
    if result.cost:
        parts.append(f"costs {human.money(result.cost.usd['total'])}")
    if result.energy:
        carbon = "" if result.energy.carbon_kg is None else f" and {human.carbon(result.energy.carbon_kg)} of CO2"
        parts.append(f"takes {human.energy(result.energy.total_kwh)}{carbon}")
    told = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    return f"{told}. {_limit(result)} {_sure(result)}"


def _length(result: Result) -> str:
    who = f"On {human.count(result.accelerators)} {result.setup.get('accelerator', 'accelerators')}"
    fits = "" if result.memory.fits else " (which it does not fit into)"
    if result.run is None:
        return f"{who}{fits} a step lasts {human.step_time(result.step.time_s)}"
    if not result.run.finished:
        return f"{who}{fits} the training never comes to its end"
    return f"{who}{fits} the training lasts {human.duration(result.run.time_to_train_s['mean'])}"


def _limit(result: Result) -> str:
    part, seconds = max(result.step.breakdown_s.items(), key=lambda item: item[1])
    share = seconds / result.step.time_s
    return f"{human.percent(share)} of a step is {LABELS.get(part, part)}."


def _sure(result: Result) -> str:
    band = result.trust.band if result.trust else None
    return (
        "No measured run is near this one." if band is None else f"Step times like this were within {band * 100:.0f} %."
    )
