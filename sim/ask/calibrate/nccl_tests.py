"""What nccl-tests and rccl-tests print: tables of time over message size, with ranks, servers and collective.

Public: `tables_of`, `is_output`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sim.ask.calibrate.told import Told
from sim.errors import ConfigError, Problem
from sim.metrics.calibration import TimeTable
from sim.metrics.curves import bus_factor

PROGRAMS = {
    "all_reduce_perf": "all_reduce",
    "all_gather_perf": "all_gather",
    "reduce_scatter_perf": "reduce_scatter",
    "alltoall_perf": "all_to_all",
}
OTHERS = ("sendrecv_perf", "broadcast_perf", "reduce_perf", "scatter_perf", "gather_perf", "hypercube_perf")
_DEVICE = re.compile(
    r"#\s*Rank\s+(\d+)\s+(?:Group\s+\d+\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+\s+(?:\[[^\]]*\]\s*)?(.*)"
)
_PROGRAM = re.compile(r"\b(" + "|".join([*PROGRAMS, *OTHERS]) + r")(?:_mpi)?\b")
_START = re.compile(r"#\s*nThread\s+\d+")
_ROW = re.compile(r"^\d+\s+\d+\s+[a-z]\w*\s")
TOLERANCE = 0.02  # of the bus factor that a table implies


@dataclass
class _Section:
    """Lines of one run so far."""

    program: str = ""
    hosts: dict[int, str] = field(default_factory=dict)  # by rank
    device: str = ""
    first: int = 0
    times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    factors: list[float] = field(default_factory=list)  # bus over algorithm bandwidth
    reduces: bool = False
    remarks: list[str] = field(default_factory=list)


def is_output(lines: Sequence[str]) -> bool:
    """Whether some line is one that only these programs print."""
    return any(_START.match(line) or _DEVICE.match(line) or _PROGRAM.search(line) for line in lines)


def tables_of(path: Path, lines: Sequence[str], told: Told, column: str) -> list[TimeTable]:
    """Every table in the output of one or more runs; column: "out-of-place" or "in-place".

    Raises ConfigError with line and way out for what is no such output.
    """
    return [_table(path, section, told) for section in _sections(path, lines, column) if section.times]


def _sections(path: Path, lines: Sequence[str], column: str) -> Iterator[_Section]:
    section, program = _Section(), ""
    for number, line in enumerate(lines, 1):
        named = _PROGRAM.search(line)
        if named:
            program = named[1]
        if (_START.match(line) or named) and section.times:
            yield section
            section = _Section()
        section.program = program or section.program
        device = _DEVICE.match(line)
        if device:
            section.hosts[int(device[1])] = device[2]
            section.device = section.device or device[3].strip()
        elif _ROW.match(line):
            _add_row(section, path, number, line.split(), column)
    yield section


def _add_row(section: _Section, path: Path, number: int, words: list[str], column: str) -> None:
    """A row ends in time, algbw, busbw, #wrong, once for out-of-place and once for in-place."""
    size, tail = int(words[0]), words[-8:] if len(words) >= 12 else words[-4:]
    if len(words) < 7 or not all(map(_is_number, tail[:3])):
        message = f"{len(words)} columns; a row of nccl-tests ends in time, algbw, busbw and #wrong"
        raise ConfigError(Problem(f"{path}:{number}", "", message, "give the output as it was printed, lines uncut"))
    part = tail[4:] if column == "in-place" and len(tail) == 8 else tail[:4]
    if not all(map(_is_number, part[:3])):
        section.remarks.append(f"line {number}: no {column} time, left out")
        return
    time, algorithm, bus = (float(word) for word in part[:3])
    if size == 0 or time <= 0:
        return
    if part[3] not in ("0", "N/A") and not re.fullmatch(r"0?\.?0*(e[-+]\d+)?|\d(\.\d+)?e-\d+", part[3]):
        section.remarks.append(f"line {number}: {part[3]} wrong results, left out")
        return
    section.first = section.first or number
    section.times[size].append(time / 1e6)
    section.reduces |= "sum" in words
    if algorithm >= 1:
        section.factors.append(bus / algorithm)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?(e[-+]?\d+)?", word, re.IGNORECASE) is not None


def _table(path: Path, section: _Section, told: Told) -> TimeTable:
    place = f"{path}:{section.first}"
    ranks = len(section.hosts) or told.ranks or 0
    if ranks < 2:
        message = f"{ranks} `Rank ... on HOST device ...` lines above the table"
        hint = "keep the header of the output, or say --ranks and --nodes; at least two ranks are needed"
        raise ConfigError(Problem(place, "", message, hint))
    collective = _collective(section, ranks, place, told.collective)
    _check_factor(section, collective, ranks, place)
    seconds = {size: median(times) for size, times in sorted(section.times.items())}
    nodes = len(set(section.hosts.values())) or told.nodes or 1
    remarks = tuple(section.remarks)
    return TimeTable(path, section.first, "nccl-tests", collective, ranks, nodes, section.device, seconds, remarks)


def _collective(section: _Section, ranks: int, place: str, wanted: str | None) -> str:
    """As the output or the user says, else from the bus bandwidth and the reduction."""
    if section.program in PROGRAMS:
        return PROGRAMS[section.program]
    if section.program:
        names = ", ".join(PROGRAMS)
        raise ConfigError(Problem(place, "", f"{section.program} is not modelled", f"use {names}"))
    if wanted:
        return wanted
    factor = median(section.factors) if section.factors else 0.0
    if section.reduces and abs(factor / bus_factor("all_reduce", ranks) - 1) < TOLERANCE:
        return "all_reduce"
    if section.reduces and abs(factor / bus_factor("reduce_scatter", ranks) - 1) < TOLERANCE:
        return "reduce_scatter"
    message = "the output does not say which collective was run"
    raise ConfigError(Problem(place, "", message, "say so with --collective"))


def _check_factor(section: _Section, collective: str, ranks: int, place: str) -> None:
    """Rank lines that are missing, or a wrong --collective, show in the ratio of the bandwidths."""
    if not section.factors:
        return
    factor, expected = median(section.factors), bus_factor(collective, ranks)
    if abs(factor / expected - 1) > TOLERANCE:
        message = f"busbw is {factor:.3g} x algbw, but {collective} over {ranks} ranks has {expected:.3g}"
        raise ConfigError(Problem(place, "", message, "is the header complete, and the collective right?"))
