"""Parts of a program that may repeat: streams joined by what they do in loops."""

from __future__ import annotations

from sim.engine.network import Sharing, nobody_shares
from sim.engine.program import Action, Part, Program, Template

LOOPING = 3  # a template used this often in a stream is part of a loop

Instructions = list[tuple[Template, Action]]


def find_parts(program: Program, beats: dict[int, int], sharing: Sharing) -> list[Part]:
    """The parts that have a beat stream; beats: streams that set a beat, with their instructions per period."""
    whole = [[_instruction(program, number) for number in stream.table] for stream in program.streams]
    loops = [
        [each for each, count in zip(mine, stream.counts, strict=True) if count >= LOOPING]
        for mine, stream in zip(whole, program.streams, strict=True)
    ]
    flows = [_flows(loop) for loop in loops]
    root = _joined(loops, flows, sharing)
    members: dict[int, list[int]] = {}
    for s, loop in enumerate(loops):
        if loop:
            members.setdefault(root[s], []).append(s)
    first: dict[int, int] = {}
    for s in beats:
        first.setdefault(root[s], s)
    touched = _Touched(whole)
    parts = []
    for r, streams in members.items():
        if r in first:
            signals = frozenset(kind for s in streams for kind in _signals(whole[s]))
            links = {link for s in streams for flow in flows[s] for link in sharing.links[flow]}
            met = {flow for link in links for flow in sharing.flows[link]}
            ranks = {program.streams[s].rank for s in streams}
            others = sorted(touched.by(signals, met, ranks) - set(streams))
            parts.append(Part(streams, first[r], beats[first[r]], streams + others, signals))
    return parts


def loose_parts(program: Program, beats: dict[int, int], n_parts: int) -> list[Part]:
    """The parts with nobody sharing links; none if they are no more than the `n_parts` where they do."""
    last = max((max(each.flow, *(flow for flow, _ in each.carried), 0) for each in program.actions), default=0)
    parts = find_parts(program, beats, nobody_shares(1 + last))
    return parts if len(parts) > n_parts else []


class _Touched:
    """Streams by what they may touch: flow classes they move, ranks they slow, tokens they wait for."""

    def __init__(self, instructions: list[Instructions]) -> None:
        self.moves: dict[int, set[int]] = {}
        self.slows: dict[int, set[int]] = {}
        self.waits: dict[int, set[int]] = {}
        for s, mine in enumerate(instructions):
            for template, action in mine:
                self.moves.setdefault(action.flow, set()).add(s)
                for rank in action.steals:
                    self.slows.setdefault(rank, set()).add(s)
                for kind, _ in template.waits:
                    self.waits.setdefault(kind, set()).add(s)

    def by(self, signals: frozenset[int], flows: set[int], ranks: set[int]) -> set[int]:
        """Streams that may use links of these flows, slow the work of these ranks, or wait for these tokens."""
        tables = (self.moves, flows), (self.slows, ranks), (self.waits, signals)
        return {s for table, keys in tables for key in keys for s in table.get(key, ())}


def _instruction(program: Program, number: int) -> tuple[Template, Action]:
    template = program.templates[number]
    return template, program.actions[template.action]


def _signals(instructions: Instructions) -> set[int]:
    """Kinds of token that instructions signal."""
    return {template.signal[0] for template, _ in instructions if template.signal}


def _flows(instructions: Instructions) -> set[int]:
    """Flow classes that instructions move bytes of."""
    carried = {flow for _, action in instructions for flow, _ in action.carried}
    return carried | {action.flow for _, action in instructions if action.flow >= 0}


def _joined(loops: list[Instructions], flows: list[set[int]], sharing: Sharing) -> list[int]:
    """Union of streams that exchange tokens or share links in their loops; root of each stream."""
    parent = list(range(len(loops)))

    def find(s: int) -> int:
        while parent[s] != s:
            parent[s] = parent[parent[s]]
            s = parent[s]
        return s

    first: dict[int, int] = {}  # token kind, or -1 less a link class -> the first stream that has to do with it
    for s, loop in enumerate(loops):
        keys = [*_signals(loop), *(kind for template, _ in loop for kind, _ in template.waits)]
        keys += [-1 - link for flow in flows[s] for link in sharing.links[flow]]
        for key in keys:
            other = first.setdefault(key, s)
            if other != s:
                parent[find(s)] = find(other)
    return [find(s) for s in range(len(loops))]


def apart_from(program: Program, others: frozenset[int], sharing: Sharing) -> list[Part]:
    """The parts of a program that share no link with flow classes of others, which come and go as they like."""
    own = [_flows([_instruction(program, number) for number in stream.table]) for stream in program.streams]
    return [
        part for part in program.parts if not any(sharing.meets(flow, others) for s in part.streams for flow in own[s])
    ]
