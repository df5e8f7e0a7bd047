"""The file that holds a recorded step: what is written is read, and what is damaged is named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.errors import ConfigError
from sim.inputs.recording import (
    COLLECTIVE,
    COPY,
    HOST,
    PRODUCT,
    KnownShape,
    Queue,
    RecordedCollective,
    RecordedGroup,
    RecordedRank,
    Recording,
    read_recording,
    recording_text,
)

US = 1e-6


def small_rank(rank: int, world: int = 2) -> RecordedRank:
    """A launch, a product, a collective over all ranks that waits for it, a copy in no queue."""
    return RecordedRank(
        rank=rank,
        step=40 * US,
        queues=(Queue("thread 1", "host"), Queue("stream 7", "device"), Queue("stream 20", "device")),
        names=("host", "gemm", "ncclDevKernel_AllReduce", "copy"),
        queue=np.array([0, 1, 0, 2, -1]),
        kind=np.array([HOST, PRODUCT, HOST, COLLECTIVE, COPY]),
        name=np.array([0, 1, 0, 2, 3]),
        seconds=np.array([5.0, 20.0, 3.0, 10.0, 1.0]) * US,
        lag=np.array([0.0, 1.0, 0.0, 2.0, 0.0]) * US,
        start=np.array([0.0, 6.0, 5.0, 28.0, 38.0]) * US,
        before=np.array([0, 1, 2, 3]),
        after=np.array([1, 3, 3, 4]),
        collectives=(RecordedCollective(3, "all_reduce", 0, 0, 1e6),),
        shapes=(KnownShape(1, 2.0 * 64**3, 3 * 2.0 * 64**2, 1, 64, 64, 64, "bf16"),),
    )


def small_recording(ranks: int = 2) -> Recording:
    """Ranks alike, all in one group."""
    group = RecordedGroup("0", tuple(range(ranks)), "default_pg")
    return Recording(ranks, tuple(small_rank(rank, ranks) for rank in range(ranks)), (group,), "A100", "by hand")


def write(recording: Recording, path: Path) -> Path:
    """The file of a recording, packed if its name says so."""
    content = "".join(recording_text(recording)).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["step.jsonl", "step.jsonl.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    recording = small_recording()
    again = read_recording(write(recording, tmp_path / name))
    assert list(recording_text(again)) == list(recording_text(recording))
    assert again.step == 40 * US


def swap(key: str, place: int, value: object) -> Callable[[list[dict[str, Any]]], None]:
    """Sets one number of the last rank."""

    def change(lines: list[dict[str, Any]]) -> None:
        lines[-1][key][place] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines.pop(), "1 ranks are there of 2: the file is cut"),
        (lambda lines: lines[0].update(format="other"), "the first line does not say format"),
        (lambda lines: lines[-1].pop("lag"), "'lag' is missing"),
        (lambda lines: lines[-1]["lag"].pop(), "there are 5 nodes, but 4 of lag"),
        (swap("before", 1, 4), "rank 1, node [3]: it would wait for node [4], which comes later"),
        (swap("seconds", 2, -1.0), "rank 1, node [2]: seconds is no time"),
        (swap("queue", 2, 9), "queue of node [2] is [9]"),
        (swap("seconds", 2, "long"), "could not convert string to float"),
        (swap("collectives", 0, [3, "gossip", 0, 0, 1.0, -1]), "rank 1, node 3"),
        (lambda lines: lines[-1].update(rank=7), "rank 7 is none of 2"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], reason: str) -> None:
    lines = [json.loads(line) for line in recording_text(small_recording())]
    change(lines)
    file = tmp_path / "step.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_recording(file)
    assert reason in str(error.value)


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    file = write(small_recording(), tmp_path / "step.jsonl.gz")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="cannot be read as a recording"):
        read_recording(file)
