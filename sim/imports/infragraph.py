"""InfraGraph's infrastructure as a cluster: instances of devices with XPUs are servers, all others are switches.

Format: the schema of https://github.com/Keysight/infragraph (Infrastructure, in YAML or JSON). Endpoints are expanded
as its service does: an index or a slice for instances and components, instances first; `one2one` pairs them in order,
`many2many` joins each with each, and what is joined twice is one cable. The inside of a device is not read: a server of
the catalogue stands for it.

Public: `import_infragraph`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from sim.imports.drawing import LATENCY, MOST_PARTS, Drawing, DrawnCable, pieces_of, rate_text
from sim.imports.foreign import ForeignFile, ImportedFile, node_like, option_quantity, plain_name
from sim.inputs.problems import near
from sim.inputs.reader import SourceNode, read_text, shown_path
from sim.inputs.records import Node
from sim.units import DATA_RATE, TIME

MOST_PAIRS = 1_000_000  # endpoints joined by one edge of the file
_RATES = {"gigabits_per_second": "Gb/s", "gigabytes_per_second": "GB/s"}
_TIMES = ("ms", "us", "ns")
_ELEMENT = re.compile(r"([A-Za-z0-9_-]+)(?:\[([0-9]*)(:([0-9]*)(?::([0-9]*))?)?\]|\.([0-9]+))?")
_LISTS = ("devices", "links", "instances", "edges")


class _Device(NamedTuple):
    """Components of a device by name: how many, and of which type."""

    components: dict[str, tuple[int, str]]


class _Instance(NamedTuple):
    """Copies of a device in the infrastructure."""

    device: str
    copies: int
    entry: SourceNode


class _End(NamedTuple):
    """One component of one instance."""

    vertex: tuple[str, int]
    component: str
    type: str


class _Link(NamedTuple):
    """Rate [B/s] and latency [s] where they are said."""

    rate: float | None
    latency: float | None


@dataclass
class _Infrastructure:
    """What a file says."""

    file: ForeignFile
    default: float | None
    devices: dict[str, _Device] = field(default_factory=dict)
    links: dict[str, _Link] = field(default_factory=dict)
    instances: dict[str, _Instance] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def note(self, node: SourceNode, message: str, way_out: str = "", key: str = "") -> None:
        """Keep a problem of the value at `node`."""
        self.file.note(node.mark.line, node.mark.column, message, way_out, key)

    def xpus(self, device: str, seen: tuple[str, ...] = ()) -> int:
        """XPUs of a device and of the devices in it."""
        if device not in self.devices or device in seen:
            return 0
        parts = self.devices[device].components.items()
        inside = (count * self.xpus(name, (*seen, device)) for name, (count, type_) in parts if type_ == "device")
        return sum(count for count, type_ in self.devices[device].components.values() if type_ == "xpu") + sum(inside)


def import_infragraph(path: Path, node: str, name: str = "", rate: str = "") -> ImportedFile:
    """The cluster that the infrastructure at `path` describes, of servers `node`. Raises ConfigError with all problems.

    rate: of links that have none, such as `400 Gb/s`.
    """
    server = node_like(node)
    default = option_quantity(rate, DATA_RATE, "--rate") if rate else None
    said = _Infrastructure(ForeignFile.read(path), default)
    root = _root(said)
    _read_devices(said, _items(said, root, "devices"))
    _read_links(said, _items(said, root, "links"))
    _read_instances(said, _items(said, root, "instances"))
    said.file.raise_if_wrong()
    cables = _cables(said, _items(said, root, "edges"), root)
    said.file.raise_if_wrong()
    drawing = _drawing(said, cables, root)
    _check_servers(said, drawing, cables, server, node)
    said.file.raise_if_wrong()
    return drawing.cluster(path, node, server, name or _text(root, "name"), said.remarks)


# --- what the file says -------------------------------------------------------------------------


def _root(said: _Infrastructure) -> SourceNode:
    root = read_text(said.file.text, shown_path(said.file.path))
    if isinstance(root.value, dict) and isinstance(_value(root.value.get("infrastructure")), dict):
        root = root.value["infrastructure"]
    if not isinstance(root.value, dict) or not {"instances", "edges"} <= set(root.value):
        said.file.stop(max(root.mark.line, 1), max(root.mark.column, 1), "holds no infrastructure",
                       f"the keys are {', '.join(_LISTS)}")  # fmt: skip
    return root


def _value(node: SourceNode | None) -> Any:
    return node.value if node else None


def _get(entry: SourceNode, key: str) -> Any:
    return _value(entry.value.get(key)) if isinstance(entry.value, dict) else None


def _text(entry: SourceNode, key: str) -> str:
    value = _get(entry, key)
    return value if isinstance(value, str) else ""


def _items(said: _Infrastructure, entry: SourceNode, key: str) -> list[SourceNode]:
    node = entry.value.get(key)
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, list) or not all(isinstance(item.value, dict) for item in node.value):
        said.note(node, "is no list of mappings", "", key)
        return []
    return list(node.value)


def _named(said: _Infrastructure, entry: SourceNode, taken: dict[str, Any], what: str) -> str:
    """The name of an entry, if it has one that is new."""
    name = _text(entry, "name")
    if not name:
        said.note(entry, f"a {what} without a name")
    elif name in taken:
        said.note(entry, f"a second {what} of this name", "names are unique", name)
    else:
        return name
    return ""


def _count(said: _Infrastructure, entry: SourceNode) -> int:
    count = _get(entry, "count")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_PAIRS:
        node = entry.value.get("count", entry)
        said.note(node, f"count is {'absent' if count is None else repr(count)[:40]}", "a whole number from 1", "count")
        return 1
    return count


def _read_devices(said: _Infrastructure, entries: list[SourceNode]) -> None:
    for entry in entries:
        name = _named(said, entry, said.devices, "device")
        if not name:
            continue
        components: dict[str, tuple[int, str]] = {}
        for component in _items(said, entry, "components"):
            inner = _named(said, component, components, "component")
            type_ = _text(component, "choice") or _text(component, "type")
            custom = component.value.get("custom")
            if type_ == "custom" and custom is not None:
                type_ = _text(custom, "type") or type_
            if inner:
                components[inner] = _count(said, component), type_
        said.devices[name] = _Device(components)


def _read_links(said: _Infrastructure, entries: list[SourceNode]) -> None:
    for entry in entries:
        name = _named(said, entry, said.links, "link")
        if name:
            physical = entry.value.get("physical") or entry
            said.links[name] = _Link(_rate(said, physical), _latency(said, physical))


def _rate(said: _Infrastructure, physical: SourceNode) -> float | None:
    bandwidth = physical.value.get("bandwidth") if isinstance(physical.value, dict) else None
    if bandwidth is None:
        return None
    for key, unit in _RATES.items():
        if _get(bandwidth, key) is not None:
            return _positive(said, bandwidth.value[key], key, DATA_RATE.units[unit])
    return None  # transfers: of how many lanes and bits, nobody says


def _latency(said: _Infrastructure, physical: SourceNode) -> float | None:
    latency = physical.value.get("latency") if isinstance(physical.value, dict) else None
    if latency is None:
        return None
    found = next((key for key in _TIMES if _get(latency, key) is not None), None)
    return _positive(said, latency.value[found], found, TIME.units[found]) if found else None


def _positive(said: _Infrastructure, node: SourceNode, key: str, unit: float) -> float | None:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        said.note(node, f"{key} is {value!r:.40}", "a number above 0", key)
        return None
    return value * unit


def _read_instances(said: _Infrastructure, entries: list[SourceNode]) -> None:
    for entry in entries:
        name, device = _named(said, entry, said.instances, "instance"), _text(entry, "device")
        if device not in said.devices:
            said.note(entry, f"{device!r:.80} is no device", near(device, list(said.devices)), name or "device")
        if name:
            said.instances[name] = _Instance(device, _count(said, entry), entry)


# --- edges ----------------------------------------------------------------------------------------

Cable = tuple[_End, _End, _Link]


def _cables(said: _Infrastructure, edges: list[SourceNode], root: SourceNode) -> list[Cable]:
    """One for each two components that are joined, as often as they are."""
    if not edges:
        said.note(root.value.get("edges", root), "joins nothing", "edges between instances make the network", "edges")
    found: dict[frozenset[tuple[tuple[str, int], str]], Cable] = {}
    for edge in edges:
        link = _link_of(said, edge)
        ends = [_ends(said, edge, key) for key in ("ep1", "ep2")]
        if link is None or not all(ends):
            continue
        for a, b in _joined(said, edge, ends[0], ends[1]):
            if a.vertex != b.vertex:
                found.setdefault(frozenset(((a.vertex, a.component), (b.vertex, b.component))), (a, b, link))
    return list(found.values())


def _link_of(said: _Infrastructure, edge: SourceNode) -> _Link | None:
    name = _text(edge, "link")
    if name not in said.links:
        said.note(edge, f"{name!r:.80} is no link", near(name, list(said.links)), "link")
        return None
    link = said.links[name]
    if link.rate is None and said.default is None:
        said.note(edge, f"link {name} says no rate in bits or bytes a second", "give --rate '400 Gb/s'", "link")
        return None
    if link.rate is None and said.default is not None:
        remark = f"link {name} says no rate in bits or bytes a second: {rate_text(said.default)}"
        said.remarks += [remark] if remark not in said.remarks else []
    return _Link(link.rate or said.default, link.latency)


def _ends(said: _Infrastructure, edge: SourceNode, key: str) -> list[_End]:
    """The components that one endpoint stands for, those of the first instance first."""
    endpoint = edge.value.get(key)
    if endpoint is None or not isinstance(endpoint.value, dict):
        said.note(edge, f"has no {key}", "an endpoint says instance and component", key)
        return []
    instance_text, component_text = _text(endpoint, "instance"), _text(endpoint, "component")
    name = instance_text.split("[")[0].split(".")[0]
    if name not in said.instances:
        said.note(endpoint, f"{name!r:.80} is no instance", near(name, list(said.instances)), key)
        return []
    instance = said.instances[name]
    numbers = _numbers(said, endpoint, instance_text, instance.copies)
    components = _components(said, endpoint, component_text, instance.device)
    if len(numbers) * len(components) > MOST_PAIRS:
        said.note(endpoint, f"stands for more than {MOST_PAIRS:,} components", "", key)
        return []
    return [_End((name, number), component, type_) for number in numbers for component, type_ in components]


def _components(said: _Infrastructure, endpoint: SourceNode, text: str, device: str) -> list[tuple[str, str]]:
    """Full names and types of the components that `text`, such as nic[0:2] or board[0].port, says of a device."""
    parts: list[list[str]] = []
    type_ = ""
    for element in re.split(r"\.(?![0-9])", text):
        name = element.split("[")[0].split(".")[0]
        known = said.devices[device].components if device in said.devices else {}
        if name not in known:
            said.note(endpoint, f"{name!r:.80} is no component of {device}", near(name, list(known)), "component")
            return []
        count, type_ = known[name]
        parts.append([f"{name}.{number}" for number in _numbers(said, endpoint, element, count)])
        if prod(len(part) for part in parts) > MOST_PAIRS:
            said.note(endpoint, f"stands for more than {MOST_PAIRS:,} components", "", "component")
            return []
        device = name
    return [(".".join(each), type_) for each in product(*parts)]


def _numbers(said: _Infrastructure, endpoint: SourceNode, text: str, count: int) -> range:
    """The numbers that an index or slice in `text` stands for, all of them without one."""
    found = _ELEMENT.fullmatch(text)
    if not found:
        said.note(endpoint, f"{text!r:.80} is no name with an index", "write host[0] or host[0:4]")
        return range(0)
    _, first, slice_, stop, step, dotted = found.groups()
    if dotted is not None or (first and slice_ is None):
        numbers = range(int(dotted or first), int(dotted or first) + 1)
    elif step is not None and step != "" and int(step) == 0:
        numbers = range(0)
    else:
        numbers = range(int(first or 0), int(stop or count), int(step or 1))
    if not numbers or numbers[-1] >= count:
        said.note(endpoint, f"{text[:80]} is not among the {count} there are", f"from 0 to {count - 1}")
        return range(0)
    return numbers


def _joined(said: _Infrastructure, edge: SourceNode, a: list[_End], b: list[_End]) -> Iterator[tuple[_End, _End]]:
    scheme = _text(edge, "scheme") or "one2one"
    if scheme == "one2one":
        if len(a) != len(b):
            fewer, more = sorted((len(a), len(b)))
            said.remarks.append(
                f"line {edge.mark.line}: {fewer} ends against {more}: the last {more - fewer} stay free"
            )
        return zip(a, b, strict=False)
    if scheme != "many2many":
        said.note(edge, f"scheme {scheme[:80]} is not read", near(scheme, ["one2one", "many2many"]), "scheme")
    elif len(a) * len(b) > MOST_PAIRS:
        said.note(edge, f"joins more than {MOST_PAIRS:,} pairs of components", "", "scheme")
    else:
        return iter(product(a, b))
    return iter(())


# --- what is written ------------------------------------------------------------------------------


def _drawing(said: _Infrastructure, cables: list[Cable], root: SourceNode) -> Drawing:
    """Vertices in the order of the instances, and a cable for each joined pair; what no cable reaches is left out."""
    cables = _without_scale_up(said, cables)
    used = {end.vertex for cable in cables for end in cable[:2]}
    every = [(name, number) for name, instance in said.instances.items() for number in range(instance.copies)]
    idle = Counter(name for name, number in every if (name, number) not in used)
    for name, count in idle.items():
        said.remarks.append(f"{count} of {said.instances[name].copies} {name} have no cable and are left out")
    names = {vertex: plain_name(f"{vertex[0]}.{vertex[1]}") for vertex in every if vertex in used}
    kinds = {
        named: "node" if said.xpus(said.instances[vertex[0]].device) else "switch" for vertex, named in names.items()
    }
    drawn = [
        DrawnCable(
            names[a.vertex], names[b.vertex], link.rate or 0.0, LATENCY if link.latency is None else link.latency
        )
        for a, b, link in cables
    ]
    drawing = Drawing(kinds, drawn)
    if drawing.n_parts > MOST_PARTS:
        said.note(root, f"a graph of {drawing.n_parts:,} vertices and cables, more than {MOST_PARTS:,}")
    pieces = pieces_of(names.values(), [(cable.source, cable.target) for cable in drawn])
    for piece in pieces[1:]:
        instance = next(vertex[0] for vertex, named in names.items() if named == piece[0])
        message = f"{piece[0]} does not hang together with {pieces[0][0]}"
        said.note(said.instances[instance].entry, message, "join or delete it")
    return drawing


def _without_scale_up(said: _Infrastructure, cables: list[Cable]) -> list[Cable]:
    """Cables of XPUs themselves belong to the server, where its adapters have cables too."""
    outer = [cable for cable in cables if "xpu" not in (cable[0].type, cable[1].type)]
    if not outer or len(outer) == len(cables):
        return cables
    inner = len(cables) - len(outer)
    said.remarks.append(f"{inner} cables end at an XPU and are left out: the scale-up network is that of the server")
    return outer


def _check_servers(said: _Infrastructure, drawing: Drawing, cables: list[Cable], server: Node, node: str) -> None:
    """Notes servers with other boards than `server` has; says where adapters differ."""
    servers = {name: each for name, each in said.instances.items() if said.xpus(each.device)}
    if not drawing.n_nodes:
        entry = next(iter(said.instances.values())).entry
        said.note(entry, "no instance is of a device with components of choice xpu", "servers have XPUs")
    for name, instance in servers.items():
        boards = said.xpus(instance.device)
        if boards != server.accelerators:
            message = f"{instance.device} has {boards} XPUs, and {node} has {server.accelerators} accelerators"
            said.note(instance.entry, message, "name by --node a server with as many", name)
    ports = Counter(
        end.vertex for a, b, _ in cables for end in (a, b) if end.vertex[0] in servers and end.type != "xpu"
    )
    differing = {count for count in ports.values() if count != server.nics.count}
    if differing:
        told = " or ".join(str(count) for count in sorted(differing))
        said.remarks.append(f"servers have {told} cables, and {node} has {server.nics.count} adapters")
