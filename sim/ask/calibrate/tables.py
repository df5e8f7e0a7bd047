"""Measured collectives in the output of benchmarks: which program printed it shows in its lines.

Public: `read_tables`.
"""

from __future__ import annotations

import re
from pathlib import Path

from sim.ask.calibrate import headed_tables, nccl_tests
from sim.ask.calibrate.told import Told
from sim.errors import ConfigError, Problem
from sim.inputs.reader import read_bytes
from sim.metrics.calibration import TimeTable

_LAUNCHER = re.compile(r"^(?:\[\d+(?:,\d+)?\](?:<\w+>)?:?\s*)+")  # what mpirun puts before a line
MOST_BYTES = 128 * 2**20  # of a log
NOTHING = Told()
HINT = (
    "give the standard output of all_reduce_perf and its like (nccl-tests, rccl-tests), nccom-test, hccl_demo, "
    "hccl_test, the OSU or Intel MPI benchmarks or that of oneCCL, with the line that names its columns"
)


def read_tables(path: Path, column: str = "out-of-place", told: Told = NOTHING) -> list[TimeTable]:
    """Every table in the output of one or more runs.

    column: "out-of-place" or "in-place", where there are both. Raises ConfigError with line and way out for what is
    no such output, and for what it does not tell.
    """
    content = read_bytes(path, MOST_BYTES, "a log of a benchmark is some kilobytes")
    printed = content.decode("utf-8", errors="replace").splitlines()
    lines = [_LAUNCHER.sub("", line.strip()).strip() for line in printed]
    if nccl_tests.is_output(lines):
        tables = nccl_tests.tables_of(path, lines, told, column)
    else:
        tables = headed_tables.tables_of(path, lines, told)
    if not tables:
        raise ConfigError(Problem(f"{path}:1", "", "holds no table of measured collectives", HINT))
    return tables
