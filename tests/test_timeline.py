"""Timelines: spans that nest, arrows that connect, counters that stay below capacity, readers that agree."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from sim.ask.run.simulate import simulate
from sim.ask.run.step import Simulated
from sim.ask.run.timeline import parse_ranks, simulated_for_timeline, window, write_profiler_traces
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from sim.metrics.breakdown import rank_time
from sim.report.timeline import chrome_events, profiler_trace, write_events
from support import Cli

CHANGES = [
    "parallelism.tensor=2", "parallelism.pipeline=2", "training.recompute=full", "training.global_batch=16",
]  # fmt: skip
Event = dict[str, Any]


@pytest.fixture(scope="module")
def run() -> Simulated:
    """Eight ranks: tensor 2, data 2, pipeline 2."""
    return simulated_for_timeline(load_experiment("quickstart", CHANGES).experiment)


@pytest.fixture(scope="module")
def events(run: Simulated) -> list[Event]:
    return list(chrome_events(window(run, range(8))))


def test_drawing_it_does_not_change_the_step(run: Simulated) -> None:
    step = simulate(load_experiment("quickstart", CHANGES).experiment).step
    assert run.trace.time == pytest.approx(step.time_s, rel=1e-9)


class TestChrome:
    def test_every_event_has_what_its_phase_needs(self, events: list[Event]) -> None:
        """The required fields of the Trace Event Format."""
        needed = {
            "X": {"pid", "tid", "ts", "dur", "name", "cat"}, "M": {"pid", "name", "args"},
            "C": {"pid", "ts", "name", "args"}, "s": {"pid", "tid", "ts", "id", "name", "cat"},
            "f": {"pid", "tid", "ts", "id", "name", "cat", "bp"},
        }  # fmt: skip
        assert {event["ph"] for event in events} == set(needed)
        for event in events:
            assert needed[event["ph"]] <= set(event)
            assert event.get("ts", 0) >= 0
            assert event.get("dur", 0) >= 0

    def test_spans_nest(self, events: list[Event]) -> None:
        tracks = defaultdict(list)
        for event in events:
            if event["ph"] == "X":
                tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        for spans in tracks.values():
            open_until: list[float] = []
            for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
                while open_until and open_until[-1] <= start + 1e-5:
                    open_until.pop()
                assert not open_until or end <= open_until[-1] + 1e-5
                open_until.append(end)

    def test_one_process_for_each_rank_with_its_place(self, events: list[Event]) -> None:
        names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
        assert names[5] == "rank 5 on node0/gpu5"
        assert {0, 1, 2, 3, 4, 5, 6, 7} < set(names)

    def test_arrows_go_from_a_send_to_a_later_use_on_the_next_stage(self, events: list[Event]) -> None:
        ends = {(event["id"], event["ph"]): event for event in events if event["ph"] in "sf"}
        starts = [event for (_, phase), event in ends.items() if phase == "s"]
        microbatches, replicas, tensor = 16 // 2, 2, 2
        assert len(starts) == 2 * microbatches * replicas * tensor  # forward and backward
        for start in starts:
            end = ends[start["id"], "f"]
            assert end["ts"] >= start["ts"]
            assert abs(end["pid"] - start["pid"]) == 4

    def test_link_loads_stay_within_capacity_and_end_at_zero(self, events: list[Event]) -> None:
        loads = defaultdict(list)
        for event in events:
            if event["ph"] == "C":
                loads[event["name"]].append(event["args"]["load"])
        assert loads
        assert all(0 <= share <= 100.01 for shares in loads.values() for share in shares)
        assert all(shares[-1] == pytest.approx(0, abs=1e-3) for shares in loads.values())

    def test_a_window_keeps_what_reaches_into_it(self, run: Simulated) -> None:
        begin, end = 0.3 * run.trace.time, 0.4 * run.trace.time
        shown = window(run, [0, 4], begin, end)
        whole = window(run, [0, 4])
        wanted = [span for span in whole.spans if span.end > begin and span.start < end]
        assert list(shown.spans) == wanted
        assert 0 < len(shown.spans) < len(whole.spans)


class TestFiles:
    def test_a_cap_leaves_no_file(self, tmp_path: Path, events: list[Event]) -> None:
        with pytest.raises(ConfigError, match="show fewer ranks"):
            write_events(iter(events), tmp_path / "t.json", 1000)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
    def test_the_file_is_json(self, tmp_path: Path, events: list[Event], name: str) -> None:
        size = write_events(iter(events), tmp_path / name, 1e9)
        data = (tmp_path / name).read_bytes()
        text = gzip.decompress(data) if name.endswith("gz") else data
        assert json.loads(text)["traceEvents"] == events
        assert size == pytest.approx(len(text), abs=100)

    def test_the_command(self, cli: Cli, tmp_path: Path) -> None:
        file = tmp_path / "new" / "t.json"
        changes = [part for change in CHANGES for part in ("--set", change)]
        outcome = cli("timeline", "quickstart", *changes, "--ranks", "0,4..5", "--to", "100 ms", "-o", file)
        assert (outcome.code, outcome.out) == (0, "")
        assert "3 ranks" in outcome.err
        assert "perfetto" in outcome.err
        assert json.loads(file.read_text())["traceEvents"]

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            (["--ranks", "7,x"], 2, "0,8,16..23"),
            (["--ranks", "8"], 3, "the job has ranks 0 to 7"),
            (["--from", "3"], 2, "unit"),
            (["--from", "3 s", "--to", "2 s"], 2, "ends before"),
            (["--max-size", "1 kB"], 3, "allow more"),
        ],
    )
    def test_wrong_options_are_explained(
        self, cli: Cli, tmp_path: Path, options: list[str], code: int, words: str
    ) -> None:
        outcome = cli("timeline", "quickstart", *options, "-o", tmp_path / "t.json")
        assert outcome.code == code
        assert words in outcome.err
        assert not (tmp_path / "t.json").exists()


def test_lists_of_ranks() -> None:
    assert parse_ranks("0, 8,16..18,8") == [0, 8, 16, 17, 18]


# --- profiler traces --------------------------------------------------------------------------


def union(spans: list[tuple[float, float]]) -> float:
    """Length covered by intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def kernels(trace: dict[str, Any], communicating: bool) -> list[tuple[float, float]]:
    return [
        (event["ts"], event["ts"] + event["dur"])
        for event in trace["traceEvents"]
        if event.get("cat") == "kernel" and event["name"].startswith("nccl") == communicating
    ]


@pytest.mark.parametrize("rank", [0, 4])
def test_kernels_add_up_to_the_breakdown(run: Simulated, rank: int) -> None:
    shown = window(run, [rank])
    trace = profiler_trace(shown, rank, 8, "h100-sxm")
    mine = rank_time(run.trace, int(run.plan.partition.rank[rank]))
    computing, communicating = kernels(trace, False), kernels(trace, True)
    compute, comm = union(computing), union(communicating)
    exposed = union([*computing, *communicating]) - compute
    step = run.trace.time * 1e6
    assert compute == pytest.approx(1e6 * (mine.exposed["compute"] + mine.exposed["optimizer"]), rel=1e-3)
    assert exposed == pytest.approx(1e6 * mine.comm_exposed, rel=1e-2)
    assert step - compute - exposed == pytest.approx(1e6 * mine.exposed["bubble"], rel=1e-2)
    assert 1 - exposed / comm == pytest.approx(1 - mine.comm_exposed / mine.comm_total, abs=1e-2)


def test_every_kernel_has_the_call_that_launched_it(run: Simulated) -> None:
    trace = profiler_trace(window(run, [4]), 4, 8, "h100-sxm")
    by_kind: dict[str, list[int]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if "correlation" in event.get("args", {}) and event["cat"] in ("kernel", "cuda_runtime"):
            by_kind[event["cat"]].append(event["args"]["correlation"])
    assert sorted(by_kind["kernel"]) == sorted(by_kind["cuda_runtime"])
    assert len(set(by_kind["kernel"])) == len(by_kind["kernel"])


@pytest.mark.filterwarnings("ignore")  # of the libraries it uses
def test_holistic_trace_analysis_agrees(run: Simulated, tmp_path: Path) -> None:
    """An independent reader of profiler traces; it rounds times to whole microseconds."""
    hta = pytest.importorskip("hta.trace_analysis", reason="HolisticTraceAnalysis is not installed")
    write_profiler_traces(run, window(run, range(8)), tmp_path)
    analysis = hta.TraceAnalysis(trace_dir=str(tmp_path))
    breakdown = analysis.get_temporal_breakdown(visualize=False).set_index("rank")
    overlap = analysis.get_comm_comp_overlap(visualize=False).set_index("rank")
    assert list(breakdown.index) == list(range(8))
    for rank in (0, 4):
        mine = rank_time(run.trace, int(run.plan.partition.rank[rank]))
        seconds = run.trace.time
        ours = {
            "compute_time_pctg": (mine.exposed["compute"] + mine.exposed["optimizer"]) / seconds,
            "non_compute_time_pctg": mine.comm_exposed / seconds,
            "idle_time_pctg": mine.exposed["bubble"] / seconds,
        }
        for name, share in ours.items():
            assert breakdown.loc[rank, name] == pytest.approx(100 * share, abs=1.0)
        hidden = 100 * (1 - mine.comm_exposed / mine.comm_total)
        assert overlap.loc[rank, "comp_comm_overlap_pctg"] == pytest.approx(hidden, abs=1.0)
