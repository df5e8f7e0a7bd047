"""Pipeline schedules against closed forms: bubbles, and microbatches in flight.

With stages of equal time and free sends, a pipeline of p stages, m microbatches and v chunks a stage
idles (p - 1) / (v m) of its ideal time (Narayanan 2021, arXiv 2104.04473, sections 2.2.1 and 2.2.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plans import FREE, small_experiment

from sim.ask.run.step import Simulated, simulate_step
from sim.metrics.breakdown import rank_time
from sim.schedule.catalogue import held_of

EQUAL_STAGES = 1e-6  # the head of a vocabulary of one is this much of a stage, at most

IDEAL: dict[str, Any] = {  # only matrix products of the layers take time
    "accelerator": {
        "matrix": {"peak": {"bf16": 1e15}, "compute_units": 1, "tile": [1, 1]},
        "vector": {"bf16": FREE},
        "memory": {"capacity": 8e10, "bandwidth": FREE},
        "launch": 0.0,
    },
    "node": {
        "local": {"kind": "switch", "bandwidth": FREE, "latency": 0.0},
        "nics": {"count": 1},
        "collectives": {"ring_hop": 0.0, "ring_hop_network": 0.0, "tree_hop": 0.0, "tree_hop_network": 0.0},
    },
    "software": {"optimizer_bytes": 0.0},
}


def ideal(stages: int, microbatches: int, virtual: int = 1, schedule: str = "1f1b", **software: Any) -> Simulated:
    """A step of equal stages and free sends; the layers are wide, so that the ends weigh nothing."""
    parts = IDEAL | {"node": {**IDEAL["node"], "accelerators": stages}, "software": {**IDEAL["software"], **software}}
    experiment = small_experiment(
        **parts,
        model={"layers": 2 * stages * virtual, "hidden": 2**20, "heads": 1024, "ffn": 2**22, "vocab": 1},
        training={"global_batch": microbatches, "sequence_length": 128},
        parallelism={"pipeline": stages, "virtual_stages": virtual, "schedule": schedule},
        simulation={"skip": "off"},
    )
    return simulate_step(experiment)


def bubble_share(run: Simulated, rank: int = 0) -> float:
    """Idle time over the time of the work."""
    exposed = rank_time(run.trace, rank).exposed
    return exposed["bubble"] / exposed["compute"]


class TestBubble:
    @pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
    @pytest.mark.parametrize(("stages", "microbatches"), [(2, 2), (4, 4), (4, 16), (8, 8), (8, 32), (3, 7), (4, 1)])
    def test_without_interleaving(self, schedule: str, stages: int, microbatches: int) -> None:
        run = ideal(stages, microbatches, schedule=schedule)
        for rank in range(stages):
            expected = (stages - 1) / microbatches
            assert bubble_share(run, rank) == pytest.approx(expected, rel=EQUAL_STAGES)

    @pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 4), (4, 16), (8, 16)])
    @pytest.mark.parametrize("virtual", [2, 3, 4])
    def test_interleaving_divides_it_by_the_chunks(self, stages: int, microbatches: int, virtual: int) -> None:
        run = ideal(stages, microbatches, virtual, pipeline_overlap=True)
        expected = (stages - 1) / (virtual * microbatches)
        assert bubble_share(run) == pytest.approx(expected, rel=EQUAL_STAGES)

    def test_one_stage_has_none(self) -> None:
        assert bubble_share(ideal(1, 4)) == pytest.approx(0.0, abs=1e-12)

    @pytest.mark.parametrize("microbatches", [1, 2, 3])
    def test_fewer_microbatches_than_stages(self, microbatches: int) -> None:
        assert bubble_share(ideal(4, microbatches)) == pytest.approx(3 / microbatches, rel=EQUAL_STAGES)

    def test_sends_in_the_way_are_charged_to_the_pipeline(self) -> None:
        """A send of 1 ms on each of the two ways of each microbatch shows as pipeline communication."""
        node = {**IDEAL["node"], "accelerators": 2, "collectives": {"ring_hop": 1e-3}}
        experiment = small_experiment(
            **(IDEAL | {"node": node}),
            model={"layers": 2, "hidden": 2**20, "heads": 1024, "ffn": 2**22, "vocab": 1},
            training={"global_batch": 1, "sequence_length": 128},
            parallelism={"pipeline": 2},
        )
        exposed = rank_time(simulate_step(experiment).trace, 0).exposed
        assert exposed["pipeline_comm"] == pytest.approx(2e-3, rel=1e-6)


def in_flight(run: Simulated, stage: int) -> int:
    """Most microbatches whose forward pass began and whose backward pass is not over, on a stage."""
    trace = run.trace
    rows = trace.unrolled()
    labels = np.array([trace.program.actions[template.action].label for template in trace.program.templates])
    compute = next(n for n, s in enumerate(trace.program.streams) if s.kind == "compute" and s.rank == stage)
    mine = rows["stream"] == compute
    label = labels[rows["template"][mine].astype(np.int64)]
    begun, done = rows["start"][mine][label == "forward"], rows["end"][mine][label == "backward"]
    return max(int((begun <= moment).sum() - (done <= moment).sum()) for moment in begun)


class TestInFlight:
    @pytest.mark.parametrize(
        ("schedule", "stages", "virtual", "microbatches"),
        [("gpipe", 4, 1, 6), ("1f1b", 4, 1, 8), ("1f1b", 4, 1, 2), ("1f1b", 8, 1, 9), ("1f1b", 1, 1, 3),
         ("1f1b", 4, 2, 16), ("1f1b", 4, 3, 8), ("1f1b", 2, 4, 8), ("1f1b", 4, 2, 4)],
    )  # fmt: skip
    def test_the_trace_holds_as_many_as_memory_counts(
        self, schedule: str, stages: int, virtual: int, microbatches: int
    ) -> None:
        run = ideal(stages, microbatches, virtual, schedule)
        for stage in range(stages):
            held = held_of(schedule, stages, virtual, microbatches, stage)
            assert in_flight(run, stage) == max(map(sum, held))
