"""Parts of a program that may repeat: streams joined by what they do in loops."""

from __future__ import annotations

from sim.engine.program import Action, Part, Program, Template

LOOPING = 3  # a template used this often in a stream is part of a loop

Instructions = list[tuple[Template, Action]]
Conflicts = tuple[frozenset[int], ...]  # flow classes that share links with each flow class


def find_parts(program: Program, beats: dict[int, int], conflicts: Conflicts) -> list[Part]:
    """The parts that have a beat stream; beats: streams that set a beat, with their instructions per period."""
    whole = [[_instruction(program, number) for number in stream.table] for stream in program.streams]
    loops = [
        [each for each, count in zip(mine, stream.counts, strict=True) if count >= LOOPING]
        for mine, stream in zip(whole, program.streams, strict=True)
    ]
    flows = [_flows(loop) for loop in loops]
    root = _joined(loops, flows, conflicts)
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
            met = {flow for s in streams for own in flows[s] for flow in conflicts[own]}
            ranks = {program.streams[s].rank for s in streams}
            others = sorted(touched.by(signals, met, ranks) - set(streams))
            parts.append(Part(streams, first[r], beats[first[r]], streams + others, signals))
    return parts


def loose_parts(program: Program, beats: dict[int, int], n_parts: int) -> list[Part]:
    """The parts with nobody sharing links; none if they are no more than the `n_parts` where they do."""
    flows = sorted(
        {flow for action in program.actions for flow in (action.flow, *(kind for kind, _ in action.carried))}
    )
    alone = tuple(frozenset((flow,)) for flow in range(1 + max(flows, default=0)))
    parts = find_parts(program, beats, alone)
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


def _joined(loops: list[Instructions], flows: list[set[int]], conflicts: Conflicts) -> list[int]:
    """Union of streams that exchange tokens or share links in their loops; root of each stream."""
    parent = list(range(len(loops)))

    def find(s: int) -> int:
        while parent[s] != s:
            parent[s] = parent[parent[s]]
            s = parent[s]
        return s

    looping = set().union(*flows)
    near = {flow: [-1 - other for other in conflicts[flow] if other in looping] for flow in looping}
    first: dict[int, int] = {}  # token kind, or -1 less a flow class -> the first stream that has to do with it
    for s, loop in enumerate(loops):
        keys = [*_signals(loop), *(kind for template, _ in loop for kind, _ in template.waits)]
        keys += [key for flow in flows[s] for key in near[flow]]
        for key in keys:
            other = first.setdefault(key, s)
            if other != s:
                parent[find(s)] = find(other)
    return [find(s) for s in range(len(loops))]


def apart_from(program: Program, others: frozenset[int], conflicts: Conflicts) -> list[Part]:
    """The parts of a program that share no link with flow classes of others, which come and go as they like."""
    own = [_flows([_instruction(program, number) for number in stream.table]) for stream in program.streams]
    return [
        part for part in program.parts if not any(conflicts[flow] & others for s in part.streams for flow in own[s])
    ]
