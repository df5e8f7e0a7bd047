"""Numbers of a result as people say them: a name for each key, and its value with a unit.

Public: `label`, `told`, `axis_unit`, `FIRST`.
"""

from __future__ import annotations

from collections.abc import Iterable

from sim.report import human
from sim.report.text import LABELS
from sim.units import ENERGY

FIRST = (  # what is asked first, in this order
    "run.time_to_train_s.mean",
    "cost.usd.total",
    "energy.total_kwh",
    "energy.carbon_kg",
    "step.time_s",
    "step.tokens_per_s",
    "step.samples_per_s",
    "step.mfu",
    "run.goodput",
    "memory.peak_bytes_per_accelerator",
    "accelerators",
    "accelerators_idle",
)
NAMES = {
    "accelerators": "accelerators",
    "accelerators_idle": "idle accelerators",
    "step.time_s": "step time",
    "step.tokens_per_s": "tokens/s",
    "step.samples_per_s": "samples/s",
    "step.model_tflops_per_accelerator": "TFLOP/s of an accelerator",
    "step.mfu": "MFU",
    "step.hfu": "HFU",
    "step.comm_total_s": "communication in flight",
    "step.comm_overlapped_s": "communication hidden",
    "memory.peak_bytes_per_accelerator": "memory of the fullest accelerator",
    "memory.capacity_bytes": "memory of an accelerator",
    "memory.host_bytes": "memory of the host",
    "memory.error": "error of such memory predictions",
    "run.time_to_train_s": "time to train",
    "run.time_to_train_s.mean": "time to train",
    "run.elapsed_s": "time until the end",
    "run.steps": "steps",
    "run.goodput": "goodput",
    "run.failures": "failures that stopped the job",
    "run.checkpoints": "saves",
    "run.steps_lost": "steps done again",
    "run.checkpoint_interval_s": "time between saves",
    "run.seeds": "lives",
    "energy.total_kwh": "energy",
    "energy.tdp_kwh": "energy by board limits",
    "energy.mean_power_w": "mean power",
    "energy.tokens_per_joule": "tokens/J",
    "energy.carbon_kg": "carbon",
    "energy.embodied_kg": "carbon of making the hardware",
    "energy.step_kwh": "energy of a step",
    "energy.kwh_per_billion_tokens": "kWh per billion tokens",
    "energy.accelerator_hours": "accelerator hours",
    "energy.accelerator_power_w": "power of an accelerator",
    "energy.node_power_w": "power of a node",
    "cost.usd.total": "cost",
    "cost.usd_per_step": "USD per step",
    "cost.usd_per_million_tokens": "USD per million tokens",
    "cost.usd_per_accelerator_hour": "USD per accelerator hour",
    "cost.purchase_usd": "purchase price",
}
GROUPS = {  # keys that end with a part of something
    "step.breakdown_s": "step, {}",
    "energy.parts_kwh": "energy, {}",
    "energy.phases_kwh": "energy of accelerators, {}",
    "energy.states_w": "power, {}",
    "memory.parts": "memory, {}",
    "memory.moments": "memory, {}",
    "run.badput_s": "time lost, {}",
    "run.failures_by_cause": "failures, {}",
    "run.expected_by_cause": "failures expected, {}",
    "cost.usd": "cost, {}",
}
SHARES = ("mfu", "hfu", "goodput", "goodput_used", "error")
UNITS: dict[str, tuple[human.Ladder, float]] = {  # by the end of a part of the key: units, and its own in SI
    "kwh": (human.WORK, ENERGY.units["kWh"]),
    "w": (human.WATTS, 1.0),
    "kg": (human.MASSES, 1.0),
    "usd": (human.SUMS, 1.0),
    "s": (human.STEP, 1.0),
}


def label(key: str) -> str:
    """What people call the number at `key` of a result."""
    if key in NAMES:
        return NAMES[key]
    for group, words in GROUPS.items():
        if key.startswith(f"{group}."):
            part = key.removeprefix(f"{group}.")
            return words.format(LABELS.get(part, part.replace("_", " ").replace(".", ", ")))
    return key.replace("_", " ").replace(".", " ")


def told(key: str, value: float) -> str:
    """The number with its unit, which the name of the key tells."""
    if _is_share(key):
        return human.percent(value)
    ladder, own = _units(key)
    return human.scaled(value * own, ladder) if ladder else human.digits(value)


def axis_unit(key: str, values: Iterable[float]) -> tuple[float, str]:
    """What numbers of the key are divided by along an axis that reaches the largest, and the unit they then have."""
    if _is_share(key):
        return 0.01, "%"
    ladder, own = _units(key)
    if not ladder:
        return 1.0, ""
    size, unit = human.pick(max(map(abs, values), default=0.0) * own, ladder)
    return size / own, unit


def _is_share(key: str) -> bool:
    return key.rpartition(".")[2] in SHARES


def _units(key: str) -> tuple[human.Ladder, float]:
    """The units that numbers of the key may be told in, and the size of its own; none for a plain number."""
    parts = key.split(".")
    if key.startswith("memory."):
        return human.SIZE, 1.0
    ends = [part.rpartition("_")[2] for part in parts if "_per_" not in part]
    end = next((end for end in ends if end in UNITS), "")
    if end == "s" and parts[0] == "run":
        return human.DURATION, 1.0
    return UNITS.get(end, ((), 1.0))
