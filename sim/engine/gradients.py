"""Data-parallel traffic of a step: when gradients are summed and weights gathered.

Replicas (ZeRO 0 to 2) exchange gradients after the last microbatch, bucket by bucket beside the
backward pass if the stack overlaps them, else at once when it is over; ZeRO-2 does so after every
microbatch if there is one stage. Sharded optimizers send the new weights back, beside the first
forward pass or at the end. ZeRO-3 (FSDP) gathers each segment before each pass and scatters its
gradients after.
"""

from __future__ import annotations

from functools import partial

from typing_extensions import override

from sim.engine.program import Program, Stream, Token, token
from sim.engine.ranks import Job, RankClass
from sim.engine.recipes import exchange_action
from sim.engine.roles import Role, Rule, kinds_of
from sim.plan.pieces import Chunk, Segment
from sim.plan.schedule import Pass
from sim.workload.extent import weight_bytes

Tokens = tuple[Token, ...]


class DataParallel:
    """Shared by both kinds: streams and templates of the gradient communicators."""

    def __init__(self, job: Job, program: Program) -> None:
        self.job, self.program = job, program
        plan = job.plan
        self.zero = plan.experiment.parallelism.zero_stage
        self.slows = plan.software.overlap_slowdown > 0
        self.groups = [number for number, flow in enumerate(job.flows) if flow.kind == "gradient"]
        self.rule = Rule()
        self.streams: dict[int, Stream] = {}
        self.marks = [program.new_kind("end of backward of rank", rank.representative) for rank in job.ranks]
        self.update_tokens = [program.new_kind("weights updated on rank", rank.representative) for rank in job.ranks]
        self.last: dict[int, Token] = {}  # flow class -> token after which all its gradients are summed
        self.templates: dict[tuple[object, ...], int] = {}

    def stage_of(self, flow: int) -> int:
        """Pipeline stage of a gradient communicator."""
        return self.job.ranks[self.job.flows[flow].members[0]].stage

    def groups_of(self, stage: int) -> list[int]:
        """Gradient communicators of a stage."""
        return [flow for flow in self.groups if self.stage_of(flow) == stage]

    def chunks(self, flow: int) -> tuple[Chunk, ...]:
        """Model chunks whose gradients the communicator sums."""
        return self.job.plan.chunks[self.stage_of(flow)]

    def stream(self, flow: int) -> Stream:
        """The queue of a communicator."""
        if flow not in self.streams:
            each = self.job.flows[flow]
            self.streams[flow] = self.program.new_stream(f"{each.kind} group {flow}", each.kind)
        return self.streams[flow]

    def issue(
        self, flow: int, what: str, kind: str, message: float, waits: Tokens, done: Token, index: int = 0
    ) -> None:
        """Queue one collective; `waits` and `done` are relative to `index`."""
        key = (flow, what, kind, message, waits, done)
        if key not in self.templates:
            beside = self.job.flows[flow].members if self.slows else ()
            action = self.program.new_recipe(partial(exchange_action, what, flow, kind, message, beside), self.job)
            self.templates[key] = self.program.new_template(waits, action, done)
        self.stream(flow).add(self.templates[key], index)

    def sum_replicas(self, flow: int, what: str, message: float, index: int) -> None:
        """Hybrid sharding: after the shards, the replicas of each shard."""
        replicas = {rank.flows["replica"] for rank in self._ranks(flow) if "replica" in rank.flows}
        for replica in sorted(replicas):
            members = self.job.flows[replica].members
            mine = self.job.flows[flow].members
            if members[0] not in mine:
                continue
            shards = sorted({self.job.ranks[member].flows["gradient"] for member in members})
            waits = tuple(token(self.program.kind("summed", shard, what)) for shard in shards)
            share = message / self.job.flows[flow].group.size
            total = token(self.program.kind("summed over replicas", replica, what))
            self.issue(replica, f"{what} over replicas", "all_reduce", share, waits, total, index)
            self.last[replica] = token(total[0], index)

    def _ranks(self, flow: int) -> list[RankClass]:
        return [self.job.ranks[number] for number in self.job.flows[flow].members]

    def gradient_bytes(self, parameters: float) -> float:
        """Bytes on the network for the gradients of `parameters`."""
        return parameters * self.job.plan.software.gradient_comm_bytes

    def weight_bytes(self, parameters: float) -> float:
        """Bytes on the network for the weights of `parameters`."""
        return parameters * weight_bytes(self.job.plan.shard.precision, self.job.plan.shard.lora)

    def parameters(self, rank: RankClass) -> float:
        """Parameters with gradients that the rank computes with."""
        return float(sum(s.trained for chunk in self.job.plan.chunks[rank.stage] for s in chunk.segments))

    def updated_parameters(self, rank: RankClass) -> float:
        """Parameters the rank's optimizer updates."""
        if self.zero == 0 or "gradient" not in rank.flows:
            return self.parameters(rank)
        return self.parameters(rank) / self.job.flows[rank.flows["gradient"]].group.size

    def gradients_of(self, rank: RankClass) -> Tokens:
        """Tokens the optimizer waits for (absolute: used at loop index 0)."""
        flows = [rank.flows[kind] for kind in ("gradient", "replica") if kind in rank.flows]
        return tuple(self.last[flow] for flow in flows if flow in self.last)

    def weights_of(self, rank: RankClass) -> Tokens:
        """Tokens the end of the step waits for."""
        return ()

    def open_step(self) -> None:
        """Traffic at the start of the step."""

    def close_step(self) -> None:
        """Traffic after the backward passes."""

    def after_passes(self, stage: int) -> None:
        """Traffic that the passes of a stage bring with them."""

    def before_run(self, rank: RankClass, each: Pass, role: Role, position: int) -> Tokens:
        """Tokens a pass waits for before the segment at `position`, relative to the microbatch."""
        return ()

    def after_run(self, rank: RankClass, each: Pass, role: Role, position: int) -> Token | None:
        """Token a pass signals after the segment at `position`, if the exchange waits for it."""
        return None


class Replicated(DataParallel):
    """ZeRO 0, 1 and 2."""

    def __init__(self, job: Job, program: Program) -> None:
        super().__init__(job, program)
        software = job.plan.software
        self.overlaps = software.gradient_overlap
        self.gathers_ahead = software.parameter_prefetch and self.zero > 0
        if self.groups:
            every = self.zero == 2 and len(job.plan.orders) == 1
            self.rule = Rule(gathers=self.gathers_ahead, sums=self.overlaps, every=every)

    @override
    def before_run(self, rank: RankClass, each: Pass, role: Role, position: int) -> Tokens:
        if role.part != "gather":
            return ()
        return (token(self.program.kind("weights", rank.flows["gradient"], each.chunk, position)),)

    @override
    def after_run(self, rank: RankClass, each: Pass, role: Role, position: int) -> Token | None:
        if role.part != "sum":
            return None
        return token(self.program.kind("gradients", rank.number, each.chunk, position))

    @override
    def open_step(self) -> None:
        if not self.gathers_ahead:
            return
        for flow in self.groups:
            for chunk in self.chunks(flow):
                for position, segment in enumerate(chunk.segments):
                    done = token(self.program.kind("weights", flow, chunk.virtual, position))
                    self.issue(flow, "gather weights", "all_gather", self.weight_bytes(segment.trained), (), done)

    @override
    def after_passes(self, stage: int) -> None:
        for each in kinds_of(self.job.plan.orders[stage], self.rule).summed:
            self._sum_chunk(stage, each)

    def _sum_chunk(self, stage: int, each: Pass) -> None:
        for flow in self.groups_of(stage):
            chunk = self.chunks(flow)[each.chunk]
            for position, segment in enumerate(chunk.segments[::-1]):
                waits = tuple(
                    token(self.program.kind("gradients", member, each.chunk, position))
                    for member in self.job.flows[flow].members
                )
                self._sum(flow, f"{each.chunk}.{position}", segment.trained, waits, each.microbatch)

    def _sum(self, flow: int, what: str, parameters: float, waits: Tokens, index: int) -> None:
        kind = "all_reduce" if self.zero == 0 else "reduce_scatter"
        done = token(self.program.kind("summed", flow, f"gradients {what}"))
        message = self.gradient_bytes(parameters)
        self.issue(flow, f"gradients {what}", kind, message, waits, done, index)
        self.last[flow] = token(done[0], index)
        self.sum_replicas(flow, f"gradients {what}", message, index)

    @override
    def close_step(self) -> None:
        for flow in self.groups:
            members = self.job.flows[flow].members
            total = self.parameters(self.job.ranks[members[0]])
            if not self.overlaps:
                self._sum(flow, "all", total, tuple(token(self.marks[member]) for member in members), 0)
            if self.zero > 0 and not self.gathers_ahead:
                waits = tuple(token(self.update_tokens[member]) for member in members)
                done = token(self.program.kind("new weights", flow))
                self.issue(flow, "gather new weights", "all_gather", self.weight_bytes(total), waits, done)

    @override
    def weights_of(self, rank: RankClass) -> Tokens:
        if self.zero == 0 or self.gathers_ahead or "gradient" not in rank.flows:
            return ()
        return (token(self.program.kind("new weights", rank.flows["gradient"])),)


class Sharded(DataParallel):
    """ZeRO-3: every pass works segment by segment on gathered weights."""

    def __init__(self, job: Job, program: Program) -> None:
        super().__init__(job, program)
        self.rule = Rule(sharded=bool(self.groups))
        self.ahead = 2 if job.plan.software.parameter_prefetch else 1
        self.history: dict[int, list[tuple[Pass, int]]] = {}  # flow -> segments passed so far
        self.held_back: dict[int, tuple[Pass, int]] = {}  # flow -> gradients to scatter after the next gather

    @override
    def before_run(self, rank: RankClass, each: Pass, role: Role, position: int) -> Tokens:
        if role.part != "sharded":
            return ()
        return (token(self._gathered(rank.flows["gradient"], each, position)),)

    @override
    def after_run(self, rank: RankClass, each: Pass, role: Role, position: int) -> Token | None:
        return token(self._passed(rank.number, each, position)) if role.part == "sharded" else None

    def _gathered(self, flow: int, each: Pass, position: int) -> int:
        return self.program.kind("gathered", flow, each.backward, each.chunk, position)

    def _passed(self, rank: int, each: Pass, position: int) -> int:
        return self.program.kind("segment passed", rank, each.backward, each.chunk, position)

    def _tokens(self, flow: int, each: Pass, position: int, index: int) -> Tokens:
        """Tokens of a segment pass on all members, relative to loop index `index`."""
        members = self.job.flows[flow].members
        return tuple(token(self._passed(member, each, position), each.microbatch - index) for member in members)

    @override
    def after_passes(self, stage: int) -> None:
        for flow in self.groups_of(stage):
            for each in self.job.plan.orders[stage]:
                self._exchange_pass(flow, each)

    def _exchange_pass(self, flow: int, each: Pass) -> None:
        for position in range(len(self.chunks(flow)[each.chunk].segments)):
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
        segment = self._segment(flow, each, position)
        message = self.weight_bytes(segment.gathered_again if each.backward else segment.parameters)
        self.issue(flow, "gather weights", "all_gather", message, waits, done, each.microbatch)

    def _segment(self, flow: int, each: Pass, position: int) -> Segment:
        segments = self.chunks(flow)[each.chunk].segments
        return segments[len(segments) - 1 - position if each.backward else position]

    def _scatter_held_back(self, flow: int) -> None:
        if flow not in self.held_back:
            return
        each, position = self.held_back.pop(flow)
        index = each.microbatch
        what = f"gradients {each.chunk}.{position}"
        done = token(self.program.kind("summed", flow, what))
        message = self.gradient_bytes(self._segment(flow, each, position).trained)
        self.issue(flow, what, "reduce_scatter", message, self._tokens(flow, each, position, index), done, index)
        self.last[flow] = token(done[0], index)
        self.sum_replicas(flow, what, message, index)

    @override
    def close_step(self) -> None:
        for flow in self.groups:
            self._scatter_held_back(flow)


def data_parallel(job: Job, program: Program) -> DataParallel:
    """The exchange that the plan asks for."""
    return Sharded(job, program) if job.plan.experiment.parallelism.zero_stage == 3 else Replicated(job, program)
