"""nccl-tests output to a platform file: known parameters come back, wrong files are named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import date
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.ask.calibrate.calibrate_collectives import calibrate_collectives
from sim.ask.calibrate.tables import read_tables
from sim.cli.app import call
from sim.comm.pattern import Group
from sim.comm.tuner import collective_cost
from sim.errors import ConfigError
from sim.inputs.load import load_definition
from sim.inputs.records import Node
from sim.metrics.calibration import Calibration
from sim.metrics.curves import bus_factor
from sim.metrics.fit import fit_collective

SIZES = [8 * 2**i for i in range(31)]  # 8 B to 8 GiB
COLUMNS = """\
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
"""
Seconds = Callable[[float], float]


def curve(floor: float, start: float, ramp: float, rate: float, factor: float) -> Seconds:
    return lambda size: max(floor, start + ramp * sqrt(size) + size * factor / rate)


def output(
    program: str, ranks: int, nodes: int, seconds: Seconds, sizes: Sequence[int] = SIZES, redop: str = "sum"
) -> str:
    """What nccl-tests prints, to its number of digits."""
    lines = [f"# Collective test starting: {program}"] if program else []
    lines += [f"# nThread 1 nGpus 1 minBytes {sizes[0]} maxBytes {sizes[-1]} step: 2(factor) warmup iters: 5", "#"]
    lines += ["# Using devices"]
    per_node = ranks // nodes
    for rank in range(ranks):
        host, device = rank // per_node, rank % per_node
        place = f"on    gpu{host} device {device:2d} [0x1b] NVIDIA H100 80GB HBM3"
        lines.append(f"#  Rank {rank:2d} Group  0 Pid {4000 + rank} {place}")
    lines.append(COLUMNS.rstrip())
    factor = bus_factor("all_reduce" if "all_reduce" in program or not program else "all_gather", ranks)
    for size in sizes:
        time = seconds(size) * 1e6
        text = f"{time:8.2f}" if time < 1000 else f"{time:8.1f}" if time < 10000 else f"{time:8.0f}"
        part = f"{text} {size / time / 1e3:7.2f} {size / time / 1e3 * factor:7.2f}      0"
        lines.append(f"{size:12d} {size // 4:13d}     float {redop:>7s}      -1 {part} {part}")
    return "\n".join([*lines, "# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 61.2", "#", ""])


def saved(folder: Path, text: str, name: str = "run.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def node_of(text: str, folder: Path) -> Node:
    node = load_definition("node", saved(folder, text, "measured.yaml"))
    assert isinstance(node, Node)
    return node


class TestFit:
    @given(
        floor=st.floats(5e-6, 1e-4),
        start=st.floats(1e-6, 1e-4),
        ramp=st.floats(1e-9, 1e-7),
        rate=st.floats(2e10, 9e11),
    )
    @settings(max_examples=40, deadline=None)
    def test_known_curves_come_back(self, floor: float, start: float, ramp: float, rate: float) -> None:
        size = np.array(SIZES, np.float64)
        seconds = np.array([curve(floor, start, ramp, rate, 1.75)(s) for s in SIZES])
        fit = fit_collective(size, 1.75 * size, seconds)
        assert fit.seconds(size, 1.75 * size) == pytest.approx(seconds, rel=1e-6)
        assert fit.ramp == pytest.approx(ramp, rel=1e-4)
        assert fit.rate == pytest.approx(rate, rel=1e-4)
        assert fit.worst < 1e-6

    def test_one_disturbed_size_does_not_bend_the_curve(self) -> None:
        size = np.array(SIZES, np.float64)
        seconds = np.array([curve(2e-5, 1e-5, 1e-8, 3e11, 1.75)(s) for s in SIZES])
        seconds *= 1 + 0.002 * np.cos(np.arange(len(seconds)))
        seconds[24] *= 2.5
        fit = fit_collective(size, 1.75 * size, seconds)
        assert fit.rate == pytest.approx(3e11, rel=0.02)
        assert fit.worst == pytest.approx(0.6, abs=0.02)

    def test_a_ramp_that_ends(self) -> None:
        """Up to some message chunks grow, then they are as large as they get."""
        size = np.array(SIZES, np.float64)
        known = np.array([max(5e-5, 4e-5 + min(2.5e-4, 6e-8 * sqrt(s)) + s * 1.9 / 3.8e11) for s in SIZES])
        fit = fit_collective(size, 1.9 * size, known)
        assert fit.rate == pytest.approx(3.8e11, rel=0.01)
        assert fit.ramp == pytest.approx(6e-8, rel=0.02)
        assert fit.limit == pytest.approx(2.5e-4, rel=0.1)  # it ends between two of the sizes

    def test_too_few_sizes(self) -> None:
        few = np.array([1.0, 2.0, 3.0])
        with pytest.raises(ValueError, match="3 message sizes; at least 4"):
            fit_collective(few, few, few)

    def test_time_that_does_not_grow(self) -> None:
        size = np.array([1e3, 1e4, 1e5, 1e6, 1e7])
        with pytest.raises(ValueError, match="does not grow"):
            fit_collective(size, size, 1 / size)


class TestPlatform:
    def test_a_ring_in_a_server(self, tmp_path: Path) -> None:
        known = curve(44e-6, 42e-6, 1.5e-8, 237e9, 1.75)
        file = saved(tmp_path, output("all_reduce_perf", 8, 1, known))
        made = calibrate_collectives(read_tables(file), "dgx-a100", today=date(2026, 1, 2))
        node = node_of(made.text, tmp_path)
        assert node.name == "dgx-a100-measured"
        assert node.local.efficiency == pytest.approx(237 / 300, rel=0.01)
        tuning = node.collectives
        assert tuning.floor == pytest.approx(44e-6, rel=0.01)
        assert tuning.ring_hop == pytest.approx(3e-6, rel=0.01)
        assert tuning.ramp == pytest.approx(1.5e-8, rel=0.01)
        assert "2026-01-02" in made.text
        assert "run.txt" in node.sources["local.efficiency"]
        check = made.fitted[0].check
        assert check is not None
        assert check.mean_error < 0.01

    def test_switches_that_add(self, tmp_path: Path) -> None:
        known = curve(18e-6, 9e-6, 1.2e-8, 500e9, 1.75)
        gather = curve(20e-6, 13.3e-6, 1.2e-8, 370e9, 0.875)
        files = [
            saved(tmp_path, output("all_reduce_perf", 8, 1, known), "reduce.txt"),
            saved(tmp_path, output("all_gather_perf", 8, 1, gather, redop="none"), "gather.txt"),
        ]
        made = calibrate_collectives([table for file in files for table in read_tables(file)], "dgx-h100", "ours")
        node = node_of(made.text, tmp_path)
        assert node.name == "ours"
        assert node.local.reduction_efficiency == pytest.approx(500 / 450 * (1 + 1 / 8) / 1.75, rel=0.01)
        assert node.local.efficiency == pytest.approx(370 / 450, rel=0.01)
        assert node.collectives.in_network == pytest.approx(9e-6, rel=0.01)

    def test_between_servers(self, tmp_path: Path) -> None:
        """31 ring steps over four servers: 28 inside, 3 between, in each of both rounds."""
        start = 2 * (28 * 1.9e-6 + 3 * (12e-6 + 2 * 1.2e-6))
        known = curve(60e-6, start, 1e-8, 384e9, 2 * 31 / 32)
        made = calibrate_collectives(read_tables(saved(tmp_path, output("all_reduce_perf", 32, 4, known))), "dgx-h100")
        node = node_of(made.text, tmp_path)
        assert node.nics.efficiency == pytest.approx(0.96, rel=0.01)
        assert node.collectives.ring_hop_network == pytest.approx(12e-6, rel=0.01)
        assert node.collectives.ramp_network == pytest.approx(1e-8, rel=0.01)
        check = made.fitted[0].check
        assert check is not None
        assert check.mean_error < 0.02

    def test_two_servers_whose_switches_add_sum_over_a_tree(self, tmp_path: Path) -> None:
        known = curve(60e-6, 50e-6, 1e-8, 200e9 * 0.9 * 1.875 * 0.92, 1.875)
        node_file = saved(tmp_path, "extends: dgx-h100\nname: slow\nnics: {bandwidth: 200 Gb/s}\n", "slow.yaml")
        made = calibrate_collectives(
            read_tables(saved(tmp_path, output("all_reduce_perf", 16, 2, known))), str(node_file)
        )
        assert node_of(made.text, tmp_path).nics.efficiency == pytest.approx(0.9, rel=0.01)


def two_servers(folder: Path, reduced: float, gathered: float) -> list[Path]:
    """Runs of two servers of eight whose bus bandwidths saturate at these rates."""
    return [
        saved(folder, output("all_reduce_perf", 16, 2, curve(60e-6, 50e-6, 1e-8, reduced, 1.875)), "reduce.txt"),
        saved(folder, output("all_gather_perf", 16, 2, curve(60e-6, 50e-6, 1e-8, gathered, 0.9375)), "gather.txt"),
    ]


class TestAlgorithm:
    """Two servers whose switches add sum over a tree or a ring; an all-gather beside it tells which."""

    def calibrated(self, files: Sequence[Path]) -> Calibration:
        return calibrate_collectives([table for file in files for table in read_tables(file)], "dgx-h100")

    def test_a_ring(self, tmp_path: Path) -> None:
        """The all-reduce was taken for a tree: efficiency 0.505, and the all-gather 62 % off."""
        made = self.calibrated(two_servers(tmp_path, 348e9, 366e9))
        node = node_of(made.text, tmp_path)
        assert node.nics.efficiency == pytest.approx(0.89, rel=0.04)
        assert "tree" not in node.collectives.patterns
        assert made.unexplained == ()
        assert all(each.check and each.check.mean_error < 0.08 for each in made.fitted)

    def test_a_tree(self, tmp_path: Path) -> None:
        made = self.calibrated(two_servers(tmp_path, 400e9 * 0.8 * 1.875 * 0.92, 400e9 * 0.8))
        node = node_of(made.text, tmp_path)
        assert node.nics.efficiency == pytest.approx(0.8, rel=0.01)
        assert {"ring", "tree"} <= set(node.collectives.patterns)
        assert made.unexplained == ()

    def test_an_all_reduce_alone_cannot_tell(self, tmp_path: Path) -> None:
        made = self.calibrated(two_servers(tmp_path, 348e9, 366e9)[:1])
        assert any("an all_gather of the same servers would tell" in remark for remark in made.remarks)

    def test_runs_that_contradict_each_other(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        files = two_servers(tmp_path, 100e9, 366e9)
        target = tmp_path / "ours.yaml"
        assert call(["calibrate", "collectives", *map(str, files), "--node", "dgx-h100", "-o", str(target)]) == 1
        told = capsys.readouterr().err
        assert "no algorithm explains all runs together" in told
        assert "all_reduce over 16 on 2 -" in told or "all_gather over 16 on 2 +" in told
        assert not target.exists()

    def test_inside_a_server_too(self, tmp_path: Path) -> None:
        files = [
            saved(tmp_path, output("all_reduce_perf", 8, 1, curve(44e-6, 42e-6, 1e-8, 237e9, 1.75)), "reduce.txt"),
            saved(tmp_path, output("all_gather_perf", 8, 1, curve(44e-6, 42e-6, 1e-8, 90e9, 0.875)), "gather.txt"),
        ]
        tables = [table for file in files for table in read_tables(file)]
        assert [each.table.collective for each in calibrate_collectives(tables, "dgx-a100").unexplained]


def test_a_library_that_may_not_take_trees_takes_rings() -> None:
    group = Group(16, 2, 1e-6, local_rate=3.6e11, network_rate=3.6e11)
    node = load_definition("node", "dgx-h100")
    assert isinstance(node, Node)
    assert collective_cost("all_reduce", 1e9, group, node).algorithm == "tree"
    tuning = node.collectives.model_copy(update={"patterns": ("ring", "in_network")})
    rings = node.model_copy(update={"collectives": tuning})
    assert collective_cost("all_reduce", 1e9, group, rings).algorithm == "ring"
    assert collective_cost("all_reduce", 1e9, Group(8, 1, 1e-6, local_rate=3.6e11), rings).algorithm == "in_network"


class TestReading:
    def test_both_columns_and_several_runs_in_one_file(self, tmp_path: Path) -> None:
        two = output("all_reduce_perf", 8, 1, curve(1e-5, 1e-5, 1e-8, 2e11, 1.75)) + output(
            "reduce_scatter_perf", 4, 1, curve(1e-5, 1e-5, 1e-8, 2e11, 0.75)
        )
        tables = read_tables(saved(tmp_path, two), "in-place")
        assert [(t.collective, t.ranks, t.nodes, len(t.seconds)) for t in tables] == [
            ("all_reduce", 8, 1, 31), ("reduce_scatter", 4, 1, 31),
        ]  # fmt: skip
        assert tables[0].device == "NVIDIA H100 80GB HBM3"

    def test_the_ratio_of_bandwidths_tells_the_collective(self, tmp_path: Path) -> None:
        table = read_tables(saved(tmp_path, output("", 16, 2, curve(1e-5, 1e-5, 1e-8, 2e11, 1.875))))[0]
        assert (table.collective, table.nodes) == ("all_reduce", 2)

    def test_old_columns_prefixes_of_launchers_and_noise(self, tmp_path: Path) -> None:
        """Rows as older versions print them, with what mpirun puts before; repeated sizes give their median."""
        rows = [f"[1,0]<stdout>:  {s}  {s // 4}  float  sum  {t}  0.1  0.17  4e-07  {t}  0.1  0.17  4e-07"
                for s, t in [(1024, 10.0), (1024, 30.0), (1024, 11.0), (2048, 12.0)]]  # fmt: skip
        ranks = [
            f"[1,0]<stdout>:#   Rank  {r} Pid 283 on  gpu59 device  {r} [0x16] NVIDIA GeForce RTX 4090" for r in (0, 1)
        ]
        text = "\n".join(["$ mpirun ./build/all_reduce_perf -b 1K", *ranks, *rows, "WARN something", ""])
        table = read_tables(saved(tmp_path, text))[0]
        assert table.seconds == {1024: pytest.approx(11e-6), 2048: pytest.approx(12e-6)}

    def test_wrong_results_are_left_out_and_told(self, tmp_path: Path) -> None:
        text = output("all_reduce_perf", 2, 1, curve(1e-5, 1e-5, 1e-8, 2e11, 1.0), SIZES[:8])
        lines = text.splitlines()
        number = next(i for i, line in enumerate(lines) if line.split()[:1] == ["64"])
        lines[number] = lines[number].replace("      0", "      7")
        table = read_tables(saved(tmp_path, "\n".join(lines)))[0]
        assert 64 not in table.seconds
        assert table.remarks == (f"line {number + 1}: 7 wrong results, left out",)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("hello\n", "holds no table of measured collectives"),
            ("# nThread 1\n 8 2 float sum -1 23.9 0.00\n", "run.txt:2: 7 columns; a row of nccl-tests ends"),
            ("all_reduce_perf\n 1024 2 float sum -1 23.9 0.0 0.0 0 23.9 0.0 0.0 0\n", "0 `Rank ... on HOST"),
            (output("sendrecv_perf", 2, 1, curve(1e-5, 1e-5, 0, 2e11, 1.0)), "sendrecv_perf is not modelled"),
            (output("", 8, 1, curve(1e-5, 1e-5, 0, 2e11, 1.0), redop="none"), "does not say which collective"),
            (output("all_reduce_perf", 8, 1, curve(1e-5, 1e-5, 0, 2e11, 1.0)).replace("#  Rank  7", "#  Lost  7"),
             "busbw is 1.75 x algbw, but all_reduce over 7 ranks has 1.71"),
        ],
    )  # fmt: skip
    def test_wrong_files_are_named(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            read_tables(saved(tmp_path, text))

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            read_tables(tmp_path / "no.txt")

    def test_what_never_ends_is_not_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for endless in (Path("/dev/zero"), tmp_path / "pipe"):
            with pytest.raises(ConfigError, match="is not a regular file"):
                read_tables(endless)


class TestCommand:
    def test_writes_a_server_that_loads_and_refuses_to_replace_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = saved(tmp_path, output("all_reduce_perf", 8, 1, curve(44e-6, 42e-6, 1.5e-8, 237e9, 1.75)))
        target = tmp_path / "ours.yaml"
        words = ["calibrate", "collectives", str(run), "--node", "dgx-a100", "-o", str(target)]
        assert call(words) == 0
        assert "all_reduce" in capsys.readouterr().out
        assert isinstance(load_definition("node", target), Node)
        assert call(words) == 3
        assert "exists already" in capsys.readouterr().err
        assert call([*words, "--force", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["tables"][0]["fit"]["floor"] == pytest.approx(44e-6, rel=0.01)

    def test_more_ranks_than_the_server_has(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = saved(tmp_path, output("all_reduce_perf", 16, 1, curve(4e-5, 4e-5, 1e-8, 2e11, 1.875)))
        assert call(["calibrate", "collectives", str(run), "--node", "dgx-a100"]) == 3
        assert "16 ranks a node, but dgx-a100 has 8 accelerators" in capsys.readouterr().err
