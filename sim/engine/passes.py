"""Writes forward and backward passes as instructions: computation, collectives inside, sends after."""

from __future__ import annotations

from sim.engine.chains import Timed, Work, cut, repeat_timed
from sim.engine.gradients import DataParallel
from sim.engine.program import Action, Program, Stream, token
from sim.engine.ranks import Job, RankClass
from sim.plan.pieces import Segment, backward_work, forward_work
from sim.plan.schedule import Pass
from sim.workload.activations import stage_message_bytes
from sim.workload.operation import Operation

NO_TOKEN = -1


class PassWriter:
    """Appends passes to the streams of rank classes; templates are made once per kind of pass."""

    def __init__(self, job: Job, program: Program, computes: tuple[Stream, ...], exchange: DataParallel) -> None:
        self.job, self.program, self.computes, self.exchange = job, program, computes, exchange
        plan = job.plan
        self.stages = plan.experiment.parallelism.pipeline
        self.n_chunks = self.stages * plan.experiment.parallelism.virtual_stages
        self.coalesce = plan.experiment.simulation.coalesce == "auto"
        self.message = stage_message_bytes(plan.model, plan.shard)
        shard = plan.shard
        self.scatters = plan.software.scatter_gather and shard.tensor > 1 and not shard.sequence_parallel
        self.sends: dict[tuple[int, str], Stream] = {}
        self.groups: dict[int, Stream] = {}
        self.kinds: dict[tuple[object, ...], int] = {}
        self.written: dict[tuple[object, ...], list[tuple[Stream, int]]] = {}

    def write(self, rank: RankClass, each: Pass, number: int) -> None:
        """Append one pass of a rank class; `number` is its place in the stage's order."""
        variant = self.exchange.variant(rank, each, number)
        key = (rank.number, each.backward, each.chunk, variant)
        if key not in self.written:
            self.written[key] = self._templates(rank, each, variant)
        for stream, template in self.written[key]:
            stream.add(template, each.microbatch)

    def _templates(self, rank: RankClass, each: Pass, variant: object) -> list[tuple[Stream, int]]:
        """Instructions of a pass, each with the stream it goes to."""
        chunk = self.job.plan.chunks[rank.stage][each.chunk]
        segments = chunk.segments[::-1] if each.backward else chunk.segments
        arrival = self._arrival(rank, each)
        out: list[tuple[Stream, int]] = []
        done = self._kind("pass done", rank.number, each.backward, each.chunk)
        for name, run in self.exchange.runs(rank, each, variant, len(segments)):
            units = [segments[i] for i in run]
            work = [item for unit in units for item in self._work(unit, each.backward)]
            if arrival is not None:
                work = [*self._gather(rank), *work]
            before = (() if arrival is None else (arrival,)) + self.exchange.before_run(rank, each, variant, run)
            after = self.exchange.after_run(rank, each, variant, run)
            last = run[-1] == len(segments) - 1
            signal = after if after is not None else (token(done) if last else NO_TOKEN)
            out += self._run(rank, (name, rank.number, each.backward, each.chunk, variant, run[0]), work, before, signal,
                             self.exchange.is_crowded(rank, each, variant))
            arrival = None
        return out + self._send(rank, each, signal)

    def _work(self, unit: Segment, backward: bool) -> Work:
        return backward_work(unit) if backward else forward_work(unit)

    def _gather(self, rank: RankClass) -> Work:
        """What was sent in shares by the tensor ranks is put together on arrival."""
        if not self.scatters:
            return []
        gather = Operation("gather of stage input", "collective", collective="all_gather", group="tensor",
                           message=self.message)
        return [((gather,), 1)]

    def _kind(self, name: str, *key: object) -> int:
        if (name, *key) not in self.kinds:
            self.kinds[(name, *key)] = self.program.new_kind(f"{name} {key}")
        return self.kinds[(name, *key)]

    # --- computation ------------------------------------------------------------------------------

    def _run(
        self, rank: RankClass, key: tuple[object, ...], work: Work, waits: tuple[int, ...], signal: int, crowded: bool
    ) -> list[tuple[Stream, int]]:
        """One instruction if nothing in it meets other traffic, else cut at its collectives."""
        groups = self._groups(rank, work)
        alone = self.coalesce and all(self._is_private(rank, flow) for flow in groups)
        if alone and not (crowded and groups):
            return [(self.computes[rank.number], self._coalesced(rank, str(key[0]), work, waits, signal))]
        return self._cut(rank, key, work, waits, signal)

    def _groups(self, rank: RankClass, work: Work) -> list[int]:
        kinds = {operation.group for operations, _ in work for operation in operations if operation.group}
        return sorted(rank.flows[kind] for kind in kinds if kind in rank.flows)

    def _is_private(self, rank: RankClass, flow: int) -> bool:
        return self.job.private[flow] and self.job.flows[flow].members == (rank.number,)

    def _coalesced(self, rank: RankClass, label: str, work: Work, waits: tuple[int, ...], signal: int) -> int:
        alone = self.job.alone(rank, work)
        carried = tuple((rank.flows[group], size) for group, size in alone.sizes.items())
        action = Action(label, "compute", rank.number, alone.seconds, parts=tuple(alone.parts.items()),
                        comm=alone.comm, carried=carried, operations=alone.operations)
        return self.program.new_template(waits, self.program.new_action(action), signal)

    def _cut(
        self, rank: RankClass, key: tuple[object, ...], work: Work, waits: tuple[int, ...], signal: int
    ) -> list[tuple[Stream, int]]:
        timed = repeat_timed(work, lambda operations: self.job.timed(rank, operations))
        steps, out, issued = cut(timed), [], []  # type: ignore[var-annotated]
        where = key[2:]
        for number, step in enumerate(steps):
            is_last = number == len(steps) - 1
            needs = waits + tuple(token(issued[i]) for i in step.waits)
            seconds = sum(step.parts.values())
            action = Action(str(key[0]), "compute", rank.number, seconds, parts=tuple(step.parts.items()),
                            operations=len(step.parts))
            reached = signal if is_last else NO_TOKEN
            if step.issue is not None:
                flow = rank.flows[step.issue.group]
                issued.append(self._kind("collective done", flow, where, len(issued)))
                reached = token(self._kind("ready", rank.number, where, len(issued)))
            template = self.program.new_template(needs, self.program.new_action(action), reached)
            out.append((self.computes[rank.number], template))
            waits = ()
            if step.issue is not None and self.job.flows[flow].members[0] == rank.number:
                out.append(self._issue(flow, step.issue, where, len(issued), issued[-1]))
        return out

    def _issue(self, flow: int, operation: Timed, where: tuple[object, ...], number: int, done: int) -> tuple[Stream, int]:
        """The instruction of a communicator: when all members are ready, move the bytes."""
        members = self.job.flows[flow].members
        waits = tuple(token(self._kind("ready", member, where, number)) for member in members)
        steals = members if operation.hidden_by else ()
        action = Action(operation.name, operation.category, flow=flow, size=operation.size,
                        latency=operation.latency, steals=steals, operations=1)
        if flow not in self.groups:
            name = f"{operation.group} group {flow}"
            self.groups[flow] = self.program.new_stream(name, operation.group)
        return self.groups[flow], self.program.new_template(waits, self.program.new_action(action), token(done))

    # --- stage boundaries ---------------------------------------------------------------------------

    def _arrival(self, rank: RankClass, each: Pass) -> int | None:
        """Token of the input from the neighbouring chunk; None where the model begins."""
        chunk = self.job.plan.chunks[rank.stage][each.chunk].number
        begins = chunk == (self.n_chunks - 1 if each.backward else 0)
        return None if begins else token(self._kind("arrival", rank.number, each.backward, each.chunk))

    def _send(self, rank: RankClass, each: Pass, done: int) -> list[tuple[Stream, int]]:
        """Hand the result on: in the compute stream, or beside it if the stack overlaps sends."""
        chunk = self.job.plan.chunks[rank.stage][each.chunk].number
        if chunk == (0 if each.backward else self.n_chunks - 1):
            return []
        direction = "backward" if each.backward else "forward"
        next_chunk = (chunk + (-1 if each.backward else 1)) // self.stages
        flow = rank.flows[f"{direction} out"]
        receiver = self.job.flows[flow].receiver
        message = self.message / self.job.plan.shard.tensor if self.scatters else self.message
        cost = self.job.cost(flow, "send", message)
        action = Action(f"send {direction}", "pipeline_comm", flow=flow, size=cost.size, latency=cost.latency,
                        operations=1)
        arrival = token(self._kind("arrival", receiver, each.backward, next_chunk))
        waits: tuple[int, ...] = ()
        stream = self.computes[rank.number]
        if self.job.plan.software.pipeline_overlap:
            stream, waits = self._send_stream(rank, direction), (done,)
        return [(stream, self.program.new_template(waits, self.program.new_action(action), arrival))]

    def _send_stream(self, rank: RankClass, direction: str) -> Stream:
        key = (rank.number, direction)
        if key not in self.sends:
            name = f"rank {rank.representative} {direction} sends"
            self.sends[key] = self.program.new_stream(name, "send", rank.number)
        return self.sends[key]
