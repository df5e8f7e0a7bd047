"""Fleet files: logs by their own columns, messages with their places, outputs, and shipped fleets."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sim.ask.fleet.load import LoadedFleet, load_fleet
from sim.ask.fleet.run import prepare_fleet, run_fleet
from sim.ask.run.step import prepare_step
from sim.ask.run.together import simulate_lasting, simulate_together
from sim.errors import ConfigError
from sim.inputs.catalogue import list_catalogue
from sim.inputs.load import load_experiment
from sim.metrics.fleet import FleetResult
from support import ROOT, Cli

NODES = {"nodes": 2, "node": {"accelerators": 8}}
PLAIN = "name,submit_s,duration_s,gpus,user\na,0,100,8,u\nb,10,50,8,v\n"


def loaded(jobs: object, **more: object) -> LoadedFleet:
    return load_fleet({"cluster": NODES, "jobs": jobs, **more})


def log(folder: Path, text: str, name: str = "jobs.csv", **asked: object) -> list[tuple[str, float, float, int, str]]:
    (folder / name).write_text(text, encoding="utf-8")
    found = loaded({"file": str(folder / name), **asked}).jobs
    return [(job.name, job.submit, job.work, job.gpus, job.user) for job in found]


# --- logs -------------------------------------------------------------------------------------

LOGS = {
    "helios": (
        "job_id,user,vc,jobname,gpu_num,cpu_num,state,submit_time,duration\n"
        "7,u1,vcA,train,8,32,COMPLETED,2020-04-01 00:10:00,120\n8,u2,vcA,eval,0,4,COMPLETED,2020-04-01 00:11:00,5\n"
    ),
    "acme": (
        "job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,start_time,end_time,duration,queue,gpu_time\n"
        "7,u1,1,8,32,Pretrain,COMPLETED,2023-05-01 00:10:00+08:00,2023-05-01 00:11:00+08:00,x,120,60,960\n"
    ),
    "tiresias": "job_id,num_gpu,submit_time,iterations,model_name,duration,interval\n7,8,0,606,vgg19,120,30\n",
    "pai": "job_id,num_gpu,submit_time,duration,user,group\n7,8,0,120,u1,g\n",
    "openb": (
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
        "7,6000,12288,8,1000,,LS,Running,0,140,20\n"
    ),
    "sacct": (
        "JobID|User|Account|Partition|Submit|Elapsed|AllocTRES|State\n"
        "7|u1|lab|gpu|2024-01-01T00:00:00|00:02:00|billing=8,cpu=64,gres/gpu=8,node=1|COMPLETED\n"
        "7.batch|||gpu|2024-01-01T00:00:00|00:02:00|cpu=64,gres/gpu=8|COMPLETED\n"
    ),
    "swf": "; UnixStartTime: 0\n7 0 5 120 8 -1 -1 8 600 -1 1 3 4 -1 1 -1 -1 -1\n",
    "philly": json.dumps(
        [
            {
                "jobid": "7", "vc": "a", "user": "u1", "status": "Pass", "submitted_time": "2017-10-03 00:00:00",
                "attempts": [
                    {
                        "start_time": "2017-10-03 00:01:00", "end_time": "2017-10-03 00:03:00",
                        "detail": [{"ip": "m1", "gpus": [f"gpu{n}" for n in range(8)]}],
                    }
                ],
            }
        ]
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", LOGS)
def test_logs_are_known_by_their_columns(form: str, tmp_path: Path) -> None:
    """One job of 8 boards and two minutes, whoever wrote it; what has no boards, and steps of jobs, are left out."""
    name = {"philly": "log.json", "swf": "log.swf"}.get(form, "log.csv")
    for asked in ({}, {"format": form}):
        rows = log(tmp_path, LOGS[form], name, **asked)
        assert [(row[0], row[1], row[2], row[3]) for row in rows] == [("7", 0, 120, 8)]


def test_a_trace_of_gavel_needs_its_table(tmp_path: Path) -> None:
    text = "Model A\tpython3 train.py\t-n\t1\t6000\t30.0\t8\nModel B\tx\t-n\t1\t10\t40.0\t8\n"
    with pytest.raises(ConfigError, match="steps, not times"):
        log(tmp_path, text, "philly.trace")
    (tmp_path / "rates.json").write_text(json.dumps({"v100": {"('Model A', 8)": {"null": 50.0}}}))
    assert log(tmp_path, text, "philly.trace", throughputs="rates.json") == [("0", 30, 120, 8, "")]


def test_other_columns_are_mapped_and_parts_are_taken(tmp_path: Path) -> None:
    text = "begin,runtime,boards,who\n0,10,1,u\n100,10,1,u\n200,10,1,v\n"
    columns = {"submit_s": "begin", "duration_s": "runtime", "gpus": "boards", "user": "who"}
    assert [row[1] for row in log(tmp_path, text, columns=columns)] == [0, 100, 200]
    assert [row[1] for row in log(tmp_path, text, columns=columns, first="100 s")] == [0, 100]
    assert [row[1] for row in log(tmp_path, text, columns=columns, load=2.0, most=2)] == [0, 50]


def test_what_is_wrong_in_a_log_is_told_by_line_and_column(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "jobs.csv").write_text("name,submit_s,duration_s,gpus\na,0,ten,8\nb,5,10,-1\nc,x,10,1.5\n")
    (tmp_path / "fleet.yaml").write_text("cluster: {nodes: 2, node: {accelerators: 8}}\njobs: jobs.csv\n")
    told = cli("fleet", tmp_path / "fleet.yaml")
    assert told.code == 3
    assert "jobs.csv:2:3: duration_s: 'ten' is not a number" in told.err
    assert "jobs.csv:3:4: gpus: '-1' is negative" in told.err
    assert "jobs.csv:4:4: gpus: '1.5' boards are neither whole nor less than one" in told.err
    (tmp_path / "jobs.csv").write_text("name,submit,duration_s,gpus\na,0,10,8\n")
    assert "submit_s: this column is missing; did you mean submit" in cli("fleet", tmp_path / "fleet.yaml").err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("scheduler.policy=fiffo", "scheduler.policy: no policy is called 'fiffo'; did you mean fifo"),
        ("scheduler.policy=nowhere:mine", "is not found: No module named 'nowhere'"),
        ("scheduler.placement=pakc", "did you mean pack"),
        ("power_cap=10 kW", "power_cap: nothing is known of the power of these nodes"),
        ("jobs=absent.csv", "absent.csv"),
        ("parts=[]", ""),
        ("cluster=null", "cluster: a fleet has one of cluster and parts"),
        ("jobs=[{gpus: 4}]", "jobs.0.duration: a job has a duration, or an experiment"),
        ("jobs=[{experiment: quickstart, steps: 3}]", "jobs.0.experiment: nothing is known of the nodes 'nodes'"),
        ("jobs={jobs: 3, every: 5 s, gpus: {many: 1}}", "jobs.gpus.many: is no number of boards with its weight"),
        ("scheduler.policy=math:sqrt", "scheduler.policy: raised TypeError"),
        ("jobs=[{duration: 5 s, gpus: 2, share: 0.5}]", "wants a share of each of 2 boards"),
    ],
)
def test_wrong_files_are_told_of(change: str, told: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "jobs.csv").write_text(PLAIN)
    (tmp_path / "fleet.yaml").write_text("cluster: {nodes: 2, node: {accelerators: 8}}\njobs: jobs.csv\n")
    outcome = cli("fleet", tmp_path / "fleet.yaml", "--set", change)
    assert outcome.code == (3 if told else 0)
    assert told in outcome.err


def test_the_other_verbs_know_a_fleet(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "fleet.yaml").write_text("cluster: {nodes: 2, node: {accelerators: 8}}\njobs: jobs.csv\n")
    assert "this is a fleet, not an experiment; use clustersim fleet" in cli("run", tmp_path / "fleet.yaml").err
    assert cli("check", tmp_path / "fleet.yaml").code == 3  # the log is not there
    (tmp_path / "jobs.csv").write_text(PLAIN)
    assert cli("check", tmp_path / "fleet.yaml").code == 0


def test_kinds_of_a_log_do_not_count_where_there_is_one_kind(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("job_id,num_gpu,submit_time,duration,gpu_type\n7,8,0,120,V100\n")
    life = run_fleet(loaded(str(tmp_path / "log.csv"))).life
    assert [job.end for job in life.jobs] == [120]


# --- lives ------------------------------------------------------------------------------------


def test_a_policy_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_test.py").write_text(
        "def youngest(jobs, now):\n    return sorted(jobs, key=lambda job: -job.number)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    jobs = [{"duration": "100 s", "gpus": 16}, {"duration": "20 s", "gpus": 16, "submit": "10 s"}]
    life = run_fleet(loaded(jobs, scheduler={"policy": "mine_of_test:youngest"})).life
    assert [job.end for job in life.jobs] == [120, 30]


def test_what_a_policy_does_not_read_is_told() -> None:
    found = loaded([{"duration": "1 s"}], scheduler={"policy": "fifo", "half_life": "1 h"})
    assert found.notes == ("scheduler.half_life is without effect for fifo",)


def test_outputs(tmp_path: Path, cli: Cli) -> None:
    import duckdb

    (tmp_path / "jobs.csv").write_text(PLAIN)
    (tmp_path / "fleet.yaml").write_text("cluster: {nodes: 1, node: {accelerators: 8}}\njobs: jobs.csv\n")
    files = {name: tmp_path / f"out.{name}" for name in ("csv", "parquet", "html", "events")}
    outcome = cli(
        "fleet",
        tmp_path / "fleet.yaml",
        "--json",
        *(part for name, file in files.items() for part in (f"--{name}", file)),
    )
    assert outcome.code == 0
    numbers = json.loads(outcome.out)["fleet"]
    assert (numbers["jobs"], numbers["avg_jct_s"], numbers["avg_queue_s"], numbers["makespan_s"]) == (2, 120, 45, 150)
    assert numbers["utilization"] == 1
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [(row["job"], row["start_s"], row["end_s"], row["queue_s"]) for row in rows] == [
        ("a", "0", "100", "0"),
        ("b", "100", "150", "90"),
    ]
    table = duckdb.sql(f"SELECT job, end_s FROM '{files['parquet']}' ORDER BY end_s")
    assert table is not None
    assert table.fetchall() == [("a", 100.0), ("b", 150.0)]
    happened = [json.loads(line) for line in files["events"].read_text().splitlines()]
    assert [(each["time_s"], each["event"], each["job"]) for each in happened][-1] == (150, "end", "b")
    assert "Jobs on nodes" in files["html"].read_text()


def test_a_table_of_lives(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "jobs.csv").write_text(PLAIN)
    (tmp_path / "fleet.yaml").write_text("cluster: {nodes: 1, node: {accelerators: 8}}\njobs: jobs.csv\n")
    outcome = cli(
        "fleet", tmp_path / "fleet.yaml", "--vary", "scheduler.policy=fifo,srtf", "--seeds", 2, "-j", 1, "--json"
    )
    rows = json.loads(outcome.out)["rows"]
    assert [(row["scheduler.policy"], row["seed"], row["avg_jct_s"]) for row in rows] == [
        ("fifo", 0, 120), ("fifo", 1, 120), ("srtf", 0, 95 + 5), ("srtf", 1, 100),
    ]  # fmt: skip


def test_drawn_jobs_follow_what_was_asked_for() -> None:
    asked = {
        "jobs": 4000,
        "every": "10 s",
        "gpus": {"1": 0.75, "8": 0.25},
        "pattern": "diurnal",
        "duration": {"mean": "60 s"},
    }
    jobs = loaded(asked, seed=5).jobs
    assert len(jobs) == 4000
    assert jobs[-1].submit / 4000 == pytest.approx(10, rel=0.25)
    assert sum(job.gpus == 8 for job in jobs) / 4000 == pytest.approx(0.25, abs=0.03)
    assert jobs == loaded(asked, seed=5).jobs != loaded(asked, seed=6).jobs


def test_speeds_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "speeds.csv").write_text("model,kind,gpus,speed,nodes\nm,new,8,10,1\nm,new,8,5,2\nm,old,8,4,1\n")
    parts = [{"kind": kind, "cluster": {"nodes": 2, "node": {"accelerators": 8}}} for kind in ("new", "old")]
    jobs = [{"duration": "100 s", "gpus": 8, "model": "m", "copies": 4}]
    fleet = load_fleet(
        {"parts": parts, "jobs": jobs, "speeds": str(tmp_path / "speeds.csv"), "scheduler": {"placement": "pack"}}
    )
    assert [job.end for job in run_fleet(fleet).life.jobs] == [100, 100, 250, 250]
    spread = load_fleet(
        {"parts": parts[:1], "jobs": jobs, "speeds": str(tmp_path / "speeds.csv"), "scheduler": {"placement": "spread"}}
    )
    assert run_fleet(spread).life.jobs[0].end == 200


# --- trainings --------------------------------------------------------------------------------

TRAINING: dict[str, Any] = {
    "extends": "leaf-spine-4to1",
    "nodes": 4,
    "workload": "llama3-8b",
    "parallelism": {"data": 4, "pipeline": 1, "virtual_stages": 1},
}


def trainings(placement: str, **more: object) -> LoadedFleet:
    jobs = [{"name": "t", "experiment": TRAINING, "steps": 100, "copies": 2}]
    spec: Mapping[str, Any] = {
        "cluster": "leaf-spine-4to1",
        "nodes": 8,
        "jobs": jobs,
        "scheduler": {"placement": placement},
    }
    return load_fleet({**spec, **more})


def test_a_stopped_training_saves_and_loads_its_own_checkpoint() -> None:
    """Over the storage of the cluster, as the same training by itself does."""
    own = {
        "cluster": {"extends": "dgx-h100-superpod", "storage": "superpod-h100-standard"},
        "nodes": 4,
        "workload": "llama3-8b",
        "parallelism": {"zero_stage": 1},
        "training": {"global_batch": 64, "sequence_length": 4096, "tokens": 1e9},
        "checkpoint": {"mode": "synchronous", "interval": "1 h"},
    }
    jobs = [
        {"name": "long", "experiment": own, "steps": 1000},
        {"name": "short", "experiment": own, "steps": 10, "submit": "60 s"},
    ]
    fleet = load_fleet({
        "cluster": own["cluster"], "nodes": 4, "jobs": jobs, "scheduler": {"policy": "srtf", "placement": "pack"},
        "preemption": {"save": "simulated", "load": "simulated"},
    })  # fmt: skip
    long, short = run_fleet(fleet).life.jobs
    alone = prepare_step(load_experiment(own).experiment).run()
    costs = alone.save_costs()
    assert long.save_s == pytest.approx(costs.blocking_s + costs.drain_s, rel=1e-9)
    assert long.save_s > 1  # 8 billion parameters in 14 bytes each
    assert short.first_start == pytest.approx(60 + long.save_s, rel=1e-9)
    assert long.load_s > costs.restore_s
    work = 1000 * alone.trace.time
    stopped = short.end - 60
    assert long.end == pytest.approx(work + stopped + long.load_s, rel=1e-6)


def test_trainings_under_leaves_of_their_own_do_not_meet() -> None:
    fleet = trainings("topology")
    life = run_fleet(fleet).life
    step = next(iter(fleet.trainings.values())).step_s
    assert [job.end for job in life.jobs] == pytest.approx([100 * step] * 2, rel=1e-12)


def test_trainings_that_share_uplinks_slow_one_another_as_simulated_together() -> None:
    fleet = trainings("spread", contention_steps=4)
    prepared = prepare_fleet(fleet)
    life = prepared.lived(0).life
    assert prepared.pacing is not None
    training = next(iter(fleet.trainings.values()))
    halves = [tuple(8 * node + 4 * half + board for node in range(8) for board in range(4)) for half in (0, 1)]
    both = [training.at("leaf-spine-4to1", half).model_copy(update={"name": str(n)}) for n, half in enumerate(halves)]
    means = [float(job.step_s.mean()) for job in simulate_together(both, [4, 4]).jobs]
    assert [job.end for job in life.jobs] == pytest.approx([100 * mean for mean in means], rel=1e-9)
    assert min(means) > training.step_s
    alone = run_fleet(trainings("spread", contention="none")).life
    assert all(job.end <= mean * 100 for job, mean in zip(alone.jobs, means, strict=True))


def test_trainings_meet_with_the_lag_with_which_they_came() -> None:
    """One comes when the other is in its eleventh step: from then on both go at the pace of that lag."""
    step = next(iter(trainings("spread").trainings.values())).step_s
    begun = 10.3
    jobs = [
        {"name": name, "experiment": TRAINING, "steps": 100, "submit": f"{at * step} s"}
        for name, at in (("t", 0.0), ("u", begun))
    ]
    fleet = trainings("spread", jobs=jobs)
    prepared = prepare_fleet(fleet)
    life = prepared.lived(0).life
    assert prepared.pacing is not None
    halves = [tuple(8 * node + 4 * half + board for node in range(8) for board in range(4)) for half in (0, 1)]
    both = [
        fleet.trainings[name].at("leaf-spine-4to1", half).model_copy(update={"name": name})
        for name, half in zip("tu", halves, strict=True)
    ]
    alone = step / prepared.pacing.alone(life.jobs[0].request, tuple((node, 4) for node in range(8)))
    done = begun * step / alone
    lag = round(-done % 1.0 * alone / (step / 1000)) * step / 1000
    first, second = (pace.step for pace in simulate_lasting(both, 32, after=[lag, 0.0]).paces)
    end = begun * step + (100 - done) * first
    assert life.jobs[0].end == pytest.approx(end, rel=1e-9)
    left = 100 - (end - begun * step) / second
    assert life.jobs[1].end == pytest.approx(end + left * alone, rel=1e-9)
    in_phase = simulate_lasting(both, 32).paces[0].step
    assert alone <= first < in_phase


# --- shipped ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in list_catalogue("fleet") if name != "two-generations"])
def test_shipped_fleets_run(name: str, cli: Cli) -> None:
    outcome = cli("fleet", name, "--json")
    numbers = json.loads(outcome.out)["fleet"]
    assert (outcome.code, numbers["finished"]) == (0, numbers["jobs"])
    assert sum(numbers["board_seconds"].values()) == pytest.approx(numbers["boards"] * numbers["elapsed_s"])


def result_of(name: str, *changes: str) -> FleetResult:
    return run_fleet(load_fleet(str(ROOT / f"experiments/fleet/{name}.yaml"), changes)).result


def test_answers_of_shipped_fleets_are_those_in_their_text() -> None:
    waits = {
        policy: result_of("philly-like", f"scheduler.policy={policy}").avg_queue_s / 3600
        for policy in ("fifo", "easy", "first_fit", "dlas_gputime", "srtf")
    }
    assert list(waits.values()) == pytest.approx([5.6, 1.8, 1.1, 0.45, 0.14], rel=0.05)
    spot, demand = (result_of("spot", f"prices.pay={pay}") for pay in ("spot", "on_demand"))
    assert spot.avg_jct_s / demand.avg_jct_s == pytest.approx(1.03, abs=0.01)
    assert spot.bill is not None
    assert demand.bill is not None
    assert spot.bill.hardware_usd is not None
    assert demand.bill.hardware_usd is not None
    assert spot.bill.hardware_usd / demand.bill.hardware_usd == pytest.approx(0.45, abs=0.01)


def test_nodes_without_a_network_serve_logged_jobs() -> None:
    jobs = [{"duration": "1 h", "gpus": 8, "copies": 2}]
    bill = run_fleet(load_fleet({"cluster": "dgx-a100", "nodes": 2, "jobs": jobs})).result.bill
    one = run_fleet(
        load_fleet({"cluster": "dgx-a100", "nodes": 1, "jobs": [{"duration": "1 h", "gpus": 8}]})
    ).result.bill
    assert bill is not None
    assert one is not None
    assert bill.energy_kwh == pytest.approx(2 * one.energy_kwh, rel=1e-12)


def test_waiting_for_the_sun_saves_carbon() -> None:
    waits = run_fleet(load_fleet(str(ROOT / "experiments/fleet/carbon-aware.yaml"))).result.bill
    starts = run_fleet(
        load_fleet(str(ROOT / "experiments/fleet/carbon-aware.yaml"), ["scheduler.carbon=null"])
    ).result.bill
    assert waits is not None
    assert starts is not None
    assert waits.carbon_kg is not None
    assert starts.carbon_kg is not None
    assert waits.carbon_kg < 0.9 * starts.carbon_kg
