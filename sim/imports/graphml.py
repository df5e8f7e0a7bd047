"""GraphML of any origin as a cluster: which vertices are servers, and how fast cables are, is asked for.

Format: http://graphml.graphdrawing.org/primer/graphml-primer.html. Hyperedges and ports are not read.

Public: `import_graphml`, `GraphmlOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from sim.errors import ConfigError, Problem
from sim.imports.drawing import LATENCY, MOST_PARTS, Drawing, DrawnCable, pieces_of, rate_text
from sim.imports.foreign import ForeignFile, ImportedFile, node_like, option_quantity, plain_name
from sim.imports.marked_xml import MarkedElement, read_xml
from sim.inputs.problems import near
from sim.units import DATA_RATE, TIME, QuantityError, parse_quantity

Pair = tuple[str, str]


@dataclass(frozen=True)
class GraphmlOptions:
    """How a file is to be read.

    nodes: which vertices are servers: `all`, `leaves` (one neighbour), KEY=VALUE, or a pattern of ids such as `host*`;
    those whose `kind` is node if empty. rate_key: attribute of an edge that is its rate, rate_unit: of bare numbers
    there; rate: of edges without one. latency: of edges without one.
    """

    nodes: str = ""
    rate_key: str = "bandwidth"
    rate_unit: str = ""
    rate: str = ""
    latency: str = ""
    name: str = ""


@dataclass
class _Graph:
    """What a file says, with lines."""

    file: ForeignFile
    options: GraphmlOptions
    vertices: dict[str, tuple[MarkedElement, dict[str, str]]] = field(default_factory=dict)  # by id, with attributes
    edges: list[tuple[Pair, MarkedElement, dict[str, str]]] = field(default_factory=list)
    directed: bool = False
    remarks: list[str] = field(default_factory=list)


def import_graphml(path: Path, node: str, options: GraphmlOptions) -> ImportedFile:
    """The cluster that the GraphML file at `path` draws, of servers `node`. Raises ConfigError with all problems."""
    server = node_like(node)
    default = option_quantity(options.rate, DATA_RATE, "--rate") if options.rate else None
    latency = option_quantity(options.latency, TIME, "--latency") if options.latency else LATENCY
    _check_unit(options.rate_unit)
    graph = _read(ForeignFile.read(path), options)
    names = _names(graph)
    servers = _servers(graph)
    cables = _cables(graph, names, default, latency)
    graph.file.raise_if_wrong()
    _check_joined(graph, names)
    kinds = {names[id_]: "node" for id_ in servers} | {names[id_]: "switch" for id_ in names if id_ not in servers}
    drawing = Drawing(kinds, cables)
    if drawing.n_parts > MOST_PARTS:
        graph.file.note(1, 1, f"a graph of {drawing.n_parts:,} vertices and edges, more than {MOST_PARTS:,}")
    graph.file.raise_if_wrong()
    return drawing.cluster(path, node, server, options.name, graph.remarks)


def _mention_storage(graph: _Graph) -> None:
    storage = sum(data.get("kind") == "storage" for _, data in graph.vertices.values())
    if storage:
        graph.remarks.append(f"{storage} vertices of kind storage are switches here: storage has a file of its own")


def _check_unit(unit: str) -> None:
    if unit and unit not in DATA_RATE.units:
        known = [name for name in DATA_RATE.units if name.endswith(("b/s", "B/s"))]
        raise ConfigError(Problem("", "--rate-unit", f"{unit!r} is no unit of a data rate", near(unit, known)))


# --- what the file says -------------------------------------------------------------------------


def _read(file: ForeignFile, options: GraphmlOptions) -> _Graph:
    root = read_xml(file, "graphml")
    graph = _Graph(file, options)
    drawn = next(root.each("graph"), None)
    if drawn is None:
        file.stop(root.line, root.column, "holds no graph")
    graph.directed = drawn.attributes.get("edgedefault") == "directed"
    keys = {key.attributes.get("id", ""): key for key in root.each("key")}
    for hyper in root.each("hyperedge"):
        file.note(hyper.line, hyper.column, "is a hyperedge", "draw a switch with an edge to each of its ends")
    for vertex in root.each("node"):
        id_ = vertex.attributes.get("id", "")
        if not id_:
            file.note(vertex.line, vertex.column, "a node without an id")
        elif id_ in graph.vertices:
            line = graph.vertices[id_][0].line
            file.note(vertex.line, vertex.column, f"is on line {line} too", "ids are unique", f"node {id_}")
        else:
            graph.vertices[id_] = vertex, _data(vertex, keys, "node")
    for edge in root.each("edge"):
        _add_edge(graph, edge, keys)
    if not graph.vertices and not file.problems:
        file.note(drawn.line, drawn.column, "holds no nodes")
    return graph


def _add_edge(graph: _Graph, edge: MarkedElement, keys: dict[str, MarkedElement]) -> None:
    ends = edge.attributes.get("source", ""), edge.attributes.get("target", "")
    unknown = [end for end in ends if end not in graph.vertices]
    if unknown:
        what = f"{unknown[0][:80]!r} is no node" if unknown[0] else "lacks an end"
        graph.file.note(edge.line, edge.column, what, near(unknown[0], list(graph.vertices)[:1000]), _told(ends))
    elif ends[0] == ends[1]:
        graph.remarks.append(f"line {edge.line}: an edge from {ends[0]} to itself is left out")
    else:
        graph.edges.append((ends, edge, _data(edge, keys, "edge")))


def _data(element: MarkedElement, keys: dict[str, MarkedElement], kind: str) -> dict[str, str]:
    """Attributes by their names, those of the `key` elements, with their defaults."""
    values: dict[str, str] = {}
    for id_, key in keys.items():
        default = next((inner.text.strip() for inner in key.inside if inner.tag == "default"), "")
        if default and key.attributes.get("for", "all") in (kind, "all"):
            values[key.attributes.get("attr.name", id_)] = default
    for data in element.inside:
        if data.tag == "data":
            id_ = data.attributes.get("key", "")
            name = keys[id_].attributes.get("attr.name", id_) if id_ in keys else id_
            values[name] = data.text.strip()
    return values


def _told(ends: Pair) -> str:
    return f"edge {ends[0][:80]} - {ends[1][:80]}"


def _names(graph: _Graph) -> dict[str, str]:
    """A name of ours for each id: the id itself, with what a name may not hold replaced."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for id_ in graph.vertices:
        name = base = plain_name(id_)
        number = 2
        while name in taken:
            name, number = f"{base[:100]}-{number}", number + 1
        names[id_] = name
        taken.add(name)
    changed = sum(id_ != name for id_, name in names.items())
    if changed:
        graph.remarks.append(f"{changed} ids were written otherwise, since names hold letters, digits, . _ + - alone")
    return names


# --- which vertices are servers -------------------------------------------------------------------


def _servers(graph: _Graph) -> dict[str, None]:
    """Ids of the vertices that are servers, in their order."""
    wanted, beside = graph.options.nodes, _neighbours(graph)
    chosen = [id_ for id_ in graph.vertices if _is_server(graph, id_, wanted or "kind=node", beside)]
    if not chosen and not graph.file.problems:
        what = f"--nodes {wanted} is true of no vertex" if wanted else "no vertex has kind=node"
        graph.file.note(1, 1, what, _proposal(graph))
    return dict.fromkeys(chosen)


def _neighbours(graph: _Graph) -> dict[str, set[str]]:
    beside: dict[str, set[str]] = {id_: set() for id_ in graph.vertices}
    for (a, b), _, _ in graph.edges:
        beside[a].add(b)
        beside[b].add(a)
    return beside


def _is_server(graph: _Graph, id_: str, wanted: str, beside: dict[str, set[str]]) -> bool:
    if wanted == "all":
        return True
    if wanted == "leaves":
        return len(beside[id_]) == 1
    key, equals, value = wanted.partition("=")
    return graph.vertices[id_][1].get(key) == value if equals else fnmatchcase(id_, wanted)


def _proposal(graph: _Graph) -> str:
    leaves = sum(len(others) == 1 for others in _neighbours(graph).values())
    keys = sorted({key for _, data in graph.vertices.values() for key in data})
    told = f", or KEY=VALUE of {', '.join(keys[:8])}" if keys else ""
    return f"--nodes all ({len(graph.vertices)}), leaves ({leaves}), a pattern of ids{told}"


# --- cables ---------------------------------------------------------------------------------------


def _cables(graph: _Graph, names: dict[str, str], default: float | None, latency: float) -> list[DrawnCable]:
    """One for each edge that has a rate; those of a directed graph, drawn there and back, once."""
    known = sorted({key for _, _, data in graph.edges for key in data})
    found: dict[Pair, list[tuple[Pair, float, float]]] = {}
    without, first = 0, True
    for ends, edge, data in graph.edges:
        text = data.get(graph.options.rate_key, "")
        without += not text
        if not text and default is None and not _any_rate(graph):
            if first:
                told = near(graph.options.rate_key, known) if known else ""
                way_out = "; ".join(part for part in (told, "name it by --rate-key, or give --rate '100 Gb/s'") if part)
                graph.file.note(edge.line, edge.column, f"no edge has {graph.options.rate_key}", way_out, _told(ends))
            first = False
            continue
        rate = _rate(graph, ends, edge, text, default)
        late = _latency(graph, ends, edge, data.get("latency", ""), latency)
        if rate is not None and late is not None:
            found.setdefault(_sorted(ends), []).append((ends, rate, late))
    if without and default is not None:
        told = rate_text(default)
        graph.remarks.append(f"{without} of {len(graph.edges)} edges say no {graph.options.rate_key}: {told}")
    return [cable for cables in found.values() for cable in _joined(graph, names, cables)]


def _any_rate(graph: _Graph) -> bool:
    return any(graph.options.rate_key in data for _, _, data in graph.edges)


def _sorted(ends: Pair) -> Pair:
    return (ends[0], ends[1]) if ends[0] <= ends[1] else (ends[1], ends[0])


def _joined(graph: _Graph, names: dict[str, str], drawn: list[tuple[Pair, float, float]]) -> list[DrawnCable]:
    """Cables between two vertices; where both directions of a directed graph are drawn, the slower one of the two."""
    there = [cable for cable in drawn if cable[0] == drawn[0][0]]
    back = [cable for cable in drawn if cable[0] != drawn[0][0]]
    if not (graph.directed and there and back):
        return [DrawnCable(names[a], names[b], rate, latency) for (a, b), rate, latency in drawn]
    (a, b), rates = drawn[0][0], [sum(rate for _, rate, _ in way) for way in (there, back)]
    if rates[0] != rates[1]:
        graph.remarks.append(f"{a} - {b} has another rate there than back: the lower one is taken for both")
    return [DrawnCable(names[a], names[b], min(rates), there[0][2])]


def _rate(graph: _Graph, ends: Pair, edge: MarkedElement, text: str, default: float | None) -> float | None:
    key, unit = graph.options.rate_key, graph.options.rate_unit
    if not text:
        if default is None:
            graph.file.note(edge.line, edge.column, f"has no {key}", "give --rate '100 Gb/s'", _told(ends))
        return default
    if _is_number(text) and not unit:
        message = f"{key} is {text}, without a unit"
        graph.file.note(edge.line, edge.column, message, "give --rate-unit, such as b/s or Gb/s", _told(ends))
        return None
    try:
        rate = parse_quantity(f"{text} {unit}" if _is_number(text) else text, DATA_RATE)
    except QuantityError as error:
        graph.file.note(edge.line, edge.column, f"{key}: {error.message}", error.suggestion, _told(ends))
        return None
    if rate == 0:
        graph.file.note(edge.line, edge.column, f"{key} must be above 0, not {text}", "", _told(ends))
        return None
    return rate


def _latency(graph: _Graph, ends: Pair, edge: MarkedElement, text: str, default: float) -> float | None:
    """A plain number is in seconds, as in the files that this program writes."""
    if not text:
        return default
    try:
        return parse_quantity(f"{text} s" if _is_number(text) else text, TIME)
    except QuantityError as error:
        graph.file.note(edge.line, edge.column, f"latency: {error.message}", error.suggestion, _told(ends))
        return None


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _check_joined(graph: _Graph, names: dict[str, str]) -> None:
    pieces = pieces_of(names, [ends for ends, _, _ in graph.edges])
    for piece in pieces[1:]:
        vertex = graph.vertices[piece[0]][0]
        message = f"does not hang together with {pieces[0][0]}"
        graph.file.note(vertex.line, vertex.column, message, "join or delete it", f"node {piece[0]}")
