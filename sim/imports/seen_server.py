"""A server as programs see it from inside: which boards, NVLinks, PCIe switches, sockets and adapters it has.

What they do not see comes from a server of the catalogue that has the same kind of network: the board itself,
efficiencies, latencies, start-up of collectives, power.

Public: `SeenServer`, `SeenAdapter`, `describe_server`, `in_order`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

from sim.cluster.server import CUBE_MESH_LINKS
from sim.errors import ConfigError, Problem
from sim.imports.drawing import rate_text
from sim.imports.foreign import ForeignFile, ImportedFile, plain_name, reference_to
from sim.inputs.catalogue import list_catalogue
from sim.inputs.fragment import definition_text, quantity_text
from sim.inputs.load import load_definition
from sim.inputs.records import Node
from sim.units import DATA_RATE

MOST_BOARDS, MOST_BRIDGED = 576, 4


@dataclass(frozen=True)
class SeenAdapter:
    """A network adapter: its rate [B/s] (0: not told), and whether it shares a PCIe switch with a board."""

    name: str
    rate: float
    near: bool


@dataclass(frozen=True)
class SeenServer:
    """Boards in their order, and what joins them.

    links: NVLinks between boards i < j. to_switch: those of each board to switches of its own. through: whether links
    between two boards may lead through a switch. switch_of, socket_of: the PCIe switch (None: a root port of its own)
    and the memory domain of each board. board_rate, uplink: what copies reach on the PCIe link of a board and of a
    switch [B/s], 0 where it is not told.
    """

    boards: tuple[str, ...]
    links: dict[tuple[int, int], int]
    to_switch: tuple[int, ...]
    through: bool
    switch_of: tuple[Hashable, ...]
    socket_of: tuple[Hashable, ...]
    adapters: tuple[SeenAdapter, ...]
    board_rate: float = 0.0
    uplink: float = 0.0

    @property
    def n(self) -> int:
        """Boards."""
        return len(self.boards)

    def width(self, i: int) -> int:
        """NVLinks of board i."""
        return self.to_switch[i] + sum(count for pair, count in self.links.items() if i in pair)


def describe_server(
    seen: SeenServer, file: ForeignFile, like: str, node: Node, name: str, link_rate: float, remarks: Sequence[str]
) -> ImportedFile:
    """The server as one that extends `like` (`node`): what the file says is written, all else stays as it is there.

    link_rate: of one NVLink per direction [B/s], 0 if not told. Raises ConfigError if it cannot be described.
    """
    kind, seen, told = _kind(seen, file, node, like)
    adapters, of_adapters = _adapters(seen, node, like)
    heard = [*remarks, *told, *of_adapters]
    known: dict[str, Any] = {"accelerators": seen.n}
    if kind == "pcie":
        known |= _pcie_fields(seen, file, like, node, link_rate, heard)
    elif seen.n > 1:
        known |= _linked_fields(seen, kind, like, node, link_rate, heard)
    known |= {"nics": adapters} if adapters else {}
    told_by = dict.fromkeys(_paths(known), file.path.name)
    head = f"{file.path.name}: {seen.n} boards, {_in_words(seen, kind)}, adapters: {len(seen.adapters)}"
    heard.append(f"boards, efficiencies, latencies, collectives, host and power are those of {like}")
    named = {"extends": reference_to(like), "name": plain_name(name or file.path.stem)}
    comment = "\n".join((head, *(f"- {remark}" for remark in heard)))
    return ImportedFile(definition_text(comment, {**named, **known, "sources": told_by}), (head, *heard))


def _paths(known: dict[str, Any]) -> list[str]:
    """Key paths of what is written, as sources name them."""
    return [
        path
        for key, value in known.items()
        for path in ([f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key])
    ]


def _in_words(seen: SeenServer, kind: str) -> str:
    widths = {seen.width(i) for i in range(seen.n)}
    links = f" of {max(widths)} NVLinks each" if len(widths) == 1 and kind != "pcie" and max(widths) else ""
    return f"{kind}{links}"


# --- what kind of network -------------------------------------------------------------------------


def _kind(seen: SeenServer, file: ForeignFile, node: Node, like: str) -> tuple[str, SeenServer, list[str]]:
    """The kind of local network, the server with its boards in the order of that kind, and remarks."""
    if seen.n > MOST_BOARDS:
        file.stop(1, 1, f"{seen.n} boards, more than {MOST_BOARDS}")
    order = _cube_order(seen)
    kinds = _kinds(seen, order)
    if not kinds:
        file.stop(
            1, 1, f"NVLinks in no pattern that is known: {_listed(seen)}", "a switch, mesh, ring, cube or bridges"
        )
    if seen.n == 1:
        return node.local.kind, seen, []
    if node.local.kind not in kinds:
        told = " or ".join(kinds)
        way_out = f"name one with {told}, such as {', '.join(_with_kind(kinds)[:4]) or 'one of your own'}"
        message = f"the file shows a server of kind {told}, {like} is of kind {node.local.kind}"
        raise ConfigError(Problem("", "--node", message, way_out))
    kind, remarks = node.local.kind, []
    if kind == "hybrid_cube_mesh" and order is not None and order != tuple(range(seen.n)):
        seen = _reordered(seen, order)
        remarks.append(f"boards are numbered as in the cube: {', '.join(seen.boards)}")
    if len(kinds) > 1 and seen.links:
        remarks.append(f"every board has as many links to every other: taken as {kind}, which {like} is")
    if kind == "switch" and seen.links:  # the matrix shows the same bond to all others
        seen = replace(seen, links={}, to_switch=(next(iter(seen.links.values())),) * seen.n)
    return kind, seen, remarks


def _kinds(seen: SeenServer, cube: tuple[int, ...] | None) -> tuple[str, ...]:
    """Kinds of local network that the links allow."""
    n, counts = seen.n, set(seen.links.values())
    pairs = set(combinations(range(n), 2))
    if n == 1:
        return ("none",)
    if any(seen.to_switch):
        return ("switch",) if len(set(seen.to_switch)) == 1 and not seen.links else ()
    if not seen.links:
        return ("pcie",)
    if len(counts) == 1 and set(seen.links) == pairs:
        return ("mesh", *(["switch"] if seen.through else []), *(["pcie"] if n <= MOST_BRIDGED else []))
    if _bridged(seen):
        return ("pcie",)
    if cube is not None:
        return ("hybrid_cube_mesh",)
    ring = {(min(i, (i + 1) % n), max(i, (i + 1) % n)) for i in range(n)}
    return ("ring",) if len(counts) == 1 and set(seen.links) == ring else ()


def _bridged(seen: SeenServer) -> int:
    """Boards that one bridge joins, if all are bridged alike with their neighbours; else 0."""
    for size in range(2, MOST_BRIDGED + 1):
        groups = [range(first, first + size) for first in range(0, seen.n, size)] if seen.n % size == 0 else []
        pairs = {pair for group in groups for pair in combinations(group, 2)}
        if pairs and pairs == set(seen.links) and len(set(seen.links.values())) == 1:
            return size
    return 0


def _cube_order(seen: SeenServer) -> tuple[int, ...] | None:
    """Boards in an order in which their links are those of the cube mesh of eight."""
    if seen.n != 8 or any(seen.to_switch) or Counter(seen.links.values()) != Counter(CUBE_MESH_LINKS.values()):
        return None
    orders = permutations(range(8))
    wanted = list(CUBE_MESH_LINKS.items())
    return next((o for o in orders if all(seen.links.get(_pair(o[i], o[j])) == k for (i, j), k in wanted)), None)


def _pair(i: int, j: int) -> tuple[int, int]:
    return (i, j) if i < j else (j, i)


def _listed(seen: SeenServer) -> str:
    """The first few links in words."""
    parts = [f"{seen.boards[i]} - switch {count}" for i, count in enumerate(seen.to_switch) if count]
    parts += [f"{seen.boards[i]} - {seen.boards[j]} {count}" for (i, j), count in seen.links.items()]
    return f"{', '.join(parts[:8])}{', ...' if len(parts) > 8 else ''}"


def _with_kind(kinds: Sequence[str]) -> list[str]:
    """Servers of the catalogue whose local network is of such a kind."""
    nodes = [(name, load_definition("node", name)) for name in list_catalogue("node")]
    return [name for name, node in nodes if isinstance(node, Node) and node.local.kind in kinds]


# --- what is written --------------------------------------------------------------------------------


def _linked_fields(
    seen: SeenServer, kind: str, like: str, node: Node, link_rate: float, remarks: list[str]
) -> dict[str, Any]:
    """NVLinks; where nobody says how fast one is, all of a board are as fast as those of `like`."""
    width = max(seen.width(i) for i in range(seen.n))
    rate = width * link_rate or node.local.bandwidth
    told = f"{width} NVLinks of {quantity_text(rate / width, DATA_RATE)} are {quantity_text(rate, DATA_RATE)} a board"
    remarks.append(told if link_rate else f"{told}: the sum is that of {like}; --link-rate says otherwise")
    fields: dict[str, Any] = {"local": {"bandwidth": quantity_text(rate, DATA_RATE)}} if link_rate else {}
    if node.pcie is not None and node.accelerators != seen.n:
        remarks.append(f"PCIe is left out: that of {like} is of {node.accelerators} boards")
        fields["pcie"] = None
    return fields


def _pcie_fields(
    seen: SeenServer, file: ForeignFile, like: str, node: Node, link_rate: float, remarks: list[str]
) -> dict[str, Any]:
    """Boards over switches, root ports and sockets, with bridges if there are any."""
    switches, sockets = _shares(seen, file)
    shared = any(adapter.near for adapter in seen.adapters) and switches > 0
    pcie: dict[str, Any] = {"switches": switches, "sockets": sockets, "adapters": "switch" if shared else "root"}
    if switches and seen.uplink and seen.uplink != seen.board_rate:
        pcie["uplink"] = quantity_text(seen.uplink, DATA_RATE)
    between = node.pcie.socket_bandwidth if node.pcie else 0.0
    if sockets > 1 and between == 0:
        message = f"{sockets} sockets, and {like} does not say what passes between them"
        raise ConfigError(Problem("", "--node", message, "name a server with node.pcie.socket_bandwidth"))
    if sockets > 1:
        rate_between = quantity_text(between, DATA_RATE)
        remarks.append(f"memory domains count as sockets, {rate_between} between two as for {like}")
    pcie |= _bridges(seen, like, node, link_rate, remarks)
    if seen.board_rate:
        return {"local": {"bandwidth": quantity_text(seen.board_rate, DATA_RATE)}, "pcie": pcie}
    told = quantity_text(node.local.bandwidth, DATA_RATE)
    remarks.append(f"the file does not tell the rate of PCIe: {told} as {like} has")
    return {"pcie": pcie}


def _bridges(seen: SeenServer, like: str, node: Node, link_rate: float, remarks: list[str]) -> dict[str, Any]:
    size, known = _bridged(seen), node.pcie.bridges if node.pcie else None
    if not size:
        return {"bridges": None} if known else {}
    width = seen.width(0)
    if link_rate:
        return {"bridges": {"bandwidth": quantity_text(width * link_rate, DATA_RATE), "boards": size}}
    if known is None:
        message = f"bridges of {width} NVLinks, and {like} has none that says how fast they are"
        raise ConfigError(Problem("", "--link-rate", message, "such as --link-rate '25 GB/s'"))
    remarks.append(f"bridges are as fast as those of {like}; --link-rate says otherwise")
    return {"bridges": {"boards": size}}


def _shares(seen: SeenServer, file: ForeignFile) -> tuple[int, int]:
    """PCIe switches (0: none) and sockets, which share boards evenly and in order, as `PcieTree` does."""
    groups = list(dict.fromkeys(seen.switch_of))
    switches = 0 if None in groups else len(groups)
    if None in groups and len(groups) > 1:
        file.stop(1, 1, "some boards are behind PCIe switches, some are not", "describe the server by hand")
    sockets, roots = len(set(seen.socket_of)), switches or seen.n
    of_root = [i * roots // seen.n for i in range(seen.n)]
    for what, of_board, count in (
        ("switches", seen.switch_of if switches else range(seen.n), roots),
        ("sockets", seen.socket_of, sockets),
    ):
        shares = of_root if what == "switches" else [root * sockets // roots for root in of_root]
        if _ranked(of_board) != shares:
            held = ", ".join(str(each) for each in Counter(_ranked(of_board)).values())
            message = f"{count} {what} with {held} boards: clustersim shares them out evenly"
            file.stop(1, 1, message, "describe the server by hand")
    return switches, sockets


def _ranked(labels: Sequence[Hashable]) -> list[int]:
    """Labels by the order in which they first come."""
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return [number[label] for label in labels]


def _adapters(seen: SeenServer, node: Node, like: str) -> tuple[dict[str, Any], list[str]]:
    """The fastest adapters that share a switch with a board, or the fastest of all where none does."""
    if not seen.adapters:
        return {}, [f"the file names no network adapters: {node.nics.count} as {like} has"]
    near = [adapter for adapter in seen.adapters if adapter.near] or list(seen.adapters)
    rate = max(adapter.rate for adapter in near)
    chosen = [adapter for adapter in near if adapter.rate == rate]
    left = [adapter.name for adapter in seen.adapters if adapter not in chosen]
    remarks = [f"adapters left out, slower or far from boards: {', '.join(left)}"] if left else []
    if len(chosen) > seen.n and len(chosen) % seen.n:
        remarks.append(f"{len(chosen)} adapters for {seen.n} boards: {len(chosen) % seen.n} of them stay idle")
    if not rate:
        remarks.append(f"the file tells no rates of adapters: {rate_text(node.nics.bandwidth)} as {like} has")
    return {"count": len(chosen)} | ({"bandwidth": rate_text(rate)} if rate else {}), remarks


# --- order ------------------------------------------------------------------------------------------


def in_order(seen: SeenServer) -> tuple[SeenServer, list[str]]:
    """The server with boards of one socket, and of one switch in it, beside one another; a remark if that moves any."""
    socket, switch = _ranked(seen.socket_of), _ranked(seen.switch_of)
    order = tuple(sorted(range(seen.n), key=lambda i: (socket[i], switch[i], i)))
    if order == tuple(range(seen.n)):
        return seen, []
    moved = _reordered(seen, order)
    return moved, [f"boards are numbered by their places: {', '.join(moved.boards)}"]


def _reordered(seen: SeenServer, order: Sequence[int]) -> SeenServer:
    place = {old: new for new, old in enumerate(order)}
    return replace(
        seen,
        boards=tuple(seen.boards[i] for i in order),
        links={_pair(place[i], place[j]): count for (i, j), count in seen.links.items()},
        to_switch=tuple(seen.to_switch[i] for i in order),
        switch_of=tuple(seen.switch_of[i] for i in order),
        socket_of=tuple(seen.socket_of[i] for i in order),
    )
