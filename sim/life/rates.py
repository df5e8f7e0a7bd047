"""How often things fail, on average.

Public: `mode_rates`, `mean_time_between_stops`, `expected_by_cause`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import inf

from sim.inputs.reliability import FailureMode
from sim.life.faults import count_parts
from sim.life.life_inputs import LifeInputs

STOPPING = ("stop", "corrupt")


def mode_rates(inputs: LifeInputs, switches: int) -> Iterator[tuple[FailureMode, float]]:
    """Every mode with its events per second in the whole job; `switches` is the number of those that count."""
    for mode in inputs.failures.modes:
        places, parts = count_parts(mode, inputs.parts, inputs.nodes, switches)
        yield mode, places * parts / mode.mtbf


def mean_time_between_stops(inputs: LifeInputs) -> float:
    """Mean time between failures that stop the job [s]; inf if nothing does."""
    cutting = sum(map(bool, inputs.blast))
    rate = sum(rate for mode, rate in mode_rates(inputs, cutting) if mode.effect in STOPPING)
    length = max((outage.start for outage in inputs.outages), default=0.0)
    if length:
        rate += sum(_strikes_job(inputs)) / length
    return 1 / rate if rate else inf


def expected_by_cause(inputs: LifeInputs, elapsed: float, running: float) -> dict[str, float]:
    """Events of each cause that the rates promise for `elapsed` seconds, `running` of them with the job's processes.

    Software fails and links flap only while the job runs. Failing starts are not in it.
    """
    expected = defaultdict[str, float](float)
    for mode, rate in mode_rates(inputs, len(inputs.blast)):
        expected[mode.cause] += rate * (running if mode.component == "job" or mode.effect == "pause" else elapsed)
    for outage, strikes in zip(inputs.outages, _strikes_job(inputs), strict=True):
        if outage.start <= elapsed:
            expected[outage.cause] += strikes
    return dict(sorted(expected.items()))


def _strikes_job(inputs: LifeInputs) -> list[float]:
    """How likely the node of each recorded outage is in the job: it is or not by name, else by its share of nodes."""
    if inputs.struck_by_name:
        called = set(inputs.names)
        return [float(outage.name in called) for outage in inputs.outages]
    log = inputs.failures.log
    return [inputs.nodes / log.nodes if log else 1.0] * len(inputs.outages)
