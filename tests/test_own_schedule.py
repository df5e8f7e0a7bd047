"""A schedule of one's own from a table of tasks: the same as the shipped one that it says, mistakes by their lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from equal import assert_same

from sim.ask.run.step import simulate_step
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.inputs.schedule_file import NAMES
from sim.schedule.catalogue import schedule_of

Rows = list[str]


def rows_of(name: str, stages: int, virtual: int, microbatches: int) -> Rows:
    """The table of a shipped schedule, as lines."""
    schedule = schedule_of(name, stages, virtual, microbatches)
    return [
        f"{stage},{NAMES[task.phase]},{task.chunk},{task.microbatch}"
        for stage in range(stages)
        for task in schedule.tasks(stage)
    ]


def load(folder: Path, rows: Rows, virtual: int = 1, batch: int = 6, pipeline: int = 2) -> Experiment:
    (folder / "mine.csv").write_text("\n".join(["stage,phase,chunk,microbatch", *rows]) + "\n")
    (folder / "run.yaml").write_text(
        f"""
cluster: dgx-a100
nodes: 1
workload: gpt3-6.7b
software: megatron-lm-2022
parallelism: {{pipeline: {pipeline}, tensor: 4, virtual_stages: {virtual}, schedule: mine.csv}}
training: {{global_batch: {batch}, sequence_length: 2048}}
"""
    )
    return load_experiment(folder / "run.yaml").experiment


def shipped(experiment: Experiment, name: str) -> Experiment:
    parallelism = experiment.parallelism.model_dump() | {"schedule": name}
    return experiment.model_copy(update={"parallelism": type(experiment.parallelism).from_si(parallelism)})


@pytest.mark.parametrize(("name", "virtual"), [("1f1b", 1), ("1f1b", 2), ("zb-h1", 1), ("zb-v", 2)])
def test_the_table_of_a_shipped_schedule_is_that_schedule(name: str, virtual: int, tmp_path: Path) -> None:
    mine = load(tmp_path, rows_of(name, 2, virtual, 6), virtual)
    assert mine.parallelism.schedule.startswith("mine.csv: F0.0 ")
    assert_same(simulate_step(mine), simulate_step(shipped(mine, name)))


def test_what_is_resolved_stands_by_itself(tmp_path: Path) -> None:
    """The table is in the input, so it may go on without its file."""
    mine = load(tmp_path, rows_of("1f1b", 2, 1, 6))
    (tmp_path / "mine.csv").unlink()
    assert Experiment.from_si(mine.model_dump()).parallelism == mine.parallelism


GOOD = rows_of("1f1b", 2, 1, 2)  # 0: F0 F1 B0 B1, lines 2 to 5; 1: F0 B0 F1 B1, lines 6 to 9


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (lambda rows: ["0,sideways,0,0", *rows[1:]], 2, "there is no phase 'sideways'"),
        (lambda rows: ["0,forward,0,-1", *rows[1:]], 2, "microbatch '-1' is no whole number from 0 on"),
        (lambda rows: ["0,forward,0", *rows[1:]], 2, "3 cells for 4 columns"),
        (lambda rows: [*rows, rows[-1]], 10, "backward of chunk 1, microbatch 1, is on line 9 already"),
        (lambda rows: rows[:-1], 1, "backward of chunk 1, microbatch 1, is missing"),
        (lambda rows: [*rows[:-1], "1,backward,0,1"], 9, "backward of chunk 0, microbatch 1, is on line 5 already"),
        (lambda rows: [*rows, "1,forward,0,2"], 10, "chunk 0 is on stage 1 here and on 0 on line 2"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], 2, "comes before the forward of chunk 0, microbatch 0, on line 3"),
        (lambda rows: [rows[2], *rows[:2], *rows[3:]], 2, "comes before the forward of chunk 0"),
        (lambda rows: [*rows[:-1], "1,backward,1,3"], 9, "there is a microbatch 3, but no microbatch 2"),
        (lambda rows: [row.replace("1,", "2,", 1) if row[0] == "1" else row for row in rows], 9, "but no stage 1"),
        (lambda rows: [row for row in rows if "backward" not in row], 1, "there is no backward pass"),
        (
            lambda rows: [rows[0], rows[2], rows[1], rows[3], rows[4], rows[6], *rows[5:6], rows[7]],
            3,
            "waits here for ever",
        ),
        (lambda rows: [], 1, "there are 0 tasks"),
    ],
)
def test_mistakes_are_told_with_their_lines(
    change: Callable[[Rows], Rows], line: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, change(GOOD), batch=2)
    told = [str(problem) for problem in caught.value.problems]
    assert any(f"mine.csv:{line}:1" in each and words in each for each in told), told
    assert all("parallelism.schedule" in each for each in told)


def test_lines_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    assert (
        load(tmp_path, ["", "# warm up", *GOOD], batch=2).parallelism.schedule
        == load(tmp_path, GOOD, batch=2).parallelism.schedule
    )


@pytest.mark.parametrize(
    ("batch", "pipeline", "virtual", "words"),
    [
        (4, 2, 1, "the table mine.csv is for microbatches a replica 2, not 4"),
        (2, 1, 1, "the table mine.csv is for pipeline 2, not 1"),
        (2, 2, 2, "the table mine.csv is for virtual_stages 1, not 2"),
    ],
)
def test_a_table_is_for_one_shape(batch: int, pipeline: int, virtual: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, GOOD, virtual=virtual, batch=batch, pipeline=pipeline)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "{cluster: dgx-a100, nodes: 1, workload: gpt3-6.7b, parallelism: {schedule: gone.csv},"
        " training: {global_batch: 8, sequence_length: 2048}}"
    )
    with pytest.raises(ConfigError, match=r"parallelism.schedule: "):
        load_experiment(tmp_path / "run.yaml")
