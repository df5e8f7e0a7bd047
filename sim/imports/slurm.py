"""Slurm's topology.conf, of the tree and the block plugin, as a cluster.

Format: topology.conf(5), https://slurm.schedmd.com/topology.conf.html. It says which switch is over which nodes and
switches, and nothing of cables: how many there are is an assumption. Equal leaves under the same spines are a fat tree,
anything else a graph.

Public: `import_slurm`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem
from sim.imports.drawing import LATENCY, MOST_PARTS, Drawing, DrawnCable, pieces_of, rate_text
from sim.imports.foreign import ForeignFile, ImportedFile, node_like, plain_name, reference_to
from sim.imports.hostlist import MOST_NAMES, HostlistError, expand_hostlist
from sim.inputs.fragment import definition_text, quantity_text
from sim.inputs.problems import near
from sim.inputs.records import Node
from sim.units import DATA_RATE, TIME, QuantityError, parse_quantity

KEYS = {"switchname": "SwitchName", "blockname": "BlockName", "nodes": "Nodes", "switches": "Switches",
        "linkspeed": "LinkSpeed", "blocksizes": "BlockSizes"}  # fmt: skip
SHOWN_LEAVES = 64
_WORD = re.compile(r"\S+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,119}")


@dataclass(frozen=True)
class ListedSwitch:
    """One line: a switch or block and what is under it, with the rate [B/s] of its links where that is said."""

    name: str
    line: int
    nodes: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    rate: float | None = None
    written: str = ""  # the nodes as the file has them


def import_slurm(path: Path, node: str, name: str = "", oversubscription: float = 1.0) -> ImportedFile:
    """The cluster that the topology.conf at `path` lists, of servers `node`. Raises ConfigError with all problems.

    oversubscription: capacity down over capacity up of each switch, which the file does not say.
    """
    server = node_like(node)
    if server.nics.count * server.nics.bandwidth == 0:
        raise ConfigError(Problem("", "--node", f"{node} has no network adapters", "name a server that has some"))
    reader = _Lines(ForeignFile.read(path))
    listed = reader.read()
    file = reader.file
    _check_tree(listed, file, reader.plugin)
    file.raise_if_wrong()
    return _written(listed, reader, server, node, plain_name(name or path.stem), oversubscription)


# --- lines ------------------------------------------------------------------------------------


class _Lines:
    """Reads the lines of a file; says what of them counts for nothing."""

    def __init__(self, file: ForeignFile) -> None:
        self.file = file
        self.unused: list[str] = []
        self.plugin = ""  # SwitchName or BlockName

    def read(self) -> list[ListedSwitch]:
        listed = []
        for number, line in _logical_lines(self.file.text):
            words = [(found[0], found.start() + 1) for found in _WORD.finditer(line)]
            switch = self._switch(number, self._entries(number, words)) if words else None
            if switch:
                listed.append(switch)
        if not listed and not self.file.problems:
            self.file.note(1, 1, "lists no switches and no blocks", "lines begin with SwitchName= or BlockName=")
        return listed

    def _entries(self, line: int, words: list[tuple[str, int]]) -> dict[str, tuple[str, int]]:
        entries: dict[str, tuple[str, int]] = {}
        for word, column in words:
            written, equals, value = word.partition("=")
            key = KEYS.get(written.lower())
            if key is None:
                self.file.note(line, column, "is not read", near(written, list(KEYS.values())), written[:80])
            elif not equals or not value:
                self.file.note(line, column, "has no value", f"write {key}=...", key)
                entries[key] = "", column
            elif key in entries:
                self.file.note(line, column, "stands twice on this line", "", key)
            else:
                entries[key] = value, column
        return entries

    def _switch(self, line: int, entries: dict[str, tuple[str, int]]) -> ListedSwitch | None:
        sizes = entries.pop("BlockSizes", None)
        if sizes:
            self.unused.append(f"BlockSizes={sizes[0]} is how jobs are placed, and counts for nothing here")
        if not entries:
            return None
        key = next((key for key in ("SwitchName", "BlockName") if key in entries), "")
        if not key:
            self.file.note(line, next(iter(entries.values()))[1], "neither SwitchName nor BlockName on this line")
            return None
        name, column = entries[key]
        if self.plugin not in ("", key):
            self.file.note(line, column, f"{key} in a file of {self.plugin} lines", "use one plugin", key)
        self.plugin = self.plugin or key
        if name and not _NAME.fullmatch(name):
            self.file.note(line, column, f"{name[:80]!r} is no name", "letters, digits, . _ + -", key)
        if key == "BlockName" and "Switches" in entries:
            self.file.note(line, entries["Switches"][1], "blocks hold nodes, and no switches", "", "Switches")
        nodes, switches = (self._names(line, which, entries.get(which)) for which in ("Nodes", "Switches"))
        if not {"Nodes", "Switches"} & set(entries):
            self.file.note(line, column, "has nothing under it", "give Nodes= or Switches=", name)
        rate = self._rate(line, *entries["LinkSpeed"]) if "LinkSpeed" in entries else None
        return ListedSwitch(name, line, nodes, switches, rate, entries.get("Nodes", ("", 0))[0])

    def _names(self, line: int, key: str, entry: tuple[str, int] | None) -> tuple[str, ...]:
        if entry is None or not entry[0]:
            return ()
        try:
            names = expand_hostlist(entry[0])
        except HostlistError as error:
            self.file.note(line, entry[1], f"{error}", "write node[001-016,020]", key)
            return ()
        wrong = [name for name in names if not _NAME.fullmatch(name)]
        if wrong:
            self.file.note(line, entry[1], f"{wrong[0][:80]!r} is no name", "letters, digits, . _ + -", key)
        return tuple(names)

    def _rate(self, line: int, text: str, column: int) -> float | None:
        """A rate if a unit says so: Slurm leaves units open."""
        if not text:
            return None
        if re.fullmatch(r"[\d.]+", text):
            self.unused.append(f"line {line}: LinkSpeed={text} has no unit, and counts for nothing; write {text}Gb/s")
            return None
        try:
            rate = parse_quantity(text, DATA_RATE)
        except QuantityError as error:
            self.file.note(line, column, error.message, error.suggestion, "LinkSpeed")
            return None
        if rate == 0:
            self.file.note(line, column, "must be above 0", "", "LinkSpeed")
        return rate


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines without comments, each with its number; one that ends with a backslash goes on in the next."""
    lines: list[tuple[int, str]] = []
    goes_on = False
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].rstrip()
        held = line.removesuffix("\\")
        if goes_on:
            lines[-1] = lines[-1][0], lines[-1][1] + held
        else:
            lines.append((number, held))
        goes_on = line.endswith("\\")
    return lines


# --- the tree ---------------------------------------------------------------------------------


def _check_tree(listed: list[ListedSwitch], file: ForeignFile, plugin: str) -> None:
    """Names are unique and known, nothing is over itself, and all hangs together."""
    at: dict[str, int] = {}
    for switch in listed:
        if switch.name in at:
            file.note(switch.line, 1, f"is on line {at[switch.name]} too", "names are unique", switch.name)
        at.setdefault(switch.name, switch.line)
    home: dict[str, ListedSwitch] = {}
    for switch in listed:
        twice = [node for node, times in Counter(switch.nodes).items() if times > 1 or node in home]
        if twice:
            other = home.get(twice[0], switch)
            message = f"{twice[0]} is under {other.name} (line {other.line}) too"
            file.note(switch.line, 1, message, "a node is under one switch, which may stand for several", switch.name)
        shared = [node for node in switch.nodes if node in at]
        if shared:
            file.note(switch.line, 1, f"{shared[0]} is a switch (line {at[shared[0]]}) and a node", "", switch.name)
        unknown = [child for child in switch.switches if child not in at]
        if unknown:
            file.note(switch.line, 1, f"no line lists the switch {unknown[0]}", near(unknown[0], list(at)), switch.name)
        home |= dict.fromkeys(switch.nodes, switch)
    if not file.problems:
        _check_circles(listed, file)
    if not file.problems and plugin == "SwitchName":
        _check_joined(listed, file)


def _check_circles(listed: list[ListedSwitch], file: ForeignFile) -> None:
    """Whatever remains when switches with nothing but leaves under them are taken away, again and again."""
    remaining = {switch.name: switch for switch in listed}
    while bare := [name for name, switch in remaining.items() if not remaining.keys() & set(switch.switches)]:
        for name in bare:
            del remaining[name]
    if remaining:
        first = next(iter(remaining.values()))
        file.note(first.line, 1, f"is over itself: {', '.join(list(remaining)[:5])}", "", first.name)


def _check_joined(listed: list[ListedSwitch], file: ForeignFile) -> None:
    ends = [(switch.name, child) for switch in listed for child in switch.switches]
    pieces = pieces_of([switch.name for switch in listed], ends)
    line = {switch.name: switch.line for switch in listed}
    for piece in pieces[1:]:
        message = f"does not hang together with {pieces[0][0]}: nothing is over both"
        file.note(line[piece[0]], 1, message, "add a switch over them, or import one part", piece[0])


# --- the cluster ------------------------------------------------------------------------------


def _written(
    listed: list[ListedSwitch], reader: _Lines, server: Node, node: str, name: str, oversubscription: float
) -> ImportedFile:
    blocks = reader.plugin == "BlockName"
    leaves = [switch for switch in listed if switch.nodes]
    if not leaves:
        reader.file.stop(listed[0].line, 1, "no switch has nodes under it")
    n_nodes = sum(len(leaf.nodes) for leaf in leaves)
    if n_nodes > MOST_NAMES:
        reader.file.stop(leaves[0].line, 1, f"{n_nodes:,} nodes, more than {MOST_NAMES:,}")
    over = _over(blocks, listed, leaves)
    rates = {leaf.rate for leaf in leaves}
    rate = (rates.pop() if len(rates) == 1 else None) or server.nics.bandwidth
    fabric, what = _fabric(leaves, over, server, rate, oversubscription, reader.file)
    remarks = [
        *([] if len(leaves) + len(over) == 1 else [_of_trunks(oversubscription, what)]),
        f"every node is a {node}, and its switch stands for all leaves that its {server.nics.count} adapters are on",
        *(["blocks are nodes under one leaf; that one spine joins them is an assumption"] if blocks else []),
        *reader.unused,
    ]
    fields: dict[str, Any] = {
        "name": name,
        "nodes": n_nodes,
        "node": _node(node, server, rate),
        "fabric": fabric,
        "sources": {"nodes": reader.file.path.name, "node": "assumption", "fabric": f"{reader.file.path.name}; {what}"},
    }
    head = [f"{reader.file.path.name}: {n_nodes} nodes, {len(listed)} {'blocks' if blocks else 'switches'}; {what}"]
    comment = "\n".join((*head, *(f"- {remark}" for remark in remarks), *_places(leaves, what)))
    return ImportedFile(definition_text(comment, fields), (*head, *remarks))


def _over(blocks: bool, listed: list[ListedSwitch], leaves: list[ListedSwitch]) -> list[ListedSwitch]:
    """Switches over others; for blocks one that no file names."""
    if not blocks:
        return [switch for switch in listed if switch.switches]
    names = {part for leaf in leaves for part in (leaf.name, *leaf.nodes)}
    spine = next(f"spine{suffix}" for suffix in ("", *range(len(names) + 1)) if f"spine{suffix}" not in names)
    return [ListedSwitch(spine, 0, switches=tuple(leaf.name for leaf in leaves))] if len(leaves) > 1 else []


def _of_trunks(oversubscription: float, what: str) -> str:
    key = "leaf_oversubscription" if what == "a fat tree" else "bandwidth of links between switches"
    given = "as much capacity up as down" if oversubscription == 1 else f"capacity down over up is {oversubscription:g}"
    return f"the file does not say how many cables go up: {given} ({key})"


def _node(node: str, server: Node, rate: float) -> str | dict[str, Any]:
    reference = reference_to(node)
    if rate == server.nics.bandwidth:
        return reference
    return {"extends": reference, "nics": {"bandwidth": rate_text(rate)}}


def _fabric(
    leaves: list[ListedSwitch],
    over: list[ListedSwitch],
    server: Node,
    rate: float,
    oversubscription: float,
    file: ForeignFile,
) -> tuple[dict[str, Any], str]:
    """The fabric as a file says it, and what it is in words."""
    link = {"bandwidth": rate, "efficiency": server.nics.efficiency, "latency": LATENCY}
    told = link | {"bandwidth": rate_text(rate), "latency": quantity_text(LATENCY, TIME)}
    if len(leaves) == 1 and not over:
        return {"kind": "switch", "link": told}, "one switch"
    if _is_fat_tree(leaves, over):
        tree = {"nodes_per_unit": len(leaves[0].nodes), "spines": len(over), "leaf_oversubscription": oversubscription}
        return {"kind": "fat_tree", **tree, "link": told}, "a fat tree"
    drawing = _drawn(leaves, over, rate * server.nics.count, server.nics.count, oversubscription)
    if drawing.n_parts > MOST_PARTS:
        message = f"an irregular tree with {drawing.n_parts:,} nodes, switches and links, more than {MOST_PARTS:,}"
        file.stop(leaves[0].line, 1, message, "list the part that the job runs on")
    return drawing.fabric(server), "a graph"


def _is_fat_tree(leaves: list[ListedSwitch], over: list[ListedSwitch]) -> bool:
    """Whether leaves, equal but for the last, are under the same spines; links have one rate, and trunks none."""
    sizes, names = [len(leaf.nodes) for leaf in leaves], Counter(leaf.name for leaf in leaves)
    equal = set(sizes[:-1]) <= {sizes[0]} and sizes[-1] <= sizes[0] and len({leaf.rate for leaf in leaves}) == 1
    plain = all(Counter(spine.switches) == names and not spine.nodes and spine.rate is None for spine in over)
    return bool(over) and equal and plain


def _drawn(
    leaves: list[ListedSwitch], over: list[ListedSwitch], rate: float, adapters: int, oversubscription: float
) -> Drawing:
    """rate: of a node whose switch gives none [B/s]."""
    switches = {switch.name: switch for switch in (*leaves, *over)}
    drawing = Drawing({node: "node" for leaf in leaves for node in leaf.nodes} | dict.fromkeys(switches, "switch"))
    down: dict[str, float] = {}
    above = Counter(child for switch in switches.values() for child in set(switch.switches))
    for name in _from_below(switches):
        switch = switches[name]
        of_node = switch.rate * adapters if switch.rate else rate
        cables = [DrawnCable(node, name, of_node) for node in switch.nodes]
        for child in dict.fromkeys(switch.switches):
            cables.append(DrawnCable(child, name, switch.rate or down[child] / oversubscription / above[child]))
        down[name] = sum(cable.rate for cable in cables)
        drawing.cables += cables
    return drawing


def _from_below(switches: dict[str, ListedSwitch]) -> list[str]:
    """Names of switches, those under a switch before it."""
    order: dict[str, None] = {}
    while len(order) < len(switches):
        ready = [
            name for name, switch in switches.items() if name not in order and set(switch.switches) <= order.keys()
        ]
        order |= dict.fromkeys(ready)
    return list(order)


def _places(leaves: list[ListedSwitch], what: str) -> list[str]:
    """Which of our nodes is which of the file, where they have no names."""
    if what == "a graph":
        return []
    lines, first = [], 0
    for leaf in leaves[:SHOWN_LEAVES]:
        last = first + len(leaf.nodes) - 1
        lines.append(f"node{first} to node{last}: {leaf.name}, {leaf.written[:120]}")
        first = last + 1
    return [*lines, *(["..."] if len(leaves) > SHOWN_LEAVES else [])]
