"""What boards drew, as nvidia-smi, dcgmi or an exporter of DCGM write it.

Public: `MeteredPower`, `read_power_log`.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim.errors import ConfigError, Problem
from sim.inputs.named_files import read_named
from sim.inputs.reader import shown_path

KEY = "measured.power_log"
MOST_WATTS = 1e5  # of a board
BOARD_HEADERS = ("index", "gpu", "gpu_bus_id", "pci.bus_id", "uuid", "gpu_uuid", "device", "name")
SMI = re.compile(r"power\.draw(\.average|\.instant)?\b|average_socket_power|current_socket_power", re.IGNORECASE)
EXPORTED = re.compile(r'DCGM_FI_DEV_POWER_USAGE\{[^}]*\bgpu="([^"]+)"[^}]*\}\s+([\d.eE+-]+)')
DCGMI = re.compile(r"^\s*GPU\s+(\d+)\s+([\d.]+)")
WAY_OUT = (
    "the output of `nvidia-smi --query-gpu=timestamp,index,power.draw --format=csv -l 1`, of `dcgmi dmon -e 155`, or "
    "samples of DCGM_FI_DEV_POWER_USAGE"
)


class MeteredPower(NamedTuple):
    """mean: of a board while all worked [W]. left_out: samples before the first and after the last that is nearer to
    the most than to the least of its board: it was idle then, or had just begun."""

    mean: float
    boards: int
    samples: int
    left_out: int


def read_power_log(path: Path) -> MeteredPower:
    """The mean power of a board. Raises ConfigError with the line that cannot be read."""
    return _metered(read_named(path, KEY), path)


@lru_cache(maxsize=8)  # a file, asked for by its check and by what is compared
def _metered(content: bytes, path: Path) -> MeteredPower:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(Problem(shown_path(path), KEY, "is not UTF-8 text", WAY_OUT)) from None
    boards: defaultdict[str, list[float]] = defaultdict(list)
    for number, board, text in _samples(lines, path):
        boards[board].append(_watts(text, number, path))
    working = [_while_working(np.array(watts)) for watts in boards.values()]
    kept = sum(map(len, working))
    if not kept:
        raise ConfigError(Problem(f"{shown_path(path)}:1", KEY, "holds no sample of the power of a board", WAY_OUT))
    total = sum(map(len, boards.values()))
    return MeteredPower(float(np.mean([watts.mean() for watts in working])), len(boards), total, total - kept)


def _samples(lines: list[str], path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, board and power of each sample, in whatever form they come."""
    for header, line in enumerate(lines[:20]):
        if SMI.search(line) and "," in line:
            yield from _table(lines, header, path)
            return
    for number, line in enumerate(lines, 1):
        found = EXPORTED.search(line) or DCGMI.match(line)
        if found:
            yield number, found[1], found[2]


def _table(lines: list[str], header: int, path: Path) -> Iterator[tuple[int, str, str]]:
    """Rows of CSV below a header with the power."""
    names = [name.strip().split(" ")[0].lower() for name in next(csv.reader([lines[header]]))]
    power = next(place for place, name in enumerate(names) if SMI.search(name))
    board = next((names.index(name) for name in BOARD_HEADERS if name in names), None)
    for number, line in enumerate(lines[header + 1 :], header + 2):
        cells = next(csv.reader([line]), [])
        if not cells or SMI.search(line):
            continue
        if len(cells) <= power or (board is not None and len(cells) <= board):
            message = f"has {len(cells)} cells, the header {len(names)}"
            raise ConfigError(Problem(f"{shown_path(path)}:{number}:1", KEY, message, "is the log cut?"))
        yield number, "" if board is None else cells[board].strip(), cells[power]


def _watts(text: str, number: int, path: Path) -> float:
    try:
        value = float(text.strip().removesuffix("W").strip())
    except ValueError:
        value = -1.0
    if not 0 <= value < MOST_WATTS:
        message = f"{text.strip()[:40]!r} is no power in W"
        raise ConfigError(Problem(f"{shown_path(path)}:{number}", KEY, message, "leave out boards that have no meter"))
    return value


def _while_working(watts: np.ndarray) -> np.ndarray:
    """Samples from the first to the last that is nearer to the most than to the least."""
    busy = np.flatnonzero(watts >= (watts.min() + watts.max()) / 2)
    return watts[busy[0] : busy[-1] + 1]
