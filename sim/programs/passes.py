"""Writes the tasks of a schedule as instructions: computation, collectives inside, sends after."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sim.engine.program import Script, Token, token
from sim.layout.plan import send_kind
from sim.phase import Phase
from sim.programs.copies import CopyWriter
from sim.programs.costs import (
    WHOLE,
    Form,
    Place,
    begin_action,
    chain_action,
    inner_action,
    send_action,
    step_action,
)
from sim.programs.gradients import ExchangeWriter
from sim.programs.kinds import Role, kinds_of
from sim.programs.shape import LOCKED, RankShape, Shape
from sim.schedule.table import Task

LABELS = {Phase.FORWARD: "forward", Phase.INPUT_GRADIENT: "backward", Phase.WEIGHT_GRADIENT: "weight gradient"}
Placed = list[tuple[int, int]]  # instructions of a pass: position of a stream in the script, template


class PassWriter:
    """Appends tasks to the streams of rank classes; templates are made once per kind of task.

    The compute stream of rank class r is stream r of the script. `form` is asked about passes that are cut.
    """

    def __init__(
        self,
        shape: Shape,
        script: Script,
        exchange: ExchangeWriter,
        copies: CopyWriter,
        form: Callable[[Place], Form],
    ) -> None:
        self.shape, self.script, self.exchange, self.copies, self.form = shape, script, exchange, copies, form
        self.sends: dict[tuple[int, int], int] = {}
        self.groups: dict[int, int] = {}

    def write_stage(self, stage: int) -> dict[int, tuple[int, ...]]:
        """Append all tasks of a stage to the streams of its rank classes.

        Returns how many instructions of a task of each kind go to the compute stream of each of them.
        """
        counts: dict[int, tuple[int, ...]] = {}
        for rank in self.shape.stages[stage]:
            kinds = kinds_of(self.shape.schedule_of(rank), stage, self.shape.exchange)
            placed = [self._templates(rank, each, role) for each, role in kinds.firsts]
            for stream in dict.fromkeys(stream for instructions in placed for stream, _ in instructions):
                mine = [[t for where, t in instructions if where == stream] for instructions in placed]
                widths = tuple(map(len, mine))
                self.script.streams[stream].add_line([t for block in mine for t in block], kinds.line(widths))
                if stream == rank.number:
                    counts[stream] = widths
        return counts

    def _templates(self, rank: RankShape, task: Task, role: Role) -> Placed:
        """Instructions of a task, each with the stream it goes to; the compute stream comes first."""
        waits = self._arrival(rank, task)
        done = token(self.script.kind("pass done", rank.number, task.phase, task.chunk))
        positions = list(range(self.shape.segments(task.chunk))) if role.traffic or self.copies.cuts(rank) else [WHOLE]
        out: Placed = []
        for position in positions:
            waits += self.exchange.before_run(rank, task, role, position) + self.copies.before_run(rank, task, position)
            signal = self.exchange.after_run(rank, task, role, position)
            if position == positions[-1]:
                signal = done = signal or done
            place = Place(rank.number, task.phase, task.chunk, position)
            packing = self.exchange.packing(rank, place, role.traffic)
            out += self._run(rank, place, role, waits, None if packing else signal)
            if packing:
                out.append((rank.number, self.script.new_template((), packing, signal)))
            if self.copies.cuts(rank):
                out.append((rank.number, self.copies.mark(rank, task, position)))
            waits = ()
        return out + self._send(rank, task, done)

    # --- computation ------------------------------------------------------------------------------

    def _run(self, rank: RankShape, place: Place, role: Role, waits: tuple[Token, ...], signal: Token | None) -> Placed:
        """One instruction if nothing in it meets other traffic, else cut at its collectives.

        Ranks in lock-step wait until all of their group have begun, then take the same time.
        """
        label = LABELS[place.phase]
        inside = self.shape.inside[place.chunk][place.phase]
        kinds = frozenset().union(*inside) if place.position == WHOLE else inside[place.position]
        together = rank.together if LOCKED in kinds else (rank.number,)
        members = (self.shape.ranks[number] for number in together)
        if not self.shape.switches.coalesce or not all(_meet_nobody(each, kinds, role.calm) for each in members):
            return self._cut(rank, place, label, role, waits, signal)
        alike = together if len(together) > 1 and self.shape.switches.slows and not role.calm else ()
        chain = partial(chain_action, label, place, alike)
        if len(together) == 1:
            return [(rank.number, self.script.new_template(waits, chain, signal))]
        where = (place.phase, place.chunk, role, place.position)
        begun = tuple(token(self.script.kind("begun", member, where)) for member in together)
        mine = begun[together.index(rank.number)]
        begin = self.script.new_template(waits, partial(begin_action, label, place), mine)
        return [(rank.number, begin), (rank.number, self.script.new_template(begun, chain, signal))]

    def _cut(
        self, rank: RankShape, place: Place, label: str, role: Role, waits: tuple[Token, ...], signal: Token | None
    ) -> Placed:
        self.script.cut[place] = form = self.form(place)
        where = (place.phase, place.chunk, role, place.position)
        out: Placed = []
        issued: list[int] = []
        for number, (awaited, kind, _) in enumerate(form):
            waits += tuple(token(issued[i]) for i in awaited)
            reached = signal if number == len(form) - 1 else None
            if kind:
                flow = rank.flow(kind)
                issued.append(self.script.kind("collective done", flow, where, len(issued)))
                reached = token(self.script.kind("ready", rank.number, where, len(issued)))
            recipe = partial(step_action, label, place, number)
            out.append((rank.number, self.script.new_template(waits, recipe, reached)))
            waits = ()
            if kind and self.shape.flows[flow].members[0] == rank.number:
                inner = partial(inner_action, place, number, flow)
                needs = self._ready(flow, where, len(issued))
                out.append((self._group(flow), self.script.new_template(needs, inner, token(issued[-1]))))
        return out

    def _ready(self, flow: int, where: tuple[object, ...], number: int) -> tuple[Token, ...]:
        """What the collective of a communicator waits for: that all members are ready."""
        return tuple(
            token(self.script.kind("ready", member, where, number)) for member in self.shape.flows[flow].members
        )

    def _group(self, flow: int) -> int:
        """The queue of a communicator."""
        if flow not in self.groups:
            self.groups[flow] = len(self.script.streams)
            kind = self.shape.flows[flow].kind
            self.script.new_stream(f"{kind} group {flow}", kind)
        return self.groups[flow]

    # --- stage boundaries ---------------------------------------------------------------------------

    def _arrival(self, rank: RankShape, task: Task) -> tuple[Token, ...]:
        """Token of the input from the neighbouring chunk; none where the model begins, or from the same stage."""
        source = self.shape.course.source(task.phase, task.chunk)
        if source is None or not self.shape.course.hop(source, task.chunk):
            return ()
        return (token(self.script.kind("arrival", rank.number, task.phase, task.chunk)),)

    def _send(self, rank: RankShape, task: Task, done: Token) -> Placed:
        """Hand the result on: in the compute stream, or beside it if the stack overlaps sends."""
        target = self.shape.course.target(task.phase, task.chunk)
        hop = 0 if target is None else self.shape.course.hop(task.chunk, target)
        if not hop:
            return []
        flow = rank.flow(send_kind(hop))
        recipe = partial(send_action, f"send {LABELS[task.phase]}", flow)
        arrival = token(self.script.kind("arrival", self.shape.flows[flow].receiver, task.phase, target))
        if self.shape.switches.pipeline_overlap:
            return [(self._send_stream(rank, hop), self.script.new_template((done,), recipe, arrival))]
        return [(rank.number, self.script.new_template((), recipe, arrival))]

    def _send_stream(self, rank: RankShape, hop: int) -> int:
        key = (rank.number, hop)
        if key not in self.sends:
            self.sends[key] = len(self.script.streams)
            self.script.new_stream(f"rank class {rank.number} {send_kind(hop)} sends", "send", rank.number)
        return self.sends[key]


def _meet_nobody(rank: RankShape, kinds: frozenset[str], calm: bool) -> bool:
    """Whether all collectives of these kinds have their links to themselves."""
    alone = rank.calm if calm else rank.free
    return all(kind in alone for kind, _ in rank.flows if kind in kinds)
