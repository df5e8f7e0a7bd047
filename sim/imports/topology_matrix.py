"""The matrix of `nvidia-smi topo -m`: how each board and adapter of a server reaches each other.

Words as its legend has them: NV# a bond of NVLinks, PIX and PXB inside PCIe switches, PHB and NODE inside a memory
domain, SYS between domains.

Public: `import_topology_matrix`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.imports.drawing import pieces_of
from sim.imports.foreign import ForeignFile, ImportedFile, node_like
from sim.imports.seen_server import SeenAdapter, SeenServer, describe_server, in_order

STYLE = re.compile(r"\x1b\[[0-9;]*m")  # the header is underlined
BOARD, NVLINKS = re.compile(r"GPU\d+"), re.compile(r"NV(\d{1,4})")
SWITCHED = re.compile("PIX|PXB")
# NVLinks hide what is below them; bridges are taken to cross no sockets.
INSIDE = re.compile(r"PIX|PXB|PHB|NODE|NV\d{1,4}")
WORD = re.compile(r"X|SYS|NODE|PHB|PXB|PIX|NV\d{1,4}")


@dataclass(frozen=True)
class _Matrix:
    """Words by row and column; devices in their order."""

    devices: tuple[str, ...]
    words: dict[tuple[str, str], str]

    @property
    def boards(self) -> tuple[str, ...]:
        return tuple(name for name in self.devices if BOARD.fullmatch(name))

    def group(self, joined: re.Pattern[str]) -> tuple[int, ...]:
        """The number of the group of each board, of those that such words join, be it over an adapter."""
        ends = [pair for pair, word in self.words.items() if joined.fullmatch(word)]
        number = {name: i for i, piece in enumerate(pieces_of(self.devices, ends)) for name in piece}
        return tuple(number[board] for board in self.boards)


def import_topology_matrix(path: Path, like: str, name: str = "", link_rate: float = 0.0) -> ImportedFile:
    """The server that the matrix at `path` shows, as one that extends `like`. Raises ConfigError with all problems.

    link_rate: of one NVLink per direction [B/s], 0 if not told.
    """
    node, file = node_like(like), ForeignFile.read(path)
    matrix = _read(file)
    file.raise_if_wrong()
    boards = matrix.boards
    number = {board: i for i, board in enumerate(boards)}
    links = {
        (number[a], number[b]): int(bond[1])
        for (a, b), word in matrix.words.items()
        if a in number and b in number and number[a] < number[b] and (bond := NVLINKS.fullmatch(word))
    }
    adapters = tuple(
        SeenAdapter(device, 0.0, any(SWITCHED.fullmatch(matrix.words[board, device]) for board in boards))
        for device in matrix.devices
        if device not in number
    )
    sockets, alone = matrix.group(INSIDE), (0,) * len(boards)
    seen = SeenServer(boards, links, alone, True, _switches(matrix), sockets, adapters)
    seen, moved = in_order(seen)
    return describe_server(seen, file, like, node, name, link_rate, moved)


def _switches(matrix: _Matrix) -> tuple[int | None, ...]:
    """The PCIe switch of each board; none where it shares one with nobody."""
    shared = {board for (board, _), word in matrix.words.items() if SWITCHED.fullmatch(word)}
    numbers = zip(matrix.boards, matrix.group(SWITCHED), strict=True)
    return tuple(number if board in shared else None for board, number in numbers)


# --- text -------------------------------------------------------------------------------------------


def _read(file: ForeignFile) -> _Matrix:
    lines = [STYLE.sub("", line) for line in file.text.splitlines()]
    head = next((i for i, line in enumerate(lines) if re.match(r"\s*GPU\d+\s", f"{line} ")), None)
    if head is None:
        file.stop(1, 1, "shows no matrix: no line begins with GPU0", "nvidia-smi topo -m > topo.txt")
    devices = tuple(re.split(r"\s+CPU Affinity", lines[head])[0].split())
    twice = sorted({name for name in devices if devices.count(name) > 1})
    if twice:
        file.stop(head + 1, 1, f"{', '.join(twice)} stands twice above the matrix")
    words: dict[tuple[str, str], str] = {}
    rows: dict[str, int] = {}
    for i, line in enumerate(lines[head + 1 :], head + 2):
        row = line.split()
        if line.startswith("Legend") or (row and row[0] in rows):
            break
        if row and row[0] in devices:
            rows[row[0]] = i
            words |= _row(file, i, line, row[0], devices)
    missing = [name for name in devices if name not in rows]
    if missing:
        file.note(head + 1, 1, f"no row of {', '.join(missing[:8])}", "copy the whole matrix")
    _check_even(words, rows, file)
    return _Matrix(devices, words)


def _row(file: ForeignFile, number: int, line: str, name: str, devices: Sequence[str]) -> dict[tuple[str, str], str]:
    cells = [(found[0], found.start() + 1) for found in re.finditer(r"\S+", line)][1 : len(devices) + 1]
    if len(cells) < len(devices):
        file.note(number, 1, f"{len(cells)} cells for {len(devices)} columns", "copy the whole line", name)
        return {}
    for (word, column), device in zip(cells, devices, strict=True):
        if not WORD.fullmatch(word) or (word == "X") != (name == device):
            what = f"{word[:40]!r} is no connection to {device}"
            file.note(number, column, what, "known are X, SYS, NODE, PHB, PXB, PIX, NV#", name)
    return {(name, device): word for (word, _), device in zip(cells, devices, strict=True)}


def _check_even(words: dict[tuple[str, str], str], rows: dict[str, int], file: ForeignFile) -> None:
    """What a row says of a column, the row of that column says of the first."""
    for (a, b), word in words.items():
        back = words.get((b, a), word)
        if word != back and rows[a] > rows[b]:
            file.note(rows[a], 1, f"{word} to {b}, which says {back}", "is a link down?", a)
