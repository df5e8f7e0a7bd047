"""Tables of collectives as other benchmarks print them: each tells the curve that it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import pytest

from sim.ask.calibrate.calibrate_collectives import calibrate_collectives
from sim.ask.calibrate.tables import read_tables
from sim.ask.calibrate.told import Told
from sim.cli.app import call
from sim.errors import ConfigError
from sim.inputs.load import load_definition
from sim.inputs.records import Node
from sim.metrics.curves import bus_factor

SIZES = [2**i for i in range(10, 33, 2)]
FLOOR, START, RAMP, RATE = 44e-6, 42e-6, 1.5e-8, 237e9  # of an all-reduce over eight ranks of one server
REDUCES = bus_factor("all_reduce", 8)


def seconds(size: float, factor: float = REDUCES) -> float:
    return max(FLOOR, START + RAMP * sqrt(size) + size * factor / RATE)


def osu(size: int, time: float) -> str:
    return f"{size:<12d}{time * 1e6:19.2f}{time * 9e5:19.2f}{time * 11e5:19.2f}{1000:12d}"


def intel(size: int, time: float) -> str:
    return f"{size:13d}{1000:13d}{time * 9e5:13.2f}{time * 11e5:13.2f}{time * 1e6:13.2f}"


def neuron(size: int, time: float) -> str:
    rate = size / time / 1e9
    return f"{size:15d}{size:16d}    uint8{time * 1e6:12.2f}{rate:15.2f}{REDUCES * rate:15.2f}"


def gaudi(size: int, time: float) -> str:
    rate = size / time / 1e9
    return f"{size:<14d}{size // 4:<12d}float       sum         {time * 1e6:<12.3f} {rate:<12.4f} {rate:<12.4f}"


def ascend(size: int, time: float) -> str:
    return f"{size:<18d}| {time * 1e6:<15.2f}| {size / time / 1e9:<21.5f}| success"


def plain(size: int, time: float) -> str:
    """The rows of nccl-tests with nothing above but the names of their columns."""
    rate = size / time / 1e9
    part = f"{time * 1e6:.3f} {rate:.2f} {REDUCES * rate:.2f} 0"
    return f"{size} {size // 4} float sum -1 {part} {part}"


RCCL = """\
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 8 minBytes 1024 maxBytes 4294967296 step: 4(factor) warmup iters: 5 iters: 20
rccl-tests: Version develop:448c4c7
# Using devices
""" + "".join(f"#   Rank {rank:2d} Pid  71 on  node7 device {rank:2d} [0000:0c:00.0] AMD Instinct MI300X\n"
              for rank in range(8))  # fmt: skip
PRINTED: dict[str, tuple[str, Callable[[int, float], str], Told]] = {
    "nccl-tests": (RCCL, plain, Told()),
    "OSU Micro-Benchmarks": (
        "$ mpirun -np 8 osu_allreduce -f\n\n# OSU MPI-ROCM Allreduce Latency Test v7.5\n# Datatype: MPI_CHAR.\n"
        "# Size       Avg Latency(us)   Min Latency(us)   Max Latency(us)  Iterations\n",
        osu,
        Told(nodes=1),
    ),
    "Intel MPI or oneCCL benchmarks": (
        "#-----------\n# Benchmarking: allreduce \n# #processes: 8\n#-----------\n\n"
        "       #bytes #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]\n"
        "            0         1000    0.05    0.06    0.05\n",
        intel,
        Told(),
    ),
    "nccom-test": (
        "$ nccom-test -r 8 -b 1KB -e 4GB -f 4 allr\n"
        "     size(B)    count(elems)     type    time:avg(us)    algbw(GB/s)    busbw(GB/s)\n",
        neuron,
        Told(),
    ),
    "hccl_demo": (
        "python3 run_hccl_demo.py --nranks 8 --node_id 0 --size_range 1KB 4GB --test all_reduce --ranks_per_node 8\n"
        "[SUMMARY REPORT]\n(src!=dst, collective=all_reduce, iterations=100)\n\n"
        "size          count       type        redop       time         algoBW       nw_bw\n"
        "(B)           (elements)                          (us)         (GB/s)       (GB/s)\n",
        gaudi,
        Told(),
    ),
    "hccl_test": (
        "$ mpirun -n 8 ./bin/all_reduce_test -b 1K -e 4G -f 4 -d fp32 -o sum -p 8\n"
        "data_size(Bytes): | aveg_time(us): | alg_bandwidth(GB/s): | check_result:\n",
        ascend,
        Told(),
    ),
    "a benchmark": ("#  size  count  type redop root  time algbw busbw #wrong  time algbw busbw #wrong\n", plain,
                    Told("all_reduce", 8)),
}  # fmt: skip


def saved(folder: Path, head: str, row: Callable[[int, float], str]) -> Path:
    path = folder / "run.txt"
    path.write_text(head + "\n".join(row(size, seconds(size)) for size in SIZES) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("program", PRINTED)
def test_a_known_curve_comes_back(program: str, tmp_path: Path) -> None:
    head, row, told = PRINTED[program]
    (table,) = read_tables(saved(tmp_path, head, row), told=told)
    assert (table.program, table.collective, table.ranks, table.nodes) == (program, "all_reduce", 8, 1)
    made = calibrate_collectives([table], "dgx-a100")
    assert program in made.text
    assert made.fitted[0].fit.rate == pytest.approx(RATE, rel=0.01)
    path = tmp_path / "node.yaml"
    path.write_text(made.text, encoding="utf-8")
    node = load_definition("node", path)
    assert isinstance(node, Node)
    assert node.collectives.floor == pytest.approx(FLOOR, rel=0.01)
    assert node.collectives.ramp == pytest.approx(RAMP, rel=0.02)
    assert node.local.bandwidth * node.local.efficiency == pytest.approx(RATE, rel=0.01)


@pytest.mark.parametrize("test", ["Allgather", "All-to-All Personalized Exchange"])
def test_sizes_of_one_rank_count_for_all(test: str, tmp_path: Path) -> None:
    """OSU and Intel count what a rank sends to one other; here a size is what each has before or after."""
    head = f"# OSU MPI {test} Latency Test v7.5\n# Size       Avg Latency(us)\n"
    path = tmp_path / "run.txt"
    path.write_text(head + "".join(f"{size}  {size / 100}\n" for size in SIZES), encoding="utf-8")
    (table,) = read_tables(path, told=Told(ranks=8, nodes=2))
    assert list(table.seconds) == [8 * size for size in SIZES]
    assert table.nodes == 2


def test_several_runs_in_one_file(tmp_path: Path) -> None:
    head = "# Benchmarking: {} \n# #processes: {}\n #bytes #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]\n"
    parts = [
        head.format(name, ranks) + "".join(intel(size, seconds(size)) + "\n" for size in SIZES)
        for name, ranks in (("allreduce", 8), ("reduce_scatter", 4))
    ]
    path = tmp_path / "run.txt"
    path.write_text("\n".join(parts), encoding="utf-8")
    tables = read_tables(path)
    assert [(each.collective, each.ranks, each.line) for each in tables] == [
        ("all_reduce", 8, 4), ("reduce_scatter", 4, 20),
    ]  # fmt: skip


def test_where_nobody_says_how_many_servers_one_is_taken_and_told(tmp_path: Path) -> None:
    head, row, _ = PRINTED["nccom-test"]
    (table,) = read_tables(saved(tmp_path, head, row))
    assert table.remarks == ("line 3: taken as ranks of one server; say --nodes if there were more",)


def test_wrong_results_are_left_out_and_told(tmp_path: Path) -> None:
    head, row, told = PRINTED["hccl_test"]
    path = saved(tmp_path, head, row)
    path.write_text(path.read_text().replace("success", "failed", 1), encoding="utf-8")
    (table,) = read_tables(path, told=told)
    assert SIZES[0] not in table.seconds
    assert table.remarks[0] == "line 3: wrong results, left out"


COLUMNS = "size(B)  count(elems)  type  time(us)  algbw(GB/s)  busbw(GB/s)\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n1 2 3\n", "run.txt:1: holds no table of measured collectives; give the standard output"),
        (f"{COLUMNS}1024 1024 uint8 40.0\n", "run.txt:2: 4 columns under the 6 of line 1"),
        (f"{COLUMNS}1024 1024 uint8 much 1.0 1.0\n", "run.txt:2: 6 columns under the 6 of line 1, or no numbers"),
        (f"{COLUMNS}1024 1024 uint8 40 1.0 1.0\n", r"run.txt:2: the output does not say which .* \(--collective\) and"),
        (f"allr\n{COLUMNS}1024 1024 uint8 40 1.0 1.0\n", r"run.txt:3: the output does not say over how many ranks"),
        (f"nccom-test -r 1 allr\n{COLUMNS}1024 1024 uint8 40 1.0 1.0\n", "run.txt:3: 1 rank; give a run of at least"),
    ],
)
def test_wrong_files_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_tables(path)


def test_the_command_takes_what_the_output_does_not_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, row, _ = PRINTED["a benchmark"]
    file = saved(tmp_path, head, row)
    words = ["calibrate", "collectives", str(file), "--node", "dgx-a100"]
    assert call(words) == 3
    assert "the output does not say which collective was run (--collective)" in capsys.readouterr().err
    assert call([*words, "--collective", "all_reduce", "--ranks", "8", "--nodes", "1", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert (table["ranks"], table["nodes"], table["program"]) == (8, 1, "a benchmark")
