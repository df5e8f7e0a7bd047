"""What NCCL writes with NCCL_TOPO_DUMP_FILE: the parts of one server as it sees them.

Elements and attributes as NVIDIA/nccl src/graph/xml.cc writes them: `cpu` (a memory domain), `pci` (a device, or a
switch where others are in it) with `link_speed` and `link_width`, `gpu`, `nvlink` (target, count, class of the target),
`nic`, `net` (speed in Mb/s).

Public: `import_nccl_topology`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sim.imports.foreign import ForeignFile, ImportedFile, node_like
from sim.imports.marked_xml import MarkedElement, read_xml
from sim.imports.seen_server import SeenAdapter, SeenServer, describe_server, in_order

SWITCH_CLASS = "0x068000"  # of PCI: other bridges, as NVSwitches are
MEGABIT = 1e6 / 8  # unit of `speed`
# What copies reach of a PCIe link by its transfer rate [GT/s]: 25 of 31.5 GB/s at 16 (server pcie-8x-a100), 55 of 63 at
# 32 (voipmonitor/rtx6kpro); 0.8 of others is an assumption.
REACHED, REACHED_ELSE = {16.0: 0.79, 32.0: 0.87}, 0.8
LEAST_UPLINK = 0.25  # of the link of a board: less is how virtual machines draw switches


@dataclass(frozen=True)
class _NestedElement:
    """An element with the elements around it, from the outermost on."""

    element: MarkedElement
    around: tuple[MarkedElement, ...]

    @property
    def domain(self) -> MarkedElement | None:
        return next((element for element in self.around if element.tag == "cpu"), None)

    @property
    def devices(self) -> list[MarkedElement]:
        """The PCI devices that it is behind, itself last."""
        return [element for element in self.around if element.tag == "pci"]

    @property
    def switch(self) -> MarkedElement | None:
        """The outermost PCIe switch above its own device."""
        return self.devices[0] if len(self.devices) > 1 else None


def import_nccl_topology(path: Path, like: str, name: str = "", link_rate: float = 0.0) -> ImportedFile:
    """The server that the dump at `path` shows, as one that extends `like`. Raises ConfigError with all problems.

    link_rate: of one NVLink per direction [B/s], 0 if not told.
    """
    node, file = node_like(like), ForeignFile.read(path)
    places = list(_places(read_xml(file, "system")))
    boards = [place for place in places if place.element.tag == "gpu"]
    _check_boards(boards, places, file)
    file.raise_if_wrong()
    links, to_switch = _nvlinks(boards, file)
    remarks: list[str] = []
    board_rate, uplink = _rates(boards, file, remarks)
    file.raise_if_wrong()
    seen = SeenServer(
        boards=tuple(_bus(place) for place in boards),
        links=links,
        to_switch=to_switch,
        through=False,
        switch_of=tuple(id(place.switch) if place.switch else None for place in boards),
        socket_of=tuple(id(place.domain) for place in boards),
        adapters=_adapters(places, boards, file),
        board_rate=board_rate,
        uplink=uplink,
    )
    file.raise_if_wrong()
    seen, moved = in_order(seen)
    return describe_server(seen, file, like, node, name, link_rate, [*remarks, *moved])


def _places(root: MarkedElement) -> Iterator[_NestedElement]:
    rest = [_NestedElement(root, ())]
    while rest:
        place = rest.pop()
        yield place
        rest += [_NestedElement(inner, (*place.around, place.element)) for inner in reversed(place.element.inside)]


def _bus(place: _NestedElement) -> str:
    return place.devices[-1].attributes.get("busid", "?") if place.devices else "?"


def _check_boards(boards: list[_NestedElement], places: list[_NestedElement], file: ForeignFile) -> None:
    """There are boards, each on a device of its own in a memory domain of one host."""
    if not boards:
        file.note(1, 1, "shows no gpu", "NCCL_TOPO_DUMP_FILE is written when a communicator is made")
    met: dict[str, int] = {}
    for place in boards:
        element = place.element
        if not place.devices or not place.domain:
            file.note(element.line, element.column, "a gpu outside pci or cpu")
        elif _bus(place) in met:
            file.note(element.line, element.column, f"{_bus(place)} is on line {met[_bus(place)]} too")
        met.setdefault(_bus(place), element.line)
    hosts = {place.element.attributes.get("host_hash", "") for place in places if place.element.tag == "cpu"}
    if len(hosts) > 1:
        file.note(1, 1, f"shows {len(hosts)} hosts", "dump the file on one node, without NCCL_MNNVL_ENABLE")


def _nvlinks(boards: list[_NestedElement], file: ForeignFile) -> tuple[dict[tuple[int, int], int], tuple[int, ...]]:
    """NVLinks between boards i < j, and those of each board to switches."""
    number = {_bus(place).lower(): i for i, place in enumerate(boards)}
    ways: dict[tuple[int, int], int] = {}
    to_switch = [0] * len(boards)
    for i, place in enumerate(boards):
        for link in place.element.each("nvlink"):
            count, target = _whole(link, "count", file), link.attributes.get("target", "").lower()
            if target in number and number[target] != i:
                ways[i, number[target]] = ways.get((i, number[target]), 0) + count
            elif link.attributes.get("tclass", "") == SWITCH_CLASS:
                to_switch[i] += count
            else:
                message = f"leads to {target[:40] or 'nothing'}, no gpu of this file and no switch"
                file.note(link.line, link.column, message, "dump it with all boards visible", "nvlink")
    most = max(to_switch)
    for i, place in enumerate(boards):
        if most and to_switch[i] != most and not any(i in way for way in ways):
            message = f"{_bus(place)} has {to_switch[i] or 'no'} NVLinks to switches, others have {most}"
            file.note(place.element.line, place.element.column, message, "is a link down?", "gpu")
    for (i, j), count in ways.items():
        if ways.get((j, i), 0) != count and (i < j or (j, i) not in ways):
            element = boards[i].element
            message = (
                f"{_bus(boards[i])} has {count} NVLinks to {_bus(boards[j])}, back there are {ways.get((j, i), 0)}"
            )
            file.note(element.line, element.column, message, "is a link down?", "gpu")
    return {pair: count for pair, count in sorted(ways.items()) if pair[0] < pair[1]}, tuple(to_switch)


def _whole(element: MarkedElement, key: str, file: ForeignFile) -> int:
    text = element.attributes.get(key, "")
    if not re.fullmatch(r"\d{1,9}", text):
        file.note(element.line, element.column, f"{key} is {text[:40]!r}, no whole number", "", element.tag)
        return 0
    return int(text)


def _rates(boards: list[_NestedElement], file: ForeignFile, remarks: list[str]) -> tuple[float, float]:
    """What copies reach on the PCIe link of a board and of a switch [B/s]; the slowest, 0 where it is not told."""
    own = [_copy_rate(place.devices[-1], file) for place in boards]
    up = [_copy_rate(place.switch, file) for place in boards if place.switch]
    if len(set(own)) > 1:
        remarks.append("PCIe links of boards differ: the slowest is taken for all")
    board, uplink = min(own), min(up, default=0.0)
    if 0 < uplink < LEAST_UPLINK * board:
        remarks.append(
            "PCIe switches with an uplink far slower than a board, as in a virtual machine: taken as not told"
        )
        uplink = 0.0
    if board:
        remarks.append("copies are taken to reach 0.8 to 0.87 of the line rate of PCIe, by its generation")
    if any(len(place.devices) > 2 for place in boards):
        remarks.append("of PCIe switches behind switches the outermost counts")
    return board, uplink


def _copy_rate(device: MarkedElement, file: ForeignFile) -> float:
    """Of a PCIe link [B/s]; 0 where the system does not know speed or width."""
    speed = re.match(r"(\d{1,4}(?:\.\d{1,3})?) GT/s", device.attributes.get("link_speed", ""))
    width = device.attributes.get("link_width", "0")
    lanes = _whole(device, "link_width", file) if width else 0
    if speed is None or not lanes:
        return 0.0
    rate = float(speed[1])
    coded = 0.8 if rate < 8 else 128 / 130  # bits of payload in a transfer (PCI Express Base Specification 5.0, 4.2)
    return lanes * rate * 1e9 / 8 * coded * REACHED.get(rate, REACHED_ELSE)


def _adapters(places: list[_NestedElement], boards: list[_NestedElement], file: ForeignFile) -> tuple[SeenAdapter, ...]:
    """Ports of network adapters by name; one that NCCL names under several domains is one."""
    shared = {id(place.switch) for place in boards if place.switch}
    found: dict[str, SeenAdapter] = {}
    for place in places:
        if place.element.tag == "net":
            name = place.element.attributes.get("name", f"line {place.element.line}")
            near = bool(place.switch) and id(place.switch) in shared
            found.setdefault(name, SeenAdapter(name, _whole(place.element, "speed", file) * MEGABIT, near))
    return tuple(found.values())
