"""Writes what data-parallel ranks exchange (`exchange.py`) as instructions: who waits for what.

Weights that are gathered once come in a row at the start of the step; those that are gathered for every task come
as soon as the tasks before them are over. Gradients are summed where they are left, or when all passes are over.
"""

from __future__ import annotations

from functools import partial

from typing_extensions import override

from sim.engine.program import Recipe, Script, Stream, Token, token
from sim.phase import Phase
from sim.programs.copies import CopyWriter
from sim.programs.costs import WHOLE, Message, Place, exchange_action, pack_action, unpack_action
from sim.programs.exchange import Collective, Traffic, Which
from sim.programs.kinds import Role, kinds_of
from sim.programs.shape import RankShape, Shape
from sim.schedule.table import Task
from sim.transforms.reduction import GROUPS

Tokens = tuple[Token, ...]
SECOND_COPY = "second_copy"  # kind of the groups that share one
LEGS = {"all_to_all": 2}  # of a collective, at most; others have one


class ExchangeWriter:
    """Shared by both kinds: streams and templates of the gradient communicators."""

    def __init__(self, shape: Shape, script: Script, copies: CopyWriter) -> None:
        self.shape, self.script, self.exchange, self.copies = shape, script, shape.exchange, copies
        self.groups = [number for number, flow in enumerate(shape.flows) if flow.kind in GROUPS]
        self.streams: dict[int, Stream] = {}
        self.marks = [script.new_kind("end of backward of rank class", rank.number) for rank in shape.ranks]
        self.update_tokens = [script.new_kind("weights updated on rank class", rank.number) for rank in shape.ranks]
        self.last: dict[int, Token] = {}  # flow class -> token after which all its gradients are summed
        self.templates: dict[tuple[object, ...], int] = {}

    def stage_of(self, flow: int) -> int:
        """Pipeline stage of a gradient communicator."""
        return self.shape.ranks[self.shape.flows[flow].members[0]].stage

    def groups_of(self, stage: int) -> list[int]:
        """Gradient communicators of a stage."""
        return [flow for flow in self.groups if self.stage_of(flow) == stage]

    def stream(self, flow: int) -> Stream:
        """The queue of a communicator."""
        if flow not in self.streams:
            kind = self.shape.flows[flow].kind
            self.streams[flow] = self.script.new_stream(f"{kind} group {flow}", kind)
        return self.streams[flow]

    def issue(
        self, flow: int, what: str, kind: str, message: Message, waits: Tokens, done: Token | None, index: int = 0
    ) -> None:
        """Queue one collective; `waits` and `done` are relative to `index`."""
        key = (flow, what, kind, message, waits, done)
        if key not in self.templates:
            beside = self.shape.flows[flow].members if self.shape.switches.slows else ()
            recipe = partial(exchange_action, what, flow, kind, message, beside)
            self.templates[key] = self.script.new_template(waits, recipe, done)
        self.stream(flow).add(self.templates[key], index)

    def sum_replicas(self, flow: int, what: str, message: Message, index: int) -> None:
        """Hybrid sharding: after the shards, the replicas of each shard."""
        mine = self.shape.flows[flow].members
        replicas = {self.shape.ranks[number].flow("replica") for number in mine} - {-1}
        for replica in sorted(replicas):
            members = self.shape.flows[replica].members
            if members[0] not in mine:
                continue
            shards = sorted({self.shape.ranks[member].flow("gradient") for member in members})
            waits = tuple(token(self.script.kind("summed", shard, what)) for shard in shards)
            total = token(self.script.kind("summed over replicas", replica, what))
            share = message._replace(split=flow)
            self.issue(replica, f"{what} over replicas", "all_reduce", share, waits, total, index)
            self.last[replica] = token(total[0], index)

    def sum_gradients(
        self, flow: int, collective: Collective, what: str, message: Message, waits: Tokens, index: int
    ) -> None:
        """Queue the sum of some gradients, and over replicas."""
        done = token(self.script.kind("summed", flow, what))
        if self.exchange.hops:
            self.sum_compressed(flow, what, message, waits, done, index)
        else:
            self.issue(flow, what, collective.kind, message, waits, done, index)
        self.last[flow] = token(done[0], index)
        self.sum_replicas(flow, what, message, index)

    def sum_compressed(self, flow: int, what: str, message: Message, waits: Tokens, done: Token, index: int) -> None:
        """Queue what stands for a sum, one leg after the other."""
        legs = [(hop, kind, leg) for hop, kind in enumerate(self.exchange.hops) for leg in range(LEGS.get(kind, 1))]
        for place, (hop, kind, leg) in enumerate(legs):
            part = message._replace(hop=hop, leg=leg)
            last = done if place == len(legs) - 1 else None
            self.issue(flow, what, kind, part, () if place else waits, last, index)

    def packing(self, rank: RankShape, place: Place, traffic: Traffic) -> Recipe | None:
        """Kernels that make gradients smaller behind a pass with that traffic, or behind all of them."""
        packs = self.exchange.hops and self.exchanged(rank) and traffic & Traffic.GRADIENTS
        return partial(pack_action, place) if packs else None

    def end_packing(self, rank: RankShape) -> Recipe | None:
        """The same where the gradients of a stage are summed at once."""
        at_once = self.exchange.sums is not None and self.exchange.sums.whole
        place = Place(rank.number, self.shape.schedule.phases[-1], WHOLE)
        return self.packing(rank, place, Traffic.GRADIENTS) if at_once else None

    def unpacking(self, rank: RankShape) -> Recipe | None:
        """Kernels before the optimizer of a rank, on what has become of its gradients."""
        sums = self.exchange.sums
        if not self.exchange.hops or sums is None or not self.exchanged(rank):
            return None
        return partial(unpack_action, rank.number, sums.kind, sums.which is Which.EVERY)

    def exchanged(self, rank: RankShape) -> list[int]:
        """Communicators of a rank that exchange gradients: of dense weights, and of experts."""
        return [flow for kind, flow in rank.flows if kind in GROUPS]

    def message(self, flow: int, collective: Collective, task: Task, position: int) -> Message:
        """What a collective moves of the segment at a position of a task."""
        segments = self.shape.segments(task.chunk)
        segment = position if task.phase is Phase.FORWARD else segments - 1 - position
        stage = self.shape.course.stage_of[task.chunk]
        kind = self.shape.flows[flow].kind
        group = "gradient" if kind == SECOND_COPY else kind
        return Message(collective.traffic, stage, task.chunk, segment, collective.parameters, group)

    def gradients_of(self, rank: RankShape) -> Tokens:
        """Tokens the optimizer waits for (absolute: used at loop index 0)."""
        return tuple(self.last[flow] for kind, flow in rank.flows if kind in (*GROUPS, "replica") and flow in self.last)

    def weights_of(self, rank: RankShape) -> Tokens:
        """Tokens the end of the step waits for."""
        return ()

    def open_step(self) -> None:
        """Traffic at the start of the step."""

    def close_step(self) -> None:
        """Traffic after the backward passes."""

    def after_passes(self, stage: int) -> None:
        """Traffic that the passes of a stage bring with them."""

    def before_run(self, rank: RankShape, task: Task, role: Role, position: int) -> Tokens:
        """Tokens a pass waits for before the segment at `position`, relative to the microbatch."""
        return ()

    def after_run(self, rank: RankShape, task: Task, role: Role, position: int) -> Token | None:
        """Token a pass signals after the segment at `position`, if the exchange waits for it."""
        return None


class Replicated(ExchangeWriter):
    """Weights are there all the time, or gathered once (ZeRO 0, 1 and 2)."""

    @override
    def before_run(self, rank: RankShape, task: Task, role: Role, position: int) -> Tokens:
        if not role.traffic & Traffic.WEIGHTS:
            return ()
        kinds = (self.script.kind("weights", flow, task.chunk, position) for flow in self.exchanged(rank))
        return tuple(map(token, kinds))

    @override
    def after_run(self, rank: RankShape, task: Task, role: Role, position: int) -> Token | None:
        if not role.traffic & Traffic.GRADIENTS:
            return None
        return token(self.script.kind("gradients", rank.number, task.chunk, position))

    @override
    def open_step(self) -> None:
        collective = self.exchange.of(Phase.FORWARD, Traffic.WEIGHTS)
        if collective is None:
            return
        for flow in self.groups:
            for chunk in self.shape.schedule.first_chunks(self.stage_of(flow)):
                for position in range(self.shape.segments(chunk)):
                    message = self.message(flow, collective, Task(Phase.FORWARD, chunk, 0), position)
                    done = token(self.script.kind("weights", flow, chunk, position))
                    self.issue(flow, "gather weights", collective.kind, message, (), done)

    @override
    def after_passes(self, stage: int) -> None:
        for task in kinds_of(self.shape.schedule, stage, self.exchange).summed:
            collective = self.exchange.of(task.phase, Traffic.GRADIENTS)
            assert collective is not None
            for flow in self.groups_of(stage):
                self._sum_chunk(flow, collective, task)

    def _sum_chunk(self, flow: int, collective: Collective, task: Task) -> None:
        """Sum what the members leave in a task; those with fewer microbatches leave it with as many less."""
        most = self.shape.schedule.microbatches
        for position in range(self.shape.segments(task.chunk)):
            members = (self.shape.ranks[number] for number in self.shape.flows[flow].members)
            waits = tuple(
                token(
                    self.script.kind("gradients", each.number, task.chunk, position),
                    self.shape.schedule_of(each).microbatches - most,
                )
                for each in members
            )
            message = self.message(flow, collective, task, position)
            what = f"gradients {task.chunk}.{position}"
            self.sum_gradients(flow, collective, what, message, waits, task.microbatch)

    @override
    def close_step(self) -> None:
        sums = self.exchange.of(self.shape.schedule.phases[-1], Traffic.GRADIENTS, whole=True)
        weights = self.exchange.of(Phase.OPTIMIZER, Traffic.WEIGHTS, whole=True)
        for flow in self.groups:
            members, stage = self.shape.flows[flow].members, self.stage_of(flow)
            if sums:
                waits = tuple(token(self.marks[member]) for member in members)
                message = Message(sums.traffic, stage, group=self.shape.flows[flow].kind)
                self.sum_gradients(flow, sums, "gradients all", message, waits, 0)
            if weights:
                waits = tuple(token(self.update_tokens[member]) for member in members)
                done = token(self.script.kind("new weights", flow))
                message = Message(weights.traffic, stage, group=self.shape.flows[flow].kind)
                self.issue(flow, "gather new weights", weights.kind, message, waits, done)

    @override
    def weights_of(self, rank: RankShape) -> Tokens:
        if not self.exchange.of(Phase.OPTIMIZER, Traffic.WEIGHTS, whole=True):
            return ()
        return tuple(token(self.script.kind("new weights", flow)) for flow in self.exchanged(rank))


class Sharded(ExchangeWriter):
    """Every task works segment by segment on weights that are gathered for it (ZeRO-3)."""

    def __init__(self, shape: Shape, script: Script, copies: CopyWriter) -> None:
        super().__init__(shape, script, copies)
        self.history: dict[int, list[tuple[Task, int]]] = {}  # flow -> segments that weights were gathered for so far
        self.held_back: dict[int, tuple[Task, int]] = {}  # flow -> gradients to scatter after the next gather

    @override
    def before_run(self, rank: RankShape, task: Task, role: Role, position: int) -> Tokens:
        if not role.traffic & Traffic.WEIGHTS:
            return ()
        gathers = self.exchange.of(task.phase, Traffic.WEIGHTS)
        flows = self.exchanged(rank)
        if gathers and gathers.second_copy:
            flows = [rank.flow(SECOND_COPY)]
        return tuple(token(self._gathered(flow, task, position)) for flow in flows)

    @override
    def after_run(self, rank: RankShape, task: Task, role: Role, position: int) -> Token | None:
        return token(self._passed(rank.number, task, position)) if role.traffic else None

    def _gathered(self, flow: int, task: Task, position: int) -> int:
        return self.script.kind("gathered", flow, task.phase, task.chunk, position)

    def _passed(self, rank: int, task: Task, position: int) -> int:
        return self.script.kind("segment passed", rank, task.phase, task.chunk, position)

    def _tokens(self, flow: int, task: Task, position: int, index: int) -> Tokens:
        """Tokens of a segment pass on all members, relative to loop index `index`."""
        members = self.shape.flows[flow].members
        return tuple(token(self._passed(member, task, position), task.microbatch - index) for member in members)

    @override
    def after_passes(self, stage: int) -> None:
        copies = [number for number, flow in enumerate(self.shape.flows) if flow.kind == SECOND_COPY]
        for flow in (*self.groups_of(stage), *(each for each in copies if self.stage_of(each) == stage)):
            for task in self.shape.schedule.tasks(stage):
                self._exchange_task(flow, task)

    def _exchange_task(self, flow: int, task: Task) -> None:
        weights = self.exchange.of(task.phase, Traffic.WEIGHTS)
        gradients = self.exchange.of(task.phase, Traffic.GRADIENTS)
        for position in range(self.shape.segments(task.chunk)):
            if weights:
                self._gather(flow, weights, task, position)
            self._scatter_held_back(flow)
            if gradients and self.shape.flows[flow].kind in GROUPS:
                self.held_back[flow] = (task, position)

    def _gather(self, flow: int, collective: Collective, task: Task, position: int) -> None:
        """Gather a segment when the one `ahead` places before it has been passed, if it is for this group to do."""
        history, ahead = self.history.setdefault(flow, []), self.exchange.ahead
        waits = self._tokens(flow, *history[-ahead], task.microbatch) if len(history) >= ahead else ()
        message = self.message(flow, collective, task, position)
        mine = collective.second_copy == (self.shape.flows[flow].kind == SECOND_COPY)
        if self.copies.offload.parameters:  # one ahead of the gather
            before = self._tokens(flow, *history[0], task.microbatch) if len(history) > ahead else ()
            waits += self.copies.fetch_weights(flow, task, position, message, before)
        history.append((task, position))
        del history[: -ahead - 1]
        done = token(self._gathered(flow, task, position))
        if mine:
            self.issue(flow, "gather weights", collective.kind, message, waits, done, task.microbatch)

    def _scatter_held_back(self, flow: int) -> None:
        if flow not in self.held_back:
            return
        task, position = self.held_back.pop(flow)
        collective = self.exchange.of(task.phase, Traffic.GRADIENTS)
        assert collective is not None
        waits = self._tokens(flow, task, position, task.microbatch)
        what = f"gradients {task.chunk}.{position}"
        message = self.message(flow, collective, task, position)
        self.sum_gradients(flow, collective, what, message, waits, task.microbatch)

    @override
    def close_step(self) -> None:
        for flow in self.groups:
            self._scatter_held_back(flow)


def exchange_writer(shape: Shape, script: Script, copies: CopyWriter) -> ExchangeWriter:
    """The writer of the exchange of a job."""
    return (Sharded if shape.exchange.gathers_always else Replicated)(shape, script, copies)
