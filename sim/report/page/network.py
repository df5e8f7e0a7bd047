"""The network as a picture: tiers from accelerators up, links coloured by load.

Public: `network_chart`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.metrics.pictures import Edge, NetworkPicture
from sim.report import human
from sim.report.page.frame import Figure

BINS = 10
LOADS = ("#9aa4af", "#7fb3d5", "#56b4e9", "#2e9bd6", "#0072b2", "#009e73", "#b5a800", "#e69f00", "#e0711b", "#d1330a")
WIDE = 0.16  # how far the two directions of a link stand from the middle, where there are few
FEW = 12  # edges that are drawn thick, with their load written beside them
BOX, PASSED, HALF_HEIGHT = (
    0.48,
    0.22,
    0.17,
)  # half of the width of a kind, of one that links pass by, and half its height
Place = tuple[float, float]


def network_chart(network: NetworkPicture) -> Figure:
    """Every vertex if there are few, else one for each kind with how many there are."""
    places = dict(_places(network))
    data: list[dict[str, Any]] = []
    for number in range(BINS):
        mine = [edge for edge in network.edges if _bin(edge) == number]
        if mine:
            data.append(_lines(mine, places, number, _aside(network)))
    data.append(_marks(network, places))
    data.append(_vertices(network, places))
    layout = {
        "xaxis": {"visible": False, "range": [-0.08, 1.08]},
        "yaxis": {"visible": False, "range": [-0.6, len(network.tiers) - 0.4]},
        "hovermode": "closest",
        "margin": {"l": 10, "b": 10},
        "shapes": list(_boxes(network)) if len(network.edges) <= FEW else [],
    }
    single = any(names for _, names, _ in network.tiers)
    what = "Each link" if single else "Links between each two kinds of parts, with how many there are"
    text = f"{what}, coloured by mean load over the step; hover a link for its numbers."
    if len(network.edges) <= FEW:
        text += " Where no line is drawn, no link is simulated."
    return Figure("network", text, data, layout, 120 + 80 * len(network.tiers))


def _places(network: NetworkPicture) -> Iterator[tuple[str, Place]]:
    for level, (kind, names, _) in enumerate(network.tiers):
        for number, name in enumerate(names or (kind,)):
            count = len(names) or 1
            yield name, ((number + 0.5) / count, float(level))


def _bin(edge: Edge) -> int:
    return min(BINS - 1, int(edge.mean * BINS))


def _ends(edge: Edge, places: dict[str, Place], aside: float) -> tuple[Place, Place]:
    """The two ends; the two directions of a cable stand `aside`, at the rims of boxes, more so if they pass one."""
    (x0, y0), (x1, y1) = places[edge.source], places[edge.target]
    up, rim = (1.0 if y1 > y0 else -1.0), (HALF_HEIGHT if aside == WIDE else 0.0)
    shift = up * (aside if aside != WIDE or abs(y1 - y0) <= 1 else 2 * aside)
    return (x0 + shift, y0 + up * rim), (x1 + shift, y1 - up * rim)


def _aside(network: NetworkPicture) -> float:
    return WIDE if len(network.edges) <= FEW else 0.006


def _boxes(network: NetworkPicture) -> Iterator[dict[str, Any]]:
    """A box over the width for each vertex where there are few links, as wide as links that pass it let it be."""
    places = dict(_places(network))
    spans = [sorted((places[edge.source][1], places[edge.target][1])) for edge in network.edges]
    for x, y in places.values():
        alone = sum(other == y for _, other in places.values())
        half = (PASSED if any(low < y < high for low, high in spans) else BOX) / alone
        box = {"type": "rect", "x0": x - half, "x1": x + half, "y0": y - HALF_HEIGHT, "y1": y + HALF_HEIGHT}
        yield box | {"layer": "below", "fillcolor": "theme:soft", "line": {"color": "theme:line", "width": 1}}


def _lines(edges: list[Edge], places: dict[str, Place], number: int, aside: float) -> dict[str, Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    for edge in edges:
        (x0, y0), (x1, y1) = _ends(edge, places, aside)
        x += [x0, x1, None]
        y += [y0, y1, None]
    low, high = 100 // BINS * number, 100 // BINS * (number + 1)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "name": f"{low} to {high} %",
        "hoverinfo": "skip",
        "line": {"color": LOADS[number], "width": 8 if aside == WIDE else 1.5 + number / 2},
    }


def _marks(network: NetworkPicture, places: dict[str, Place]) -> dict[str, Any]:
    """A mark in each link that tells its numbers."""
    aside, few = _aside(network), len(network.edges) <= FEW
    ends = [_ends(edge, places, aside) for edge in network.edges]
    at = [0.42 if b[1] > a[1] else 0.58 for a, b in ends]
    return {
        "type": "scatter",
        "mode": "markers+text" if few else "markers",
        "showlegend": False,
        "text": [
            ("↑ " if b[1] > a[1] else "↓ ") + human.percent(e.mean)
            for e, (a, b) in zip(network.edges, ends, strict=True)
        ],
        "textposition": ["middle right" if b[1] > a[1] else "middle left" for a, b in ends],
        "customdata": [_words(edge) for edge in network.edges],
        "x": [a[0] + share * (b[0] - a[0]) for share, (a, b) in zip(at, ends, strict=True)],
        "y": [a[1] + share * (b[1] - a[1]) for share, (a, b) in zip(at, ends, strict=True)],
        "marker": {"size": 14 if few else 8, "color": [LOADS[_bin(edge)] for edge in network.edges]},
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _words(edge: Edge) -> str:
    """The numbers of an edge, for a hover label."""
    many = f" ({human.count(edge.count)} links)" if edge.count > 1 else ""
    return "<br>".join(
        [
            f"{edge.source} → {edge.target}{many}",
            f"mean {human.percent(edge.mean)}, busiest {human.percent(edge.most)}",
            f"{human.traffic(edge.bytes)} per step over {edge.busiest}",
            f"capacity {human.traffic(edge.capacity)}/s",
        ]
    )


def _vertices(network: NetworkPicture, places: dict[str, Place]) -> dict[str, Any]:
    labels = {
        name: (name.split("/")[-1] if names else f"{human.count(count)} x {kind}")
        for kind, names, count in network.tiers
        for name in (names or (kind,))
    }
    many = max((len(names) for _, names, _ in network.tiers), default=0) > 24
    few = len(network.edges) <= FEW
    return {
        "type": "scatter",
        "mode": "text" if few else "markers" if many else "markers+text",
        "showlegend": False,
        "x": [places[name][0] for name in labels],
        "y": [places[name][1] for name in labels],
        "text": list(labels.values()),
        "textposition": "middle center" if few else "top center",
        "customdata": list(labels),
        "marker": {"size": 12, "symbol": "square", "color": "theme:ink"},
        "hovertemplate": "%{customdata}<extra></extra>",
    }
