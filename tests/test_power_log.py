"""Logs of power: what is read of each form, what is left out, what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.api import check
from sim.errors import ConfigError
from sim.inputs.power_log import read_power_log
from support import Cli

SMI = """timestamp, index, power.draw [W]
2024/05/01 12:30:00.123, 0, 70.00 W
2024/05/01 12:30:00.124, 1, 72.00 W
2024/05/01 12:30:01.123, 0, 600.00 W
2024/05/01 12:30:01.124, 1, 640.00 W
timestamp, index, power.draw [W]
2024/05/01 12:30:02.123, 0, 200.00 W
2024/05/01 12:30:02.124, 1, 620.00 W
2024/05/01 12:30:03.123, 0, 700.00 W
2024/05/01 12:30:03.124, 1, 75.00 W
"""
DCGMI = """#Entity   POWER
ID        W
GPU 0     70.1
GPU 1     71.0
GPU 0     600
GPU 1     500
"""
EXPORTED = """# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-1",device="nvidia0"} 600.5
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-2",device="nvidia1"} 500.5
"""
EXPERIMENT = """
cluster: dgx-h100
nodes: 1
workload: gpt3-125m
parallelism: {data: 8}
training: {global_batch: 64, sequence_length: 2048}
software: megatron-core
measured: {step_time: 100 ms, power_log: power.csv, source: own}
"""


def log(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "power.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMI, ((500 + 630) / 2, 2, 8, 3)),  # idle ends are left out, what lies between is not
        (DCGMI, (550.0, 2, 4, 2)),
        (EXPORTED, (550.5, 2, 2, 0)),
        ("power.draw [W],index\n300,0\n310,0\n", (310.0, 1, 2, 1)),
        ("device,average_socket_power (W)\ncard0,250.0\ncard1,350.0\n", (300.0, 2, 2, 0)),
    ],
)
def test_what_is_read(tmp_path: Path, text: str, expected: tuple[float, int, int, int]) -> None:
    assert read_power_log(log(tmp_path, text)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no sample of the power of a board"),
        ("a,b\n1,2\n", "dcgmi dmon -e 155"),
        (
            "timestamp, index, power.draw [W]\nx, 0, [N/A]\n",
            "power.csv:2: measured.power_log: '[N/A]' is no power in W",
        ),
        ("timestamp, index, power.draw [W]\nx, 0\n", "power.csv:2:1: measured.power_log: has 2 cells"),
        ("index, power.draw [W]\n0, 1e9 W\n", "'1e9 W' is no power in W"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_power_log(log(tmp_path, text))
    assert said in str(error.value)


def test_power_is_compared(tmp_path: Path, cli: Cli) -> None:
    log(tmp_path, SMI)
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(EXPERIMENT)
    done = json.loads(cli("validate", experiment, "--json").out)
    (power,) = done["rows"][0]["beside"]
    predicted = json.loads(cli("run", experiment, "--json").out)["energy"]["accelerator_power_w"]
    assert power == {"name": "power", "predicted": predicted, "measured": pytest.approx(565)}
    assert "W for 565 W an accelerator" in cli("validate", experiment).out
    experiment.write_text(EXPERIMENT.replace("power_log: power.csv", "power: 600 W"))
    assert "W for 600 W an accelerator" in cli("validate", experiment).out


def test_a_log_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    (problem,) = check(tmp_path / "mine.yaml")
    assert (problem.key, problem.message) == ("measured.power_log", "no such file")
