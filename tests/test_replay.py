"""Recorded steps, run again: as they were, on other networks and accelerators, with more replicas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kineto_files import Profiled, starts_by_hand, training_step

from sim.ask.run.simulate import predict, simulate
from sim.ask.run.step import simulate_step
from sim.ask.run.timeline import default_ranks, simulated_for_timeline, window, write_profiler_traces
from sim.ask.run.together import simulate_together
from sim.cli.app import call
from sim.errors import ConfigError
from sim.imports.kineto import import_kineto
from sim.inputs.load import load_experiment
from sim.inputs.recording import HOST, Recording, recording_text
from sim.metrics.pictures import pictures
from sim.metrics.result import Result
from sim.programs.replay import replayed_nodes
from sim.report.page.run import run_page
from sim.report.text import report_text

H100 = {"name": "pair", "node": "dgx-h100", "nodes": 1, "fabric": {"kind": "switch"}}


def written(recording: Recording, folder: Path, **said: Any) -> dict[str, Any]:
    """The workload of a recording, whose file is written."""
    file = folder / "step.jsonl"
    file.write_text("".join(recording_text(recording)), encoding="utf-8")
    return {"kind": "trace", "name": "step", "recording": str(file), "ranks": recording.world} | said


def profiled(folder: Path, ranks: int = 2, world: int = 2, slow: dict[int, float] | None = None) -> Recording:
    """A training step of some ranks, those in `slow` with slower kernels."""
    steps = [training_step(rank, world, slow=(slow or {}).get(rank, 1.0)) for rank in range(ranks)]
    return import_kineto([step.write(folder / f"{step.rank}.json") for step in steps]).recording


def replay(workload: dict[str, Any], *changes: str, cluster: Any = H100) -> Result:
    """What a replay comes to."""
    return simulate(load_experiment({"cluster": cluster, "workload": workload}, list(changes)).experiment)


def test_one_rank_runs_as_by_hand(tmp_path: Path) -> None:
    """The engine says of a rank alone what node by node is worked out by hand."""
    recording = profiled(tmp_path, 1, 1)
    experiment = load_experiment({"cluster": H100, "workload": written(recording, tmp_path)}).experiment
    run = simulate_step(experiment)
    begin = replayed_nodes(run.job, run.trace)[0].begin
    rank = recording.ranks[0]
    assert begin == pytest.approx(starts_by_hand(rank), abs=1e-12)
    assert run.trace.time == pytest.approx(rank.step, rel=1e-9)


def test_ranks_run_as_they_were_recorded(tmp_path: Path) -> None:
    result = replay(written(profiled(tmp_path), tmp_path))
    assert result.replay is not None
    assert result.step.time_s == pytest.approx(result.replay.recorded_s, rel=1e-6)
    assert result.replay.start_error["max"] < 1e-6
    assert result.replay.unmatched == 0
    assert not result.replay.changed
    assert result.folding["rank_classes"] == 2  # each does as its own file says


def test_breakdown_sums_to_the_step(tmp_path: Path) -> None:
    step = replay(written(profiled(tmp_path), tmp_path)).step
    assert sum(step.breakdown_s.values()) == pytest.approx(step.time_s, rel=1e-9)
    assert step.breakdown_s["compute"] == pytest.approx(3 * (201 + 40 + 400) * 1e-6 + 1e-4, rel=1e-6)
    assert step.breakdown_s["other"] > 0  # the host
    assert step.breakdown_s["data_comm"] > 0


def test_who_comes_last_sets_the_pace(tmp_path: Path) -> None:
    """A straggler is waited for; without it all take what the median takes."""
    fair = replay(written(profiled(tmp_path, 4, 4), tmp_path)).step.time_s
    slowed = profiled(tmp_path, 4, 4, {2: 1.5})
    slow = replay(written(slowed, tmp_path)).step.time_s
    removed = replay(written(slowed, tmp_path, stragglers="removed")).step.time_s
    assert slow > 1.2 * fair
    assert removed == pytest.approx(fair, rel=1e-3)


def test_a_straggler_is_added(tmp_path: Path) -> None:
    workload = written(profiled(tmp_path), tmp_path)
    fair = replay(workload).step.time_s
    slow = replay(workload, "degradations=[{accelerator: node0/gpu1, factor: 0.5}]").step.time_s
    assert slow > 1.5 * fair


def test_a_network_is_another(tmp_path: Path) -> None:
    """Sums of 8 MB: NVLink beats 100 Gb/s between nodes, which a quarter of that is slower than."""
    workload = written(profiled(tmp_path), tmp_path, collectives="modelled")
    apart = H100 | {"nodes": 2}
    near = replay(workload)
    far = [
        replay(
            workload,
            "parallelism.placement=[0, 8]",
            f"cluster.node.nics.bandwidth={rate} Gb/s",
            "cluster.node.nics.count=1",
            cluster=apart,
        )
        for rate in (100, 25)
    ]
    times = [each.step.time_s for each in (near, *far)]
    assert times == sorted(times)
    assert far[1].step.breakdown_s["data_comm"] > 2 * far[0].step.breakdown_s["data_comm"]
    assert near.utilization.links
    assert near.replay is not None
    assert near.replay.changed


def test_a_slow_link_is_felt(tmp_path: Path) -> None:
    workload = written(profiled(tmp_path), tmp_path, collectives="modelled")
    cluster = H100 | {"nodes": 2}
    fair = replay(workload, "parallelism.placement=[0, 8]", cluster=cluster)
    name = next(use.name for use in fair.utilization.links if "nic" in use.kind)
    slow = replay(
        workload,
        "parallelism.placement=[0, 8]",
        f"degradations=[{{link: '{name}', factor: 0.05}}]",
        cluster=cluster,
    )
    assert slow.step.time_s > fair.step.time_s


def test_the_model_prices_what_was_recorded(tmp_path: Path) -> None:
    """A collective takes what the model of the cluster says of its size in its group."""
    recording = profiled(tmp_path)
    experiment = load_experiment({"cluster": H100, "workload": written(recording, tmp_path, collectives="modelled")})
    run = simulate_step(experiment.experiment)
    flow = next(number for number, each in enumerate(run.job.flows) if each.carrier == "ring")
    alone = run.job.seconds(flow, "all_reduce", 8e6)
    assert run.readings.replay is not None
    nodes = replayed_nodes(run.job, run.trace)[0]
    mine = [nodes.end[each.node] - nodes.begin[each.node] for each in nodes.recorded.collectives]
    assert min(mine) == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize(("ranks", "classes"), [(8, 2), (16, 2)])
def test_replicas_are_repeated(tmp_path: Path, ranks: int, classes: int) -> None:
    """More data-parallel ranks do as those recorded; two files, two kinds of ranks, and all sums over all."""
    workload = written(profiled(tmp_path), tmp_path)
    few, many = replay(workload), replay(workload, f"parallelism.data={ranks}", cluster=H100 | {"nodes": 2})
    assert many.accelerators == ranks
    assert many.folding["rank_classes"] == classes
    assert many.step.time_s == pytest.approx(few.step.time_s, rel=1e-9)  # collectives take their recorded time
    assert any("weak scaling" in each for each in many.notes)


def test_folding_is_exact(tmp_path: Path) -> None:
    workload = written(profiled(tmp_path), tmp_path, collectives="modelled")
    changes = "parallelism.data=12", "simulation.reuse=off"
    cluster = H100 | {"nodes": 2}
    folded = replay(workload, *changes, cluster=cluster)
    whole = replay(workload, *changes, "simulation.fold=off", cluster=cluster)
    assert whole.folding["rank_classes"] == 12
    assert folded.folding["rank_classes"] < 12
    assert folded.step.time_s == pytest.approx(whole.step.time_s, rel=1e-9)
    assert folded.energy is not None
    assert whole.energy is not None
    assert folded.energy.total_kwh == pytest.approx(whole.energy.total_kwh, rel=1e-9)


def two_by_two(folder: Path, ranks: tuple[int, ...] = (0, 1, 2, 3)) -> Recording:
    """Two replicas of two ranks: sums inside a replica after each product, then over replicas."""
    files = []
    for rank in ranks:
        step = Profiled(rank, 4)
        inside, across = (rank // 2 * 2, rank // 2 * 2 + 1), (rank % 2, rank % 2 + 2)
        for _ in range(3):
            made = step.kernel("gemm", 100.0)
            step.wait(20, 7)
            summed = step.all_reduce(1_000_000, 30.0, made + 3.0, inside)
            step.wait(7, 20)
            step.kernel("elementwise", 20.0, after=summed + 3.0)
        step.wait(20, 7)
        step.all_reduce(9_000_000, 200.0, step.free[7] + 3.0, across)
        files.append(step.write(folder / f"{rank}.json"))
    return import_kineto(files).recording


def test_groups_of_two_kinds_are_repeated(tmp_path: Path) -> None:
    """Sums inside replicas are copied, those over replicas go over all of them."""
    workload = written(two_by_two(tmp_path), tmp_path, collectives="modelled")
    cluster = H100 | {"nodes": 2}
    experiment = load_experiment(
        {"cluster": cluster, "workload": workload}, ["parallelism.tensor=2", "parallelism.data=8"]
    ).experiment
    run = simulate_step(experiment)
    sizes = sorted({(each.group.size, each.group.nodes) for each in run.job.flows})
    assert sizes == [(2, 1), (8, 2)]
    assert run.readings.replay is not None
    assert run.readings.replay.unmatched == 0


def test_what_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    workload = written(two_by_two(tmp_path), tmp_path)
    with pytest.raises(ConfigError, match="neither inside a replica of 1 nor over all"):
        replay(workload, "parallelism.data=8")


def test_ranks_without_a_file_do_as_one_that_has(tmp_path: Path) -> None:
    """One replica of two is enough; a rank of each is not, where both kinds of groups meet."""
    whole = replay(written(two_by_two(tmp_path), tmp_path), "parallelism.tensor=2").step.time_s
    part = replay(written(two_by_two(tmp_path, (0, 1)), tmp_path), "parallelism.tensor=2")
    assert part.step.time_s == pytest.approx(whole, rel=1e-9)
    assert part.replay is not None
    assert part.replay.unmatched == 0


@pytest.mark.parametrize(("chip", "slower"), [("a100-sxm-80gb", (1.5, 3.5)), ("b200", (0.3, 0.8))])
def test_kernels_run_on_other_accelerators(tmp_path: Path, chip: str, slower: tuple[float, float]) -> None:
    node = {"a100-sxm-80gb": "dgx-a100", "b200": "dgx-b200"}[chip]
    recording = profiled(tmp_path, 1, 1)
    workload = written(recording, tmp_path, kernels="rescaled", recorded_on="h100-sxm")
    here = replay(workload)
    there = replay(workload, cluster=H100 | {"node": node})
    assert here.step.time_s == pytest.approx(recording.step, rel=1e-6)  # as it was, where it was recorded
    assert here.replay is not None
    assert there.replay is not None
    products = there.replay.kinds["products"]
    assert slower[0] < products.replayed_s / products.recorded_s < slower[1]


def test_a_host_without_time_shows_the_devices(tmp_path: Path) -> None:
    recording = profiled(tmp_path, 1, 1)
    bare = replay(written(recording, tmp_path, host=0.0))
    rank = recording.ranks[0]
    device = rank.kind != HOST
    assert bare.step.time_s == pytest.approx(float((rank.seconds + rank.lag)[device].sum()), rel=1e-6)


def test_energy_is_that_of_what_ran(tmp_path: Path) -> None:
    workload = written(profiled(tmp_path), tmp_path)
    result = replay(workload)
    assert result.energy is not None
    chip = load_experiment({"cluster": H100, "workload": workload}).accelerator
    assert chip.power.idle < result.energy.accelerator_power_w < chip.power.tdp
    assert result.energy.phases_kwh["matrix"] > result.energy.phases_kwh["memory"] > 0


def test_it_shares_a_cluster(tmp_path: Path) -> None:
    """Beside a job that uses the same links, a replay with modelled collectives takes longer."""
    workload = written(profiled(tmp_path), tmp_path, collectives="modelled")
    cluster = H100 | {"nodes": 2}
    places = [(0, 8), (1, 9)]
    slow = ["cluster.node.nics.count=1", "cluster.node.nics.bandwidth=50 Gb/s"]
    experiments = [
        load_experiment(
            {"cluster": cluster, "workload": workload, "name": f"job{number}"},
            [*slow, f"parallelism.placement={list(place)}"],
        ).experiment
        for number, place in enumerate(places)
    ]
    alone = simulate_together(experiments[:1], [1]).jobs[0].step_s[0]
    both = simulate_together(experiments, [1, 1]).jobs[0].step_s[0]
    assert both > 1.1 * alone


def test_reports_show_both(tmp_path: Path) -> None:
    experiment = load_experiment({"cluster": H100, "workload": written(profiled(tmp_path), tmp_path)}).experiment
    result = predict(experiment).result
    text = report_text(result)
    assert "Recorded and replayed" in text
    assert "all-reduce" in text
    assert "MFU" not in text
    assert "FITS" not in text
    page = run_page(result, None, "input")
    assert "recorded step" in page
    assert json.loads(json.dumps(result.to_json()))["replay"]["changed"] is False


def test_files_are_looked_at_again(tmp_path: Path) -> None:
    """A recording that changes is another step, though its name is the same."""
    workload = written(profiled(tmp_path), tmp_path)
    first = replay(workload).step.time_s
    written(profiled(tmp_path, slow={0: 2.0}), tmp_path)
    assert replay(workload).step.time_s > first


def test_mistakes_are_told(tmp_path: Path) -> None:
    workload = written(profiled(tmp_path), tmp_path)
    for change, reason in (
        ({"ranks": 3}, "is of 2 ranks, not 3"),
        ({"recording": str(tmp_path / "none.jsonl")}, "no such file"),
        ({"kernels": "rescaled"}, "this key is required to rescale kernels"),
        ({"host": -1.0}, "host"),
    ):
        with pytest.raises(ConfigError, match=reason):
            replay(workload | change)
    for key, reason in (
        ("parallelism.pipeline=2", "is run whole"),
        ("parallelism.zero_stage=3", "is divided as it was recorded"),
        ("training.recompute=full", "is run as it was recorded"),
        ("training.compression.kind=fp16", "is run as it was recorded"),
    ):
        with pytest.raises(ConfigError, match=f"a recorded step {reason}"):
            replay(workload, key)


def test_verbs_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From profiles to a run, a page, what it hangs on, a sweep over networks, and a timeline of both."""
    profiled(tmp_path)
    step, file = tmp_path / "step.yaml", tmp_path / "replay.yaml"
    assert call(["import", "kineto", str(tmp_path / "0.json"), str(tmp_path / "1.json"), "-o", str(step)]) == 0
    file.write_text("cluster: {name: pair, node: dgx-h100, nodes: 2, fabric: {kind: switch}}\nworkload: step.yaml\n")
    assert call(["run", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replay"]["unmatched"] == 0
    assert call(["run", str(file), "-o", str(tmp_path / "kept")]) == 0
    assert call(["report", str(tmp_path / "kept"), "--html", str(tmp_path / "page.html")]) == 0
    assert "Recorded and replayed" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert call(["timeline", str(file), "-o", str(tmp_path / "both.json")]) == 0
    events = json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert any("as recorded" in name for name in names)


@pytest.mark.parametrize("name", ["resnet50-dgx-a100", "small-graph"])
def test_our_own_timeline_comes_back(tmp_path: Path, name: str) -> None:
    """A step of ours, written as a profiler would and imported, takes as long as it did."""
    experiment = load_experiment(name).experiment
    run = simulated_for_timeline(experiment)
    ranks = default_ranks(run)
    files = write_profiler_traces(run, window(run, ranks), tmp_path)
    recording = import_kineto(files).recording
    cluster = H100 | {"nodes": -(-recording.world // 8)}
    again = replay(written(recording, tmp_path), cluster=cluster)
    assert again.step.time_s == pytest.approx(run.trace.time, rel=1e-6)
    assert again.replay is not None
    assert again.replay.start_error["max"] < 1e-6


def test_the_hand_counts_collectives_once(tmp_path: Path) -> None:
    """A hundred collectives of a group are one after the other, whichever the order of their launches."""
    files = []
    for rank in range(2):
        step = Profiled(rank, 2)
        for number in range(100):
            step.all_reduce(1000 * (1 + number), 20.0, step.free.get(20, 0.0) + 2.0)
        files.append(step.write(tmp_path / f"{rank}.json"))
    result = replay(written(import_kineto(files).recording, tmp_path))
    assert result.replay is not None
    assert result.replay.kinds["all-reduce"].nodes == 200
    assert result.replay.start_error["max"] < 1e-6


def test_it_waits_for_its_data(tmp_path: Path) -> None:
    """A slow input pipeline comes at the end of a replayed step too."""
    workload = written(profiled(tmp_path), tmp_path)
    fair = replay(workload)
    storage = {"name": "slow", "read_bandwidth": "100 MB/s", "write_bandwidth": "100 MB/s"}
    slow = replay(workload, "input={record: 1 MB}", cluster=H100 | {"storage": storage})
    assert slow.step.breakdown_s["input_stall"] > 0
    assert slow.step.time_s == pytest.approx(fair.step.time_s + slow.step.breakdown_s["input_stall"], rel=1e-9)
    assert slow.replay is not None
    assert slow.replay.start_error["max"] < 1e-6


def test_the_page_draws_both(tmp_path: Path) -> None:
    """A row for the replay and one for the recording, which are the same where nothing is other than it was."""
    experiment = load_experiment({"cluster": H100, "workload": written(profiled(tmp_path), tmp_path)}).experiment
    result = predict(experiment).result
    run = simulated_for_timeline(experiment)
    drawn = pictures(run.trace, run.plan, run.job, run.cluster)
    assert drawn.pipeline.rows == ("replayed", "recorded")
    replayed, recorded = drawn.pipeline.activity
    assert sum(one != other for one, other in zip(replayed, recorded, strict=True)) < 0.01 * len(replayed)
    assert {"idle", "products", "all-reduce"} <= set(drawn.pipeline.kinds)
    assert "Both ways" in run_page(result, drawn, "input")


def test_ranks_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    """Two groups of the same ranks, used in turn by one and the other way round by the other: no step ever ran so."""
    files = []
    for rank in range(2):
        step = Profiled(rank, 2)
        for group in ("a", "b") if rank == 0 else ("b", "a"):
            step.all_reduce(1000, 20.0)
            step.events[-1]["args"]["Process Group Name"] = group
        files.append(step.write(tmp_path / f"{rank}.json"))
    workload = written(import_kineto(files).recording, tmp_path)
    with pytest.raises(ConfigError, match="ranks wait for each other for ever"):
        replay(workload, "simulation.reuse=off")


def test_groups_of_the_same_ranks_are_told_apart(tmp_path: Path) -> None:
    """The first sum of one is not the first of the other, though both are of all ranks."""
    files = []
    for rank in range(2):
        step = Profiled(rank, 2)
        for group, elements in (("a", 1000), ("b", 2_000_000), ("b", 3_000_000), ("a", 4000)):
            step.all_reduce(elements, 20.0, step.free.get(20, 0.0) + 2.0)
            step.events[-1]["args"]["Process Group Name"] = group
        files.append(step.write(tmp_path / f"{rank}.json"))
    workload = written(import_kineto(files).recording, tmp_path)
    result = replay(workload)
    assert result.replay is not None
    assert result.replay.unmatched == 0
    assert result.replay.start_error["max"] < 1e-6
    assert replay(workload | {"collectives": "modelled"}).utilization.links[0].bytes > 0
