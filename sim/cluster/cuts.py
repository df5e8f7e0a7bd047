"""Vertices that alone hold a graph together. networkx finds them too, but takes longer to import than most runs last.

Public: `cut_vertices`, `parts`, `Neighbours`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Neighbours = Mapping[int, Sequence[int]]  # of each vertex, both ways


def cut_vertices(graph: Neighbours) -> set[int]:
    """Vertices without which a connected part of `graph` falls apart (Hopcroft and Tarjan 1973, algorithm 447)."""
    depth, cuts = dict[int, int](), set[int]()
    for root in graph:
        if root not in depth:
            branches = list(_branches(graph, root, depth))
            cuts |= {vertex for vertex in branches if vertex != root}
            cuts |= {root} if branches.count(root) > 1 else set()
    return cuts


def _branches(graph: Neighbours, root: int, depth: dict[int, int]) -> Iterator[int]:
    """A vertex for each branch under it from which no edge goes further up. `depth` of what is reached is filled in."""
    depth[root] = 0
    highest, path = {root: 0}, [(root, iter(graph[root]))]
    while path:
        vertex, others = path[-1]
        for other in others:
            if other not in depth:
                depth[other] = highest[other] = len(path)
                path.append((other, iter(graph[other])))
                break
            highest[vertex] = min(highest[vertex], depth[other])
        else:
            path.pop()
            if path:
                above = path[-1][0]
                highest[above] = min(highest[above], highest[vertex])
                if highest[vertex] >= depth[above]:
                    yield above


def parts(graph: Neighbours, without: int) -> Iterator[set[int]]:
    """The connected parts of `graph` that are left without a vertex."""
    left = dict.fromkeys(graph)
    del left[without]
    while left:
        part, new = set[int](), [next(iter(left))]
        while new:
            part.update(new)
            new = list({other for vertex in new for other in graph[vertex] if other != without} - part)
        for vertex in part:
            del left[vertex]
        yield part
