"""A network of named vertices as a cluster of ours: the graph itself, in YAML that can be edited.

Public: `Drawing`, `DrawnCable`, `pieces_of`, `rate_text`, `LATENCY`, `MOST_PARTS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sim.imports.foreign import ImportedFile, plain_name, reference_to
from sim.inputs.fragment import definition_text, quantity_text
from sim.inputs.records import Node
from sim.units import DATA_RATE, TIME

LATENCY = 0.5e-6  # of a cable and the switch behind it, where nothing is said: assumption, as in leaf-spine
MOST_PARTS = 12_000  # vertices and cables of a definition that is checked in ten seconds
SHOWN_REMARKS = 20


class DrawnCable(NamedTuple):
    """What joins two vertices: line rate [B/s] per direction and latency [s]."""

    source: str
    target: str
    rate: float
    latency: float = LATENCY


@dataclass
class Drawing:
    """Vertices by name with their kind (node or switch), nodes in the order of the cluster, and cables."""

    kinds: dict[str, str] = field(default_factory=dict)
    cables: list[DrawnCable] = field(default_factory=list)

    @property
    def n_nodes(self) -> int:
        """Servers."""
        return sum(kind == "node" for kind in self.kinds.values())

    @property
    def n_parts(self) -> int:
        """Vertices and cables."""
        return len(self.kinds) + len(self.cables)

    def cluster(self, path: Path, node: str, server: Node, name: str, remarks: list[str]) -> ImportedFile:
        """The definition of a cluster of servers `node` with this network, drawn by the file at `path`."""
        switches = len(self.kinds) - self.n_nodes
        rest = len(remarks) - SHOWN_REMARKS
        told = (
            f"{path.name}: {self.n_nodes} nodes, {switches} switches, {len(self.cables)} cables",
            f"every node is a {node}; payload reaches {server.nics.efficiency:g} of a line rate, as over its adapters",
            *remarks[:SHOWN_REMARKS],
            *([f"and {rest} more of this sort"] if rest > 0 else []),
        )
        fields: dict[str, Any] = {
            "name": plain_name(name or path.stem),
            "nodes": self.n_nodes,
            "node": reference_to(node),
            "fabric": self.fabric(server),
            "sources": {"nodes": path.name, "node": "assumption", "fabric": path.name},
        }
        comment = "\n".join((told[0], *(f"- {remark}" for remark in told[1:])))
        return ImportedFile(definition_text(comment, fields), told)

    def fabric(self, node: Node) -> dict[str, Any]:
        """The fabric as a file says it; payload reaches the share of a line rate that the adapters of `node` reach."""
        return {
            "kind": "graph",
            "nodes": [{"id": name} | ({"kind": kind} if kind != "switch" else {}) for name, kind in self.kinds.items()],
            "links": [_link(cable, node.nics.efficiency) for cable in self.cables],
        }


def _link(cable: DrawnCable, efficiency: float) -> dict[str, Any]:
    return {
        "source": cable.source,
        "target": cable.target,
        "bandwidth": rate_text(cable.rate),
        "efficiency": efficiency,
        "latency": quantity_text(cable.latency, TIME),
    }


def rate_text(rate: float) -> str:
    """A line rate [B/s] as networks have them, in bits."""
    return f"{rate / DATA_RATE.units['Gb/s']:.6g} Gb/s"


def pieces_of(names: Iterable[str], ends: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Names that hang together, each piece in the order of `names`."""
    names = list(names)
    beside: dict[str, list[str]] = {name: [] for name in names}
    for a, b in ends:
        beside[a].append(b)
        beside[b].append(a)
    pieces, seen = [], set[str]()
    for name in names:
        if name in seen:
            continue
        piece, rest = [], [name]
        seen.add(name)
        while rest:
            piece.append(rest.pop())
            rest += (new := [other for other in dict.fromkeys(beside[piece[-1]]) if other not in seen])
            seen.update(new)
        pieces.append(piece)
    return pieces
