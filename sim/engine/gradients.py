"""Data-parallel traffic of a step: when gradients are summed and weights gathered.

Replicas (ZeRO 0 to 2) exchange gradients after the last microbatch, bucket by bucket beside the
backward pass if the stack overlaps them, else at once when it is over; ZeRO-2 does so after every
microbatch if there is one stage. Sharded optimizers send the new weights back, beside the first
forward pass or at the end. ZeRO-3 (FSDP) gathers each segment before each pass and scatters its
gradients after.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from typing_extensions import override

from sim.engine.costs import Message
from sim.engine.program import Script, Stream, Token, token
from sim.engine.recipes import exchange_action
from sim.engine.roles import Role, kinds_of
from sim.engine.shape import RankShape, Shape
from sim.plan.schedule import Pass

Tokens = tuple[Token, ...]


class DataParallel:
    """Shared by both kinds: streams and templates of the gradient communicators."""

    def __init__(self, shape: Shape, script: Script) -> None:
        self.shape, self.script = shape, script
        self.groups = [number for number, flow in enumerate(shape.flows) if flow.kind == "gradient"]
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
        self, flow: int, what: str, kind: str, message: Message, waits: Tokens, done: Token, index: int = 0
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

    def gradients_of(self, rank: RankShape) -> Tokens:
        """Tokens the optimizer waits for (absolute: used at loop index 0)."""
        return tuple(
            self.last[flow] for kind, flow in rank.flows if kind in ("gradient", "replica") and flow in self.last
        )

    def weights_of(self, rank: RankShape) -> Tokens:
        """Tokens the end of the step waits for."""
        return ()

    def open_step(self) -> None:
        """Traffic at the start of the step."""

    def close_step(self) -> None:
        """Traffic after the backward passes."""

    def after_passes(self, stage: int) -> None:
        """Traffic that the passes of a stage bring with them."""

    def before_run(self, rank: RankShape, each: Pass, role: Role, position: int) -> Tokens:
        """Tokens a pass waits for before the segment at `position`, relative to the microbatch."""
        return ()

    def after_run(self, rank: RankShape, each: Pass, role: Role, position: int) -> Token | None:
        """Token a pass signals after the segment at `position`, if the exchange waits for it."""
        return None


class Replicated(DataParallel):
    """ZeRO 0, 1 and 2."""

    def __init__(self, shape: Shape, script: Script) -> None:
        super().__init__(shape, script)
        self.zero, self.overlaps = shape.switches.zero_stage, shape.switches.gradient_overlap
        self.gathers_ahead = shape.switches.parameter_prefetch and self.zero > 0

    @override
    def before_run(self, rank: RankShape, each: Pass, role: Role, position: int) -> Tokens:
        if role.part != "gather":
            return ()
        return (token(self.script.kind("weights", rank.flow("gradient"), each.chunk, position)),)

    @override
    def after_run(self, rank: RankShape, each: Pass, role: Role, position: int) -> Token | None:
        if role.part != "sum":
            return None
        return token(self.script.kind("gradients", rank.number, each.chunk, position))

    @override
    def open_step(self) -> None:
        if not self.gathers_ahead:
            return
        for flow in self.groups:
            stage = self.stage_of(flow)
            for chunk in range(self.shape.virtual_stages):
                for segment in range(self.shape.segments(stage, chunk)):
                    done = token(self.script.kind("weights", flow, chunk, segment))
                    self.issue(
                        flow, "gather weights", "all_gather", Message("weights", stage, chunk, segment), (), done
                    )

    @override
    def after_passes(self, stage: int) -> None:
        for each in kinds_of(self.shape.orders[stage], self.shape.rule).summed:
            self._sum_chunk(stage, each)

    def _sum_chunk(self, stage: int, each: Pass) -> None:
        for flow in self.groups_of(stage):
            segments = self.shape.segments(stage, each.chunk)
            for position in range(segments):
                waits = tuple(
                    token(self.script.kind("gradients", member, each.chunk, position))
                    for member in self.shape.flows[flow].members
                )
                message = Message("gradients", stage, each.chunk, segments - 1 - position)
                self._sum(flow, f"{each.chunk}.{position}", message, waits, each.microbatch)

    def _sum(self, flow: int, what: str, message: Message, waits: Tokens, index: int) -> None:
        kind = "all_reduce" if self.zero == 0 else "reduce_scatter"
        done = token(self.script.kind("summed", flow, f"gradients {what}"))
        self.issue(flow, f"gradients {what}", kind, message, waits, done, index)
        self.last[flow] = token(done[0], index)
        self.sum_replicas(flow, f"gradients {what}", message, index)

    @override
    def close_step(self) -> None:
        for flow in self.groups:
            members, stage = self.shape.flows[flow].members, self.stage_of(flow)
            if not self.overlaps:
                waits = tuple(token(self.marks[member]) for member in members)
                self._sum(flow, "all", Message("gradients", stage), waits, 0)
            if self.zero > 0 and not self.gathers_ahead:
                waits = tuple(token(self.update_tokens[member]) for member in members)
                done = token(self.script.kind("new weights", flow))
                self.issue(flow, "gather new weights", "all_gather", Message("weights", stage), waits, done)

    @override
    def weights_of(self, rank: RankShape) -> Tokens:
        if self.zero == 0 or self.gathers_ahead or rank.flow("gradient") < 0:
            return ()
        return (token(self.script.kind("new weights", rank.flow("gradient"))),)


class Sharded(DataParallel):
    """ZeRO-3: every pass works segment by segment on gathered weights."""

    def __init__(self, shape: Shape, script: Script) -> None:
        super().__init__(shape, script)
        self.ahead = 2 if shape.switches.parameter_prefetch else 1
        self.history: dict[int, list[tuple[Pass, int]]] = {}  # flow -> segments passed so far
        self.held_back: dict[int, tuple[Pass, int]] = {}  # flow -> gradients to scatter after the next gather

    @override
    def before_run(self, rank: RankShape, each: Pass, role: Role, position: int) -> Tokens:
        if role.part != "sharded":
            return ()
        return (token(self._gathered(rank.flow("gradient"), each, position)),)

    @override
    def after_run(self, rank: RankShape, each: Pass, role: Role, position: int) -> Token | None:
        return token(self._passed(rank.number, each, position)) if role.part == "sharded" else None

    def _gathered(self, flow: int, each: Pass, position: int) -> int:
        return self.script.kind("gathered", flow, each.backward, each.chunk, position)

    def _passed(self, rank: int, each: Pass, position: int) -> int:
        return self.script.kind("segment passed", rank, each.backward, each.chunk, position)

    def _tokens(self, flow: int, each: Pass, position: int, index: int) -> Tokens:
        """Tokens of a segment pass on all members, relative to loop index `index`."""
        members = self.shape.flows[flow].members
        return tuple(token(self._passed(member, each, position), each.microbatch - index) for member in members)

    @override
    def after_passes(self, stage: int) -> None:
        for flow in self.groups_of(stage):
            for each in self.shape.orders[stage]:
                self._exchange_pass(flow, each)

    def _exchange_pass(self, flow: int, each: Pass) -> None:
        for position in range(self.shape.segments(self.stage_of(flow), each.chunk)):
            self._gather(flow, each, position)
            self._scatter_held_back(flow)
            if each.backward:
                self.held_back[flow] = (each, position)

    def _gather(self, flow: int, each: Pass, position: int) -> None:
        """Gather a segment when the one `ahead` places before it has been passed."""
        history = self.history.setdefault(flow, [])
        waits: Tokens = ()
        if len(history) >= self.ahead:
            waits = self._tokens(flow, *history[-self.ahead], each.microbatch)
        history.append((each, position))
        del history[:-2]
        done = token(self._gathered(flow, each, position))
        message = self._message("weights", flow, each, position)
        message = message._replace(parameters="gathered_again" if each.backward else "parameters")
        self.issue(flow, "gather weights", "all_gather", message, waits, done, each.microbatch)

    def _message(self, what: Literal["gradients", "weights"], flow: int, each: Pass, position: int) -> Message:
        stage = self.stage_of(flow)
        last = self.shape.segments(stage, each.chunk) - 1
        return Message(what, stage, each.chunk, last - position if each.backward else position)

    def _scatter_held_back(self, flow: int) -> None:
        if flow not in self.held_back:
            return
        each, position = self.held_back.pop(flow)
        index = each.microbatch
        what = f"gradients {each.chunk}.{position}"
        done = token(self.script.kind("summed", flow, what))
        message = self._message("gradients", flow, each, position)
        self.issue(flow, what, "reduce_scatter", message, self._tokens(flow, each, position, index), done, index)
        self.last[flow] = token(done[0], index)
        self.sum_replicas(flow, what, message, index)

    @override
    def close_step(self) -> None:
        for flow in self.groups:
            self._scatter_held_back(flow)


def data_parallel(shape: Shape, script: Script) -> DataParallel:
    """The exchange that the plan asks for."""
    return Sharded(shape, script) if shape.switches.zero_stage == 3 else Replicated(shape, script)
