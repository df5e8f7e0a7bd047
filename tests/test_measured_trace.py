"""Recorded steps as measurements: step time, exposed communication and overlap, told by a trace or by keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.api import check
from sim.ask.run.chakra import recorded_step
from sim.ask.validate.validate import validate
from sim.inputs.load import load_experiment
from sim.inputs.measured import communication_shares
from sim.inputs.recording import COLLECTIVE, HOST, OTHER, Queue, RecordedRank, Recording, recording_text
from support import Cli

EXPERIMENT = """
cluster: dgx-h100-superpod
nodes: 2
workload: {kind: transformer, layers: 4, hidden: 1024, heads: 16, ffn: 4096, vocab: 51200}
parallelism: {tensor: 2, pipeline: 2, data: 4, zero_stage: 1}
training: {global_batch: 16, sequence_length: 1024, precision: bf16}
software: megatron-core
"""


def rank_of(*nodes: tuple[int, float, float], step: float = 10.0, number: int = 0) -> RecordedRank:
    """Nodes of a kind from a begin to an end, each in a queue of its own."""
    n = len(nodes)
    return RecordedRank(
        rank=number,
        step=step,
        queues=tuple(Queue(f"stream {i}", "device") for i in range(n)),
        names=("x",),
        queue=np.arange(n),
        kind=np.array([kind for kind, _, _ in nodes]),
        name=np.zeros(n, dtype=np.int64),
        seconds=np.array([end - start for _, start, end in nodes]),
        lag=np.zeros(n),
        start=np.array([start for _, start, _ in nodes]),
        before=np.zeros(0, dtype=np.int64),
        after=np.zeros(0, dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("nodes", "exposed", "overlapped"),
    [
        ([(OTHER, 0, 4), (COLLECTIVE, 2, 6)], 0.2, 0.5),
        ([(OTHER, 0, 4), (OTHER, 3, 5), (COLLECTIVE, 2, 6), (COLLECTIVE, 4, 8)], 0.3, 0.5),
        ([(COLLECTIVE, 0, 5), (HOST, 0, 9)], 0.5, 0.0),
        ([(COLLECTIVE, 1, 2), (OTHER, 0, 9), (COLLECTIVE, 3, 3)], 0.0, 1.0),
        ([(OTHER, 0, 9)], 0.0, 0.0),
    ],
)
def test_shares_by_hand(nodes: list[tuple[int, float, float]], exposed: float, overlapped: float) -> None:
    """Spans in s of a step of 10 s; what runs twice counts once, work of the host not at all."""
    assert communication_shares(Recording(1, (rank_of(*nodes),))) == pytest.approx((exposed, overlapped))


def test_shares_are_means_over_ranks_and_unknown_without_begins() -> None:
    busy, idle = rank_of((COLLECTIVE, 0, 4)), rank_of((OTHER, 0, 4), number=1)
    assert communication_shares(Recording(2, (busy, idle))) == pytest.approx((0.2, 0.0))
    unknown = replace(idle, start=np.array([-1.0]))
    assert communication_shares(Recording(2, (busy, unknown))) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment, and a step of its own as its measurement."""
    (tmp_path / "plain.yaml").write_text(EXPERIMENT)
    recording = recorded_step(load_experiment(tmp_path / "plain.yaml").experiment)
    (tmp_path / "step.jsonl").write_text("".join(recording_text(recording)))
    (tmp_path / "mine.yaml").write_text("extends: ./plain.yaml\nmeasured: {trace: step.jsonl, source: recorded}\n")
    return tmp_path


def test_a_step_of_ours_is_what_is_predicted(folder: Path) -> None:
    (row,) = validate([folder / "mine.yaml"]).rows
    assert row.problem == ""
    assert row.metric == "step_time_s"
    assert row.error == pytest.approx(0, abs=1e-9)
    assert [each.name for each in row.beside] == ["exposed", "overlapped"]
    for each in row.beside:
        assert each.predicted == pytest.approx(each.measured, abs=1e-9)
        assert 0 < each.measured < 1


def test_keys_say_more_than_the_trace(folder: Path) -> None:
    said = "trace: step.jsonl, step_time: 20 ms, exposed_communication: 0.5, source: x"
    (folder / "mine.yaml").write_text(f"extends: ./plain.yaml\nmeasured: {{{said}}}\n")
    (row,) = validate([folder / "mine.yaml"]).rows
    assert row.measured == pytest.approx(0.02)
    assert row.beside[0].measured == 0.5


def test_a_trace_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "step.jsonl").write_text("{}")
    (problem,) = check(folder / "mine.yaml")
    assert (problem.key, "does not say format" in problem.message) == ("measured.trace", True)
    (folder / "step.jsonl").unlink()
    (problem,) = check(folder / "mine.yaml")
    assert (problem.key, problem.message) == ("measured.trace", "no such file")


def test_the_command_tells_both(folder: Path, cli: Cli) -> None:
    told = cli("validate", folder / "mine.yaml")
    assert told.code == 0, told.err
    assert "Beside the step time, predicted for measured" in told.out
    assert "of the step exposed" in told.out
