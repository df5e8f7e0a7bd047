"""Recorded faults, replayed: nodes are down exactly when the log says so."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lives import DAY, constant, failures, job, recovery, saving

from sim.errors import ConfigError
from sim.inputs.fault_log import Outage
from sim.inputs.fault_log import read_fault_log as read_log
from sim.inputs.reliability import FaultLog
from sim.life.life import live
from sim.life.life_inputs import called

RECORDED = Path(os.environ.get("CLUSTERSIM_FAULT_LOG", "no such file"))


def event(node: str, day: float, kind: str, cause: str = "GPU") -> dict[str, Any]:
    """One entry of a log in the format of InfiniteHBD."""
    return {
        "node_id": node,
        "event_time": day,
        "event_type": kind,
        "fault_type": {"Level": "Hardware Failure", "Class": cause, "Desc": f"{cause} broke"},
    }


SMALL = [
    event("b", 1.0, "fault_start"),
    event("a", 2.0, "fault_start"),
    event("a", 2.5, "fault_start", "Fan"),
    event("b", 3.0, "fault_end"),
    event("b", 3.0, "fault_start", "NIC"),
    event("a", 4.0, "fault_end", "Fan"),
    event("b", 3.25, "fault_end", "NIC"),
    event("a", 3.5, "fault_end"),
    event("c", 9.0, "fault_start"),
]


def written(tmp_path: Path, content: Any, name: str = "log.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read_fault_log(path: Path, **said: Any) -> tuple[Outage, ...]:
    """The log at a path."""
    return read_log(FaultLog.from_si({"file": str(path), "nodes": 400} | said))


def test_reads_starts_and_ends(tmp_path: Path) -> None:
    outages = read_fault_log(written(tmp_path, SMALL))
    days = [(o.start / DAY, o.end / DAY, o.node, o.cause) for o in outages]
    assert days == [
        (1.0, 3.0, 0, "GPU"),
        (2.0, 3.5, 1, "GPU"),
        (2.5, 4.0, 1, "Fan"),
        (3.0, 3.25, 0, "NIC"),
        (9.0, float("inf"), 2, "GPU"),
    ]


def test_reads_plain_csv(tmp_path: Path) -> None:
    text = "node,start_days,end_days,cause\nx,1,2.5,gpu\ny,0.5,,\n"
    assert read_fault_log(written(tmp_path, text, "log.csv")) == (
        Outage(0.5 * DAY, float("inf"), 0, "fault", "y"),
        Outage(1 * DAY, 2.5 * DAY, 1, "gpu", "x"),
    )


OWN = """hostname;down_since;up_since;reason
gpu-a17;2024-05-01T12:30:00;2024-05-02T08:00:00;xid 79
gpu-b03;2024-05-01 14:30:00+02:00;;

gpu-a17;2024-05-03;2024-05-03T00:00:01Z;nic
"""
MAPPED = {"node": "hostname", "start": "down_since", "end": "up_since", "cause": "reason"}


def test_reads_dates_under_headers_of_ones_own(tmp_path: Path) -> None:
    """A date without a zone is of UTC; without `begin` time counts from the first fault."""
    file = written(tmp_path, OWN, "log.csv")
    hour = 3600.0
    expected = (
        Outage(0.0, 19.5 * hour, 0, "xid 79", "gpu-a17"),
        Outage(0.0, float("inf"), 1, "fault", "gpu-b03"),
        Outage(35.5 * hour, 35.5 * hour + 1, 0, "nic", "gpu-a17"),
    )
    assert read_fault_log(file, columns=MAPPED) == expected
    later = tuple(o._replace(start=o.start + 12.5 * hour, end=o.end + 12.5 * hour) for o in expected)
    assert read_fault_log(file, columns=MAPPED, begin="2024-05-01") == later


@pytest.mark.parametrize(
    ("times", "head"),
    [("36 h,2 days", "start,end"), ("129600,172800", "start_s,end_s"), ("36,48", "start_hours,end_hours")],
)
def test_times_have_units(tmp_path: Path, times: str, head: str) -> None:
    (outage,) = read_fault_log(written(tmp_path, f"node,{head}\na,{times}\n", "log.csv"))
    assert (outage.start, outage.end) == (1.5 * DAY, 2 * DAY)


def test_says_everything_that_is_wrong_in_a_table_at_once(tmp_path: Path) -> None:
    text = "node,start,end\na,yesterday,\n,2 h,3 h\nb,2024-05-02,2024-05-01\nc,5,6 h\n"
    with pytest.raises(ConfigError) as error:
        read_fault_log(written(tmp_path, text, "log.csv"))
    places = [(p.where.rpartition("log.csv:")[2], p.message) for p in error.value.problems]
    assert places == [
        ("2:2", "'yesterday' is no time"),
        ("3:1", "names no node"),
        ("4:3", "node b: the fault ends before it starts"),
        ("5:2", "'5' is no time"),
    ]
    assert "36 h" in str(error.value)


@pytest.mark.parametrize(
    ("said", "text", "message"),
    [
        ({"columns": {"node": "host"}}, "hosts,start\n", "did you mean hosts"),
        ({"columns": {"nod": "node"}}, "node,start\n", "did you mean node"),
        ({"begin": "soon"}, "node,start\na,2024-01-01\n", "'soon' is no date"),
        ({"begin": "2025-01-01"}, "node,start\na,2024-01-01\n", "after the first fault"),
        ({}, "node,start\na,2024-01-01\nb,3 h\n", "some times are dates and some are not"),
    ],
)
def test_says_which_key_of_a_log_is_wrong(tmp_path: Path, said: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_fault_log(written(tmp_path, text, "log.csv"), **said)


def struck(outages: tuple[Outage, ...], names: tuple[str, ...]) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Numbers and names of the nodes that stopped a job of two nodes, whose log observed 50."""
    log = failures(log={"file": "", "nodes": 50})
    life = live(replace(job(failures=log, outages=outages, nodes=2, replicas=2), names=names), 0)
    return [(incident.nodes, called(incident.nodes, life.names)) for incident in life.incidents]


def test_a_log_that_names_nodes_of_the_job_strikes_these() -> None:
    outages = tuple(Outage(1000.0 * (i + 1), 1000.0 * i + 1500, i, "gpu", f"host-{i}") for i in range(50))
    assert struck(outages, ("host-7", "host-3")) == [((1,), ("host-3",)), ((0,), ("host-7",))]
    assert struck(outages, ("node0", "node1")) != struck(outages, ("host-7", "host-3"))


def test_incidents_are_told_with_the_names_of_the_log() -> None:
    """Nodes that are dealt by the seed keep their recorded name; the dealing is that of a log without names."""
    outages = tuple(Outage(100.0 * (i + 1), 100.0 * i + 150, i, "gpu", f"host-{i}") for i in range(50))
    bare = tuple(outage._replace(name="") for outage in outages)
    named = struck(outages, ("node0", "node1"))
    assert [nodes for nodes, _ in named] == [nodes for nodes, _ in struck(bare, ("node0", "node1"))] != []
    assert all(name.startswith("host-") for _, names in named for name in names)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("[{", "log.json", "Expecting"),
        ([{"node_id": "a"}], "log.json", "'event_time' is missing"),
        ([event("a", 1.0, "fault_end")], "log.json", "never started"),
        ("node,start_days,end_days\nx,3,1\n", "log.csv", "before it starts"),
        ("node,begin\nx,3\n", "log.csv", "start: this column is missing"),
    ],
)
def test_says_what_is_wrong_with_a_log(tmp_path: Path, content: Any, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_fault_log(written(tmp_path, content, name))


def test_a_missing_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_fault_log(tmp_path / "nothing.json")


def down_time(outages: tuple[Outage, ...], horizon: float) -> float:
    """Node-seconds in which a node has at least one open fault."""
    total = 0.0
    for node in {outage.node for outage in outages}:
        until = 0.0
        for outage in sorted(o for o in outages if o.node == node):
            end = min(outage.end, horizon)
            total += max(0.0, end - max(outage.start, until))
            until = max(until, end)
    return total


def replayed(outages: tuple[Outage, ...], nodes: int, days: float, spares: int) -> float:
    """Node unavailability in a life of a job on most of the nodes, the others being its spares."""
    inputs = job(
        target_steps=1e9,
        nodes=nodes - spares,
        replicas=nodes - spares,
        step_time=constant(10.0),
        failures=failures(log={"file": "", "nodes": nodes}),
        outages=outages,
        recovery=recovery(warm_spares=spares // 2, cold_spares=spares - spares // 2, when_short="shrink"),
        saving=saving(60, blocking=1.0),
        time_limit_s=days * DAY,
    )
    life = live(inputs, 0)
    assert life.productive_s > 0.5 * life.elapsed_s
    return life.node_unavailability


@pytest.mark.parametrize("spares", [0, 1, 4])
def test_replay_gives_the_unavailability_of_the_log(tmp_path: Path, spares: int) -> None:
    """Overlapping faults of a node count once; what is not repaired lasts to the end of the life."""
    outages = read_fault_log(written(tmp_path, SMALL))
    expected = (2.25 + 2.0 + 1.0) / (10 * 10)
    assert down_time(outages, 10 * DAY) / (100 * DAY) == pytest.approx(expected, rel=1e-12)
    assert replayed(outages, 10, 10.0, spares) == pytest.approx(expected, rel=1e-9)


@pytest.mark.skipif(
    not RECORDED.is_file(), reason="CLUSTERSIM_FAULT_LOG does not name the InfiniteHBD fault_trace.json"
)
def test_replay_of_the_recorded_log() -> None:
    """stepfun-ai/InfiniteHBD-Trace: 400 servers, 348 days, 584 faults, 2.32 % of node time down."""
    outages = read_fault_log(RECORDED)
    assert len(outages) == 584
    known = tuple(replace_end(outage, 348 * DAY) for outage in outages if outage.start < 348 * DAY)
    expected = down_time(known, 348 * DAY) / (400 * 348 * DAY)
    assert expected == pytest.approx(0.0232, abs=5e-5)
    assert replayed(outages, 400, 348.0, 40) == pytest.approx(expected, rel=1e-9)


def replace_end(outage: Outage, horizon: float) -> Outage:
    """The outage as far as a life of that length sees it."""
    return outage._replace(end=min(outage.end, horizon))


def test_what_happens_to_a_spare_does_not_stop_the_job() -> None:
    """Of 1,000 observed nodes the job has 16; a node that is dealt to nobody does nothing."""
    outages = tuple(Outage(100.0 * i, 100.0 * i + 50, i, "gpu") for i in range(100))
    log = failures(log={"file": "", "nodes": 1000})
    life = live(replace(job(failures=log, outages=outages), recovery=recovery(warm_spares=100)), 1)
    assert 0 < len(life.incidents) < 10
    assert all(node < 116 for incident in life.incidents for node in incident.nodes)
