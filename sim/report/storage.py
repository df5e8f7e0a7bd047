"""Checkpoints and training data as sections of the text report.

Public: `checkpoint_rows`, `input_rows`, `preparation_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.metrics.result import Result
from sim.report import human

Row = tuple[str, str, str]  # label, value, remark
LIMITS = {"storage": "storage", "decompression": "decompression on the host", "preprocessing": "host cores"}


def checkpoint_rows(result: Result) -> Iterator[Row]:
    """What a save and a restart cost."""
    costs = result.checkpoint
    if costs is None:
        return
    yield "size", human.traffic(costs.bytes), "all shards"
    yield "training stands still", human.duration(costs.blocking_s), ""
    if costs.drain_s:
        slower = human.percent(costs.drain_slowdown - 1)
        yield "then drains for", human.duration(costs.drain_s), f"steps take {slower} longer meanwhile"
    yield "restart reads for", human.duration(costs.restore_s), "all ranks at once"
    if costs.peer_blocking_s:
        yield "copy to a peer costs", human.duration(costs.peer_blocking_s), ""
        yield "restart from peers", human.duration(costs.peer_restore_s), ""


def input_rows(result: Result) -> Iterator[Row]:
    """How fast training data comes, beside how fast it is wanted."""
    data = result.input
    if data is None:
        return
    supplied = data.supplied_samples_per_s
    yield "wanted", f"{human.digits(data.wanted_samples_per_s)} samples/s", ""
    if supplied is not None:
        yield "supplied", f"{human.digits(supplied)} samples/s", "by the slowest stage" if data.limit == "none" else ""
    limited = f"limited by {LIMITS[data.limit]}" if data.limit in LIMITS else "hardly any wait"
    yield "accelerators busy", human.percent(data.accelerator_utilization), limited
    if data.slowed_s:
        yield "slower beside reads", human.step_time(data.slowed_s), "of a step, whose traffic crosses the same links"
    if data.fill_s:
        yield "shuffle buffer fills in", human.duration(data.fill_s), ""


def preparation_rows(result: Result) -> Iterator[Row]:
    """How long training data takes to prepare, phase by phase, and what that costs training."""
    job = result.preparation
    if job is None:
        return
    yield "takes", human.duration(job.time_s), f"{job.when} training, {job.nodes} nodes x {job.cores} cores"
    moved = f"{human.traffic(job.shuffled_bytes)} shuffled, {human.traffic(job.written_bytes)} written"
    yield "reads", human.traffic(job.read_bytes), moved
    for phase in job.phases:
        copies = f", {human.count(phase.copies)} begun again" if phase.copies else ""
        slowest = f"slowest {phase.slowest_task_s / phase.median_task_s:.1f} x the median{copies}"
        busy = f"cores {human.percent(phase.core_share)} busy, limited by {phase.limit}"
        yield phase.name, human.duration(phase.time_s), f"{human.count(phase.tasks)} tasks, {slowest}; {busy}"
    if job.when == "beside":
        yield "longer beside training", human.percent(job.beside_slowdown - 1), ""
        lost = f"{human.duration(job.training_lost_s)} lost in all"
        yield "steps take longer", human.percent(job.training_slowdown - 1), lost
