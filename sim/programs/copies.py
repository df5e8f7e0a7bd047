"""Writes copies to and from the host as instructions: activations, sharded weights, and what its optimizer needs.

What a rank copies in one direction is a queue. Activations of a segment go down when it has been passed, and come up
for its backward pass; a pass waits for the copy two segments before it, so two layers' worth is on the board. Where a
backward pass follows its forward pass at once, the last two segments stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sim.engine.category import Category
from sim.engine.program import Action, Script, Stream, Token, token
from sim.layout.host import DOWN, READ, UP, WRITTEN
from sim.phase import Phase
from sim.programs.costs import Costs, Message, copy_action, given_action, host_update_action
from sim.programs.shape import RankShape, Shape
from sim.schedule.table import Task

Tokens = tuple[Token, ...]
STAY = 2  # segments on the board beside the one at work


class CopyWriter:
    """Streams and templates of copies; nothing is written where the links of a host are not known."""

    def __init__(self, shape: Shape, script: Script) -> None:
        self.shape, self.script, self.offload = shape, script, shape.offload
        self.streams: dict[tuple[int, str], Stream] = {}  # by flow class and what is copied
        self.templates: dict[tuple[object, ...], int] = {}
        self.turns: dict[tuple[int, int], bool] = {}  # by stage and chunk, a walk over all tasks

    def cuts(self, rank: RankShape) -> bool:
        """Whether passes of a rank go segment by segment for their copies."""
        return self.offload.activations and rank.flow(DOWN) >= 0

    # --- activations ------------------------------------------------------------------------------

    def before_run(self, rank: RankShape, task: Task, position: int) -> Tokens:
        """What a pass waits for before a segment, relative to the microbatch."""
        if not self.cuts(rank):
            return ()
        if task.phase is Phase.FORWARD:
            behind = position - STAY
            return (self._stored(rank, task.chunk, behind),) if self._moves(rank, task.chunk, behind) else ()
        segment = self.shape.segments(task.chunk) - 1 - position
        return (self._fetched(rank, task.chunk, segment),) if self._moves(rank, task.chunk, segment) else ()

    def mark(self, rank: RankShape, task: Task, position: int) -> int:
        """The instruction behind a segment that lets its copies go."""
        marker = partial(given_action, Action("segment passed", Category.OTHER, (rank.number,)))
        return self.script.new_template((), marker, self._passed(rank, task, position))

    def after_passes(self, stage: int) -> None:
        """The copies of the passes of a stage."""
        for rank in self.shape.stages[stage]:
            for task in self.shape.schedule.tasks(stage) if self.cuts(rank) else ():
                for position in range(self.shape.segments(task.chunk)):
                    self._copy_segment(rank, task, position)

    def _copy_segment(self, rank: RankShape, task: Task, position: int) -> None:
        forward = task.phase is Phase.FORWARD
        segment = position if forward else self.shape.segments(task.chunk) - 1 - position
        if not self._moves(rank, task.chunk, segment):
            return
        size = partial(Costs.saved, chunk=task.chunk, segment=segment)
        waits: Tokens
        if forward:
            waits, done = (self._passed(rank, task, position),), self._stored(rank, task.chunk, segment)
        else:
            waits, done = (self._stored(rank, task.chunk, segment),), self._fetched(rank, task.chunk, segment)
            waits += (self._passed(rank, task, position - STAY),) if position >= STAY else ()
        self._issue(rank.flow(DOWN if forward else UP), "activations", size, waits, done, task.microbatch)

    def _moves(self, rank: RankShape, chunk: int, segment: int) -> bool:
        """Whether the activations of a segment leave the board; none before the first segment do."""
        stay = STAY if self._turns(rank.stage, chunk) else 0
        return 0 <= segment < self.shape.segments(chunk) - stay

    def _turns(self, stage: int, chunk: int) -> bool:
        """Whether each backward pass through a chunk follows its forward pass at once."""
        if (stage, chunk) not in self.turns:
            places = {task: place for place, task in enumerate(self.shape.schedule.tasks(stage))}
            mine = [task for task in places if task.chunk == chunk and task.phase is Phase.FORWARD]
            back = (places[task._replace(phase=Phase.INPUT_GRADIENT)] - places[task] for task in mine)
            self.turns[stage, chunk] = all(after == 1 for after in back)
        return self.turns[stage, chunk]

    # --- weights ----------------------------------------------------------------------------------

    def fetch_weights(self, flow: int, task: Task, position: int, message: Message, waits: Tokens) -> Tokens:
        """Queue the copies of the shards of a segment on all ranks that are to gather it; tokens of these."""
        done = []
        for member in self.shape.flows[flow].members:
            up = self.shape.ranks[member].flow(UP)
            if up >= 0:
                there = token(self.script.kind("weights fetched", flow, member, task.phase, task.chunk, position))
                size = partial(Costs.shard_of, message=message, flow=flow)
                self._issue(up, "weights", size, waits, there, task.microbatch)
                done.append(there)
        return tuple(done)

    # --- optimizer --------------------------------------------------------------------------------

    def write_update(self, compute: Stream, rank: RankShape, waits: Tokens, updated: Token) -> None:
        """Gradients go down, the host's step runs beside the traffic of its state, weights come up."""
        number, down, up = rank.number, rank.flow(DOWN), rank.flow(UP)
        moved = partial(Costs.weights_updated, number=number)
        arrived = token(self.script.kind("gradients on host", number))
        if down >= 0:
            compute.add(self.script.new_template(waits, partial(copy_action, "gradients", down, moved), arrived))
        else:
            marker = Action("gradients on host", Category.OTHER, (number,))
            compute.add(self.script.new_template(waits, partial(given_action, marker), arrived))
        state = partial(Costs.state_updated, number=number)
        ready: Tokens = ()
        for kind in (READ, WRITTEN):
            if rank.flow(kind) >= 0:
                done = token(self.script.kind("state moved", number, kind))
                self._issue(rank.flow(kind), "optimizer state", state, (arrived,), done, 0)
                ready += (done,)
        step = partial(host_update_action, number)
        if up < 0:
            compute.add(self.script.new_template((), step, None if ready else updated))
        else:
            compute.add(self.script.new_template((), step))
            compute.add(self.script.new_template(ready, partial(copy_action, "weights", up, moved), updated))
            return
        if ready:
            marker = Action("state moved", Category.OTHER, (number,))
            compute.add(self.script.new_template(ready, partial(given_action, marker), updated))

    # --- streams ----------------------------------------------------------------------------------

    def _issue(
        self, flow: int, what: str, size: Callable[[Costs], float], waits: Tokens, done: Token, index: int
    ) -> None:
        key = (flow, what, waits, done)
        if key not in self.templates:
            self.templates[key] = self.script.new_template(waits, partial(copy_action, what, flow, size), done)
        if (flow, what) not in self.streams:
            kind = self.shape.flows[flow].kind
            self.streams[flow, what] = self.script.new_stream(f"{what} {kind} {flow}", kind)
        self.streams[flow, what].add(self.templates[key], index)

    def _passed(self, rank: RankShape, task: Task, position: int) -> Token:
        return token(self.script.kind("copies may go", rank.number, task.phase, task.chunk, position))

    def _stored(self, rank: RankShape, chunk: int, segment: int) -> Token:
        return token(self.script.kind("activations stored", rank.number, chunk, segment))

    def _fetched(self, rank: RankShape, chunk: int, segment: int) -> Token:
        return token(self.script.kind("activations fetched", rank.number, chunk, segment))
