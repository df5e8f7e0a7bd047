"""Traces of the PyTorch profiler as recorded steps: what is read, what is missing, what is damaged."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kineto_files import OVERHEAD, Profiled, starts_by_hand, training_step

from sim.cli.app import call
from sim.errors import ConfigError
from sim.imports.kineto import import_kineto
from sim.imports.kineto_file import DeviceActivity, read_kineto
from sim.imports.kineto_step import StepReader, choose_step, kind_of_kernel
from sim.imports.occupancy import Occupancy, occupancy_of
from sim.imports.trace_events import trace_events
from sim.inputs.recording import (
    ATTENTION,
    COLLECTIVE,
    HOST,
    MEMORY,
    OTHER,
    PRODUCT,
    RecordedRank,
    read_recording,
    recording_text,
)

US = 1e-6
SAMPLES = os.environ.get("CLUSTERSIM_KINETO_TRACES", "")
with_samples = pytest.mark.skipif(not SAMPLES, reason="CLUSTERSIM_KINETO_TRACES names no folder of recorded traces")


def imported(profiled: Profiled, folder: Path, step: int | None = 3) -> RecordedRank:
    """The nodes of a profile of one rank."""
    return import_kineto([profiled.write(folder / f"rank{profiled.rank}.json", step)]).recording.ranks[0]


def named(rank: RecordedRank, part: str) -> list[int]:
    """Nodes whose names have that in them."""
    return [node for node, name in enumerate(rank.name.tolist()) if part in rank.names[name]]


def edges(rank: RecordedRank) -> set[tuple[int, int]]:
    return set(zip(rank.before.tolist(), rank.after.tolist(), strict=True))


def test_a_step_runs_as_it_was_recorded(tmp_path: Path) -> None:
    """Starts follow from durations, launches and waits, not from time stamps."""
    for told in (True, False):
        rank = imported(training_step(world=2, told=told), tmp_path)
        device = rank.kind != HOST
        assert np.abs(starts_by_hand(rank) - rank.start)[device].max() < 1e-9
        assert rank.lag.max() < 5 * US  # nothing is late without a reason


def test_points_in_time_are_not_kept(tmp_path: Path) -> None:
    early, late = training_step(), training_step()
    late.began += 3.6e9
    late.events = [event | {"ts": event["ts"] + 3.6e9} for event in late.events]
    one, other = imported(early, tmp_path), imported(late, tmp_path)
    for name in ("queue", "kind", "before", "after"):
        assert (getattr(one, name) == getattr(other, name)).all()
    assert np.abs(one.seconds - other.seconds).max() < 1e-8  # stamps of hours have no more digits


def test_a_launch_reaches_its_kernel(tmp_path: Path) -> None:
    step = Profiled()
    step.kernel("gemm", 50.0)
    step.now += 200.0
    step.kernel("gemm", 50.0)
    rank = imported(step, tmp_path)
    host = [node for node in range(rank.nodes) if rank.kind[node] == HOST]
    first, second = named(rank, "gemm")
    assert {(host[0], first), (host[1], second)} <= edges(rank)
    assert rank.seconds[host[0]] == pytest.approx(OVERHEAD * US)
    assert rank.seconds[host[1]] == pytest.approx(206.0 * US)


def test_a_faster_device_does_not_hurry_its_host(tmp_path: Path) -> None:
    """What waits for launches keeps its pace; what waits for the device does not."""
    rank = imported(training_step(), tmp_path)
    before = starts_by_hand(rank)
    rank.seconds[rank.kind != HOST] /= 1e3
    after = starts_by_hand(rank)
    assert after.max() < before.max() / 2
    assert after.max() > rank.seconds[rank.kind == HOST].sum() * 0.8


@pytest.mark.parametrize("told", [True, False])
def test_streams_wait_for_each_other(tmp_path: Path, told: bool) -> None:
    rank = imported(training_step(world=2, told=told), tmp_path)
    sums, made = named(rank, "AllReduce"), named(rank, "wgrad")
    update = named(rank, "adam")[0]
    assert {*zip(made, sums, strict=True), (sums[-1], update)} <= edges(rank)


@pytest.mark.parametrize("told", [True, False])
def test_the_host_waits_for_a_stream(tmp_path: Path, told: bool) -> None:
    rank = imported(training_step(told=told), tmp_path)
    back = named(rank, "cudaStreamSynchronize")[0]
    assert (named(rank, "adam")[0], back) in edges(rank)
    assert rank.seconds[back] == pytest.approx(3.0 * US)


def test_threads_take_turns(tmp_path: Path) -> None:
    """The pass of another thread is waited for, and not slept through."""
    step = Profiled()
    step.kernel("gemm_forward", 20.0)
    step.now += 5.0
    for _ in range(3):
        step.kernel("gemm_backward", 20.0, thread=2)
    step.now += 5.0
    step.kernel("adam", 20.0)
    rank = imported(step, tmp_path)
    host = rank.seconds[rank.kind == HOST][:-1]  # the last one goes on to the end of the step
    assert host.max() == pytest.approx(11.0 * US)


def test_collectives_say_what_they_are(tmp_path: Path) -> None:
    files = [training_step(rank, 4).write(tmp_path / f"{rank}.json") for rank in (2, 0)]
    recording = import_kineto(files).recording
    assert [rank.rank for rank in recording.ranks] == [0, 2]
    assert recording.world == 4
    assert recording.groups[0].ranks == (0, 1, 2, 3)
    for rank in recording.ranks:
        assert [(each.kind, each.group, each.sequence, each.bytes) for each in rank.collectives] == [
            ("all_reduce", 0, number, 8e6) for number in range(3)
        ]
        assert all(rank.kind[each.node] == COLLECTIVE for each in rank.collectives)
    assert any("2 of 4 ranks have no file" in remark for remark in recording.remarks)


def test_kinds_of_kernels() -> None:
    kinds = {
        "flash_fwd_kernel<Flash_fwd_kernel_traits>": ATTENTION,
        "Cijk_Ailk_Bljk_BBS_BH_MT128x128": PRODUCT,
        "nvjet_hsh_128x256": PRODUCT,
        "cutlass_80_wmma_tensorop_bf16": PRODUCT,
        "void at::native::vectorized_elementwise_kernel<4>": MEMORY,
        "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL": COLLECTIVE,
        "void mystery<int>": OTHER,
    }
    assert {name: kind_of_kernel(name, "kernel") for name in kinds} == kinds


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    step = Profiled()
    step.event("kernel", "mystery", 50.0, 10.0, (0, 7), device=0, stream=7, correlation=7777)
    step.kernel("gemm", 10.0, after=400.0)
    remarks = import_kineto([step.write(tmp_path / "a.json")]).remarks
    assert any("1 kernels have no launch in the file" in each for each in remarks)
    assert any("1 kernels began more than 0.1 ms after all that they wait for" in each for each in remarks)
    assert any("mystery" in each for each in remarks)


def test_a_step_is_chosen(tmp_path: Path) -> None:
    file = training_step().write(tmp_path / "a.json", 5)
    assert import_kineto([file], step=5).recording.ranks[0].nodes > 10
    with pytest.raises(ConfigError, match=r"step 6 is not in it; steps: 5"):
        import_kineto([file], step=6)


def test_what_is_imported_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rank0.json.gz"
    file.write_bytes(gzip.compress(json.dumps(training_step(world=2).content()).encode()))
    target = tmp_path / "step.yaml"
    assert call(["import", "kineto", str(file), "-o", str(target), "--recorded-on", "h100-sxm"]) == 0
    recording = read_recording(tmp_path / "step.jsonl.gz")
    assert list(recording_text(recording)) == list(recording_text(import_kineto([file]).recording))
    assert "recorded_on: h100-sxm" in target.read_text(encoding="utf-8")
    assert "wrote" in capsys.readouterr().err


def _cut(text: str) -> str:
    return text[: len(text) * 2 // 3]


DAMAGE = {
    "cut": (_cut, "ends in the middle of"),
    "a sign": (lambda text: text.replace('"ph": "X"', '"ph": X', 1), "is damaged"),
    "no list": (lambda text: text.replace("traceEvents", "events"), "has no list 'traceEvents'"),
    "empty": (lambda text: "", "is empty"),
    "text": (lambda text: "hello", "holds no JSON object"),
    "no devices": (lambda text: text.replace('"cat": "kernel"', '"cat": "cpu"'), "nothing that ran on a device"),
    "between": (lambda text: text.replace("}, {", "} {", 1), "between two"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_nothing_written(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, reason = DAMAGE[name]
    file, target = tmp_path / "rank0.json", tmp_path / "step.yaml"
    file.write_text(change(json.dumps(training_step().content())), encoding="utf-8")
    assert call(["import", "kineto", str(file), "-o", str(target)]) == 3
    error = capsys.readouterr().err
    assert reason in error
    assert "rank0.json" in error
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rank0.json"]


def test_files_of_one_rank_twice_are_refused(tmp_path: Path) -> None:
    files = [training_step(world=2).write(tmp_path / f"{name}.json") for name in "ab"]
    with pytest.raises(ConfigError, match=r"b.json: is of rank 0, as .*a.json is"):
        import_kineto(files)


def test_a_packed_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json.gz"
    file.write_bytes(gzip.compress(json.dumps(training_step().content()).encode())[:-30])
    with pytest.raises(ConfigError, match=r"a.json.gz: .*cannot be read|a.json.gz.*ends in the middle"):
        import_kineto([file])


def test_what_is_missing_on_disk_is_told(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.json", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigError, match=reason):
            import_kineto([path])


@pytest.mark.parametrize(
    ("key", "value"), [("ts", "soon"), ("dur", -1.0), ("dur", None), ("args", [1]), ("ts", float("inf")), ("name", 3)]
)
def test_wrong_types_are_counted(tmp_path: Path, key: str, value: Any) -> None:
    content = training_step().content()
    kernel = next(event for event in content["traceEvents"] if event["cat"] == "kernel")
    kernel[key] = value
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert "1 events without what their kind has" in import_kineto([file]).remarks[0]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Ten megabytes of what is not needed take little more than one window of text."""
    file = tmp_path / "large.json"
    noise = json.dumps({"ph": "X", "cat": "python_function", "name": "f" * 400, "ts": 1, "dur": 1, "pid": 1, "tid": 1})
    kernels = ",".join(map(json.dumps, training_step().content()["traceEvents"]))
    with file.open("w", encoding="utf-8") as out:
        out.write('{"traceEvents": [')
        for _ in range(25_000):
            out.write(noise + ",")
        out.write(f'{kernels}], "distributedInfo": {{"rank": 1, "world_size": 2}}}}')
    tracemalloc.start()
    read = read_kineto(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.stat().st_size > 12e6
    assert peak < 8e6
    assert (read.rank, read.world) == (1, 2)
    about: dict[str, Any] = {}
    assert sum(1 for _ in trace_events(file, about)) == read.events
    assert list(about) == ["distributedInfo"]


def test_occupancy_by_hand() -> None:
    """Computing 0-10 and 12-20, a collective 5-15, a copy 18-22: idle nowhere but from 22 to 30."""
    spans = [(0, 10, "gemm"), (12, 20, "add"), (5, 15, "ncclDevKernel"), (18, 22, "Memcpy"), (30, 31, "add")]
    category = {"Memcpy": "gpu_memcpy"}
    done = [
        DeviceActivity(start, end, name, category.get(name, "kernel"), 0, 7, 1, 1, 0.0, {})
        for start, end, name in spans
    ]
    found = occupancy_of(done)
    assert found[:7] == (31.0, 19.0, 10.0, 4.0, 8.0, 4.0, 8.0)
    assert found.kinds == {
        "computation": 9.0, "communication": 2.0, "computation and communication": 8.0, "memory": 2.0,
        "computation and memory": 2.0,
    }  # fmt: skip
    assert sum(found.kinds.values()) + found.idle == found.span


# --- real traces, if there are any --------------------------------------------------------------------

# HolisticTraceAnalysis 0.5.0 of the same files: idle, compute, non-compute, kernel time [us], overlap [%]. It leaves
# out the last of several steps, and cuts times to whole microseconds.
HTA = {
    "alexnet": (12_929_684, 10_637, 55_690, 12_996_011, None),
    "amd_mi250": (8_780, 96, 35, 8_911, None),
    "ddp128_sampled_rank0": (321_378, 106_252, 172_428, 600_058, 11.81),
    "event_sync_multi_stream": (19_132, 371, 3, 19_506, None),
    "nccl_2rank_rank0": (338_781, 75_169, 21_636, 435_586, 14.31),
}


def analysed(name: str) -> Occupancy:
    """What we say of the steps that HolisticTraceAnalysis looks at, of times as it cuts them."""
    file = read_kineto(Path(SAMPLES) / f"{name}.json.gz")
    steps = [choose_step(file, mark.number) for mark in (file.steps[:-1] or file.steps)]
    chosen = [each for step in steps if step for each in StepReader(file, step).activity.values()]
    whole = chosen if file.steps else file.activities
    return occupancy_of(
        each._replace(start=ceil(each.start), end=max(floor(each.end), ceil(each.start))) for each in whole
    )


@with_samples
@pytest.mark.parametrize("name", HTA)
def test_real_traces_are_analysed_as_by_holistic_trace_analysis(name: str) -> None:
    idle, compute, other, span, overlap = HTA[name]
    found = analysed(name)
    for mine, theirs in ((found.idle, idle), (found.computing, compute), (found.other, other), (found.span, span)):
        assert abs(mine - theirs) <= 0.01 * span
    if overlap is not None:
        assert 100 * found.overlap_share == pytest.approx(overlap, rel=0.01)


@with_samples
@pytest.mark.parametrize("name", HTA)
def test_real_traces_run_as_they_were_recorded(name: str) -> None:
    recording = import_kineto([Path(SAMPLES) / f"{name}.json.gz"]).recording
    for rank in recording.ranks:
        device = rank.kind != HOST
        error = np.abs(starts_by_hand(rank) - rank.start)[device] / rank.step
        assert np.quantile(error, 0.95) < 0.02
