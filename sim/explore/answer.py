"""What the page shows of a design: figures with their words, bars, notes, controls and the YAML.

Public: `answer`, `found_plans`.
"""

from __future__ import annotations

from typing import Any

from sim.ask.run.simulate import simulate
from sim.explore.controls import controls_of
from sim.explore.design import Design, open_design, yaml_of
from sim.metrics.planning import FoundPlan, PlanSearch
from sim.metrics.result import Result
from sim.report import human
from sim.report.sentence import in_one_sentence
from sim.report.text import LABELS, idle_warning, settings


def answer(design: Design) -> dict[str, Any]:
    """All that is shown of one design. Raises ConfigError."""
    opened = open_design(design)
    result = simulate(opened.loaded.experiment)
    breakdown = {LABELS.get(key, key): part for key, part in result.step.breakdown_s.items()}
    return {
        "sentence": in_one_sentence(result),
        "name": result.name,
        "description": result.description,
        "settings": [[label, value] for label, value in settings(result)],
        "figures": _figures(result),
        "breakdown": _shares(breakdown, human.step_time),
        "memory": _memory(result),
        "energy": _shares(result.energy.parts_kwh, human.energy) if result.energy else [],
        "notes": [*opened.assumed, *result.notes],
        "idle": idle_warning(result) if result.accelerators_idle else "",
        "finished": result.run.finished if result.run else True,
        "why": [*result.run.why_unfinished, *result.run.what_helps] if result.run and not result.run.finished else [],
        "controls": [control.to_json() for control in controls_of(opened.loaded.experiment)],
        "yaml": yaml_of(design),
    }


def _figures(result: Result) -> list[dict[str, Any]]:
    """Each with a key of `result.json`, a name, its value and its words; better: which way is."""
    step, run, energy, cost = result.step, result.run, result.energy, result.cost
    found: list[tuple[str, str, float | None, str, int]] = [
        ("step.time_s", "step time", step.time_s, human.step_time(step.time_s), -1),
        (
            "step.tokens_per_s" if step.tokens_per_s else "step.samples_per_s",
            "throughput",
            step.tokens_per_s or step.samples_per_s,
            human.throughput(step.samples_per_s, step.tokens_per_s),
            1,
        ),
        ("step.mfu", "MFU", step.mfu, human.percent(step.mfu), 1),
    ]
    if run:
        days = run.time_to_train_s["mean"]
        told = human.duration(days) if run.finished else "does not finish"
        found.append(("run.time_to_train_s.mean", "time to train", days if run.finished else None, told, -1))
        if run.goodput < 1:
            found.append(("run.goodput", "goodput", run.goodput, human.percent(run.goodput), 1))
    if energy:
        found.append(("energy.total_kwh", "energy", energy.total_kwh, human.energy(energy.total_kwh), -1))
        found.append(("energy.mean_power_w", "power", energy.mean_power_w, human.power(energy.mean_power_w), -1))
        if energy.carbon_kg is not None:
            found.append(("energy.carbon_kg", "carbon", energy.carbon_kg, human.carbon(energy.carbon_kg), -1))
    if cost:
        found.append(("cost.usd.total", "cost", cost.usd["total"], human.money(cost.usd["total"]), -1))
    band = result.trust.band if result.trust else None
    told = "not validated" if band is None else f"±{band * 100:.0f} %"
    found.append(("trust.band", "trust", band, told, 0))
    return [
        {"key": key, "name": name, "value": value, "told": told, "better": way} for key, name, value, told, way in found
    ]


def _shares(parts: dict[str, float], words: Any) -> list[dict[str, Any]]:
    """Parts of a whole by size, those of nothing left out."""
    total = sum(parts.values()) or 1.0
    kept = sorted(((name, part) for name, part in parts.items() if part > 0), key=lambda item: -item[1])
    return [{"name": name.replace("_", " "), "share": part / total, "told": words(part)} for name, part in kept]


def _memory(result: Result) -> dict[str, Any]:
    memory = result.memory
    return {
        "verdict": memory.verdict,
        "fits": memory.fits,
        "share": memory.peak_bytes_per_accelerator / memory.capacity_bytes,
        "told": f"{human.size(memory.peak_bytes_per_accelerator)} of {human.size(memory.capacity_bytes)}",
        "parts": _shares(memory.parts, human.size),
    }


def found_plans(search: PlanSearch) -> dict[str, Any]:
    """The plans of a search, best first, each with the changes that make a design use it."""
    return {
        "complete": search.complete,
        "enumerated": search.enumerated,
        "simulated": search.simulated,
        "wall_s": search.wall_s,
        "plans": [_plan(plan, search) for plan in search.plans],
    }


def _plan(plan: FoundPlan, search: PlanSearch) -> dict[str, Any]:
    changes = {key: list(value) if isinstance(value, tuple) else value for key, value in plan.values.items()}
    if not plan.accelerators_idle:
        changes["parallelism.data"] = None
    return {
        "set": changes,
        "step": human.step_time(plan.step_s),
        "mfu": human.percent(plan.mfu),
        "memory": human.percent(plan.memory_bytes / search.capacity_bytes),
        "idle": plan.accelerators_idle,
    }
