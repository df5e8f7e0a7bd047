"""Logs of NCCL, of old and new versions: what was chosen is read, and stands beside what the model chooses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.ask.calibrate.nccl_log import compare_choices, read_nccl_log
from sim.errors import ConfigError
from support import Cli

NEW = """\
h:1:9 [0] NCCL INFO comm 0x55 rank 0 nRanks 8 nNodes 1 localRanks 8 localRank 0 MNNVL 0
h:1:9 [0] NCCL INFO 24 coll channels, 24 collnet channels, 16 nvls channels, 32 p2p channels, 32 p2p channels per peer
h:1:9 [0] NCCL INFO AllReduce: 4096 Bytes -> Algo TREE proto LL channel{Lo..Hi}={0..1}
h:1:9 [0] NCCL INFO AllReduce: 268435456 Bytes -> Algo NVLS proto SIMPLE channel{Lo..Hi}={0..15}
h:1:9 [0] NCCL INFO AllReduce: 268435456 Bytes -> Algo NVLS proto SIMPLE channel{Lo..Hi}={0..15}
h:1:9 [0] NCCL INFO AllGather: 268435456 Bytes -> Algo PAT proto SIMPLE channel{Lo..Hi}={0..23}
"""
OLD = """\
2: node-0:309:309 [0] NCCL INFO AllGather: 37756928 Bytes -> Algo 1 proto 2 time 2860.208008
1: node-3:278:278 [0] NCCL INFO AllReduce: opCount 7 sendbuff 0x9 recvbuff 0x9 count 9 datatype 7 op 0 root 0 comm 0x5 [nranks=4] stream 0x5
2: node-0:309:309 [0] NCCL INFO AllGather: opCount 16 sendbuff 0x9 recvbuff 0x9 count 2359808 datatype 7 op 0 root 0 comm 0x5 [nranks=16] stream 0x5
2: node-0:309:309 [0] NCCL INFO 1048576 Bytes -> Algo 0 proto 1 time 93.5
2: node-0:309:309 [0] NCCL INFO AllReduce: opCount 17 sendbuff 0x9 recvbuff 0x9 count 9 datatype 7 op 0 root 0 comm 0x5 [nranks=16] stream 0x5
2: node-0:309:309 [0] NCCL INFO 1048576 Bytes -> Algo 0 proto 1 time 93.5
"""  # noqa: E501


def log(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "nccl.log"
    file.write_text(text, encoding="utf-8")
    return file


def test_new_logs(tmp_path: Path) -> None:
    choices, remarks = read_nccl_log(log(tmp_path, NEW))
    told = [(e.collective, e.bytes, e.ranks, e.nodes, e.algorithm, e.protocol, e.channels, e.count) for e in choices]
    assert told == [
        ("all_reduce", 4096, 8, 1, "TREE", "LL", 2, 1),
        ("all_reduce", 2**28, 8, 1, "NVLS", "SIMPLE", 16, 2),
        ("all_gather", 2**28, 8, 1, "PAT", "SIMPLE", 24, 1),
    ]
    assert remarks == []


def test_old_logs_name_algorithms_by_number_and_collectives_in_the_next_line(tmp_path: Path) -> None:
    """Of the same process; the last choice has none, and is left out and counted."""
    choices, remarks = read_nccl_log(log(tmp_path, OLD))
    told = [(e.collective, e.bytes, e.ranks, e.algorithm, e.protocol) for e in choices]
    assert told == [("all_gather", 37756928, 16, "RING", "SIMPLE"), ("all_reduce", 1048576, 16, "TREE", "LL128")]
    assert [each.seconds for each in choices] == pytest.approx([2860.208e-6, 93.5e-6])
    assert remarks == ["1 choices are of unknown collectives or ranks: left out (--ranks)"]


def test_choices_stand_beside_those_of_the_model(tmp_path: Path) -> None:
    compared = compare_choices(log(tmp_path, NEW), "dgx-h100")
    assert [(each.said.algorithm, each.ours, each.agrees) for each in compared.choices] == [
        ("PAT", "ring", False), ("TREE", "tree", True), ("NVLS", "in_network", True),
    ]  # fmt: skip
    assert compared.agreeing == pytest.approx(3 / 4)
    assert compared.remarks == ("PAT: no pattern stands for it",)
    wide = compare_choices(log(tmp_path, OLD), "dgx-h100")
    assert {each.said.nodes for each in wide.choices} == {2}
    assert all(each.seconds > 0 for each in wide.choices)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "says of no collective what it chose; run with NCCL_DEBUG=INFO"),
        (
            "h:1:9 [0] NCCL INFO AllReduce: 4096 Bytes -> Algo RING proto LL\n",
            "1 choices, of unknown collectives or ranks",
        ),
        (NEW.replace("nRanks 8", "nRanks 12"), "12 ranks on 1 servers of 8 accelerators"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compare_choices(log(tmp_path, text), "dgx-h100")
    assert said in str(error.value)


def test_the_command(tmp_path: Path, cli: Cli) -> None:
    done = cli("calibrate", "nccl-log", log(tmp_path, NEW), "--node", "dgx-h100")
    assert done.code == 0, done.err
    assert "75.0 % of the collectives run by the same algorithm on dgx-h100" in done.out
    shown = cli("calibrate", "nccl-log", log(tmp_path, NEW), "--node", "dgx-h100", "--json")
    assert json.loads(shown.out)["agreeing"] == 0.75
    bare = log(tmp_path, "h:1:9 [0] NCCL INFO AllReduce: 4096 Bytes -> Algo RING proto LL\n")
    assert cli("calibrate", "nccl-log", bare, "--node", "dgx-h100", "--ranks", "4").code == 0
    assert cli("calibrate", "nccl-log", bare, "--node", "h100-sxm").code == 3
