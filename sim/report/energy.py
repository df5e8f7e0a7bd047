"""Energy, carbon and cost as sections of the text report.

Public: `energy_rows`, `cost_rows`. Without site and prices there are three lines, else every part.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.metrics.result import CostResult, EnergyResult, PowerLevel, Result
from sim.report import human

Row = tuple[str, str, str]  # label, value, remark
LEVELS = {
    "accelerator": "one accelerator",
    "node": "its node",
    "job": "nodes of the job",
    "site": "whole site",
    "run": "site, whole run",
}
PARTS = {"memory": "host memory", "switches": "local switches", "network": "network switches"}


def energy_rows(result: Result) -> Iterator[Row]:
    """Energy of the run (of a step where no run is asked for): modelled beside TDP accounting, parts, power."""
    energy = result.energy
    if energy is None:
        return
    span = "the training" if result.run else "a step"
    sited = result.manifest.get("site") is not None
    more = human.signed_percent(energy.total_kwh / energy.tdp_kwh - 1)
    yield "modelled", human.energy(energy.total_kwh), span if sited else f"{span}, cooling left out"
    yield "TDP x hours", human.energy(energy.tdp_kwh), f"as model cards count; modelled {more}"
    yield "power", human.power(energy.mean_power_w), _power(energy)
    if energy.tokens_per_joule:
        yield "tokens", f"{human.digits(energy.tokens_per_joule)} /J", _per_token(energy)
    if not sited:
        return
    yield from _carbon(energy)
    yield from _states(energy)
    for name, part in energy.parts_kwh.items():
        if part > 0:
            remark = _phases(energy) if name == "accelerators" else ""
            yield PARTS.get(name, name), human.energy(part), f"{human.percent(part / energy.total_kwh)}{remark}"
    for name, level in energy.power.items():
        yield LEVELS[name], human.power(level.mean_w), f"{_swing(level)}{'' if name == 'run' else ' over a step'}"


def _power(energy: EnergyResult) -> str:
    return f"{energy.accelerator_power_w:.0f} W an accelerator, {human.power(energy.node_power_w)} a node"


def _per_token(energy: EnergyResult) -> str:
    known = energy.kwh_per_billion_tokens
    return "" if known is None else f"{human.digits(known)} kWh per billion tokens"


def _carbon(energy: EnergyResult) -> Iterator[Row]:
    if energy.carbon_kg is not None:
        per_kwh = 1e3 * energy.carbon_kg / energy.total_kwh
        yield "carbon", human.carbon(energy.carbon_kg), f"CO2e, {human.digits(per_kwh)} g/kWh"
    if energy.embodied_kg is not None:
        yield "embodied", human.carbon(energy.embodied_kg), "CO2e, share of making the hardware"


def _states(energy: EnergyResult) -> Iterator[Row]:
    """Where a run does more than train: what the site draws in each of its phases, and the largest swing."""
    if len(energy.states_w) > 1:
        most, least = max(energy.states_w, key=energy.states_w.__getitem__), min(energy.states_w.values())
        others = ", ".join(f"{name.replace('_', ' ')} {human.power(watts)}" for name, watts in energy.states_w.items())
        yield "swing", human.power(energy.states_w[most] - least), others


def _phases(energy: EnergyResult) -> str:
    whole = sum(energy.phases_kwh.values())
    shares = [f"{name} {100 * part / whole:.0f}" for name, part in energy.phases_kwh.items() if part > 0.005 * whole]
    return f": {', '.join(shares)} %"


def _swing(level: PowerLevel) -> str:
    return f"{human.power(level.low_w)} to {human.power(level.peak_w)}"


def cost_rows(cost: CostResult) -> Iterator[Row]:
    """Cost by part, and per token."""
    for name, usd in cost.usd.items():
        if name != "total":
            yield name.replace("_", " "), human.money(usd), human.percent(usd / cost.usd["total"]) if usd else ""
    each, hour = cost.usd_per_million_tokens, human.money(cost.usd_per_accelerator_hour)
    per_token = f"{human.money(each)} per million tokens, " if each is not None else ""
    yield "total", human.money(cost.usd["total"]), f"{per_token}{hour} an accelerator hour"
    if cost.purchase_usd is not None:
        yield "purchase price", human.money(cost.purchase_usd), "of which the run pays for its share of their life"
    yield "basis", "", cost.basis
