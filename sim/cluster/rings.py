"""Ring orders inside a node: which rings a collective runs over, and how much goes over each.

On a switch one order is as good as another. Where accelerators are cabled pair by pair, NCCL runs
several rings at once, each over links of its own; so do these, found as Hamiltonian cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sim.cluster.server import CUBE_MESH_LINKS

Order = tuple[int, ...]
Rings = tuple[tuple[Order, float], ...]
Widths = dict[tuple[int, int], int]  # links between i < j


def rings_inside(kind: str, members: Sequence[int]) -> Rings:
    """Rings over accelerators of one node, as (order, share of the bytes), shares summing to 1.

    kind: of the local network; members: numbers inside the node. A ring sends from each member to the next and from
    the last to the first. On a switch, on PCIe and where no cycle exists there is one ring in the given order.
    """
    given = ((tuple(members), 1.0),)
    if len(members) < 3:
        return given
    match kind:
        case "ring":
            return _both_ways([(tuple(sorted(members)), 1)])
        case "mesh":
            return _both_ways([(order, 1) for order in _zigzags(sorted(members))])
        case "hybrid_cube_mesh":
            return _both_ways(cube_mesh_cycles(sorted(members))) or given
    return given


def _both_ways(cycles: Sequence[tuple[Order, int]]) -> Rings:
    """Each cycle in both directions, with shares in proportion to their widths."""
    total = 2 * sum(width for _, width in cycles)
    return tuple((way, width / total) for order, width in cycles for way in (order, order[:1] + order[:0:-1]))


def _zigzags(members: Sequence[int]) -> list[Order]:
    """Edge-disjoint Hamiltonian cycles of a complete graph: Walecki's zigzag, (n-1)//2 of them."""
    hub, *rim = members
    n = len(rim)
    zigzag = [(-1) ** i * ((i + 1) // 2) for i in range(n)]
    return [(hub, *(rim[(k + step) % n] for step in zigzag)) for k in range(n // 2)]


def cube_mesh_cycles(members: Sequence[int]) -> list[tuple[Order, int]]:
    """The widest packing of link-disjoint cycles over members of the cube mesh, as (order, width)."""
    widths = {pair: width for pair, width in CUBE_MESH_LINKS.items() if set(pair) <= set(members)}
    cycles = list(_cycles(members, widths))
    return _pack(cycles, widths, 0)


def _cycles(members: Sequence[int], widths: Widths, path: Order = ()) -> Iterator[Order]:
    """Hamiltonian cycles, each once: from the first member, second below last."""
    path = path or (members[0],)
    if len(path) == len(members):
        if path[1] < path[-1] and _pair(path[-1], path[0]) in widths:
            yield path
        return
    for member in members:
        if member not in path and _pair(path[-1], member) in widths:
            yield from _cycles(members, widths, (*path, member))


def _pack(cycles: Sequence[Order], widths: Widths, first: int) -> list[tuple[Order, int]]:
    """Most link-disjoint cycles from cycles[first:], wide ones counted by their width."""
    best: list[tuple[Order, int]] = []
    for i in range(first, len(cycles)):
        edges = _edges(cycles[i])
        width = min(widths[edge] for edge in edges)
        if width:
            left = widths | {edge: widths[edge] - width for edge in edges}
            packing = [(cycles[i], width), *_pack(cycles, left, i + 1)]
            best = max(best, packing, key=lambda found: sum(width for _, width in found))
    return best


def _edges(order: Order) -> list[tuple[int, int]]:
    return [_pair(a, b) for a, b in zip(order, (*order[1:], order[0]), strict=True)]


def _pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)
